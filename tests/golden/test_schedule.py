"""Pruning schedules: the paper's front layers and ratios, and the released traces' counts."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden import GoldenError
from spatten.golden.schedule import HEAD_FRONT, NO_PRUNING, TOKEN_FRONT, Ratios, explicit

TRACE = (1024, 1024, 921, 716, 204, 204, 204, 204, 102, 102, 102, 102)
"""Twelve layers of the released GPT-2 step schedule: counts of 1,024."""


def test_fronts() -> None:
    assert (Fraction(15, 100), Fraction(30, 100)) == (TOKEN_FRONT, HEAD_FRONT)
    half = Ratios(0.5, 0.5)
    for layers, tokens, heads in ((12, 2, 4), (24, 4, 8), (6, 1, 2), (20, 3, 6), (1, 1, 1), (10, 2, 3)):
        assert half.counts(100, layers, TOKEN_FRONT) == [100] * tokens + [50] * (layers - tokens)
        assert half.counts(100, layers, HEAD_FRONT) == [100] * heads + [50] * (layers - heads)


def test_interpolation_by_hand() -> None:
    """12 layers, 10 of which prune: 10 %, 15 %, ... 55 % of 200 tokens."""
    kept = Ratios(0.1, 0.55).counts(200, 12, TOKEN_FRONT)
    assert kept == [200, 200, 180, 170, 160, 150, 140, 130, 120, 110, 100, 90]
    assert Ratios(0.1, 0.55).counts(10, 12, TOKEN_FRONT) == [10, 10, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5]


@given(
    start=st.floats(0, 0.999),
    end=st.floats(0, 0.999),
    n=st.integers(1, 1024),
    layers=st.integers(1, 64),
    front=st.sampled_from([TOKEN_FRONT, HEAD_FRONT, Fraction(0)]),
)
def test_counts(start: float, end: float, n: int, layers: int, front: Fraction) -> None:
    start, end = min(start, end), max(start, end)
    kept = Ratios(start, end).counts(n, layers, front)
    assert len(kept) == layers
    assert all(1 <= count <= n for count in kept)
    assert all(later <= earlier for earlier, later in pairwise(kept)), "never rising"
    unpruned = -(-front.numerator * layers // front.denominator)
    assert kept[:unpruned] == [n] * unpruned
    pruning = layers - unpruned
    for step, count in enumerate(kept[unpruned:]):
        ratio = start + (end - start) * step / (pruning - 1) if pruning > 1 else end
        assert abs(count - max(1, ceil(n * (1 - ratio)))) <= (abs(n * (1 - ratio) - round(n * (1 - ratio))) < 1e-6)


@given(st.floats(0, 0.49), st.floats(1, 2))
def test_average(average: float, rise: float) -> None:
    end = average * rise
    ratios = Ratios.average(average, end)
    assert ratios.start + ratios.end == pytest.approx(2 * average)
    kept = ratios.counts(100_000, 40, Fraction(0))
    assert sum(kept) / 40 == pytest.approx(100_000 * (1 - average), abs=1)


def test_no_pruning() -> None:
    assert NO_PRUNING.counts(77, 12, TOKEN_FRONT) == [77] * 12


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.4), (-0.1, 0.3), (0.2, 1.0), (float("nan"), 0.5)])
def test_ratios_refused(start: float, end: float) -> None:
    with pytest.raises(GoldenError) as caught:
        Ratios(start, end)
    assert str(caught.value) == f"pruning ratios must satisfy 0 <= start <= end < 1, not {start} and {end}"


def test_the_released_trace_of_993_tokens() -> None:
    kept = explicit(TRACE, 993, 12, of=1024)
    assert kept == [993, 993, 893, 694, 197, 197, 197, 197, 98, 98, 98, 98]
    assert kept == [993 * count // 1024 for count in TRACE]


def test_explicit_counts() -> None:
    assert explicit([12, 12, 9, 4], 12, 4) == [12, 12, 9, 4]
    assert explicit([1024, 1], 3, 2, of=1024) == [3, 1], "never less than one"


@pytest.mark.parametrize(
    ("counts", "n", "layers", "of", "text"),
    [
        ([5, 4], 5, 3, None, "a schedule of 3 layers needs 3 counts, not 2"),
        ([], 5, 1, None, "a schedule of 1 layers needs 1 counts, not 0"),
        ([5, 6], 5, 2, None, "the count of layer 1 must be 1 to 5, not 6"),
        ([5, 0], 5, 2, None, "the count of layer 1 must be 1 to 5, not 0"),
        ([1025, 3], 5, 2, 1024, "the count of layer 0 must be 1 to 1024, not 1025"),
        ([5, 3, 4], 5, 3, None, "the count of layer 2 must not exceed that of layer 1, 3"),
    ],
)
def test_explicit_refused(counts: list[int], n: int, layers: int, of: int | None, text: str) -> None:
    with pytest.raises(GoldenError) as caught:
        explicit(counts, n, layers, of)
    assert str(caught.value) == text
