"""prob x V: the accumulator holds the worst case, the output saturates and says so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.pv import outputs
from golden.softmax import softmax
from hw.config import PAPER, Config
from tests.reference import clip, fits, float_softmax, output_bound, times_power

PROB_BITS = (8, 9, 10, 11, 12)
MACHINES = [PAPER.replace(prob_bits=w, operand_bits=b) for w in PROB_BITS for b in (4, 12, 16)]


def ends(config: Config) -> tuple[int, int]:
    return -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1


@given(
    operand_bits=st.sampled_from([4, 8, 12, 16]), prob_bits=st.integers(8, 12), n=st.integers(1, 20), seed=st.integers()
)
def test_outputs_are_rounded_sums(operand_bits: int, prob_bits: int, n: int, seed: int) -> None:
    config = PAPER.replace(operand_bits=operand_bits, prob_bits=prob_bits)
    random = np.random.default_rng(seed % (1 << 32))
    low, high = ends(config)
    prob = random.integers(0, 2 * (1 << prob_bits) // n, (2, 3, n))
    value = random.integers(low, high + 1, (2, n, 5))
    output, saturated = outputs(config, prob, value)
    count = 0
    for h, r, d in np.ndindex(2, 3, 5):
        exact = sum(int(prob[h, r, i]) * int(value[h, i, d]) for i in range(n))
        rounded = times_power(exact, -prob_bits)
        assert output[h, r, d] == clip(rounded, operand_bits)
        count += not fits(rounded, operand_bits)
    assert saturated == count


def test_rounding_by_hand() -> None:
    value = np.array([[1, -1, 3, -3, 2047, -2048]])
    output, saturated = outputs(PAPER, np.array([[2048]]), value)
    assert output.tolist() == [[1, 0, 2, -1, 1024, -1024]], "halves go up"
    assert saturated == 0


def test_910_equal_keys_add_up_to_1_11() -> None:
    """Each of 910 probabilities of 4.501 LSB rounds to 5: together 1.11, and extreme values saturate."""
    prob = softmax(PAPER, np.zeros((1, 910), np.int64), 40_000, 20)
    assert prob.sum() == 910 * 5
    low, high = ends(PAPER)
    value = np.repeat(np.array([[low, high, 1000, 0]]), 910, axis=0)
    output, saturated = outputs(PAPER, prob, value)
    assert output.tolist() == [[low, high, times_power(910 * 5 * 1000, -12), 0]]
    assert saturated == 2, "counted"


@pytest.mark.parametrize("config", MACHINES, ids=lambda c: f"{c.prob_bits}x{c.operand_bits}")
def test_the_accumulator_holds_the_worst_row(config: Config) -> None:
    """Every number of equal keys, and rows tuned so that as many as possible round up by a half."""
    low, high = ends(config)
    sums = {}
    for n in range(1, config.tokens_max + 1):
        sums[n] = int(softmax(config, np.zeros(n, np.int64), 40_000, 20).sum())
    if config.prob_bits <= 9:
        worst = 2 << config.prob_bits
        assert max(sums.values()) == worst == sums[2 << config.prob_bits], "halves that all round up: exactly 2.0"
    random = np.random.default_rng(config.prob_bits)
    for _ in range(60):
        n = int(random.integers(2, config.tokens_max + 1))
        score = -random.integers(0, int(random.integers(1, 4000)), n)
        sums[-1] = max(sums.get(-1, 0), int(softmax(config, score, 40_000, 26).sum()))
    most = max(sums.values())
    assert most > 1 << config.prob_bits, "rounding lifts rows above 1.0"
    assert fits(most * low, config.pv_accumulator_bits)
    assert fits(most * high, config.pv_accumulator_bits)
    assert not fits((1 << config.prob_bits) * 2 * low - 1, config.pv_accumulator_bits), "the width's end is 2.0"


@pytest.mark.parametrize("n", [1, 7, 64, 500, 1024])
@pytest.mark.parametrize("operand_bits", [8, 12, 16])
def test_error_against_float64(n: int, operand_bits: int) -> None:
    """Within the bound that `output_bound` derives, and not within a hundredth of it: the bound means something."""
    config = PAPER.replace(operand_bits=operand_bits)
    random = np.random.default_rng(n)
    low, high = ends(config)
    score = random.integers(-3000, 3001, (4, n))
    value = random.integers(low, high + 1, (n, 64))
    value[:, 0] = high
    output, _ = outputs(config, softmax(config, score, 50_000, 26), value)
    exact = float_softmax(score, 50_000, 26) @ value
    error = np.abs(output - exact).max()
    assert error <= output_bound(n, -low, config.prob_bits)
    assert n == 1 or error > output_bound(n, -low, config.prob_bits) / 100
    assert len(np.unique(output)) > 12
