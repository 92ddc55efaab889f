"""Scale and softmax: golden bit for bit against Python integers and the error contract, the circuit against golden."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatten.golden import BoolArray, IntArray
from spatten.golden.softmax import exp_table, exponentials, flat_limit, is_flat, reciprocal, reciprocal_table, softmax
from spatten.hw.datapath import softmax as circuit
from spatten.hw.datapath.softmax import Softmax
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.softmax import SMALL, run_arguments, unit_of
from spatten.spec.config import NAMED, PAPER, SCALE_SHIFT_MAX, SCALE_SHIFT_MIN, SUM_FRACTION, ULX3S, Config
from spatten.spec.job import ScoreScale
from tests.golden.reference import EXP, RECIPROCAL, float_softmax, ideal_codes, softmax_row

RATIO, LSBS = 1.1, 0.02
"""The contract: mean |error| at most RATIO x that of float64 rounded to the same width, plus LSBS."""
SHAPES = ("normal", "uniform", "peaked", "two levels", "saturated", "all equal", "long tail")


def score_rows(
    shape: str, rows: int, n: int, step: float, random: np.random.Generator, prob_bits: int = 12
) -> IntArray:
    """Integer scores [rows, n] whose natural-log unit is `step`."""
    if shape == "normal":
        score = random.normal(0, random.uniform(0.3, 3), (rows, n)) / step
    elif shape == "uniform":
        score = random.uniform(-random.uniform(1, 12), 0, (rows, n)) / step
    elif shape == "peaked":
        score = random.normal(0, 1, (rows, n)) / step
        score[np.arange(rows), random.integers(0, n, rows)] += random.uniform(3, 9, rows) / step
    elif shape == "two levels":
        score = np.where(random.random((rows, n)) < 0.3, 0, -random.uniform(0, 6, (rows, 1)) / step)
    elif shape == "saturated":  # some lie far beyond the largest exponent
        near = random.random((rows, n)) < random.uniform(0.05, 0.95)
        score = np.where(near, random.normal(0, random.choice([0, 0.2, 1]), (rows, n)), -1e6) / step
    elif shape == "all equal":
        score = np.broadcast_to(random.normal(0, 100, (rows, 1)), (rows, n)) / step
    else:  # one key, and a tail of which each key is just below, at or above half an LSB
        depth = np.log(max(1, (2 << prob_bits) - (n - 1)) * random.uniform(0.97, 1.03, (rows, 1)))
        score = random.normal(0, 0.004, (rows, n)) / step - depth / step
        score[:, 0] = 0
    return np.rint(score).astype(np.int64)


def check_contract(config: Config, score: IntArray, scale: ScoreScale) -> tuple[float, float]:
    """Assert the error contract on rows [r, n]; mean errors of the golden model and of the ideal."""
    prob = softmax(config, score, scale.mantissa, scale.shift)
    exact = float_softmax(score, scale.mantissa, scale.shift)
    assert prob.min() >= 0
    assert prob.max() <= config.prob_one
    target = exact * (1 << config.prob_bits)
    error = np.abs(prob - target)
    ideal = np.abs(ideal_codes(exact, config.prob_bits) - target)
    assert error.mean() <= RATIO * ideal.mean() + LSBS, (error.mean(), ideal.mean())
    assert error.max() <= ideal.max() + 1, (error.max(), ideal.max())
    order = np.argsort(score, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(prob, order, -1), axis=-1) >= 0).all(), "a larger score has no smaller p"
    best = np.take_along_axis(prob, score.argmax(axis=-1)[:, None], -1)[:, 0]
    assert np.array_equal(best, prob.max(axis=-1)), "the argmax does not flip"
    return float(error.mean()), float(ideal.mean())


@settings(max_examples=120)
@given(
    shape=st.sampled_from(SHAPES),
    n=st.integers(1, 1024),
    step=st.floats(0.02, 0.7),
    prob_bits=st.integers(8, 12),
    seed=st.integers(0, 1 << 30),
)
def test_error_contract(shape: str, n: int, step: float, prob_bits: int, seed: int) -> None:
    rows = max(16, 4096 // n)
    score = score_rows(shape, rows, n, step, np.random.default_rng(seed), prob_bits)
    check_contract(PAPER.replace(prob_bits=prob_bits), score, ScoreScale.from_step(step))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 2, 3, 47, 511, 512, 513, 1000, 1024])
def test_error_contract_at_every_length(shape: str, n: int) -> None:
    random = np.random.default_rng(n)
    for step in (0.02, 0.13, 0.7):
        score = score_rows(shape, max(16, 2048 // n), n, step, random)
        error, ideal = check_contract(PAPER, score, ScoreScale.from_step(step))
        if n in (3, 47) and shape in ("normal", "uniform", "peaked"):
            assert ideal > 0.15, "there is an error to compare with"
            assert len(np.unique(softmax(PAPER, score, *_scale(step)))) > 20, "probabilities vary"
            assert error > 0


def _scale(step: float) -> tuple[int, int]:
    scale = ScoreScale.from_step(step)
    return scale.mantissa, scale.shift


@pytest.mark.parametrize("prob_bits", [8, 9, 10, 11, 12])
@pytest.mark.parametrize("log2_n", range(11))
def test_equal_rows_of_a_power_of_two_are_exact(prob_bits: int, log2_n: int) -> None:
    score = np.full((2, 1 << log2_n), [[-77_777], [123_456]])
    prob = softmax(PAPER.replace(prob_bits=prob_bits), score, 50_000, 20)
    # 1/n, halves up; 1.0 as all ones
    expected = min((1 << prob_bits) - 1, ((2 << prob_bits) + (1 << log2_n)) >> (log2_n + 1))
    assert (prob == expected).all()
    exps = exponentials(score, 50_000, 20)
    assert (exps.total == 1 << (SUM_FRACTION + log2_n)).all()


@pytest.mark.parametrize("below", [True, False])
def test_a_tail_of_keys_around_the_resolution(below: bool) -> None:
    """1,023 keys of just under (over) half an LSB each: all round down (up), and the first key is right."""
    scale = ScoreScale.from_step(0.02)
    ideal = np.empty(0)
    for drop in range(380, 480):
        score = np.array([[0] + [-drop] * 1023])
        exact = float_softmax(score, scale.mantissa, scale.shift)
        tail = exact[0, 1] * 4096
        if abs(tail - 0.5) < 0.5 and (tail < 0.5) == below:
            prob = softmax(PAPER, score, scale.mantissa, scale.shift)
            assert prob[0, 1:].tolist() == [0 if below else 1] * 1023
            assert abs(prob[0, 0] - exact[0, 0] * 4096) <= 1.0
            ideal = np.append(ideal, tail)
    assert len(ideal) >= 20
    assert np.abs(ideal - 0.5).min() < 0.02


def test_no_single_pair_of_keys_is_off_by_more_than_the_exponent_allows() -> None:
    """Two keys at every distance: half an LSB of rounding, and less than 0.2 LSB from t being exact to 2**-12.

    The mean over a single such row can exceed RATIO x ideal: where both ideals are just below a tie, golden's are just
    beyond it. The contract is one on ensembles of rows.
    """
    for mantissa, shift in ((33_000, 28), (65_535, 27), (47_274, 24)):
        distance = np.arange(1, 1 << 15)
        score = np.stack([0 * distance, -distance], axis=1)
        prob = softmax(PAPER, score, mantissa, shift)
        target = np.minimum(float_softmax(score, mantissa, shift) * 4096, 4095)
        assert np.abs(prob - target).max() < 0.7
        assert len(np.unique(prob)) > 1000


# -- Bit for bit ------------------------------------------------------------------------------------------------------


def assert_rows_equal(config: Config, score: IntArray, mantissa: int, shift: int) -> None:
    prob = softmax(config, score, mantissa, shift)
    totals = exponentials(score, mantissa, shift).total
    for row, expected, total in zip(score.tolist(), prob.tolist(), totals.tolist(), strict=True):
        naive = softmax_row(row, mantissa, shift, config.prob_bits)
        assert expected == naive.prob
        assert total == naive.total
        assert naive.total < 1 << config.exp_sum_bits
        assert naive.widest_product < 1 << 35
        assert min(naive.prob) >= 0
        assert max(naive.prob) <= config.prob_one


def test_tables() -> None:
    assert exp_table().tolist() == EXP
    assert reciprocal_table().tolist() == RECIPROCAL
    assert circuit._exp_table() == EXP, "the circuit's ROMs"
    assert circuit._reciprocal_table() == RECIPROCAL
    assert (EXP[0], EXP[32], EXP[64]) == (65_536, 46_341, 32_768)
    assert (RECIPROCAL[0], RECIPROCAL[128], RECIPROCAL[256]) == (131_072, 87_381, 65_536)
    exact = np.exp2(16 - np.arange(65) / 64)
    assert np.abs(exp_table() - exact).max() <= 0.5


@settings(max_examples=150)
@given(
    shape=st.sampled_from(SHAPES),
    n=st.one_of(st.integers(1, 40), st.integers(1, 1024)),
    step=st.floats(0.02, 0.7),
    prob_bits=st.integers(8, 12),
    seed=st.integers(0, 1 << 30),
)
def test_bit_for_bit(shape: str, n: int, step: float, prob_bits: int, seed: int) -> None:
    score = score_rows(shape, 2, n, step, np.random.default_rng(seed), prob_bits)
    scale = ScoreScale.from_step(step)
    assert_rows_equal(PAPER.replace(prob_bits=prob_bits), score, scale.mantissa, scale.shift)


@pytest.mark.parametrize("prob_bits", [8, 9, 10, 11, 12])
@pytest.mark.parametrize("n", [2, 130, 257, 514, 1023])
def test_far_keys_of_long_flat_rows_get_zero(prob_bits: int, n: int) -> None:
    """The largest shift of all: exponent 31 behind a sum of hundreds."""
    score = np.zeros((1, n), np.int64)
    score[0, [0, -1]] = -(1 << 29), -1
    config = PAPER.replace(prob_bits=prob_bits)
    assert softmax(config, score, 40_000, 20)[0, 0] == 0
    assert_rows_equal(config, score, 40_000, 20)


@pytest.mark.parametrize("config", [*NAMED.values(), PAPER.replace(operand_bits=16)], ids=lambda c: c.name)
@pytest.mark.parametrize("mantissa", [1 << 15, 45_678, (1 << 16) - 1])
def test_nothing_overflows_at_the_widths_limits(config: Config, mantissa: int) -> None:
    """Scores at both ends of their range, every shift there is, and 4 less for an MSB plane alone."""
    top = config.head_dim_max << (2 * config.operand_bits - 2)
    random = np.random.default_rng(mantissa)
    n = min(12, config.tokens_max)
    close = top - np.concatenate([[0, 1, 2, 3], (1 << random.integers(1, config.difference_bits, n - 4))])
    saturated, spread = set(), set()
    for shift in range(SCALE_SHIFT_MIN - 4, SCALE_SHIFT_MAX + 1):
        far = np.where(np.arange(n) % 3 == 1, top, -top)
        score = np.stack([far, close, random.integers(-top, top + 1, n)])
        assert_rows_equal(config, score, mantissa, shift)
        t = softmax_row(close.tolist(), mantissa, shift, config.prob_bits).t
        saturated.add(max(t) == (1 << 17) - 1)
        spread.add(len({x for x in t if 0 < x < (1 << 17) - 1}) > 2)
    assert saturated == spread == {True, False}, "shifts reach from all saturated to all zero, and between"


def test_a_key_beyond_t_counts_nothing() -> None:
    score = np.array([[0, -(1 << 29), -(1 << 28)]])
    exps = exponentials(score, 1 << 15, 4)
    assert exps.exponent.tolist() == [[0, 31, 31]]
    assert exps.total.tolist() == [1 << SUM_FRACTION]
    assert softmax(PAPER, score, 1 << 15, 4).tolist() == [[4095, 0, 0]]


def test_rows_have_their_own_scales() -> None:
    random = np.random.default_rng(9)
    score = random.integers(-3000, 3000, (3, 2, 17))
    mantissa, shift = np.array([33_000, 50_000, 65_535])[:, None], np.array([18, 22, 25])[:, None]
    together = softmax(PAPER, score, mantissa, shift)
    for head in range(3):
        alone = softmax(PAPER, score[head], int(mantissa[head, 0]), int(shift[head, 0]))
        assert np.array_equal(together[head], alone)
    assert len({tuple(row) for row in together.reshape(6, 17).tolist()}) == 6


# -- Masks ------------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(n=st.integers(1, 60), step=st.floats(0.02, 0.7), seed=st.integers(0, 1 << 30))
def test_a_mask_is_the_same_as_removing_the_keys(n: int, step: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    score = random.integers(-300, 300, (4, n))
    live: BoolArray = random.random((4, n)) < 0.6
    live[np.arange(4), random.integers(0, n, 4)] = True
    score[~live] = random.choice([-(1 << 37), 1 << 37, 0, 5000], np.count_nonzero(~live))
    prob = softmax(PAPER, score, *_scale(step), live)
    totals = exponentials(score, *_scale(step), live).total
    for row in range(4):
        kept = score[row, live[row]]
        assert prob[row, live[row]].tolist() == softmax(PAPER, kept, *_scale(step)).tolist()
        assert not prob[row, ~live[row]].any()
        assert totals[row] == exponentials(kept, *_scale(step)).total


# -- Flatness ---------------------------------------------------------------------------------------------------------


def test_flat_limit() -> None:
    assert flat_limit(0.1) == 320
    assert flat_limit(0.05) == 640
    assert flat_limit(0.3) == 107, "106.67, rounded"
    assert flat_limit(0) == 0xFFFF
    assert flat_limit(1e-9) == 0xFFFF
    assert flat_limit(1e-310) == 0xFFFF
    assert flat_limit(1.0) == 32


def test_flatness_at_its_limit() -> None:
    """10 equal keys have max(prob) = 0.1, which is not below 0.1; any more is."""
    ten = exponentials(np.zeros((1, 10), np.int64), 40_000, 20).total
    assert not is_flat(ten, flat_limit(0.1))[0]
    assert is_flat(ten + 1, flat_limit(0.1))[0]
    eleven = exponentials(np.array([[0] * 10 + [-10]]), 40_000, 20).total
    assert is_flat(eleven, flat_limit(0.1))[0]
    everything = exponentials(np.zeros((1, 1024), np.int64), 40_000, 20).total
    assert not is_flat(everything, flat_limit(0))[0], "threshold 0: no row is flat"


@settings(max_examples=150)
@given(
    n=st.integers(1, 1024),
    step=st.floats(0.02, 0.7),
    threshold=st.floats(0.002, 0.9),
    seed=st.integers(0, 1 << 30),
)
def test_flatness_is_the_comparison(n: int, step: float, threshold: float, seed: int) -> None:
    """max(prob) < threshold, within the limit's half unit of 2**-6 in the sum and the sum's own error."""
    random = np.random.default_rng(seed)
    score = score_rows("normal", 8, n, step, random)
    mantissa, shift = _scale(step)
    total = exponentials(score, mantissa, shift).total
    flat = is_flat(total, flat_limit(threshold))
    for value, is_so in zip(total.tolist(), flat.tolist(), strict=True):
        assert is_so == (Fraction(value, 1 << SUM_FRACTION) > Fraction(flat_limit(threshold), 32))
    exact = 1 / float_softmax(score, mantissa, shift).max(axis=-1)
    assert (np.abs(total / (1 << SUM_FRACTION) - exact) <= 3e-4 * exact).all()
    resolution = 2.0**-6 + 3e-4 * exact
    assert flat[exact > 1 / threshold + resolution].all()
    assert not flat[exact < 1 / threshold - resolution].any()


def test_flatness_divides_real_rows() -> None:
    random = np.random.default_rng(3)
    score = np.rint(random.normal(0, 1, (200, 40)) * random.uniform(2, 40, (200, 1))).astype(np.int64)
    assert 30 < is_flat(exponentials(score, *_scale(0.1)).total, flat_limit(0.1)).sum() < 170


# -- Reciprocal -------------------------------------------------------------------------------------------------------


def test_reciprocal_over_its_range() -> None:
    """1.17 bits in [0.5, 1], exact at powers of two, never below 1/S by more than its rounding."""
    random = np.random.default_rng(4)
    total = (1 << SUM_FRACTION) + random.integers(0, 1023 << SUM_FRACTION, 20_000)
    edges = [(1 << SUM_FRACTION + z) + d for z in range(11) for d in (-1, 0, 1)]
    total = np.concatenate([total, [x for x in edges if 1 << SUM_FRACTION <= x <= 1 << SUM_FRACTION + 10]])
    mantissa, z = reciprocal(total)
    assert mantissa.min() == 1 << 16
    assert mantissa.max() == 1 << 17
    assert set(z.tolist()) == set(range(11))
    relative = mantissa * 2.0 ** -(17 + z) * (total / (1 << SUM_FRACTION)) - 1
    assert relative.min() > -(2.0**-16)
    assert relative.max() < 1.8e-5
    for power in range(11):
        one, exponent = reciprocal(np.array([1 << SUM_FRACTION + power]))
        assert (one[0], exponent[0]) == (1 << 17, power)


# -- The circuit ------------------------------------------------------------------------------------------------------

UNEVEN = {"lanes": 3, "score_bits": 20, "prob_bits": 9, "row_max": 14, "header": 5}
SIZES = {
    "small": SMALL,
    "uneven": UNEVEN,
    "one lane": {"lanes": 1, "score_bits": 8, "prob_bits": 8, "row_max": 2, "header": 1, "multiplier_stages": 1},
    "16-bit operands": {
        "lanes": 4,
        "score_bits": 39,
        "prob_bits": 10,
        "row_max": 33,
        "header": 70,
        "multiplier_stages": 3,
    },
}
"""Powers of two or not, one lane, the least and the largest of every width, every pipelining of multipliers."""


@pytest.mark.parametrize("size", ["small", pytest.param("uneven", marks=pytest.mark.slow)])
def test_circuit_matches_golden_in_icarus_without_initial_values(size: str) -> None:
    passed = cosimulate(**run_arguments(SIZES[size], rows=60, count=1), simulator="icarus", strip_initial=True)
    assert len(passed) == 32


@pytest.mark.slow
def test_circuit_without_decisions_matches_golden() -> None:
    """No row is progressive, and there is nothing that decides."""
    run = run_arguments({**SMALL, "decides": False}, rows=60, count=1)
    assert "o_decision" not in run["component"].signature.members
    lint(convert(run["component"]))
    assert len(cosimulate(**run, simulator="icarus", strip_initial=True)) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("size", ["one lane", "16-bit operands"])
def test_circuit_matches_golden_at_other_sizes(size: str) -> None:
    passed = cosimulate(**run_arguments(SIZES[size], rows=100, count=1))
    assert len(passed) >= 27


@pytest.mark.slow
def test_circuit_matches_golden_at_the_papers_size() -> None:
    passed = cosimulate(**run_arguments(unit_of(PAPER), rows=50, count=1))
    assert len(passed) == 32


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(Softmax(**SIZES[name])))


@pytest.mark.slow
def test_verilog_of_a_whole_machine_is_lint_clean() -> None:
    lint(convert(Softmax(**unit_of(ULX3S))))


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 5, 8, 16])
def test_latency_is_as_stated(lanes: int, stages: int) -> None:
    unit = Softmax(lanes=lanes, score_bits=31, prob_bits=12, row_max=1024, header=1, multiplier_stages=stages)
    log2 = (lanes - 1).bit_length()
    assert unit.delay == 26 + log2 + (log2 + 1) // 2 + 2 * (stages - 2)
    assert unit.decision_delay == 16 + log2 + (log2 + 1) // 2 + (stages - 2)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"lanes": 2.0}, TypeError, "lanes must be an integer, not 2.0"),
        ({"score_bits": 7}, ValueError, "score_bits must be 8 to 48, not 7"),
        ({"score_bits": 49}, ValueError, "score_bits must be 8 to 48, not 49"),
        ({"prob_bits": 13}, ValueError, "prob_bits must be 8 to 12, not 13"),
        ({"prob_bits": 7}, ValueError, "prob_bits must be 8 to 12, not 7"),
        ({"row_max": 1025}, ValueError, "row_max must be 2 to 1024, not 1025"),
        ({"row_max": True}, TypeError, "row_max must be an integer, not True"),
        ({"row_max": 1}, ValueError, "row_max must be 2 to 1024, not 1"),
        ({"multiplier_stages": 4}, ValueError, "multiplier_stages must be 1 to 3, not 4"),
        ({"multiplier_stages": 0}, ValueError, "multiplier_stages must be 1 to 3, not 0"),
        ({"header": "8"}, TypeError, "header must be an Amaranth shape, not '8'"),
        ({"header": 0}, ValueError, "header must be at least 1 bit wide, not 0"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Softmax(**{**SMALL, **change})
    assert str(caught.value) == text
