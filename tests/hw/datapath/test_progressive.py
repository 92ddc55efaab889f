"""Progressive quantization: the second pass is exact wherever operands hold all bits; the circuit against golden."""

from typing import Any

import numpy as np
import pytest

from spatten.golden.convert import narrow
from spatten.golden.progressive import msb_scores, recompute_excess, recomputed_scores
from spatten.hw.datapath.progressive import Progressive
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.progressive import SMALL, run_arguments, unit_of
from spatten.spec.config import LSB_BITS, PAPER, PLANE_BITS, Config
from tests.golden.reference import clip, times_power

WIDE = PAPER.replace(operand_bits=16)


def operands(config: Config, key_bits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random Q [2, 3, 16] and K codes [2, 7, 16] with the extremes of both among them."""
    random = np.random.default_rng(seed)
    low, high = -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1
    query = random.integers(low, high + 1, (2, 3, 16))
    query[0, 0], query[0, 1] = low, high
    low, high = -(1 << (key_bits - 1)), (1 << (key_bits - 1)) - 1
    key = random.integers(low, high + 1, (2, 7, 16))
    key[0, 0], key[0, 1], key[1, 0] = low, high, -1
    return query, key


@pytest.mark.parametrize("msb_bits", PLANE_BITS)
@pytest.mark.parametrize("config", [PAPER, WIDE], ids=["12", "16"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_second_pass(msb_bits: int, config: Config, seed: int) -> None:
    key_bits = msb_bits + LSB_BITS
    query, key = operands(config, key_bits, seed)
    first = msb_scores(query, key)
    assert first.tolist() == np.einsum("hrd,hnd->hrn", query, key // 16).tolist()
    second = recomputed_scores(config, first, query, key, key_bits)
    fits = key_bits <= config.operand_bits
    assert fits == (config is WIDE or msb_bits <= 8)
    if fits:
        assert recompute_excess(config, key_bits) == 0
        assert np.array_equal(second, np.einsum("hrd,hnd->hrn", query, key)), "exact"
        assert not np.array_equal(second, first << 4), "the LSBs count"
    else:
        excess = key_bits - config.operand_bits
        assert recompute_excess(config, key_bits) == excess
        rounded = [clip(times_power(code, -excess), config.operand_bits) for code in key.ravel().tolist()]
        expected = np.einsum("hrd,hnd->hrn", query, np.reshape(rounded, key.shape))
        assert np.array_equal(second, expected)
        assert np.array_equal(expected, np.einsum("hrd,hnd->hrn", query, narrow(key, key_bits, config.operand_bits)))


def test_12_plus_4_at_12_bits_rounds_where_the_first_pass_floors() -> None:
    """The unit is 16 in both passes; the second is closer to the full code."""
    query, key = operands(PAPER, 16, 7)
    exact = query @ key.swapaxes(-1, -2)
    first = msb_scores(query, key) * 16
    second = recomputed_scores(PAPER, msb_scores(query, key), query, key, 16) * 16
    assert recompute_excess(PAPER, 16) == 4

    def spread(score: np.ndarray) -> float:
        error = score - exact
        return float(np.abs(error - error.mean(axis=-1, keepdims=True)).mean())

    assert 0 < spread(second) < 1.5 * spread(first)
    assert np.abs(second - exact)[1].mean() < np.abs(first - exact)[1].mean()


def test_first_pass_floor_is_common_to_the_row_on_average() -> None:
    """An MSB-only key is low by 7.5 units on average: a score shift of 7.5 x sum(q) that softmax does not see."""
    random = np.random.default_rng(3)
    query, key = random.integers(0, 100, (1, 1, 64)), random.integers(-2048, 2048, (1, 4000, 64))
    lost = (query @ key.swapaxes(-1, -2) - 16 * msb_scores(query, key)).mean()
    assert abs(lost / (7.5 * query.sum()) - 1) < 0.02


# -- The circuit ------------------------------------------------------------------------------------------------------


SIZES = {
    "small": SMALL,
    "uneven": {**SMALL, "lanes": 3, "row_max": 14, "slots": 4, "prob_bits": 9},
    "one slot": {**SMALL, "lanes": 1, "row_max": 2, "slots": 1},
    "one beat": {**SMALL, "lanes": 4, "row_max": 4, "slots": 4, "head_dim": 128},
    "16-bit operands": {**SMALL, "lanes": 4, "operand_bits": 16, "head_dim": 128, "row_max": 37, "header": 40},
}
"""Powers of two or not, one lane, one beat, every number of slots, the largest scores."""


@pytest.mark.parametrize("size", ["small", *(pytest.param(n, marks=pytest.mark.slow) for n in ("uneven", "one slot"))])
def test_circuit_matches_golden_in_icarus_without_initial_values(size: str) -> None:
    arguments = run_arguments(SIZES[size], joined=False, rows=60, count=1)
    assert len(cosimulate(**arguments, simulator="icarus", strip_initial=True)) == (15 if size == "one slot" else 21)


@pytest.mark.parametrize("size", ["small", pytest.param("uneven", marks=pytest.mark.slow)])
def test_circuit_and_softmax_match_golden_in_icarus_without_initial_values(size: str) -> None:
    arguments = run_arguments(SIZES[size], joined=True, rows=40, count=1)
    assert len(cosimulate(**arguments, simulator="icarus", strip_initial=True)) == 12


@pytest.mark.slow
@pytest.mark.parametrize(("size", "tests"), [("one beat", 27), ("16-bit operands", 25)])
def test_circuit_matches_golden_at_other_sizes(size: str, tests: int) -> None:
    assert len(cosimulate(**run_arguments(SIZES[size], joined=False, rows=100, count=2))) == tests


@pytest.mark.slow
def test_circuit_and_softmax_match_golden_at_the_papers_size() -> None:
    assert len(cosimulate(**run_arguments(unit_of(PAPER), joined=True, rows=60, count=1))) == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "row_max", "slots"),
    [(3, 20, 2), (8, 1024, 4), (1, 2, 1), (4, 3, 4)],
)
def test_verilog_is_lint_clean(lanes: int, row_max: int, slots: int) -> None:
    lint(convert(Progressive(lanes=lanes, score_bits=31, row_max=row_max, slots=slots, header=5)))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"lanes": "8"}, TypeError, "lanes must be an integer, not '8'"),
        ({"score_bits": 7}, ValueError, "score_bits must be 8 to 48, not 7"),
        ({"score_bits": 49}, ValueError, "score_bits must be 8 to 48, not 49"),
        ({"row_max": 1}, ValueError, "row_max must be 2 to 1024, not 1"),
        ({"row_max": 1025}, ValueError, "row_max must be 2 to 1024, not 1025"),
        ({"slots": 3}, ValueError, "slots must be 1, 2 or 4, not 3"),
        ({"slots": 8}, ValueError, "slots must be 1, 2 or 4, not 8"),
        ({"slots": True}, TypeError, "slots must be an integer, not True"),
        ({"header": "8"}, TypeError, "header must be an Amaranth shape, not '8'"),
        ({"header": 0}, ValueError, "header must be at least 1 bit wide, not 0"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Progressive(**{"lanes": 8, "score_bits": 31, "row_max": 1024, "slots": 2, "header": 5, **change})
    assert str(caught.value) == text
