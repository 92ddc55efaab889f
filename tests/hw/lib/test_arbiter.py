"""The arbiter of hw/lib/arbiter.py in Verilator, and in Icarus with X for every initial value; `make formal` proves
it."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.lib import data

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.arbiter import RoundRobin
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.arbiter import run_arguments

SIZES = [(1, 4), (2, 1), (5, 9), (8, 3)]
"""(inputs, width)"""
TESTS = 9


@pytest.mark.parametrize(
    ("inputs", "width"), [*(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[:-1]), SIZES[-1]]
)
def test_turns_in_icarus_without_initial_values(inputs: int, width: int) -> None:
    assert len(cosimulate(**run_arguments(inputs, width), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "width"), [(3, 70), (32, 16)])
def test_turns_in_verilator(inputs: int, width: int) -> None:
    assert len(cosimulate(**run_arguments(inputs, width, 2))) == 2 * TESTS


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [1, 2, 7, 32])
def test_verilog_is_lint_clean(inputs: int) -> None:
    lint(convert(RoundRobin(shape=5, inputs=inputs)))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8", "inputs": 4}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0, "inputs": 4}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"shape": 8, "inputs": 4.0}, TypeError, "inputs must be an integer, not 4.0"),
        ({"shape": 8, "inputs": True}, TypeError, "inputs must be an integer, not True"),
        ({"shape": 8, "inputs": 0}, ValueError, "inputs must be at least 1, not 0"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        RoundRobin(**arguments)
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    layout = data.StructLayout({"row": 5, "last": 1})
    arbiter = RoundRobin(shape=layout, inputs=3)
    assert [port.payload.shape() for port in arbiter.i] == [layout] * 3
    assert arbiter.o.payload.shape() == layout
