"""Quantization of a host's floats: codes, clipping, score scales and multipliers."""

from __future__ import annotations

from fractions import Fraction
from math import e, floor, log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden import FloatArray, GoldenError
from spatten.golden.quantize import choose_scale, importance_multiplier, largest_code, quantize
from spatten.spec.job import JobError, ScoreScale

LOG2_E = log2(e)


@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20),
    bits=st.sampled_from([4, 6, 8, 10, 12, 14, 16]),
)
def test_no_value_is_further_than_half_a_step(values: list[float], bits: int) -> None:
    tensor = np.array(values)
    scale = float(choose_scale(tensor, bits))
    code, clipped = quantize(tensor, scale, bits)
    peak = largest_code(bits)
    assert peak == 2 ** (bits - 1) - 1
    assert clipped == 0
    assert np.abs(code).max() == (peak if np.any(tensor) else 0), "the largest magnitude gets the largest code"
    assert (np.abs(code * scale - tensor) <= scale * (0.5 + 1e-9)).all()


def test_codes_round_half_up_and_clip() -> None:
    tensor = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 7.4, 7.5, -7.5, -7.6, 100, -100])
    code, clipped = quantize(tensor, 1.0, 4)
    assert code.tolist() == [-2, -1, 0, 1, 2, 7, 7, -7, -7, 7, -7]
    assert clipped == 4, "7.5 is 8, -7.6 is -8, and the two hundreds"
    assert code.dtype == np.int64


@given(st.integers(-4000, 4000), st.sampled_from([1, 2, 4, 8]))
def test_code_is_the_exact_floor(numerator: int, denominator: int) -> None:
    expected = floor(Fraction(numerator, denominator) + Fraction(1, 2))
    assert quantize(np.array([float(numerator)]), float(denominator), 16)[0].tolist() == [expected]


def test_scales_per_head() -> None:
    tensor = np.array([[[1.0, -2.0]], [[0.0, 0.0]], [[0.25, 0.5]]])
    scale = choose_scale(tensor, 8, axis=(1, 2))
    assert scale.shape == (3, 1, 1)
    assert scale.ravel().tolist() == [2 / 127, 1.0, 0.5 / 127]
    code, clipped = quantize(tensor, scale, 8)
    assert code.tolist() == [[[64, -127]], [[0, 0]], [[64, 127]]]
    assert clipped == 0


def test_float32_tensors_are_scaled_in_float64() -> None:
    tensor = np.float32([1 / 3, -1])
    assert choose_scale(tensor, 12) == 1 / 2047
    assert quantize(tensor, choose_scale(tensor, 12), 12)[0].tolist() == [682, -2047]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    tensor = np.array([[1.0, 2.0], [3.0, bad]])
    for refused in (lambda: choose_scale(tensor, 8), lambda: quantize(tensor, 1.0, 8)):
        with pytest.raises(GoldenError) as caught:
            refused()
        assert str(caught.value) == f"cannot quantize {bad} at index (1, 1): tensors must be finite"


def test_what_cannot_be_quantized() -> None:
    with pytest.raises(GoldenError) as caught:
        choose_scale(np.empty((2, 0)), 8)
    assert str(caught.value) == "cannot quantize an empty tensor of shape (2, 0)"
    for scale in (0.0, -1.0):
        with pytest.raises(GoldenError) as caught:
            quantize(np.ones(2), np.array([1.0, scale]), 8)
        assert str(caught.value) == f"a quantization scale must be positive, not {scale}"


# -- Score scales -----------------------------------------------------------------------------------------------------


@given(st.floats(1e-13, 2000))
def test_score_scale_is_the_closest(step: float) -> None:
    scale = ScoreScale.from_step(step)
    wanted = Fraction(step) * Fraction(LOG2_E)
    exact = Fraction(scale.mantissa) / 2**scale.shift if scale.shift >= 0 else Fraction(0)
    assert scale.log2_step == float(exact)
    assert abs(exact - wanted) <= Fraction(1, 2) / 2**scale.shift + wanted / 2**50, "half a unit of the mantissa"
    assert abs(exact / wanted - 1) <= Fraction(1, 2**16) + Fraction(1, 2**50), "relative: within 2**-16"
    assert 1 << 15 <= scale.mantissa < 1 << 16


def test_score_scale_by_hand() -> None:
    one = ScoreScale.from_step(1 / LOG2_E)
    assert (one.mantissa, one.shift) == (1 << 15, 15)
    almost = ScoreScale.from_step((1 - 2.0**-20) / LOG2_E)
    assert (almost.mantissa, almost.shift) == (1 << 15, 15), "rounds up to the next power of two"
    assert ScoreScale.from_step(0.1) == ScoreScale(round(0.1 * LOG2_E * 2**18), 18)


def test_score_scale_limits() -> None:
    assert ScoreScale.from_step(1e-300) == ScoreScale(1 << 15, 63)
    smallest = 2.0**-48 / LOG2_E
    assert ScoreScale.from_step(smallest).shift == 63
    assert ScoreScale.from_step(smallest / 8) == ScoreScale(1 << 15, 63)
    assert ScoreScale.from_step(4095 / LOG2_E).shift == 4
    for step in (4096 / LOG2_E * (1 + 1e-12), 1e300):
        with pytest.raises(JobError) as caught:
            ScoreScale.from_step(step)
        assert str(caught.value) == (
            f"a score step of {step} is too large: at most 4096.0 in log2 units per integer score unit"
        )


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_score_steps_refused(step: float) -> None:
    with pytest.raises(JobError) as caught:
        ScoreScale.from_step(step)
    assert str(caught.value) == f"a score step must be finite and positive, not {step}"


def test_every_finite_step_has_a_scale_or_a_reason() -> None:
    with pytest.raises(JobError, match="too large"):
        ScoreScale.from_step(1.7e308)


@pytest.mark.parametrize(
    ("mantissa", "shift", "text"),
    [
        (32_767, 20, "score scale mantissa must be 32768 to 65535, not 32767"),
        (65_536, 20, "score scale mantissa must be 32768 to 65535, not 65536"),
        (40_000, 3, "score scale shift must be 4 to 63, not 3"),
        (40_000, 64, "score scale shift must be 4 to 63, not 64"),
    ],
)
def test_score_scales_refused(mantissa: int, shift: int, text: str) -> None:
    with pytest.raises(JobError) as caught:
        ScoreScale(mantissa, shift)
    assert str(caught.value) == text


# -- Importance multiplier --------------------------------------------------------------------------------------------


def test_importance_multiplier() -> None:
    assert importance_multiplier(0.5, 0.5) == 32_768
    assert importance_multiplier(0.25, 1.0) == 8_192
    assert importance_multiplier(3.0, 1.0) == 32_768, "saturates"
    assert importance_multiplier(1e-9, 1.0) == 1, "never zero"
    assert importance_multiplier(1.5 / 32_768, 1.0) == 2, "half up"


def test_multipliers_make_layers_comparable() -> None:
    """The same float outputs under two V scales get the same magnitudes."""
    random = np.random.default_rng(2)
    output: FloatArray = random.normal(0, 1, 500)
    sums = []
    for value_scale in (0.003, 0.008):
        codes = np.rint(output / value_scale)
        sums.append(np.abs(codes).sum() * importance_multiplier(value_scale, 0.01))
    assert abs(sums[0] / sums[1] - 1) < 1e-3


def test_the_smallest_magnitude_has_a_scale() -> None:
    """5e-324 / 127 is zero in float64, and a zero scale would divide by zero."""
    assert choose_scale(np.array([5e-324]), 8) == 1.0
