"""Whole jobs: from the DRAM image and from arrays, bit for bit against `tests.golden.reference`, and close to
float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatten.golden import GoldenError, IntArray
from spatten.golden.attention import Bitmaps, Planes, Result, attend, begin, find_live, planes, run
from spatten.golden.cascade import Context
from spatten.golden.convert import split
from spatten.golden.memory import Memory
from spatten.spec.config import PAPER, TINY, Config
from spatten.spec.job import Addresses, Job, JobError, KeyFetch, Mode, ScoreScale
from tests.golden.reference import Cascade, Machine, Outcome, fits, float_attention, output_bound

KINDS = [
    (Mode.SUMMARIZATION, KeyFetch.STATIC),
    (Mode.SUMMARIZATION, KeyFetch.JOINED),
    (Mode.CAUSAL, KeyFetch.STATIC),
    (Mode.CAUSAL, KeyFetch.JOINED),
    (Mode.GENERATION, KeyFetch.STATIC),
    (Mode.GENERATION, KeyFetch.JOINED),
    (Mode.GENERATION, KeyFetch.PROGRESSIVE),
]
FILL = 0xA5
"""What lies in memory around the planes."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job and everything it reads. Q is [heads, queries, d]; K and V codes are [heads, keys, d]."""

    job: Job
    bitmaps: Bitmaps
    query: IntArray
    key: IntArray
    value: IntArray


def naive_cascade(config: Config) -> Cascade:
    machine = Machine(
        operand_bits=config.operand_bits,
        prob_bits=config.prob_bits,
        head_dim_max=config.head_dim_max,
        token_bits=config.token_importance_bits,
        head_bits=config.head_importance_bits,
    )
    return Cascade(machine, config.tokens_max, config.heads_max)


def codes(random: np.random.Generator, shape: tuple[int, ...], bits: int) -> IntArray:
    """All codes of `bits`, the most negative one too; now and then a row of extremes."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    result = random.integers(low, high + 1, shape)
    if random.random() < 0.3:
        result[..., -1, :] = random.choice([low, high])
    return result


def score_scale(random: np.random.Generator, job_dim: int, query_bits: int, key_bits: int) -> ScoreScale:
    """A scale under which random codes give scores with a deviation of about 0.3 to 3."""
    deviation = 2.0 ** (query_bits + key_bits - 2) / 3 * np.sqrt(job_dim)
    return ScoreScale.from_step(float(np.exp(random.uniform(-1.2, 1.2)) / deviation))


def random_case(random: np.random.Generator, config: Config, mode: Mode, fetch: KeyFetch, **changes: Any) -> Case:
    sizes: dict[str, int] = {
        "head_dim": int(random.choice(config.head_dims)),
        "heads": int(random.integers(1, config.heads_max + 1)),
        "keys": int(random.integers(2, config.tokens_max + 1)),
        "query_bits": int(random.choice(config.query_bits)),
        "key_bits": int(random.choice(config.plane_bits)) + (0 if fetch is KeyFetch.STATIC else 4),
        "value_bits": int(random.choice(config.plane_bits)),
    }
    sizes |= {name: value for name, value in changes.items() if name in sizes}
    heads, keys = sizes["heads"], sizes["keys"]
    generation = mode is Mode.GENERATION
    queries = 1 if generation else changes.get("queries", int(random.integers(1, keys + 1)))

    def maybe(high: int, chance: float = 0.5) -> int | None:
        return int(random.integers(1, high + 1)) if random.random() < chance else None

    fields: dict[str, Any] = sizes | {
        "mode": mode,
        "query_offset": int(random.integers(0, keys - queries + 1)),
        "queries": queries,
        "key_fetch": fetch,
        "score_scales": tuple(
            score_scale(random, sizes["head_dim"], sizes["query_bits"], sizes["key_bits"]) for _ in range(heads)
        ),
        "importance_multiplier": int(random.integers(1, (1 << 15) + 1)),
        "flat_limit": int(random.integers(32, 32 + 12 * keys)),
        "valid_length": maybe(keys, 0.25),
        "keep_tokens": maybe(keys),
        "keep_heads": maybe(heads),
        "keep_values": maybe(keys) if generation else None,
        "age_shift": int(random.choice([0, 0, 1, 5])),
    }
    fields |= changes
    dim, queries = fields["head_dim"], fields["queries"]
    return Case(
        job=Job(**fields),
        bitmaps=Bitmaps(
            has_kv=random.random(keys) < 0.85, pinned=random.random(keys) < 0.15, heads=random.random(heads) < 0.85
        ),
        query=codes(random, (heads, queries, dim), fields["query_bits"]),
        key=codes(random, (heads, keys, dim), fields["key_bits"]),
        value=codes(random, (heads, keys, dim), fields["value_bits"]),
    )


def from_arrays(case: Case, context: Context) -> Result:
    """What a host without a DRAM image does: select what is live, and attend."""
    begin(case.job, context)
    live = find_live(case.job, context, case.bitmaps)
    place = np.ix_(live.heads, live.tokens)
    rows = np.ix_(live.heads, live.rows - case.job.query_offset)
    return attend(case.job, context, live, case.query[rows], case.key[place], case.value[place])


def image(config: Config, case: Case) -> tuple[Memory, Addresses, Planes]:
    """A DRAM image with the planes of a case, in an order and with gaps of its own."""
    job, cursor = case.job, config.channels
    names = ["value", "query", "output", "key_msb"]
    if job.key_fetch is not KeyFetch.STATIC:
        names.insert(1, "key_lsb")
    kv_rows = job.keys + job.keys % 5  # planes may have room for more tokens
    nowhere = planes(config, job, Addresses(query=0, key_msb=0, key_lsb=0, value=0, output=0, kv_rows=kv_rows))
    at: dict[str, Any] = {"key_lsb": None}
    for name in names:
        at[name] = cursor
        part = getattr(nowhere, name)
        size = part.row_sectors * job.queries if name == "output" else part.sectors
        cursor += -(-size // config.channels) * config.channels + config.channels
    bitmap_stride = 4 * config.channels  # four sectors hold 1,024 tokens
    at |= {"has_kv": cursor, "pinned": cursor + bitmap_stride}
    cursor += 2 * bitmap_stride
    where = Addresses(**at, kv_rows=kv_rows)
    layout = planes(config, job, where)
    memory = Memory(config, cursor)
    memory.bytes[:] = FILL
    memory.store_bitmap(at["has_kv"], case.bitmaps.has_kv)
    memory.store_bitmap(at["pinned"], case.bitmaps.pinned)
    memory.store(layout.query, case.query)
    memory.store(layout.value, case.value)
    if layout.key_lsb is None:
        memory.store(layout.key_msb, case.key)
    else:
        msb, lsb = split(case.key)
        memory.store(layout.key_msb, msb)
        memory.store(layout.key_lsb, lsb)
    return memory, where, layout


def naive(case: Case, cascade: Cascade) -> Outcome:
    bitmaps = case.bitmaps
    return cascade.job(
        case.job,
        case.query.tolist(),
        case.key.tolist(),
        case.value.tolist(),
        has_kv=set(np.flatnonzero(bitmaps.has_kv).tolist()),
        pinned=set(np.flatnonzero(bitmaps.pinned).tolist()),
        heads=set(np.flatnonzero(bitmaps.heads).tolist()),
    )


def assert_result(result: Result, expected: Outcome, mode: Mode) -> None:
    assert result.tokens.tolist() == expected.tokens
    assert result.heads.tolist() == expected.heads
    assert result.rows.tolist() == expected.rows
    assert result.output.shape[:2] == result.flat.shape == (len(expected.heads), len(expected.rows))
    assert result.values_fetched.shape == (len(expected.heads), len(expected.tokens))
    for i, head in enumerate(expected.heads):
        for j, row in enumerate(expected.rows):
            assert result.output[i, j].tolist() == expected.output[head, row]
            assert bool(result.flat[i, j]) == ((head, row) in expected.flat)
        fetched = np.flatnonzero(result.values_fetched[i]).tolist()
        if mode is Mode.GENERATION:
            assert fetched == expected.fetched[head, expected.rows[0]]
        elif mode is Mode.CAUSAL:
            assert fetched == [i for i, token in enumerate(expected.tokens) if token <= expected.rows[-1]]
            assert result.keys_fetched == len(fetched)
        else:
            assert result.keys_fetched == len(fetched) == len(expected.tokens)
    assert result.output_saturated == expected.saturated
    assert result.kept_tokens.tolist() == expected.kept_tokens
    assert result.kept_heads.tolist() == expected.kept_heads


def assert_state(context: Context, cascade: Cascade) -> None:
    assert context.token_importance.tolist() == [cascade.token_importance[i] for i in sorted(cascade.all_tokens)]
    assert context.head_importance.tolist() == [cascade.head_importance[i] for i in sorted(cascade.all_heads)]
    assert set(np.flatnonzero(context.kept_tokens).tolist()) == cascade.tokens
    assert set(np.flatnonzero(context.kept_heads).tolist()) == cascade.heads
    assert context.saturated == cascade.saturated


def assert_equal(one: Result, other: Result) -> None:
    for field in dataclasses.fields(Result):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


def run_everywhere(config: Config, case: Case, context: Context, twin: Context, cascade: Cascade) -> Result | None:
    """Run a case from memory, from arrays and naively; None where nothing is live, and then nothing may run."""
    memory, at, layout = image(config, case)
    before = memory.bytes.copy()
    expected = naive(case, cascade)
    if not (expected.tokens and expected.heads and expected.rows):
        with pytest.raises(GoldenError, match="a job needs at least one live"):
            run(case.job, context, case.bitmaps.heads, memory, at)
        assert np.array_equal(memory.bytes, before)
        return None
    result = run(case.job, context, case.bitmaps.heads, memory, at)
    assert_equal(result, from_arrays(case, twin))
    assert_result(result, expected, case.job.mode)
    assert_state(context, cascade)
    assert_state(twin, cascade)
    assert np.array_equal(
        layout.output.load(memory, result.heads, result.rows - case.job.query_offset), result.output
    ), "the output rows hold the result"
    layout.output.store(memory, result.heads, result.rows - case.job.query_offset, np.zeros_like(result.output))
    untouched = Memory(config, 0)
    untouched.bytes = before
    layout.output.store(untouched, result.heads, result.rows - case.job.query_offset, np.zeros_like(result.output))
    assert np.array_equal(memory.bytes, before), "nothing but the output rows was written"
    return result


@pytest.mark.parametrize("operand_bits", [4, 8, 12, 16])
@pytest.mark.parametrize(("mode", "fetch"), KINDS)
def test_jobs_bit_for_bit(mode: Mode, fetch: KeyFetch, operand_bits: int) -> None:
    random = np.random.default_rng(operand_bits)
    ran, outputs, flat = 0, set(), set()
    for trial in range(10):
        config = TINY.replace(operand_bits=operand_bits, prob_bits=8 + trial % 5, channels=(1, 2, 16)[trial % 3])
        case = random_case(random, config, mode, fetch)
        state = Context(config), Context(config), naive_cascade(config)
        result = run_everywhere(config, case, *state)
        if result is not None:
            ran += 1
            outputs |= set(result.output.ravel().tolist())
            flat |= set(result.flat.ravel().tolist())
    assert ran >= 6
    assert len(outputs) > 8, "outputs vary"
    assert flat == ({True, False} if fetch is KeyFetch.PROGRESSIVE else {False})


@pytest.mark.parametrize("operand_bits", [12, 16])
@pytest.mark.parametrize("msb_bits", [4, 6, 8, 10, 12])
def test_every_progressive_setting(msb_bits: int, operand_bits: int) -> None:
    random = np.random.default_rng(msb_bits)
    config = TINY.replace(operand_bits=operand_bits)
    flat: list[bool] = []
    for limit in (36, 64, 96, 400):
        case = random_case(
            random, config, Mode.GENERATION, KeyFetch.PROGRESSIVE, key_bits=msb_bits + 4, keys=16, flat_limit=limit
        )
        result = run_everywhere(config, case, Context(config), Context(config), naive_cascade(config))
        flat += [] if result is None else result.flat.ravel().tolist()
    assert set(flat) == {True, False}


@settings(max_examples=200)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    operand_bits=st.sampled_from([8, 12, 16]),
    seed=st.integers(0, 1 << 30),
)
def test_layers_and_steps_on_one_context(kinds: list[tuple[Mode, KeyFetch]], operand_bits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    config = TINY.replace(operand_bits=operand_bits)
    context, twin, cascade = Context(config), Context(config), naive_cascade(config)
    for mode, fetch in kinds:
        case = random_case(
            random,
            config,
            mode,
            fetch,
            restart=bool(random.random() < 0.4),
            clear=bool(random.random() < 0.1),
        )
        if run_everywhere(config, case, context, twin, cascade) is None:
            return


@pytest.mark.parametrize(("mode", "fetch"), KINDS)
@pytest.mark.parametrize("dim", [16, 64, 128])
def test_error_against_float64(mode: Mode, fetch: KeyFetch, dim: int) -> None:
    """Every output lies within `output_bound` of float64 attention on the same integers."""
    random = np.random.default_rng(dim)
    case = random_case(
        random,
        PAPER,
        mode,
        fetch,
        **{"head_dim": dim, "keys": 90, "queries": 1 if mode is Mode.GENERATION else 40, "query_offset": 50},
        **{"key_bits": 8, "query_bits": 12, "value_bits": 10, "heads": 2, "valid_length": None, "keep_values": None},
        flat_limit=0,
    )
    context = Context(PAPER)
    result = from_arrays(case, context)
    assert result.output_saturated == 0
    lengths = []
    for i, head in enumerate(result.heads):
        scale = case.job.score_scales[head]
        for j, row in enumerate(result.rows):
            seen = result.tokens[result.tokens <= row] if mode is Mode.CAUSAL else result.tokens
            lengths.append(len(seen))
            score = case.key[head, seen] @ case.query[head, row - case.job.query_offset]
            exact = float_attention(score, scale.mantissa, scale.shift, case.value[head, seen] * 4)
            bound = output_bound(len(seen), 512 * 4, 12)
            assert np.abs(result.output[i, j] - exact).max() <= bound
            assert bound < 40, "of 2,048"
    assert result.flat.all() == (fetch is KeyFetch.PROGRESSIVE)
    assert np.abs(result.output).mean() > 20
    assert (len(set(lengths)) > 1) == (mode is Mode.CAUSAL)


def causal_case(seed: int, **changes: Any) -> Case:
    fixed = {"head_dim": 16, "heads": 3, "keys": 16, "queries": 16, "query_offset": 0}
    limits = {"valid_length": None, "keep_tokens": None, "keep_heads": None, "age_shift": 0, "value_bits": 8}
    return random_case(np.random.default_rng(seed), TINY, Mode.CAUSAL, KeyFetch.STATIC, **(fixed | limits | changes))


def chunk(case: Case, first: int, last: int, *, keys: int, **changes: Any) -> Case:
    """Rows first..last-1 of a prompt as a job of their own, over planes of `keys` rows."""
    job = dataclasses.replace(case.job, query_offset=first, queries=last - first, keys=keys, **changes)
    bitmaps = Bitmaps(has_kv=case.bitmaps.has_kv[:keys], pinned=case.bitmaps.pinned[:keys], heads=case.bitmaps.heads)
    return Case(
        job=job,
        bitmaps=bitmaps,
        query=case.query[:, first:last],
        key=case.key[:, :keys],
        value=case.value[:, :keys],
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("whole_planes", [True, False])
def test_a_prompt_in_chunks_equals_the_whole(seed: int, whole_planes: bool) -> None:
    """Rows, importance and bytes: chunks see K and V of earlier chunks, and their own."""
    case = causal_case(seed)
    has_kv = case.bitmaps.has_kv.copy()
    has_kv[[0, 7, 13]] = True
    case = dataclasses.replace(case, bitmaps=dataclasses.replace(case.bitmaps, has_kv=has_kv))
    context = Context(TINY)
    whole = from_arrays(case, context)
    assert len(whole.tokens) < 16, "some tokens are gone"
    chunked = Context(TINY)
    rows, outputs = [], []
    for first, last in ((0, 7), (7, 8), (8, 16)):
        part = from_arrays(chunk(case, first, last, keys=16 if whole_planes else last), chunked)
        rows += part.rows.tolist()
        outputs.append(part.output)
        if not whole_planes:
            chunked.restart()
    assert rows == whole.rows.tolist()
    assert np.array_equal(np.concatenate(outputs, axis=1), whole.output)
    assert np.array_equal(chunked.token_importance, context.token_importance)
    assert np.array_equal(chunked.head_importance, context.head_importance)
    assert len(np.unique(whole.output)) > 50


def test_causal_lengths_count_live_tokens_up_to_the_row() -> None:
    """Row i equals the same row computed alone over only the live keys at or before it."""
    case = causal_case(4)
    context = Context(TINY)
    context.kept_tokens[[1, 4, 5, 11]] = False
    result = from_arrays(case, context)
    assert len(result.tokens) < 13
    for j, row in enumerate(result.rows.tolist()):
        alone = Context(TINY)
        alone.kept_tokens[[1, 4, 5, 11]] = False
        cut = chunk(case, row, row + 1, keys=row + 1)
        assert np.array_equal(from_arrays(cut, alone).output[:, 0], result.output[:, j])


def test_padding_is_the_same_as_a_shorter_sequence() -> None:
    case = causal_case(5)
    padded = dataclasses.replace(case, job=dataclasses.replace(case.job, valid_length=9))
    short = chunk(case, 0, 9, keys=9)
    one, other = Context(TINY), Context(TINY)
    assert_equal(from_arrays(padded, one), from_arrays(short, other))
    assert np.array_equal(one.token_importance, other.token_importance)
    assert not one.token_importance[9:].any()


def test_static_and_joined_agree_on_the_same_codes() -> None:
    case = random_case(np.random.default_rng(6), TINY, Mode.SUMMARIZATION, KeyFetch.STATIC, key_bits=12)
    joined = dataclasses.replace(case, job=dataclasses.replace(case.job, key_fetch=KeyFetch.JOINED))
    assert_equal(from_arrays(case, Context(TINY)), from_arrays(joined, Context(TINY)))


@pytest.mark.parametrize("msb_bits", [4, 6, 8, 10, 12])
def test_recomputed_rows_equal_joined_rows_and_the_others_the_msb_plane(msb_bits: int) -> None:
    config = TINY.replace(operand_bits=16)
    random = np.random.default_rng(msb_bits)
    fixed = {"keys": 16, "heads": 4, "key_bits": msb_bits + 4, "keep_values": None, "valid_length": None}
    case = random_case(random, config, Mode.GENERATION, KeyFetch.PROGRESSIVE, **fixed)

    def with_job(**changes: Any) -> Result:
        return from_arrays(dataclasses.replace(case, job=dataclasses.replace(case.job, **changes)), Context(config))

    joined = with_job(key_fetch=KeyFetch.JOINED)
    assert np.array_equal(with_job(flat_limit=0).output, joined.output), "threshold 1: every row"
    never = with_job(flat_limit=0xFFFF)
    assert not never.flat.any()
    assert not np.array_equal(never.output, joined.output)
    msb_job = dataclasses.replace(
        case.job,
        key_fetch=KeyFetch.STATIC,
        key_bits=msb_bits,
        score_scales=tuple(ScoreScale(s.mantissa, s.shift - 4) for s in case.job.score_scales),
    )
    msb = from_arrays(dataclasses.replace(case, job=msb_job, key=split(case.key)[0]), Context(config))
    assert np.array_equal(never.output, msb.output)


def test_importance_sees_all_final_probabilities() -> None:
    """Before local V pruning: each head and row adds close to 1.0 whatever it fetches."""
    fixed = {"keys": 16, "heads": 4, "valid_length": None, "age_shift": 0, "head_dim": 32}
    case = random_case(np.random.default_rng(8), TINY, Mode.GENERATION, KeyFetch.STATIC, **fixed, keep_values=2)
    context, all_values = Context(TINY), Context(TINY)
    result = from_arrays(case, context)
    from_arrays(dataclasses.replace(case, job=dataclasses.replace(case.job, keep_values=None)), all_values)
    assert result.values_fetched.sum(axis=1).tolist() == [2] * len(result.heads)
    assert np.array_equal(context.token_importance, all_values.token_importance)
    assert abs(context.token_importance.sum() - 4096 * len(result.heads)) <= 8 * len(result.heads)
    assert not np.array_equal(context.head_importance, all_values.head_importance)


def test_the_generating_token_is_live_whatever_was_decided() -> None:
    case = random_case(
        np.random.default_rng(9),
        TINY,
        *(Mode.GENERATION, KeyFetch.STATIC),
        **{"keys": 8, "query_offset": 5, "keep_tokens": 1, "valid_length": 3, "heads": 2},
    )
    nothing = Bitmaps(has_kv=np.zeros(8, np.bool_), pinned=np.zeros(8, np.bool_), heads=np.ones(2, np.bool_))
    context = Context(TINY)
    context.kept_tokens[:] = False
    result = from_arrays(dataclasses.replace(case, bitmaps=nothing), context)
    assert result.tokens.tolist() == result.rows.tolist() == result.kept_tokens.tolist() == [5]
    assert context.live_tokens(np.ones(16, np.bool_)).tolist() == [5], "and stays live in the next layer"


def test_outputs_that_saturate_are_counted() -> None:
    """364 equal keys at 8-bit probabilities: 0.7 LSB each rounds to 1, together 1.42."""
    config = PAPER.replace(prob_bits=8)
    job = Job(
        mode=Mode.SUMMARIZATION,
        head_dim=16,
        heads=1,
        keys=364,
        queries=1,
        query_bits=12,
        key_bits=8,
        value_bits=8,
        score_scales=(ScoreScale(40_000, 30),),
    )
    value = np.zeros((1, 364, 16), np.int64)
    value[..., 0], value[..., 1], value[..., 2] = -128, 127, 64
    case = Case(
        job=job,
        bitmaps=Bitmaps.all(job),
        query=np.zeros((1, 1, 16), np.int64),
        key=np.zeros((1, 364, 16), np.int64),
        value=value,
    )
    result = from_arrays(case, Context(config))
    assert result.output[0, 0, :4].tolist() == [-2048, 2047, 1456, 0], "364/256 of 64 x 16"
    assert result.output_saturated == 2


def test_widest_job_fits_its_widths() -> None:
    """All operands most negative, at 16 bits: the widest score, difference and accumulator."""
    config = PAPER.replace(operand_bits=16)
    dim, keys = 128, 40
    query = np.full((1, 1, dim), -(1 << 15))
    key = np.full((1, keys, dim), -(1 << 15))
    key[:, ::2] = (1 << 15) - 16
    job = Job(
        mode=Mode.GENERATION,
        head_dim=dim,
        heads=1,
        keys=keys,
        query_offset=0,
        queries=1,
        query_bits=16,
        key_bits=16,
        value_bits=12,
        key_fetch=KeyFetch.PROGRESSIVE,
        score_scales=(ScoreScale(65_535, 4),),
        flat_limit=0,
    )
    value = np.full((1, keys, dim), -(1 << 11))
    case = Case(job=job, bitmaps=Bitmaps.all(job), query=query, key=key, value=value)
    assert fits(int((query @ key.swapaxes(1, 2)).max()), config.score_bits)
    result = run_everywhere(config, case, Context(config), Context(config), naive_cascade(config))
    assert result is not None
    assert (result.output <= -32_000).all()


# -- Errors -----------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "mode": Mode.CAUSAL,
    "head_dim": 16,
    "heads": 2,
    "keys": 8,
    "queries": 4,
    "query_bits": 12,
    "key_bits": 8,
    "value_bits": 8,
    "score_scales": (ScoreScale(40_000, 20),) * 2,
}
GENERATION = {"mode": Mode.GENERATION, "queries": 1}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"head_dim": 64}, "head_dim must be one of (16, 32), not 64"),
        ({"heads": 0}, "heads must be 1 to 4, not 0"),
        ({"heads": 5}, "heads must be 1 to 4, not 5"),
        ({"keys": 17}, "keys must be 1 to 16, not 17"),
        ({"keys": 0}, "keys must be 1 to 16, not 0"),
        ({"queries": 9}, "queries must be 1 to keys = 8, not 9"),
        ({"queries": 0}, "queries must be 1 to keys = 8, not 0"),
        ({"query_offset": 5}, "query_offset must be 0 to keys - queries = 4, not 5"),
        ({"query_offset": -1}, "query_offset must be 0 to keys - queries = 4, not -1"),
        ({"query_bits": 16}, "query_bits must be one of (4, 6, 8, 10, 12), not 16"),
        ({"key_bits": 16}, "key_bits must be one of (4, 6, 8, 10, 12) where K is fetched static, not 16"),
        (
            {"key_bits": 4, "key_fetch": KeyFetch.JOINED},
            "key_bits must be one of (8, 10, 12, 14, 16) where K is fetched joined, not 4",
        ),
        (
            {"key_bits": 6, "key_fetch": KeyFetch.PROGRESSIVE} | GENERATION,
            "key_bits must be one of (8, 10, 12, 14, 16) where K is fetched progressive, not 6",
        ),
        ({"value_bits": 5}, "value_bits must be one of (4, 6, 8, 10, 12), not 5"),
        ({"score_scales": ()}, "score_scales must be one per head (2), not ()"),
        ({"importance_multiplier": 0}, "importance_multiplier must be 1 to 32768, not 0"),
        ({"importance_multiplier": 32_769}, "importance_multiplier must be 1 to 32768, not 32769"),
        ({"flat_limit": -1}, "flat_limit must be 0 to 65535, not -1"),
        ({"flat_limit": 65_536}, "flat_limit must be 0 to 65535, not 65536"),
        ({"valid_length": 0}, "valid_length must be 1 to 8, not 0"),
        ({"valid_length": 9}, "valid_length must be 1 to 8, not 9"),
        ({"keep_tokens": 0}, "keep_tokens must be 1 to 8, not 0"),
        ({"keep_tokens": 9}, "keep_tokens must be 1 to 8, not 9"),
        ({"keep_heads": 0}, "keep_heads must be 1 to 2, not 0"),
        ({"keep_heads": 3}, "keep_heads must be 1 to 2, not 3"),
        ({"keep_values": 0} | GENERATION, "keep_values must be 1 to 8, not 0"),
        ({"keep_values": 9} | GENERATION, "keep_values must be 1 to 8, not 9"),
        ({"age_shift": -1}, "age_shift must be 0 to 31, not -1"),
        ({"age_shift": 32}, "age_shift must be 0 to 31, not 32"),
        ({"mode": Mode.GENERATION}, "queries must be 1 in generation, not 4"),
        (
            {"key_fetch": KeyFetch.PROGRESSIVE},
            "key_fetch must be static or joined outside generation, not <KeyFetch.PROGRESSIVE: 2>",
        ),
        ({"keep_values": 3}, "keep_values must be None outside generation: rows share their V, not 3"),
    ],
)
def test_jobs_refused(changes: dict[str, Any], text: str) -> None:
    Job(**GOOD).check(TINY)
    Job(**(GOOD | GENERATION)).check(TINY)
    context = Context(TINY)
    context.token_importance[:] = 5
    job = Job(**(GOOD | {"clear": True} | changes))
    with pytest.raises(JobError) as caught:
        begin(job, context)
    assert str(caught.value) == text
    assert (context.token_importance == 5).all(), "a refused job changes nothing"


@pytest.mark.parametrize("name", ["has_kv", "pinned", "heads"])
def test_bitmaps_of_the_wrong_size(name: str) -> None:
    job = Job(**GOOD)
    bitmaps = dataclasses.replace(Bitmaps.all(job), **{name: np.ones(5, np.bool_)})
    with pytest.raises(GoldenError) as caught:
        find_live(job, Context(TINY), bitmaps)
    expected = 2 if name == "heads" else 8
    assert str(caught.value) == f"the bitmap {name} must have {expected} entries, not shape (5,)"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"has_kv": np.zeros(8, np.bool_)}, "token"),
        ({"heads": np.zeros(2, np.bool_)}, "head"),
        ({"has_kv": np.arange(8) > 5}, "query row"),
    ],
)
def test_a_job_needs_something_live(changes: dict[str, Any], what: str) -> None:
    job = Job(**GOOD)
    with pytest.raises(GoldenError) as caught:
        find_live(job, Context(TINY), dataclasses.replace(Bitmaps.all(job), **changes))
    assert str(caught.value) == (
        f"a job needs at least one live {what}; the kept set and the layer's bitmap share none"
    )


def test_finding_who_is_live_changes_nothing() -> None:
    job = Job(**(GOOD | GENERATION | {"query_offset": 7}))
    context = Context(TINY)
    context.kept_tokens[3] = False
    before = context.kept_tokens.copy()
    live = find_live(job, context, dataclasses.replace(Bitmaps.all(job), has_kv=np.arange(8) > 2))
    assert live.tokens.tolist() == [4, 5, 6, 7]
    assert live.rows.tolist() == [7]
    assert np.flatnonzero(live.pinned).tolist() == [7]
    assert np.array_equal(context.kept_tokens, before)


def test_split_keys_need_the_address_of_their_lsb_plane() -> None:
    job = Job(**(GOOD | {"key_fetch": KeyFetch.JOINED}))
    with pytest.raises(GoldenError) as caught:
        planes(TINY, job, Addresses(query=0, key_msb=0, key_lsb=None, value=0, output=0))
    assert str(caught.value) == "a job that fetches K joined needs the address of its LSB plane"


def test_planes_have_room_for_the_keys() -> None:
    with pytest.raises(GoldenError) as caught:
        planes(TINY, Job(**GOOD), Addresses(query=0, key_msb=0, key_lsb=0, value=0, output=0, kv_rows=GOOD["keys"] - 1))
    assert str(caught.value) == f"kv_rows must be at least keys = {GOOD['keys']}, not {GOOD['keys'] - 1}"


def test_a_growing_sequence_keeps_its_planes() -> None:
    """Rows stored for a shorter sequence are found where they are when it has grown."""
    random = np.random.default_rng(3)
    kv_rows, heads, dim = 16, 3, 16
    at = Addresses(query=0, key_msb=64, key_lsb=None, value=256, output=512, kv_rows=kv_rows)
    memory = Memory(TINY, 1024)
    key = codes(random, (heads, kv_rows, dim), 8)
    fields = GOOD | {"mode": Mode.GENERATION, "queries": 1, "heads": heads, "head_dim": dim, "key_bits": 8}
    fields["score_scales"] = (ScoreScale(40_000, 20),) * heads
    for keys in range(5, kv_rows + 1):
        layout = planes(TINY, Job(**(fields | {"keys": keys, "query_offset": keys - 1})), at)
        first = 0 if keys == 5 else keys - 1
        memory.store(layout.key_msb, key[:, first:keys], first)
        assert np.array_equal(memory.load(layout.key_msb, np.arange(keys)), key[:, :keys])


def test_every_address_starts_at_channel_0() -> None:
    job = Job(**GOOD)
    good = {"query": 0, "key_msb": 16, "key_lsb": None, "value": 32, "output": 48}
    planes(TINY, job, Addresses(**good))
    for name in ("query", "key_msb", "value", "output"):
        with pytest.raises(GoldenError, match="multiple of 2 sectors, not at sector 3"):
            planes(TINY, job, Addresses(**(good | {name: 3})))
