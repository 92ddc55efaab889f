"""The queues of hw/lib/fifo.py in Verilator, and in Icarus with X for every initial value; `make formal` proves
them."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.lib import data

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.fifo import fifo_run, skid_buffer_run

DEPTHS = [(2, 1), (3, 7), (8, 4), (13, 70)]
"""(depth, width): the smallest, not powers of two, wider than a machine word."""
TESTS = 8


@pytest.mark.parametrize(
    ("depth", "width"), [*(pytest.param(*depth, marks=pytest.mark.slow) for depth in DEPTHS[:-1]), DEPTHS[-1]]
)
def test_fifo_in_icarus_without_initial_values(depth: int, width: int) -> None:
    assert len(cosimulate(**fifo_run(depth, width), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width"), [*DEPTHS, (64, 16), (100, 8)])
def test_fifo_in_verilator(depth: int, width: int) -> None:
    assert len(cosimulate(**fifo_run(depth, width, 2))) == 2 * TESTS


def test_skid_buffer_in_icarus_without_initial_values() -> None:
    assert len(cosimulate(**skid_buffer_run(9, 2), simulator="icarus", strip_initial=True)) == 2 * TESTS


@pytest.mark.slow
def test_skid_buffer_in_verilator() -> None:
    assert len(cosimulate(**skid_buffer_run(9, 2))) == 2 * TESTS


@pytest.mark.slow
@pytest.mark.parametrize(
    "component", [Fifo(shape=1, depth=2), Fifo(shape=8, depth=3), Fifo(shape=64, depth=512), SkidBuffer(shape=5)]
)
def test_verilog_is_lint_clean(component: Any) -> None:
    lint(convert(component))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8", "depth": 4}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0, "depth": 4}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"shape": 8, "depth": 4.0}, TypeError, "depth must be an integer, not 4.0"),
        ({"shape": 8, "depth": True}, TypeError, "depth must be an integer, not True"),
        ({"shape": 8, "depth": 1}, ValueError, "depth must be at least 2, not 1"),
    ],
)
def test_parameters_of_a_fifo_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Fifo(**arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("shape", "error", "text"),
    [
        (None, TypeError, "shape must be an Amaranth shape, not None"),
        (0, ValueError, "shape must be at least 1 bit wide, not 0"),
    ],
)
def test_parameters_of_a_skid_buffer_are_validated(shape: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        SkidBuffer(shape=shape)
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    layout = data.StructLayout({"row": 5, "last": 1})
    for component in (Fifo(shape=layout, depth=6), SkidBuffer(shape=layout)):
        assert component.i.payload.shape() == layout
        assert component.o.payload.shape() == layout
    assert Fifo(shape=layout, depth=6).level.shape().width == 3
    assert Fifo(shape=layout, depth=7).level.shape().width == 4
