"""The simulated board by itself, with a stand-in for the board's core: its line, its supply, its SDRAM's rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

import pytest

from spatten.hw.board.boards import BOARDS
from spatten.sim.board.simulated_board import (
    Command,
    LinkSettings,
    Reason,
    SdramBreachError,
    SimulatedBoard,
    SimulatedSerial,
    Status,
)
from spatten.sim.machine.machine import CircuitError, MachineEndedError
from spatten.sim.verify.build import environment
from spatten.spec.link_protocol import BAUD
from tests.checkout import ROOT

BOARD = BOARDS["ulx3s"]
LINK = LinkSettings(divisor=4, gap_cycles=256)
CORE = Path(__file__).with_name("standin_board.v").read_text(encoding="utf-8")
BYTE = 40
"""Cycles of a byte on the line."""

pytestmark = pytest.mark.needs("g++", "make", "perl")


@pytest.fixture(scope="module")
def whole() -> Iterator[SimulatedBoard]:
    with SimulatedBoard(BOARD, link=LINK, core=CORE) as board:
        yield board


@pytest.fixture
def board(whole: SimulatedBoard) -> SimulatedBoard:
    whole.plug_cable()
    whole.hold_low(False)
    whole.reset(power_off=True)
    whole.statistics(clear=True)
    return whole


@pytest.fixture
def serial(board: SimulatedBoard) -> SimulatedSerial:
    serial = SimulatedSerial(board)
    serial.timeout = 1000 / board.clock_hz
    return serial


# -- The line ---------------------------------------------------------------------------------------------------------


def test_what_is_sent_comes_back(serial: SimulatedSerial) -> None:
    data = bytes(range(0, 256, 11))
    assert not serial.board.leds["link"]
    began = serial.board.cycles
    assert serial.write(data) == len(data)
    assert serial.board.cycles == began, "no time passes"
    assert serial.read(len(data)) == data
    assert (len(data) - 1) * BYTE < serial.board.cycles - began <= (len(data) + 1) * BYTE
    assert serial.board.statistics().received_bytes == len(data)
    assert serial.board.leds == {"alive": True, "busy": False, "error": False, "link": True}


def test_a_time_out_is_in_cycles(serial: SimulatedSerial) -> None:
    serial.write(b"abc")
    began = serial.board.cycles
    assert serial.read(4) == b"abc"
    assert serial.board.cycles - began == 1000
    assert serial.read(1) == b""
    assert serial.board.cycles - began == 2000
    serial.timeout = 0
    serial.write(b"d")
    assert serial.read(1) == b""
    while not serial.in_waiting:
        pass
    assert serial.read(9) == b"d"


def test_silence_ends_a_read(board: SimulatedBoard) -> None:
    serial = SimulatedSerial(board, silence_cycles=300)
    serial.timeout = 1
    began = board.cycles
    serial.write(bytes(20))
    assert serial.read(21) == bytes(20)
    assert 20 * BYTE + 250 <= board.cycles - began <= 20 * BYTE + 350, "what is being sent is no silence"


@pytest.mark.parametrize("divisor", [4, 5.5, 26.67, 100])
def test_speeds(serial: SimulatedSerial, divisor: float) -> None:
    serial.baudrate = round(serial.board.clock_hz / divisor)
    data = b"\x00\xffU\xaa"
    began = serial.board.cycles
    serial.write(data)
    serial.timeout = 1
    assert serial.read(4) == data
    assert serial.board.cycles - began == pytest.approx(40 * divisor, abs=divisor + 4)


def test_the_first_speed_is_the_boards(serial: SimulatedSerial) -> None:
    assert serial.baudrate == BAUD
    assert serial.board.first_divisor == 4
    serial.baudrate = 1_000_000
    serial.baudrate = BAUD
    began = serial.board.cycles
    serial.write(b"x")
    assert serial.read(1) == b"x"
    assert serial.board.cycles - began <= BYTE + 4


def test_faults_on_the_line(serial: SimulatedSerial) -> None:
    serial.on_send = lambda data: data[1:]
    serial.on_receive = lambda data: data.replace(b"b", b"?")
    assert serial.write(b"abc") == 3
    assert serial.read(3) == b"?c"


def test_a_break(serial: SimulatedSerial) -> None:
    serial.write(b"a")
    began = serial.board.cycles
    serial.send_break(0.1)
    assert 2 * LINK.gap_cycles <= serial.board.cycles - began <= 2 * LINK.gap_cycles + 3 * BYTE
    assert serial.read(2) == b"a"
    assert serial.board.statistics().framing_errors > 0, "the break itself is no byte"
    serial.write(b"c")
    assert serial.read(1) == b"c"


def test_the_cable_is_pulled(serial: SimulatedSerial) -> None:
    serial.write(b"abcdef")
    assert serial.board.run(3 * BYTE + 10) is Reason.CYCLES
    serial.board.pull_cable()
    assert serial.read(6) == b""
    serial.write(b"gh")
    assert serial.read(2) == b""
    serial.board.plug_cable()
    assert serial.read(2) == b""
    serial.write(b"ij")
    assert serial.read(2) == b"ij"


def test_buffers(serial: SimulatedSerial) -> None:
    serial.write(b"abc")
    serial.flush()
    serial.board.run(BYTE)
    serial.reset_input_buffer()
    assert serial.read(3) == b""
    serial.write(b"abc")
    serial.board.forget(sent=True)
    assert serial.read(1) == b""
    serial.close()
    serial.close()
    with pytest.raises(OSError, match="the port is closed"):
        serial.write(b"d")


# -- The rest of the board --------------------------------------------------------------------------------------------


def test_memory(board: SimulatedBoard) -> None:
    data = bytes(range(1, 8))
    size = 1 << BOARD.part.byte_bits
    for address in (0, 1001, size - len(data)):
        board.write_memory(address, data)
        assert board.read_memory(address, len(data)) == data
    board.write_memory(1003, b"\xff")
    assert board.read_memory(1001, 4) == b"\x01\x02\xff\x04"
    with pytest.raises(ValueError, match=f"address must be 0 to {size - 2}, not {size - 1}"):
        board.read_memory(size - 1, 2)


def test_a_broken_rule_of_the_sdram_stops_time(board: SimulatedBoard) -> None:
    board.hold_low(True)
    assert board.run(2900) is Reason.CYCLES
    with pytest.raises(SdramBreachError, match="the rule POWER_UP of the SDRAM is broken at edge 30") as caught:
        board.run(1000)
    assert caught.value.rule == "POWER_UP"
    cycles = board.cycles
    with pytest.raises(SdramBreachError):
        board.run(1)
    assert board.cycles == cycles
    board.hold_low(False)
    board.reset(power_off=True)
    assert board.run(10) is Reason.CYCLES
    assert board.statistics().activations == 1


def test_a_failed_assertion_stops_time(serial: SimulatedSerial) -> None:
    serial.timeout = 1
    serial.write(b"U" * 50)
    with pytest.raises(CircuitError, match="assertion failed: spatten_board: the line falls too often"):
        serial.read(50)
    with pytest.raises(CircuitError):
        serial.board.run(1)
    serial.board.reset()
    serial.board.run(10)


def test_the_end(tmp_path: Path) -> None:
    with SimulatedBoard(BOARD, link=LINK, core=CORE) as board:
        serial = SimulatedSerial(board, ends_board=True)
        serial.close()
    with pytest.raises(MachineEndedError, match="it was closed"):
        board.run(1)


def test_arguments(board: SimulatedBoard) -> None:
    with pytest.raises(TypeError, match="board must be a Board, not 'ulx3s'"):
        SimulatedBoard("ulx3s")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="random_start must be 1 to 2147483647, not 0"):
        SimulatedBoard(BOARD, core=CORE, random_start=0)
    with pytest.raises(ValueError, match="silence_cycles must be 1 to"):
        SimulatedSerial(board, silence_cycles=0)
    with pytest.raises(ValueError, match=r"cycles must be at least 1, not 0\.5"):
        board.set_divisor(0.5)
    with pytest.raises(ValueError, match="cycles must be 2 to 1000000, not 1"):
        board.reset(cycles=1)
    with pytest.raises(ValueError, match="cycles must be 0 to"):
        board.run(-1)
    assert replace(LINK, divisor=None) == LinkSettings(gap_cycles=256)


@pytest.mark.parametrize("enumeration", [Command, Status])
def test_numbers_are_those_of_the_program(enumeration: type[IntEnum]) -> None:
    source = (ROOT / "sim" / "board" / "board.cpp").read_text(encoding="utf-8")
    block = re.search(rf"enum class {enumeration.__name__} : std::uint8_t {{(.*?)}};", source, re.DOTALL)
    assert block is not None
    found = {name: int(number) for name, number in re.findall(r"\bk(\w+) = (\d+)", block[1])}
    assert found == {member.name.title().replace("_", ""): member.value for member in enumeration}


def test_the_program_is_free_of_warnings(tmp_path: Path) -> None:
    """With -Wall -Wextra."""
    names = ("clk", "rst", "rx", "tx", "power_off", "button", "alive", "busy", "error", "link", "breach", "command")
    ports = "".join(f"CData {name}; " for name in (*names, "reads", "writes"))
    (tmp_path / "Vtop.h").write_text(
        '#pragma once\n#include "verilated.h"\n#include "verilated_types.h"\nstruct Vtop___024root;\n'
        f"struct Vtop {{ explicit Vtop(VerilatedContext*); void eval(); void final(); {ports}"
        "IData breach_edge; Vtop___024root* rootp; };\n",
        encoding="utf-8",
    )
    (tmp_path / "Vtop___024root.h").write_text(
        "#pragma once\nstruct Vtop___024root "
        "{ VlUnpacked<SData, 16> board_system__DOT__part__DOT__model__DOT__memory; };\n",
        encoding="utf-8",
    )
    include = Path(environment("verilator")["VERILATOR_ROOT"]) / "include"
    command = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-DVM_TRACE=0"]
    command += ["-isystem", str(include), "-isystem", str(include / "vltstd"), "-I", str(tmp_path)]
    command += ["-I", str(ROOT / "sim" / "machine"), str(ROOT / "sim" / "board" / "board.cpp")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
