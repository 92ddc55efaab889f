"""The golden model as an attention engine: close to float, honest about clipping, and clear about what it refuses."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spatten.golden import GoldenError
from spatten.golden.schedule import HEAD_FRONT, TOKEN_FRONT, Ratios
from spatten.host.engines.engine import FloatArray, LayerResult, ModelShape, ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine, GoldenSequence, Settings
from spatten.spec.config import FEATURES, PAPER, TINY

SHAPE = ModelShape(layers=2, heads=3, head_dim=64, causal=True)
EXACT = Settings(query_bits=12, key_bits=12, value_bits=12, pin_recent=0)


def tensors(random: np.random.Generator, heads: int, rows: int, dim: int, scale: float = 1.0) -> list[FloatArray]:
    """Q, K and V [heads, rows, dim]; Q and K so that scores have a deviation of about 2."""
    q, k = (random.normal(0, 1.4, (heads, rows, dim)).astype(np.float32) for _ in range(2))
    return [q, k * np.float32(scale), random.normal(0, scale, (heads, rows, dim)).astype(np.float32)]


def started(settings: Settings = EXACT, shape: ModelShape = SHAPE, length: int = 10, **config: Any) -> GoldenSequence:
    return GoldenEngine(settings, PAPER.replace(**config)).start(shape, length)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dim", [16, 64, 128])
def test_unpruned_at_12_bits_is_close_to_float(causal: bool, dim: int) -> None:
    """Prompt and, where causal, generated tokens: within 0.4 % of the outputs' deviation, rms."""
    random = np.random.default_rng(dim)
    shape = ModelShape(layers=2, heads=3, head_dim=dim, causal=causal)
    golden, reference = started(shape=shape), ReferenceEngine().start(shape, 40)
    error, size = [], []

    def compare(one: LayerResult, other: LayerResult) -> None:
        assert one.output.shape == other.output.shape
        assert one.output.dtype == np.float32
        assert np.array_equal(one.kept_tokens, other.kept_tokens)
        assert np.array_equal(one.kept_heads, other.kept_heads)
        assert one.rows == other.rows
        error.append((one.output - other.output).ravel())
        size.append(other.output.ravel())

    for layer in range(2):
        q, k, v = tensors(random, 3, 40, dim)
        compare(golden.prompt(layer, q, k, v, np.arange(40)), reference.prompt(layer, q, k, v, np.arange(40)))
    for token in range(40, 45) if causal else ():
        for layer in range(2):
            q, k, v = tensors(random, 3, 1, dim)
            k, v = np.clip(k, -4, 4), np.clip(v, -3, 3)
            one, other = golden.step(layer, q, k, v, token), reference.step(layer, q, k, v, token)
            compare(one, other)
            assert one.clipped == 0
    deviation = float(np.concatenate(size).std())
    assert deviation > 0.2
    assert float(np.concatenate(error).std()) < 0.004 * deviation
    assert max(float(np.abs(e).max()) for e in error) < 0.02


@pytest.mark.parametrize(("bits", "worst"), [(4, 0.5), (6, 0.15), (8, 0.05)])
def test_error_grows_with_fewer_bits(bits: int, worst: float) -> None:
    random = np.random.default_rng(bits)
    q, k, v = tensors(random, 3, 40, 64)
    settings = Settings(key_bits=bits, value_bits=bits)
    one = started(settings).prompt(0, q, k, v, np.arange(40)).output
    other = ReferenceEngine().start(SHAPE, 40).prompt(0, q, k, v, np.arange(40)).output
    error = float((one - other).std() / other.std())
    assert worst / 10 < error < worst


def test_flat_generated_rows_are_recomputed_and_closer() -> None:
    random = np.random.default_rng(3)
    q, k, v = tensors(random, 3, 40, 64)
    step = [t / np.float32(2) for t in tensors(random, 3, 1, 64)]
    found = {}
    for threshold in (0.0, 0.999):
        sequence = started(Settings(key_bits=4, lsb=True, value_bits=12, threshold=threshold))
        sequence.prompt(0, q, k, v, np.arange(40))
        found[threshold] = sequence.step(0, *step, token=40)
    reference = ReferenceEngine().start(SHAPE, 40)
    reference.prompt(0, q, k, v, np.arange(40))
    exact = reference.step(0, *step, token=40).output
    assert (found[0.0].rows_recomputed, found[0.999].rows_recomputed) == (0, 3)
    assert found[0.0].traffic.lsb == 0
    assert found[0.999].traffic.lsb == 3 * 41 * 32
    errors = [float(np.abs(found[t].output - exact).mean()) for t in (0.0, 0.999)]
    assert errors[1] < errors[0] / 3


def test_generated_values_beyond_the_prompts_range_clip_and_count() -> None:
    random = np.random.default_rng(4)
    sequence = started(Settings(key_bits=8, value_bits=8, headroom=1.25))
    q, k, v = tensors(random, 3, 20, 64)
    assert sequence.prompt(0, q, k, v, np.arange(20)).clipped == 0
    q1, k1, v1 = tensors(random, 3, 1, 64)
    key_limit = np.abs(k).max(axis=(1, 2), keepdims=True) * 1.25
    k1, v1 = np.clip(k1, -key_limit, key_limit), np.clip(v1, -2, 2)
    k1[:, 0, 0], v1[0, 0, 0] = 0.99 * key_limit[:, 0, 0], 1.24 * np.abs(v).max()
    assert sequence.step(0, q1, k1, v1, token=20).clipped == 0, "within the headroom"
    k2, v2 = k1.copy(), v1.copy()
    k2[0, 0, :5] = -1.1 * key_limit[0, 0, 0]
    k2[2, 0, 7] = 100
    v2[1, 0, :2] = np.abs(v).max() * 1.3
    assert sequence.step(0, q1, k2, v2, token=21).clipped == 8


def test_saturated_outputs_are_counted() -> None:
    """910 equal keys whose rounded probabilities add up to 1.11, and values at their range's end."""
    shape = ModelShape(layers=1, heads=1, head_dim=16, causal=False)
    q = np.zeros((1, 910, 16), np.float32)
    v = np.ones((1, 910, 16), np.float32)
    v[..., 8:] = 0.5
    found = started(shape=shape, length=910).prompt(0, q, q, v, np.arange(910))
    assert found.saturations == 910 * 8
    assert found.output[0, 0, 0] == pytest.approx(1)
    assert found.output[0, 0, 8] == pytest.approx(0.5 * 910 * 5 / 4096, rel=1e-3)


def test_pruned_prompt_and_steps() -> None:
    """Counts follow the schedules; a layer computes what the layer before kept, generation the heads of the prompt."""
    random = np.random.default_rng(5)
    shape = ModelShape(layers=6, heads=4, head_dim=16, causal=True)
    settings = Settings(tokens=Ratios(0.2, 0.6), heads=Ratios(0.25, 0.5), value_keep=0.5, pin_first=2, pin_recent=3)
    sequence = started(settings, shape, 30)
    tokens, kept_heads = np.arange(30), [np.arange(4)]
    has_kv: list[set[int]] = []
    token_counts, head_counts = (
        Ratios(0.2, 0.6).counts(30, 6, TOKEN_FRONT),
        Ratios(0.25, 0.5).counts(4, 6, HEAD_FRONT),
    )
    for layer in range(6):
        heads = sequence.heads(layer)
        assert np.array_equal(heads, kept_heads[layer])
        has_kv.append(set(tokens.tolist()))
        q, k, v = tensors(random, len(heads), len(tokens), 16)
        found = sequence.prompt(layer, q, k, v, tokens)
        assert found.output.shape == (len(tokens), len(heads), 16)
        assert set(found.kept_tokens.tolist()) <= set(tokens.tolist())
        assert {0, 1, 27, 28, 29} <= set(found.kept_tokens.tolist()), "pinned"
        tokens = found.kept_tokens
        kept_heads.append(found.kept_heads)
        assert len(tokens) == token_counts[layer]
        assert len(found.kept_heads) == head_counts[layer]
        assert found.token_importance is not None
        assert found.token_importance.shape == (30,)
    assert len(tokens) == 12
    without_kv = 0
    for token in range(30, 38):
        kept = set(range(token + 1))
        for layer in range(6):
            heads = sequence.heads(layer)
            assert np.array_equal(heads, kept_heads[layer]), "the heads that the prompt left in this layer"
            q, k, v = tensors(random, len(heads), 1, 16)
            found = sequence.step(layer, q, k, v, token)
            assert found.output.shape == (1, len(heads), 16)
            assert token in found.kept_tokens
            live = found.value_rows_live // len(heads)
            assert found.value_rows == len(heads) * -(-live // 2)
            has_kv[layer].add(token)
            assert live == len(kept & has_kv[layer]), "kept by the layer before, and with K and V here"
            without_kv += len(kept - has_kv[layer])
            kept = set(found.kept_tokens.tolist())
            assert np.array_equal(found.kept_heads, heads), "generation prunes no heads"
            assert len(found.kept_tokens) <= Ratios(0.2, 0.6).counts(token + 1, 6, TOKEN_FRONT)[layer]
    assert without_kv > 0, "some that a step kept had been pruned in the prompt"


def test_a_causal_prompts_last_token_stays() -> None:
    random = np.random.default_rng(6)
    sequence = started(dataclasses.replace(EXACT, tokens=(1, 1), pin_first=0))
    found = sequence.prompt(0, *tensors(random, 3, 10, 64), tokens=np.arange(10))
    assert found.kept_tokens.tolist() == [9]


def test_recent_tokens_are_pinned_in_causal_models_only() -> None:
    random = np.random.default_rng(6)
    for causal, recent in ((True, [0, 6, 7, 8, 9]), (False, [0])):
        shape = ModelShape(layers=2, heads=3, head_dim=64, causal=causal)
        sequence = started(dataclasses.replace(EXACT, tokens=(1, 1), pin_recent=4), shape)
        found = sequence.prompt(0, *tensors(random, 3, 10, 64), tokens=np.arange(10))
        assert found.kept_tokens.tolist() == recent


def test_explicit_counts_above_the_length_keep_all() -> None:
    random = np.random.default_rng(7)
    sequence = started(dataclasses.replace(EXACT, tokens=(1024, 4), heads=(16, 2)))
    found = sequence.prompt(0, *tensors(random, 3, 10, 64), tokens=np.arange(10))
    assert (len(found.kept_tokens), len(found.kept_heads)) == (10, 3)
    found = sequence.prompt(1, *tensors(random, 3, 10, 64), tokens=np.arange(10))
    assert (len(found.kept_tokens), len(found.kept_heads)) == (4, 2)


def test_importance_is_in_units_of_probabilities() -> None:
    """Each of 3 heads x 10 rows hands out 1.0 in all."""
    random = np.random.default_rng(8)
    found = started().prompt(0, *tensors(random, 3, 10, 64), tokens=np.arange(10))
    assert found.token_importance is not None
    assert found.token_importance.sum() == pytest.approx(30, abs=0.05)
    assert found.head_importance is not None
    assert found.head_importance.shape == (3,)
    assert (found.head_importance > 0).all()


def test_sequences_are_independent() -> None:
    random = np.random.default_rng(9)
    engine = GoldenEngine(EXACT)
    inputs = [tensors(random, 3, 10, 64) for _ in range(2)]
    alone = [engine.start(SHAPE, 10).prompt(0, *inputs[i], tokens=np.arange(10)) for i in range(2)]
    both = [engine.start(SHAPE, 10) for _ in range(2)]
    together = [both[i].prompt(0, *inputs[i], tokens=np.arange(10)) for i in (1, 0)][::-1]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.output, other.output)
        assert np.array_equal(one.token_importance, other.token_importance)


def test_value_keep_is_a_ceiling_of_exact_products() -> None:
    """55 % of 100 live rows are 55, though 0.55 x 100 is 55.00000000000001 in floating point."""
    random = np.random.default_rng(10)
    shape = ModelShape(layers=1, heads=1, head_dim=16, causal=True)
    sequence = started(Settings(value_keep=0.55), shape, 99)
    sequence.prompt(0, *tensors(random, 1, 99, 16), tokens=np.arange(99))
    found = sequence.step(0, *tensors(random, 1, 1, 16), token=99)
    assert found.value_rows_live == 100
    assert found.value_rows == 55


def test_the_smallest_fraction_keeps_one_value() -> None:
    random = np.random.default_rng(11)
    sequence = started(Settings(value_keep=1e-10))
    sequence.prompt(0, *tensors(random, 3, 10, 64), tokens=np.arange(10))
    assert sequence.step(0, *tensors(random, 3, 1, 64), token=10).value_rows == 3


# -- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "length", "text"),
    [
        ({"layers": 5}, 8, "the configuration 'tiny' takes 1 to 4 layers, not 5"),
        ({"layers": 0}, 8, "the configuration 'tiny' takes 1 to 4 layers, not 0"),
        ({"heads": 5}, 8, "the configuration 'tiny' takes 1 to 4 heads, not 5"),
        ({}, 17, "the configuration 'tiny' takes 1 to 16 tokens, not 17"),
        ({}, 0, "the configuration 'tiny' takes 1 to 16 tokens, not 0"),
        ({"head_dim": 64}, 8, "the configuration 'tiny' takes a head dimension of (16, 32), not 64"),
        ({"head_dim": 24}, 8, "the configuration 'tiny' takes a head dimension of (16, 32), not 24"),
    ],
)
def test_models_refused(changes: dict[str, int], length: int, text: str) -> None:
    shape = ModelShape(layers=2, heads=2, head_dim=16, causal=True)
    engine = GoldenEngine(EXACT, TINY)
    engine.start(shape, 8)
    with pytest.raises(GoldenError) as caught:
        engine.start(dataclasses.replace(shape, **changes), length)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"value_keep": 0.0}, "value_keep must be above 0 and at most 1, not 0.0"),
        ({"value_keep": 1.1}, "value_keep must be above 0 and at most 1, not 1.1"),
        ({"threshold": 1.0}, "threshold must be 0 to below 1, not 1.0"),
        ({"threshold": -0.1}, "threshold must be 0 to below 1, not -0.1"),
        ({"headroom": 0.9}, "headroom must be at least 1, not 0.9"),
        ({"pin_first": -1}, "pinned tokens cannot be fewer than none: -1, 32"),
        ({"pin_recent": -2}, "pinned tokens cannot be fewer than none: 1, -2"),
    ],
)
def test_settings_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(GoldenError) as caught:
        Settings(**changes)
    assert str(caught.value) == text


def test_headroom_must_be_a_number() -> None:
    with pytest.raises(GoldenError, match="headroom must be at least 1, not nan"):
        Settings(headroom=float("nan"))


def test_labels() -> None:
    assert (Settings(key_bits=8).bits_label, Settings(key_bits=6, lsb=True).bits_label) == ("8", "6+4")
    assert Settings(key_bits=6, lsb=True).key_bits_full == 10
    assert GoldenEngine().settings == Settings()
    assert GoldenEngine(name="x").name == "x"


@pytest.mark.parametrize(("which", "name"), [(0, "query"), (1, "key"), (2, "value")])
def test_shapes_refused(which: int, name: str) -> None:
    inputs = tensors(np.random.default_rng(1), 3, 10, 64)
    inputs[which] = inputs[which][:2]
    with pytest.raises(GoldenError) as caught:
        started().prompt(0, *inputs, tokens=np.arange(10))
    assert str(caught.value) == f"{name} must have shape (3, 10, 64) (live heads, rows, head_dim), not (2, 10, 64)"


def test_tensors_that_are_not_finite() -> None:
    q, k, v = tensors(np.random.default_rng(1), 3, 10, 64)
    v[2, 3, 4] = np.nan
    with pytest.raises(GoldenError, match=r"cannot quantize nan at index \(2, 3, 4\): tensors must be finite"):
        started().prompt(0, q, k, v, np.arange(10))


def test_a_sequence_that_grows_too_long() -> None:
    random = np.random.default_rng(2)
    shape = ModelShape(layers=1, heads=2, head_dim=16, causal=True)
    sequence = GoldenEngine(EXACT, TINY).start(shape, 15)
    sequence.prompt(0, *tensors(random, 2, 15, 16), tokens=np.arange(15))
    sequence.step(0, *tensors(random, 2, 1, 16), token=15)
    with pytest.raises(GoldenError) as caught:
        sequence.step(0, *tensors(random, 2, 1, 16), token=16)
    assert str(caught.value) == "the configuration 'tiny' takes 16 tokens: token 16 is beyond"


def test_a_prompt_longer_than_the_configuration() -> None:
    """Whatever `start` was told."""
    shape = ModelShape(layers=1, heads=2, head_dim=16, causal=True)
    sequence = GoldenEngine(EXACT, TINY).start(shape, 8)
    with pytest.raises(GoldenError):
        sequence.prompt(0, *tensors(np.random.default_rng(1), 2, 17, 16), tokens=np.arange(17))


def test_rows_that_the_cascade_pruned_are_refused() -> None:
    random = np.random.default_rng(3)
    sequence = started(dataclasses.replace(EXACT, tokens=(4, 4)))
    sequence.prompt(0, *tensors(random, 3, 10, 64), tokens=np.arange(10))
    with pytest.raises(GoldenError, match=r"layer 1 takes rows \[.*\], not 10 rows"):
        sequence.prompt(1, *tensors(random, 3, 10, 64), tokens=np.arange(10))


@pytest.mark.parametrize("schedule", [(), (4,), (4, 4, 4)])
def test_schedules_of_the_wrong_length(schedule: tuple[int, ...]) -> None:
    sequence = started(dataclasses.replace(EXACT, tokens=schedule))
    with pytest.raises(GoldenError) as caught:
        sequence.prompt(0, *tensors(np.random.default_rng(1), 3, 10, 64), tokens=np.arange(10))
    assert str(caught.value) == f"a schedule of 2 layers needs 2 counts, not {len(schedule)}"


def test_widths_that_the_configuration_lacks() -> None:
    for settings, name in (
        (Settings(query_bits=12), "query_bits"),
        (Settings(query_bits=8, key_bits=12), "key_bits"),
        (Settings(query_bits=8, value_bits=10), "value_bits"),
    ):
        bits = getattr(settings, name)
        with pytest.raises(GoldenError, match=rf"^the configuration 'paper' takes {name} of \(4, 6, 8\), not {bits}$"):
            started(settings, operand_bits=8)


@pytest.mark.parametrize(
    ("settings", "feature", "text"),
    [
        (Settings(key_bits=6, lsb=True), "progressive", "lsb = False to generate with"),
        (Settings(value_keep=0.5), "prune_values", "value_keep = None to generate with"),
        (Settings(heads=(3, 2, 2)), "prune_heads", "heads that are not pruned"),
    ],
    ids=["progressive", "prune_values", "prune_heads"],
)
def test_features_that_the_configuration_lacks(settings: Settings, feature: str, text: str) -> None:
    shape = ModelShape(layers=3, heads=3, head_dim=64, causal=True)
    others = [other for other in FEATURES if other != feature]
    GoldenEngine(settings, PAPER.replace(features=[feature])).start(shape, 10)
    with pytest.raises(GoldenError) as caught:
        GoldenEngine(settings, PAPER.replace(features=others)).start(shape, 10)
    assert str(caught.value) == f"the configuration 'paper' takes {text}: it lacks {feature}"
    if feature != "prune_heads":
        prompt_only = replace(shape, causal=False)
        GoldenEngine(settings, PAPER.replace(features=others)).start(prompt_only, 10)


@pytest.mark.parametrize("bits", [0, -4, 5, 14, 1 << 100, 8.5])
def test_widths_that_no_configuration_has(bits: Any) -> None:
    with pytest.raises(GoldenError, match=r"query_bits must be one of \(4, 6, 8, 10, 12, 16\), not "):
        Settings(query_bits=bits)
    with pytest.raises(GoldenError, match=r"key_bits must be one of \(4, 6, 8, 10, 12\), not "):
        Settings(key_bits=bits)
    with pytest.raises(GoldenError, match=r"value_bits must be one of \(4, 6, 8, 10, 12\), not "):
        Settings(value_bits=bits)


def test_generation_needs_a_prompt() -> None:
    sequence = started(EXACT)
    with pytest.raises(GoldenError) as caught:
        sequence.step(0, *tensors(np.random.default_rng(1), 3, 1, 64), token=0)
    assert str(caught.value) == "generation needs a prompt first: it fixes the ranges of K and V"
