"""The token importance unit against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden.attention import Bitmaps
from spatten.golden.cascade import Context
from spatten.golden.token_importance import gather, scatter
from spatten.hw.datapath.token_importance import TokenImportance
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.token_importance import config_of, run_arguments, unit
from spatten.spec.config import NAMED, PAPER, TINY
from spatten.spec.job import Job, Mode, ScoreScale

SIZES = [(16, 2, 2, 2, 2), (64, 2, 4, 3, 3), (64, 2, 2, 1, 2), (16, 16, 16, 2, 1)]
"""(tokens, P, T, contexts, slots): beats as wide as and narrower than rows; numbers that are no power of two; a beat of
all tokens. With 32 lines a job is longer than the queue of its live list."""
TESTS = 16
"""Testbench functions, times the seeds."""


@pytest.mark.parametrize(
    ("tokens", "prob_lanes", "lanes", "contexts", "slots"),
    [pytest.param(*size, marks=pytest.mark.slow if n else ()) for n, size in enumerate(SIZES)],
)
def test_matches_golden_in_icarus_without_initial_values(
    tokens: int, prob_lanes: int, lanes: int, contexts: int, slots: int
) -> None:
    arguments = run_arguments(config_of(tokens, prob_lanes, lanes, contexts), slots)
    assert len(cosimulate(**arguments, simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
def test_matches_golden_in_verilator() -> None:
    arguments = run_arguments(config_of(tokens=128, prob_lanes=4, lanes=8, contexts=4), 4, jobs=20)
    assert len(cosimulate(**arguments)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokens", "prob_lanes", "lanes", "contexts", "slots"),
    [(2, 1, 1, 1, 1), (8, 8, 8, 1, 2), (16, 2, 4, 3, 5), (32, 8, 2, 4, 4)],
)
def test_verilog_is_lint_clean(tokens: int, prob_lanes: int, lanes: int, contexts: int, slots: int) -> None:
    sizes = {"tokens": tokens, "prob_lanes": prob_lanes, "lanes": lanes, "contexts": contexts, "slots": slots}
    lint(convert(TokenImportance(prob_bits=4, importance_bits=9, **sizes)))


GOOD = {"tokens": 16, "prob_bits": 12, "importance_bits": 20, "prob_lanes": 2, "lanes": 4, "contexts": 2, "slots": 2}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"tokens": 16.0}, TypeError, "tokens must be an integer, not 16.0"),
        ({"slots": True}, TypeError, "slots must be an integer, not True"),
        ({"contexts": 0}, ValueError, "contexts must be at least 1, not 0"),
        ({"prob_bits": -1}, ValueError, "prob_bits must be at least 1, not -1"),
        ({"tokens": 24}, ValueError, "tokens must be a power of two from 2, not 24"),
        ({"tokens": 1}, ValueError, "tokens must be a power of two from 2, not 1"),
        ({"lanes": 3}, ValueError, "lanes must be a power of two up to tokens = 16, not 3"),
        ({"prob_lanes": 32}, ValueError, "prob_lanes must be a power of two up to tokens = 16, not 32"),
        ({"importance_bits": 11}, ValueError, "importance_bits must be at least prob_bits = 12, not 11"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        TokenImportance(**(GOOD | changes))
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = unit(PAPER, 4)
    keys = component.o_candidates.payload.keys
    assert (len(keys), len(keys[0])) == (16, 33)
    assert len(component.i_kept.payload) == 16
    assert len(component.i_probs.payload.probs[0]) == 12


def test_a_job_cannot_overflow_the_slot() -> None:
    # The slot's sums are exact because of this: all rows of all heads at probability 1.0, once.
    for config in NAMED.values():
        assert config.prob_one * config.tokens_max * config.heads_max < 1 << config.token_importance_bits


def _job(**changes: Any) -> Job:
    fields: dict[str, Any] = {
        "mode": Mode.SUMMARIZATION,
        "head_dim": 16,
        "heads": 1,
        "keys": 4,
        "queries": 4,
        "query_bits": 8,
        "key_bits": 8,
        "value_bits": 8,
        "score_scales": (ScoreScale(mantissa=1 << 15, shift=16),),
        "clear": True,
    }
    return Job(**(fields | changes))


def test_golden_by_hand() -> None:
    context = Context(TINY)
    bitmaps = Bitmaps(
        has_kv=np.array([True, False, True, True]),
        pinned=np.array([False, True, True, False]),
        heads=np.array([True]),
    )
    live = gather(_job(), context, bitmaps)
    assert live.tokens.tolist() == [0, 2, 3]
    prob = np.array([[[5, 1, 7], [5, 2, 1]]])
    scattered = scatter(context, live, prob, 2)
    assert scattered.keys.tolist() == [10, (1 << TINY.token_importance_bits) + 3, 8]
    assert scattered.kept.tolist() == [True, True, False]
    assert scattered.saturated == 0
    assert context.token_importance[:5].tolist() == [10, 0, 3, 8, 0]
    assert np.flatnonzero(context.kept_tokens).tolist() == [0, 2]

    limit = (1 << TINY.token_importance_bits) - 1
    context.token_importance[2] = limit
    context.token_importance[0] = limit - 9
    second = _job(clear=False, mode=Mode.GENERATION, query_offset=3, queries=1)
    live = gather(second, context, bitmaps)
    assert live.tokens.tolist() == [0, 2, 3], "the token that generates is live though it was pruned"
    scattered = scatter(context, live, np.array([[[9, 1, 4]]]), 1)
    assert scattered.saturated == 1, "the end of the range alone is no saturation"
    assert scattered.kept.tolist() == [False, True, True], "both pinned tokens stay"
    assert context.token_importance[:4].tolist() == [limit, 0, limit, 12]


@pytest.mark.parametrize("seed", seeds())
def test_golden_against_a_loop(seed: int) -> None:
    source = np.random.default_rng(seed)
    limit = (1 << TINY.token_importance_bits) - 1
    for _ in range(30):
        context = Context(TINY)
        context.token_importance = source.integers(limit - 20_000, limit + 1, TINY.tokens_max)
        before = context.token_importance.tolist()
        bitmaps = Bitmaps(has_kv=source.random(16) < 0.8, pinned=source.random(16) < 0.2, heads=np.array([True]))
        age = int(source.integers(0, 2))
        job = _job(keys=16, queries=16, clear=False, restart=True, age_shift=age)
        live = gather(job, context, bitmaps)
        prob = source.integers(0, 4096, (1, 5, len(live.tokens)))
        keep = int(source.integers(1, 17))
        scattered = scatter(context, live, prob, keep)
        saturated = 0
        keys = []
        for rank, token in enumerate(live.tokens.tolist()):
            total = (before[token] >> age) + sum(int(prob[0, row, rank]) for row in range(5))
            saturated += total > limit
            assert context.token_importance[token] == min(total, limit)
            keys.append((bool(bitmaps.pinned[token]), min(total, limit)))
        assert scattered.saturated == saturated
        count = min(len(keys), max(keep, sum(pinned for pinned, _ in keys)))
        ranked = sorted(range(len(keys)), key=lambda rank: (not keys[rank][0], -keys[rank][1], rank))
        assert np.flatnonzero(scattered.kept).tolist() == sorted(ranked[:count])
