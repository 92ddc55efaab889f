"""The parts of the host link, in Icarus with X for every initial value, and in Verilator."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.lib import wiring

from spatten.hw.board.axi_drain import AxiDrain
from spatten.hw.board.executor import Executor
from spatten.hw.board.memory_master import MemoryMaster
from spatten.hw.board.register_master import RegisterMaster
from spatten.hw.board.uart import LineWatch
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.board_parts import IDENTITY, board_runs

TESTS = {
    "uart_receiver": 20,
    "uart_transmitter": 6,
    "line_watch": 1,
    "crc": 2,
    "frame_receiver": 2,
    "frame_transmitter": 2,
    "session": 1,
    "register_master": 2,
    "memory_master": 5,
    "memory_master_32": 5,
    "axi_drain": 8,
}
"""Of a seed, by part."""


@pytest.mark.slow
@pytest.mark.parametrize("part", TESTS)
def test_in_icarus_without_initial_values(part: str) -> None:
    assert len(cosimulate(**board_runs()[part], simulator="icarus", strip_initial=True)) == TESTS[part]


@pytest.mark.slow
@pytest.mark.parametrize("part", TESTS)
def test_in_verilator(part: str) -> None:
    assert len(cosimulate(**board_runs()[part])) == TESTS[part]


@pytest.mark.slow
@pytest.mark.parametrize("part", TESTS)
def test_verilog_is_lint_clean(part: str) -> None:
    lint(convert(board_runs()[part]["component"]))


def _executor(**changes: Any) -> Executor:
    return Executor(**{"identity": IDENTITY.encode(), "address_bits": 25, "register_bits": 12, **changes})


@pytest.mark.parametrize(
    ("make", "changes", "error", "text"),
    [
        (LineWatch, {"cycles": 12}, ValueError, "cycles must be a power of two, not 12"),
        (LineWatch, {"cycles": 4.0}, TypeError, "cycles must be an integer, not 4.0"),
        (RegisterMaster, {"address_bits": 1}, ValueError, "address_bits must be at least 2, not 1"),
        (MemoryMaster, {"address_bits": 33, "data_bits": 16}, ValueError, "address_bits must be 12 to 32, not 33"),
        (
            MemoryMaster,
            {"address_bits": 25, "data_bits": 8},
            ValueError,
            "data_bits must be 16, 32, 64 or 128, not 8",
        ),
        (
            MemoryMaster,
            {"address_bits": 25, "data_bits": 16, "block": 1024},
            ValueError,
            "block must be a power of two and 2 to 256 beats, not 1024",
        ),
        (
            AxiDrain,
            {"address_bits": 25, "data_bits": 16, "open_bursts": 256},
            ValueError,
            "open_bursts must be 1 to 255, not 256",
        ),
        (_executor, {"identity": "x"}, TypeError, "identity must be bytes, not 'x'"),
        (_executor, {"identity": b"x"}, ValueError, "identity must have 48 bytes, not 1"),
        (_executor, {"register_bits": 17}, ValueError, "register_bits must be 2 to 16, not 17"),
        (_executor, {"access_cycles": 0}, ValueError, "access_cycles must be 1 to 16777216, not 0"),
    ],
)
def test_parameters_are_validated(
    make: type[wiring.Component], changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        make(**changes)
    assert str(caught.value) == text
