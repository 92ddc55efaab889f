"""The AXI reader in Verilator, and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import pytest

from spatten.hw.emit.verilog import convert
from spatten.hw.memory.axi_reader import AxiReader
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.axi_reader import SIZES, run_arguments

TESTS = 16 + 9 + 2
"""Of a seed."""


@pytest.mark.parametrize(
    "name", ["256", *(pytest.param(name, marks=pytest.mark.slow) for name in ("16", "64", "small"))]
)
def test_in_icarus_without_initial_values(name: str) -> None:
    assert len(cosimulate(**run_arguments(SIZES[name], 80), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_in_verilator(name: str) -> None:
    assert len(cosimulate(**run_arguments(SIZES[name]))) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(AxiReader(**SIZES[name])))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"address_bits": 12}, ValueError, "address_bits must be 13 to 64, not 12"),
        ({"address_bits": "40"}, TypeError, "address_bits must be an integer, not '40'"),
        ({"local_bits": 36}, ValueError, "local_bits must be 1 to 35, not 36"),
        ({"local_bits": 0}, ValueError, "local_bits must be 1 to 35, not 0"),
        ({"local_bits": 2.0}, TypeError, "local_bits must be an integer, not 2.0"),
        ({"channel_bits": 512}, ValueError, "channel_bits must be 16, 32, 64, 128 or 256, not 512"),
        ({"channel_bits": True}, TypeError, "channel_bits must be an integer, not True"),
        ({"outstanding": 0}, ValueError, "outstanding must be at least 1, not 0"),
        ({"outstanding": None}, TypeError, "outstanding must be an integer, not None"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        AxiReader(**{"local_bits": 24, "channel_bits": 256, **changes})
    assert str(caught.value) == text
