"""The one rounding and the one saturation, against the table by hand and against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden.rounding import round_shift, saturate
from tests.golden.rounding_table import ROUND_SHIFT, SATURATE


def test_rounding_table() -> None:
    for value, shift, expected in ROUND_SHIFT:
        assert floor(Fraction(value, 2**shift) + Fraction(1, 2)) == expected, "the table itself"
        assert round_shift(np.array([value], np.int64), shift).tolist() == [expected], (value, shift)


def test_rounding_table_with_one_shift_per_value() -> None:
    values, shifts, expected = (np.array(column, np.int64) for column in zip(*ROUND_SHIFT, strict=True))
    assert round_shift(values, shifts).tolist() == expected.tolist()


def test_rounding_table_has_ties_of_both_signs() -> None:
    ties = [value for value, shift, _ in ROUND_SHIFT if shift and value % 2**shift == 2 ** (shift - 1)]
    assert sum(value < 0 for value in ties) >= 8
    assert sum(value > 0 for value in ties) >= 8


def test_saturation_table() -> None:
    for value, bits, expected, clipped in SATURATE:
        values, count = saturate(np.array([value, 0], np.int64), bits)
        assert values.tolist() == [expected, 0], (value, bits)
        assert count == clipped


def test_saturation_counts_every_element() -> None:
    values, count = saturate(np.array([[8, -8, -9], [7, 100, -100]], np.int64), 4)
    assert values.tolist() == [[7, -8, -8], [7, 7, -8]]
    assert count == 4


@given(st.integers(-(1 << 50), 1 << 50), st.integers(0, 62))
def test_round_shift_is_half_up(value: int, shift: int) -> None:
    assert round_shift(np.array(value, np.int64), shift) == floor(Fraction(value, 2**shift) + Fraction(1, 2))


@given(st.integers(-(1 << 20), 1 << 20), st.integers(1, 30))
def test_ties_go_up(whole: int, shift: int) -> None:
    tie = (whole << shift) + (1 << (shift - 1))
    assert round_shift(np.array([tie - 1, tie, tie + 1], np.int64), shift).tolist() == [whole, whole + 1, whole + 1]


@given(st.integers(0, 1 << 40), st.integers(63, 80))
def test_a_shift_beyond_the_word_leaves_nothing(value: int, shift: int) -> None:
    """Far keys of long rows are shifted by up to 33 - 8 + 31 + 9 bits at 8-bit probabilities."""
    assert round_shift(np.array([value], np.int64), shift).tolist() == [0]


@given(st.integers(-(1 << 60), 1 << 60), st.integers(2, 40))
def test_saturate_is_the_closest_representable(value: int, bits: int) -> None:
    values, count = saturate(np.array([value], np.int64), bits)
    assert values[0] == min(max(value, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
    assert count == (values[0] != value)
