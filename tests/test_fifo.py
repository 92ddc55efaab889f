"""The queues of hw/fifo.py in Verilator, and in Icarus with X for every initial value; `make formal` proves them."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.lib import data

from hw.config import Config
from hw.fifo import Fifo, SkidBuffer
from sim.build import lint
from sim.cosim import cosimulate, seeds
from sim.verilog import convert

DEPTHS = [(2, 1), (3, 7), (8, 4), (13, 70)]
"""(depth, width): the smallest, not powers of two, wider than a machine word."""
TESTS = 8


def _fifo(depth: int, width: int, count: int = 1) -> dict[str, Any]:
    size = {"width": width, "capacity": depth + 1, "latency": 2, "has_level": True, "seeds": seeds(count)}
    return {"component": Fifo(shape=width, depth=depth), "test_module": "tests.cocotb_fifo", "parameters": size}


def _skid_buffer(width: int, count: int = 1) -> dict[str, Any]:
    size = {"width": width, "capacity": 2, "latency": 1, "has_level": False, "seeds": seeds(count)}
    return {"component": SkidBuffer(shape=width), "test_module": "tests.cocotb_fifo", "parameters": size}


def mutation_run() -> dict[str, Any]:
    """A FIFO whose depth is no power of two, in every test."""
    return _fifo(5, 3)


def skid_buffer_mutation_run() -> dict[str, Any]:
    return _skid_buffer(3)


def measurement_run(config: Config) -> dict[str, Any]:
    """A FIFO of a channel's outstanding requests."""
    return _fifo(64, config.channel_bits)


@pytest.mark.parametrize(("depth", "width"), DEPTHS)
def test_fifo_in_icarus_without_initial_values(depth: int, width: int) -> None:
    assert len(cosimulate(**_fifo(depth, width), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width"), [*DEPTHS, (64, 16), (100, 8)])
def test_fifo_in_verilator(depth: int, width: int) -> None:
    assert len(cosimulate(**_fifo(depth, width, 2))) == 2 * TESTS


def test_skid_buffer_in_icarus_without_initial_values() -> None:
    assert len(cosimulate(**_skid_buffer(9, 2), simulator="icarus", strip_initial=True)) == 2 * TESTS


@pytest.mark.slow
def test_skid_buffer_in_verilator() -> None:
    assert len(cosimulate(**_skid_buffer(9, 2))) == 2 * TESTS


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
