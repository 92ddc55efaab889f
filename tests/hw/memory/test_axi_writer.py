"""The AXI writer in Verilator, and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import pytest

from spatten.hw.emit.verilog import convert
from spatten.hw.memory.axi_writer import AxiWriter
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.axi_writer import SIZES, run_arguments

TESTS = 14 + 13 + 2
"""Of a seed."""


@pytest.mark.parametrize(
    "name", ["256", *(pytest.param(name, marks=pytest.mark.slow) for name in ("16", "64", "small"))]
)
def test_in_icarus_without_initial_values(name: str) -> None:
    assert len(cosimulate(**run_arguments(SIZES[name], 80), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_in_verilator(name: str) -> None:
    run = run_arguments(SIZES[name])
    run["parameters"]["long"] = name == "256"
    assert len(cosimulate(**run)) == TESTS + run["parameters"]["long"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(AxiWriter(**SIZES[name])))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"address_bits": 65}, ValueError, "address_bits must be 13 to 64, not 65"),
        ({"address_bits": None}, TypeError, "address_bits must be an integer, not None"),
        ({"local_bits": 36}, ValueError, "local_bits must be 1 to 35, not 36"),
        ({"local_bits": True}, TypeError, "local_bits must be an integer, not True"),
        ({"channel_bits": 8}, ValueError, "channel_bits must be 16, 32, 64, 128 or 256, not 8"),
        ({"channel_bits": "16"}, TypeError, "channel_bits must be an integer, not '16'"),
        ({"depth": 1}, ValueError, "depth must be at least 2, not 1"),
        ({"depth": 8.0}, TypeError, "depth must be an integer, not 8.0"),
        ({"outstanding": 2}, ValueError, "outstanding must be at least 3, not 2"),
        ({"outstanding": "4"}, TypeError, "outstanding must be an integer, not '4'"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        AxiWriter(**{"local_bits": 24, "channel_bits": 256, **changes})
    assert str(caught.value) == text
