"""The quick-select against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spatten.golden import GoldenError
from spatten.golden.quick_select import passes, select
from spatten.golden.topk import threshold
from spatten.hw.datapath.quick_select import QuickSelect, candidate_beat, first_digit, selection
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.benches.topk_rows import KINDS
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.records import read
from spatten.sim.verify.runs.quick_select import run_arguments
from spatten.spec.config import PAPER

SIZES = [(6, 4, 40, 3, 3), (9, 4, 50, 2, None)]
"""(width, lanes, n_max, digit bits, header): one pass, and several with compaction."""
MORE_SIZES = [(5, 3, 20, 2, None), (4, 1, 7, 1, 2), (3, 2, 4, 1, None), (13, 5, 18, 3, None)]
"""Numbers of lanes that are no powers of two, one lane, one bit per digit, rows of two beats."""


@pytest.mark.parametrize("size", SIZES)
def test_matches_golden_in_icarus_without_initial_values(size: Any) -> None:
    assert len(cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("size", MORE_SIZES)
def test_other_sizes_match_golden(size: Any) -> None:
    passed = cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)
    assert len(passed) == 9 + (size[0] <= 4)


@pytest.mark.slow
def test_matches_golden_in_verilator() -> None:
    assert len(cosimulate(**run_arguments(5, 2, 21, 1, 3, seed_count=2, rows=4))) == 9 * len(seeds())


@pytest.mark.slow
def test_paper_size_is_right_and_as_fast_as_stated(tmp_path: Path) -> None:
    """33 bits, 16 lanes, 1,024 values: at most 130 cycles on average, and (the testbench checks) a row every 128.

    The testbench also holds every single row to its bound and to what its values say it takes, and all else it checks.
    """
    figures = tmp_path / "figures.json"
    width = max(PAPER.token_importance_bits, PAPER.head_importance_bits) + 1
    sizes = width, PAPER.topk_lanes, PAPER.tokens_max
    run = run_arguments(*sizes, rows=1, lengths=(1024,), shares=(2,), measured_rows=6)
    assert len(cosimulate(**run, measured=figures)) == 10
    records = read(figures)
    mean = {
        record["distribution"]: record["value"]
        for record in records
        if record["name"] == "topk" and (record["n"], record["k"]) == (1024, 512)
    }
    assert set(mean) == set(KINDS)
    for kind in ("uniform", "softmax-like", "importance-like", "sorted up", "sorted down", "organ pipe"):
        assert mean[kind] <= 130, f"{kind}: {mean[kind]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [
        *SIZES,
        (4, 1, 7, 1, None),
        (2, 2, 9, None, None),
        (12, 2, 98, None, 3),
        (33, 2, 1024, None, None),
    ],
)
def test_verilog_is_lint_clean(size: Any) -> None:
    lint(convert(run_arguments(*size)["component"]))


@pytest.mark.parametrize(("width", "digit_bits"), [(2, 1), (4, 2), (5, 1), (7, 3), (9, 2), (12, 6)])
def test_first_bins_cover_every_value_once_and_shrink_to_nothing(width: int, digit_bits: int) -> None:
    bins = first_digit(width, digit_bits)
    assert [floor for floor, _ in bins] == list(np.cumsum([0, *(1 << free for _, free in bins)])[:-1])
    assert bins[-1][0] + (1 << bins[-1][1]) == 1 << width
    assert all(floor % (1 << free) == 0 for floor, free in bins), "a bin is what some high bits say"


def test_passes_of_the_paper_sizes() -> None:
    assert QuickSelect(width=12, lanes=16, n_max=1024).passes_max == 1
    assert QuickSelect(width=33, lanes=16, n_max=1024).passes_max == 7
    assert [QuickSelect(width=width, lanes=1, n_max=4).digit_bits for width in (2, 5, 7, 12, 13, 33)] == [
        1,
        4,
        6,
        6,
        5,
        5,
    ]


@pytest.mark.parametrize(("width", "digit_bits"), [(3, 1), (4, 1), (4, 2)])
def test_digits_end_in_the_kth_largest(width: int, digit_bits: int) -> None:
    """The argument of the docstring, by exhaustion: all rows of up to 3 values, all k, no more passes than stated."""
    passes_max = QuickSelect(width=width, lanes=1, n_max=4, digit_bits=digit_bits).passes_max
    rows = [row for n in (1, 2, 3) for row in itertools.combinations_with_replacement(range(1 << width), n)]
    for values in rows:
        for k in range(1, len(values) + 1):
            row = values
            rank, bins, count, needed = k - 1, first_digit(width, digit_bits), 0, 0
            while True:
                # The wanted element is in the highest bin with more than `rank` elements in it or above.
                above = [sum(value >= floor for value in row) for floor, _ in bins]
                chosen = max(n for n in range(len(bins)) if above[n] > rank)
                rank -= above[chosen + 1] if chosen + 1 < len(bins) else 0
                floor, free = bins[chosen]
                row = tuple(value for value in row if floor <= value < floor + (1 << free))
                assert 0 <= rank < len(row)
                if free == 0:
                    break
                low = max(free - digit_bits, 0)
                bins = [(floor + (digit << low), low) for digit in range(1 << free - low)]
                count += 1
                # A pass over equals, or over the last digit, is the last one.
                if not needed and (low == 0 or len(set(row)) == 1):
                    needed = count
            assert count <= passes_max
            # Even where the first digit was the last there is one.
            assert passes(np.array(values), k, width=width, digit_bits=digit_bits) == max(1, needed)
            assert (floor, rank + 1) == select(np.array(values), k)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"width": "8"}, TypeError, "width must be an integer, not '8'"),
        ({"width": 1}, ValueError, "width must be at least 2, not 1"),
        ({"lanes": 2.0}, TypeError, "lanes must be an integer, not 2.0"),
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"n_max": True}, TypeError, "n_max must be an integer, not True"),
        ({"n_max": 0}, ValueError, "n_max must be at least 1, not 0"),
        ({"digit_bits": "3"}, TypeError, "digit_bits must be an integer or None, not '3'"),
        ({"digit_bits": 0}, ValueError, "digit_bits must be 1 to 7 for values of 8 bits, not 0"),
        ({"digit_bits": 8}, ValueError, "digit_bits must be 1 to 7 for values of 8 bits, not 8"),
        ({"width": 33, "digit_bits": 9}, ValueError, "digit_bits must be 1 to 8 for values of 33 bits, not 9"),
        ({"header": "x"}, TypeError, "header must be an Amaranth shape or None, not 'x'"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        QuickSelect(**{"width": 8, "lanes": 4, "n_max": 16, **arguments})
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = QuickSelect(width=7, lanes=3, n_max=10, header=5)
    assert component.i.payload.shape() == candidate_beat(7, 3, 10, 5)
    assert component.o.payload.shape() == selection(7, 10, 5)
    assert "header" not in selection(7, 10).members


@pytest.mark.parametrize("seed", seeds())
def test_golden_is_the_threshold_of_topk(seed: int) -> None:
    source = np.random.default_rng(seed)
    for make in KINDS.values():
        row = make(source, 50, 12)
        assert row.min() >= 0
        assert row.max() < 1 << 12
        for k in (1, 20, 50):
            assert select(row, k) == threshold(row, k)
    assert select(np.array([3, 0, 5]), 5) == (0, 3), "two zeros more than there are"
    assert select(np.array([3, 5]), 3) == (0, 1)


def test_golden_refuses_what_it_cannot_mean() -> None:
    for values in (np.ones((2, 2), np.int64), np.array([], np.int64)):
        with pytest.raises(GoldenError, match="values must be one row of at least one value, not of shape"):
            select(values, 1)
    with pytest.raises(GoldenError, match="values must be unsigned, not -1"):
        select(np.array([3, -1]), 1)
    with pytest.raises(GoldenError, match="k must be 1 to n = 2, not 0"):
        select(np.array([3, 1]), 0)
