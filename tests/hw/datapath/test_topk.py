"""Top-k: the golden model against one line of Python, and the engine against the golden model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden import GoldenError
from spatten.golden.topk import check_k, keep_mask, threshold, topk
from spatten.hw.datapath.quick_select import QuickSelect, candidate_beat
from spatten.hw.datapath.topk import TopK, kept_beat
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.topk import run_arguments
from tests.golden.reference import survivors

VALUES = st.one_of(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.lists(st.integers(0, (1 << 33) - 1), min_size=1, max_size=40),
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
)


@given(VALUES, st.data())
def test_topk_is_the_sorted_one_liner(values: list[int], data: st.DataObject) -> None:
    n = len(values)
    k = data.draw(st.integers(1, n))
    array = np.array(values, np.int64)
    kept = topk(array, k)
    assert kept.tolist() == sorted(sorted(range(n), key=lambda i: (-values[i], i))[:k]) == survivors(values, k)
    assert kept.dtype == np.int64
    mask = keep_mask(array, k)
    assert mask.dtype == np.bool_
    assert np.flatnonzero(mask).tolist() == kept.tolist()
    kth, equals = threshold(array, k)
    assert kth == sorted(values, reverse=True)[k - 1]
    assert equals == k - sum(value > kth for value in values)
    assert 1 <= equals <= values.count(int(kth))


@given(VALUES)
def test_ends(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert topk(array, len(values)).tolist() == list(range(len(values))), "k = n keeps all"
    assert topk(array, 1).tolist() == [values.index(max(values))], "k = 1 keeps the first of the largest"


def test_by_hand() -> None:
    assert topk(np.array([3, 9, 3, 9, 3, 1]), 3).tolist() == [0, 1, 3]
    assert topk(np.array([3, 9, 3, 9, 3, 1]), 4).tolist() == [0, 1, 2, 3]
    assert topk(np.array([5, 5, 5, 5]), 2).tolist() == [0, 1], "of equals the lowest indices"


@pytest.mark.parametrize("n", [1, 2, 7, 1024])
def test_all_equal(n: int) -> None:
    for k in {1, (n + 1) // 2, n}:
        assert topk(np.full(n, 42), k).tolist() == list(range(k))


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_are_independent(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 6, (3, 4, 11))
    mask = keep_mask(values, 4)
    kth, equals = threshold(values, 4)
    assert kth.shape == equals.shape == (3, 4)
    for place in np.ndindex(3, 4):
        assert np.flatnonzero(mask[place]).tolist() == survivors(values[place].tolist(), 4)
    assert len(set(equals.ravel().tolist())) > 1, "ties of several sizes"


@pytest.mark.parametrize(("k", "n"), [(0, 5), (6, 5), (-1, 5), (1, 0), (1025, 1024)])
def test_k_out_of_range(k: int, n: int) -> None:
    with pytest.raises(GoldenError) as caught:
        check_k(k, n)
    assert str(caught.value) == f"k must be 1 to n = {n}, not {k}"
    if n:
        for function in (topk, keep_mask, threshold):
            with pytest.raises(GoldenError):
                function(np.arange(n), k)


@pytest.mark.parametrize("k", [2.0, "2", None, True])
def test_k_of_the_wrong_kind(k: object) -> None:
    with pytest.raises(TypeError) as caught:
        topk(np.arange(5), k)  # type: ignore[arg-type]
    assert str(caught.value) == f"k must be an integer, not {k!r}"


def test_numpy_integers_are_integers() -> None:
    assert topk(np.arange(5), np.int64(2)).tolist() == [3, 4]


SIZES = [(6, 3, 20, 3, 3), (7, 3, 20, 2, None)]
"""(width, lanes, n_max, digit bits, header): one pass, and several with compaction."""
MORE_SIZES = [(6, 4, 24, 3, 3), (9, 4, 30, 2, None), (4, 1, 7, 1, 2), (2, 5, 11, 1, None)]


def _tests(size: Any) -> int:
    width, lanes, n_max, digit_bits, _ = size
    passes = QuickSelect(width=width, lanes=lanes, n_max=n_max, digit_bits=digit_bits).passes_max
    return 8 + (passes == 1 and n_max >= 4 * lanes)


@pytest.mark.parametrize("size", SIZES)
def test_engine_matches_golden_in_icarus_without_initial_values(size: Any) -> None:
    assert len(cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)) == _tests(size)


@pytest.mark.slow
@pytest.mark.parametrize("size", MORE_SIZES)
def test_other_sizes_of_the_engine_match_golden(size: Any) -> None:
    assert len(cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)) == _tests(size)


@pytest.mark.slow
def test_engine_matches_golden_in_verilator() -> None:
    """With the digits of the engine for local V pruning."""
    size = (12, 2, 60, None, 9)
    assert len(cosimulate(**run_arguments(*size))) == _tests(size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZES[1], (4, 3, 7, 1, 2), (4, 1, 7, 1, None), (2, 1, 1, 1, None)])
def test_verilog_of_the_engine_is_lint_clean(size: Any) -> None:
    lint(convert(run_arguments(*size)["component"]))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"width": 1}, ValueError, "width must be at least 2, not 1"),
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"n_max": 0}, ValueError, "n_max must be at least 1, not 0"),
        ({"digit_bits": 8}, ValueError, "digit_bits must be 1 to 7 for values of 8 bits, not 8"),
        ({"header": "x"}, TypeError, "header must be an Amaranth shape or None, not 'x'"),
    ],
)
def test_parameters_of_the_engine_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        TopK(**{"width": 8, "lanes": 4, "n_max": 16, **arguments})
    assert str(caught.value) == text


def test_ports_of_the_engine_have_the_declared_shapes() -> None:
    engine = TopK(width=7, lanes=3, n_max=10, header=5)
    assert engine.i.payload.shape() == candidate_beat(7, 3, 10, 5)
    assert engine.o.payload.shape() == kept_beat(7, 3, 5)
