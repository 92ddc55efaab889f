"""The expander against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import signed

from spatten.golden import GoldenError
from spatten.golden.expander import expand, packed_rows
from spatten.golden.zero_eliminator import eliminate_zeros
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.expander import Expander
from spatten.hw.lib.zero_eliminator import masked_row
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.expander import run_arguments

SIZES = [(1, 1), (2, 5), (3, 4), (4, 9), (5, 7)]
"""(lanes, width): a power of two or not."""
TESTS = 7
"""Testbench functions, times the seeds."""


@pytest.mark.parametrize(
    ("lanes", "width"), [*(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[:-1]), SIZES[-1]]
)
def test_matches_golden_in_icarus_without_initial_values(lanes: int, width: int) -> None:
    passed = cosimulate(**run_arguments(lanes, width), simulator="icarus", strip_initial=True)
    assert len(passed) == TESTS * len(seeds())


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "width"), [(16, 33), (11, 6)])
def test_matches_golden_in_verilator(lanes: int, width: int) -> None:
    passed = cosimulate(**run_arguments(lanes, width))
    assert len(passed) == TESTS * len(seeds())


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2, 5, 16])
def test_verilog_is_lint_clean(lanes: int) -> None:
    lint(convert(Expander(shape=33, lanes=lanes)))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8", "lanes": 4}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0, "lanes": 4}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"shape": 8, "lanes": 4.0}, TypeError, "lanes must be an integer, not 4.0"),
        ({"shape": 8, "lanes": True}, TypeError, "lanes must be an integer, not True"),
        ({"shape": 8, "lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Expander(**arguments)
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    assert Expander(shape=signed(9), lanes=5).o.payload.shape() == masked_row(signed(9), 5)


def test_golden_by_hand() -> None:
    mask = np.array([[False, True, True], [False, False, False], [True, False, False]])
    assert expand(np.array([7, 8, 9]), mask).tolist() == [[0, 7, 8], [0, 0, 0], [9, 0, 0]]
    assert packed_rows(np.array([7, 8, 9]), 2).tolist() == [[7, 8], [9, 0]]
    assert packed_rows(np.zeros(0, np.int64), 2).tolist() == []


@pytest.mark.parametrize("seed", seeds())
def test_golden_undoes_zero_elimination(seed: int) -> None:
    source = np.random.default_rng(seed)
    for _ in range(50):
        lanes = source.integers(1, 100, (20, 7))
        mask = source.random(lanes.shape) < source.random()
        compacted, counts = eliminate_zeros(lanes, mask)
        packed = np.concatenate([row[:count] for row, count in zip(compacted, counts, strict=True)])
        assert np.array_equal(expand(packed, mask), np.where(mask, lanes, 0))


def test_golden_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(TypeError, match="mask must be an array of booleans, not of int64"):
        expand(np.ones(1, np.int64), np.ones(1, np.int64))
    with pytest.raises(GoldenError, match="elements must be as many as the mask is True, 2, not 1"):
        expand(np.ones(1, np.int64), np.ones(2, bool))
    with pytest.raises(GoldenError, match=r"elements must have one axis, not shape \(1, 1\)"):
        expand(np.ones((1, 1), np.int64), np.ones(1, bool))
