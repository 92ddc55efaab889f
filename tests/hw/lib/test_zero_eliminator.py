"""The zero eliminator against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import signed

from spatten.golden import GoldenError
from spatten.golden.zero_eliminator import eliminate_zeros
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.zero_eliminator import ZeroEliminator, compacted_row, masked_row
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.zero_eliminator import run_arguments

ELEMENT = {"importance": 32, "index": 10}
SIZES = [(1, 1, None), (3, 5, 0), (8, 12, 2), (16, ELEMENT, None)]
"""(lanes, shape, stages): a power of two or not, combinational, partly and fully pipelined, narrow and wide rows."""
MORE_SIZES = [(2, 1, 1), (5, 3, 3), (13, 9, 4)]


def _run(lanes: int, shape: Any, stages: int | None, simulator: str) -> None:
    passed = cosimulate(**run_arguments(lanes, shape, stages), simulator=simulator, strip_initial=simulator == "icarus")
    assert len(passed) == 7 * len(seeds())


@pytest.mark.parametrize(
    ("lanes", "shape", "stages"),
    [pytest.param(*size, marks=() if size[0] == 8 else pytest.mark.slow) for size in SIZES],
)
def test_matches_golden_in_icarus_without_initial_values(lanes: int, shape: Any, stages: int | None) -> None:
    _run(lanes, shape, stages, "icarus")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lanes", "shape", "stages"),
    SIZES,
)
def test_matches_golden_in_verilator(lanes: int, shape: Any, stages: int | None) -> None:
    _run(lanes, shape, stages, "verilator")


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "shape", "stages"), MORE_SIZES)
def test_other_sizes_match_golden(lanes: int, shape: Any, stages: int | None) -> None:
    _run(lanes, shape, stages, "icarus")


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "stages"), [(1, None), (1, 0), (3, None), (16, None), (16, 0), (16, 2)])
def test_verilog_is_lint_clean(lanes: int, stages: int | None) -> None:
    lint(convert(ZeroEliminator(shape=42, lanes=lanes, stages=stages)))


def test_steps_are_the_prefix_sum_and_one_layer_per_bit() -> None:
    assert [ZeroEliminator.steps(lanes) for lanes in (1, 2, 3, 4, 5, 8, 16, 17)] == [1, 2, 3, 3, 4, 4, 5, 6]
    assert ZeroEliminator(shape=8, lanes=16).stages == 5


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8", "lanes": 4}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0, "lanes": 4}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"shape": 8, "lanes": 4.0}, TypeError, "lanes must be an integer, not 4.0"),
        ({"shape": 8, "lanes": True}, TypeError, "lanes must be an integer, not True"),
        ({"shape": 8, "lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"shape": 8, "lanes": 4, "stages": "2"}, TypeError, "stages must be an integer or None, not '2'"),
        ({"shape": 8, "lanes": 4, "stages": 4}, ValueError, "stages must be 0 to 3 for 4 lanes, not 4"),
        ({"shape": 8, "lanes": 4, "stages": -1}, ValueError, "stages must be 0 to 3 for 4 lanes, not -1"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        ZeroEliminator(**arguments)
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = ZeroEliminator(shape=signed(9), lanes=5)
    assert component.i.payload.shape() == masked_row(signed(9), 5)
    assert component.o.payload.shape() == compacted_row(signed(9), 5)


def test_golden_on_a_row_by_hand() -> None:
    lanes = np.array([[7, 8, 9, 10], [7, 8, 9, 10]])
    mask = np.array([[False, True, False, True], [False, False, False, False]])
    compacted, counts = eliminate_zeros(lanes, mask)
    assert compacted.tolist() == [[8, 10, 0, 0], [0, 0, 0, 0]]
    assert counts.tolist() == [2, 0]


@pytest.mark.parametrize("seed", seeds())
def test_golden_against_a_loop(seed: int) -> None:
    source = np.random.default_rng(seed)
    lanes = source.integers(-100, 100, (40, 2, 67))
    mask = source.random(lanes.shape) < source.random((40, 2, 1))
    compacted, counts = eliminate_zeros(lanes, mask)
    for place in np.ndindex(40, 2):
        live = [int(value) for value, keep in zip(lanes[place], mask[place], strict=True) if keep]
        assert compacted[place].tolist() == live + [0] * (67 - len(live))
        assert counts[place] == len(live)


def test_golden_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(TypeError, match="mask must be an array of booleans, not of int64"):
        eliminate_zeros(np.ones((1, 2), np.int64), np.ones((1, 2), np.int64))
    with pytest.raises(GoldenError, match=r"mask must have the shape of lanes \(1, 2\), not \(2, 1\)"):
        eliminate_zeros(np.ones((1, 2), np.int64), np.ones((2, 1), bool))
    with pytest.raises(GoldenError, match=r"lanes must have at least one axis, not shape \(\)"):
        eliminate_zeros(np.array(1), np.array(True))
