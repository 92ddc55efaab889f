"""A simulated board, and the serial port that it is behind, which `BoardTransport` uses like that of a real board.

    with SimulatedBoard(BOARDS["ulx3s"]) as board:
        with BoardTransport(SimulatedSerial(board), config=board.board.config) as transport:
            transport.read_register(0)

Time passes only while someone waits for bytes, and time-outs are counted in cycles of the board's clock, so that what
happens does not depend on the speed of the computer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from spatten.hw.board.board_core import BoardCore
from spatten.hw.board.boards import Board
from spatten.sim.board.board_system import LEDS, SYSTEM, core_verilog, system_verilog
from spatten.sim.machine.kept_verilog import kept_verilog
from spatten.sim.machine.program import (
    SLICE_MILLISECONDS,
    CircuitError,
    MachineError,
    Program,
    check,
    compile_program,
)
from spatten.sim.verify.sdram_part import RULES
from spatten.sim.verify.transformations import strip_initial_values
from spatten.spec.link_protocol import ACCESS_CYCLES, BAUD, GAP_CYCLES

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "BoardStatistics",
    "Command",
    "LinkSettings",
    "Reason",
    "SdramBreachError",
    "SimulatedBoard",
    "SimulatedSerial",
    "Status",
]

_SOURCES = (Path(__file__).resolve().with_name("board.cpp"),)
_BYTE_BITS = 10
"""Bits of a byte on the line: start, data, stop."""
_POLL_BYTES = 16
"""Bytes on the line for whose time a look at what is waiting lasts: an adapter gathers some, too."""
_FOREVER_CYCLES = 1 << 40
_CHUNK_BYTES = 1 << 24
"""Most bytes of memory in one message."""
_RESET_CYCLES = 16


class Status(IntEnum):
    """How `board.cpp` answers a request; its enumeration of this name has the same values."""

    OK = 0
    REFUSED = 1
    BREACH = 2
    STOPPED = 3


class Command(IntEnum):
    """What `board.cpp` is asked to do; its enumeration of this name has the same values."""

    INFO = 0
    SEND = 1
    RUN = 2
    RECEIVE = 3
    SET_DIVISOR = 4
    HOLD = 5
    CONNECT = 6
    RESET = 7
    STATISTICS = 8
    READ_MEMORY = 9
    WRITE_MEMORY = 10
    FORGET = 11


class Reason(Enum):
    """Why a run ended."""

    CYCLES = 0
    RECEIVED = 2
    SENT = 3


class SdramBreachError(MachineError):
    """The board broke a rule of its SDRAM; time stops until the supply is switched off and on."""

    def __init__(self, rule: str, edge: int) -> None:
        super().__init__(f"the rule {rule} of the SDRAM is broken at edge {edge} since its power-up")
        self.rule = rule
        """By its name in `sim.verify.sdram_part.RULES`."""
        self.edge = edge


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """Parameters of `BoardCore` that a board has its own values of; a simulation saves time with smaller ones."""

    divisor: int | None = None
    """Cycles of a bit on the line after a reset; None: those of a board."""
    gap_cycles: int = GAP_CYCLES
    access_cycles: int = ACCESS_CYCLES


@dataclass(frozen=True, kw_only=True)
class BoardStatistics:
    """What happened since power-up, or since the statistics were cleared."""

    activations: int
    """Rows of the SDRAM that were opened."""
    refreshes: int
    read_words: int
    """Cycles in which the SDRAM drove a word."""
    written_words: int
    """Cycles in which the controller did."""
    received_bytes: int
    """Bytes that came from the board."""
    framing_errors: int
    """Bytes from the board without a stop bit, which are dropped."""


class SimulatedBoard(Program):
    """A board whose line, reset button and supply are in the hands of a program; a context manager that ends it.

    Parameters
    ----------
    board : Board
        Names the accelerator, its clock and the SDRAM.
    link : LinkSettings
    core : str or None
        Verilog of the module `hw.board.board_top.CORE` with the ports of `BoardCore`, in place of what is generated.
    waves : Path or None
        Write a VCD waveform of everything there; takes another build and is slow.
    optimize, random_start, answer_seconds, progress
        As of `sim.machine.machine.Machine`.

    The new board has just got its supply and a reset. One thread may use it at a time. Every method raises
    `MachineEndedError` if the process is gone; those that let time pass also raise `SdramBreachError` and
    `CircuitError`.
    """

    def __init__(
        self,
        board: Board,
        *,
        link: LinkSettings | None = None,
        core: str | None = None,
        waves: Path | None = None,
        optimize: int = 1,
        random_start: int | None = None,
        answer_seconds: float = 60,
        progress: bool | None = None,
    ) -> None:
        if not isinstance(board, Board):
            raise TypeError(f"board must be a Board, not {board!r}")
        if random_start is not None:
            check("random_start", random_start, 1, (1 << 31) - 1)
        self.board = board
        self.link = link = link or LinkSettings()
        if core is None:
            core = board_core_verilog(board, link)
        if random_start is not None:
            core = strip_initial_values(core)
        program = compile_program(
            "board",
            system_verilog(core, part=board.part, clock_hz=self.clock_hz),
            top=SYSTEM,
            sources=_SOURCES,
            headers={},
            waves=waves is not None,
            optimize=optimize,
            progress=progress,
        )
        if waves is not None:
            waves.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(
            [str(program), "" if waves is None else str(waves.resolve()), str(random_start or 0)],
            answer_seconds=answer_seconds,
        )
        try:
            self.reset(power_off=True)
        except BaseException:
            self.close()
            raise

    @property
    def clock_hz(self) -> int:
        return self.board.pll.frequency_hz

    # -- The line -----------------------------------------------------------------------------------------------------

    @property
    def first_divisor(self) -> int:
        """Cycles of a bit on the line after a reset or a break."""
        return round(self.clock_hz / BAUD) if self.link.divisor is None else self.link.divisor

    def set_divisor(self, cycles: float) -> None:
        """Let a bit take so many cycles at the host's end of the line."""
        if not cycles >= 1:
            raise ValueError(f"cycles must be at least 1, not {cycles!r}")
        self._exchange(Command.SET_DIVISOR, struct.pack("<d", cycles))

    def send(self, data: Buffer) -> None:
        """Give the host's adapter bytes to send, in the order of the calls; no time passes."""
        self._exchange(Command.SEND, b"", memoryview(data).cast("B"))

    def receive(self, most: int) -> bytes:
        """At most so many of the bytes that have come from the board; no time passes."""
        check("most", most, 0, 0xFFFF_FFFF)
        return self._exchange(Command.RECEIVE, struct.pack("<I", most))

    def forget(self, *, sent: bool) -> None:
        """Drop the bytes that wait to be sent, or else those that were received."""
        self._exchange(Command.FORGET, struct.pack("<B", sent))

    def hold_low(self, low: bool) -> None:
        """Hold the line to the board low, which is a break, or let go of it."""
        self._exchange(Command.HOLD, struct.pack("<B", low))

    def pull_cable(self) -> None:
        """Part the line in the middle of whatever is on it: the board sees silence, and nothing comes from it."""
        self._exchange(Command.CONNECT, struct.pack("<B", False))

    def plug_cable(self) -> None:
        """Join the line again; what was to be sent meanwhile is lost."""
        self._exchange(Command.CONNECT, struct.pack("<B", True))

    # -- Time ---------------------------------------------------------------------------------------------------------

    @property
    def cycles(self) -> int:
        """Cycles since the program began, resets included."""
        return self._info()[0]

    @property
    def leds(self) -> dict[str, bool]:
        """Whether each LED is on, by the names of `BoardCore`'s outputs."""
        lit = self._info()[1]
        return {name: bool(lit >> place & 1) for place, name in enumerate(LEDS)}

    @property
    def received(self) -> int:
        """Bytes that have come from the board and wait to be taken."""
        return self._info()[2]

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        return self._info()[3]

    def _info(self) -> tuple[int, int, int, int]:
        cycle, lit, received, unsent = struct.unpack("<QBII", self._exchange(Command.INFO))
        return cycle, lit, received, unsent

    def run(self, cycles: int, *, until_received: int = 0, until_sent: bool = False) -> Reason:
        """Let `cycles` cycles pass, or fewer: until so many bytes wait to be taken, or until all is sent."""
        check("cycles", cycles, 0, (1 << 63) - 1)
        check("until_received", until_received, 0, 0xFFFF_FFFF)
        end = self.cycles + cycles
        left = cycles
        while True:
            answer = self._exchange(
                Command.RUN, struct.pack("<QIBI", left, until_received, until_sent, SLICE_MILLISECONDS)
            )
            reason, now = struct.unpack("<BQ", answer)
            if reason != 1:
                return Reason(reason)
            left = max(0, end - now)

    def reset(self, *, cycles: int = _RESET_CYCLES, power_off: bool = False) -> None:
        """Press the reset button for so many cycles, or switch the supply off and on; the SDRAM's content stays."""
        check("cycles", cycles, 2, 1_000_000)
        self._exchange(Command.RESET, struct.pack("<IB", cycles, power_off))

    # -- The SDRAM ----------------------------------------------------------------------------------------------------

    def write_memory(self, address: int, data: Buffer) -> None:
        """Write bytes of the SDRAM in no time, past the board."""
        view = memoryview(data).cast("B")
        self._check_range(address, len(view))
        for start in range(0, len(view), _CHUNK_BYTES):
            part = view[start : start + _CHUNK_BYTES]
            self._exchange(Command.WRITE_MEMORY, struct.pack("<I", address + start), part)

    def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of the SDRAM in no time, past the board; what was never written may be anything."""
        self._check_range(address, size)
        parts = []
        for start in range(0, size, _CHUNK_BYTES):
            part = min(size - start, _CHUNK_BYTES)
            parts.append(self._exchange(Command.READ_MEMORY, struct.pack("<II", address + start, part)))
        return b"".join(parts)

    def _check_range(self, address: int, size: int) -> None:
        most = 1 << self.board.part.byte_bits
        check("size", size, 0, most)
        check("address", address, 0, most - size)

    def statistics(self, *, clear: bool = False) -> BoardStatistics:
        """What happened; `clear` starts again from zero."""
        values = struct.unpack("<6Q", self._exchange(Command.STATISTICS, struct.pack("<B", clear)))
        return BoardStatistics(**dict(zip(BoardStatistics.__dataclass_fields__, values, strict=True)))

    # -- The process --------------------------------------------------------------------------------------------------

    def _exchange(self, command: Command, arguments: bytes = b"", bulk: memoryview | None = None) -> bytes:
        """Send a request and wait for its answer's payload; raises the error that another status than OK means."""
        status, payload = self.request(command, arguments, bulk)
        if status == Status.OK:
            return payload
        if status == Status.BREACH:
            number, edge = struct.unpack("<BI", payload)
            raise SdramBreachError(RULES[number], edge)
        text = payload.decode(errors="replace")
        if status == Status.STOPPED:
            raise CircuitError("\n".join([text, *self.failed_assertion()]))
        raise MachineError(text)


def board_core_verilog(board: Board, link: LinkSettings) -> str:
    """Verilog of a board's core, generated or, if nothing that makes it has changed, found in the cache."""
    clock_hz = board.pll.frequency_hz
    settings = {"divisor": link.divisor, "gap_cycles": link.gap_cycles, "access_cycles": link.access_cycles}
    return kept_verilog(
        ["board", board.config.as_dict(), str(board.part), clock_hz, settings],
        lambda: core_verilog(
            BoardCore(
                config=board.config,
                part=board.part,
                clock_hz=clock_hz,
                divisor=link.divisor,
                gap_cycles=link.gap_cycles,
                access_cycles=link.access_cycles,
            )
        ),
    )


class SimulatedSerial:
    """The serial port that a simulated board is behind, as pyserial's `Serial` is one that a real board is behind.

    A second of a time-out has as many cycles as the board's clock. The speed `BAUD` is the board's first one, whatever
    its divisor; other speeds are as they are on a board.

    Parameters
    ----------
    board : SimulatedBoard
    silence_cycles : int or None
        Cycles of silence in both directions after which a read gives up before its time-out; None: it never does. What
        a program waits for and does not get costs less time so.
    ends_board : bool
        Whether closing the port ends the board.

    `on_send` and `on_receive` may be set to functions that change what is on the line: from bytes to bytes.
    """

    def __init__(self, board: SimulatedBoard, *, silence_cycles: int | None = None, ends_board: bool = False) -> None:
        if silence_cycles is not None:
            check("silence_cycles", silence_cycles, 1, (1 << 63) - 1)
        self.board = board
        self.port = "simulated"
        self.is_open = True
        self.timeout: float | None = None
        self.on_send: Callable[[bytes], bytes] | None = None
        self.on_receive: Callable[[bytes], bytes] | None = None
        self._silence_cycles = silence_cycles
        self._ends_board = ends_board
        self._received = bytearray()
        self.baudrate = BAUD

    @property
    def baudrate(self) -> int:
        """Bits a second at the host's end of the line."""
        return self._baudrate

    @baudrate.setter
    def baudrate(self, value: int) -> None:
        self._require_open()
        self._divisor = self.board.first_divisor if value == BAUD else self.board.clock_hz / value
        self.board.set_divisor(self._divisor)
        self._baudrate = value

    _baudrate: int
    _divisor: float

    @property
    def in_waiting(self) -> int:
        """Bytes that `read` has at once; the time of some bytes on the line passes with the question."""
        self._require_open()
        self.board.run(round(_POLL_BYTES * _BYTE_BITS * self._divisor))
        self._take()
        return len(self._received)

    def read(self, size: int = 1, /) -> bytes:
        """`size` bytes, or fewer where `timeout` seconds have passed before they came."""
        self._require_open()
        self._take()
        end = None if self.timeout is None else self.board.cycles + round(self.timeout * self.board.clock_hz)
        while (missing := size - len(self._received)) > 0:
            reason = self.board.run(self._cycles_until(end), until_received=missing, until_sent=self.board.unsent > 0)
            self._take()
            if reason is Reason.CYCLES:
                break
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def _cycles_until(self, end: int | None) -> int:
        """Cycles that a read goes on for, which ends in cycle `end`."""
        left = _FOREVER_CYCLES if end is None else max(0, end - self.board.cycles)
        silent = self._silence_cycles is not None and self.board.unsent == 0
        return min(left, self._silence_cycles or left) if silent else left

    def write(self, data: bytes, /) -> int:
        """Give the adapter bytes to send; no time passes."""
        self._require_open()
        self.board.send(data if self.on_send is None else self.on_send(data))
        return len(data)

    def flush(self) -> None:
        """Wait until all is sent."""
        self._require_open()
        self.board.run(_FOREVER_CYCLES, until_sent=True)

    def reset_input_buffer(self) -> None:
        """Forget what has come."""
        self._require_open()
        self.board.forget(sent=False)
        self._received.clear()

    def send_break(self, duration: float = 0.25) -> None:
        """Hold the line low for so many seconds, but no longer than the board needs to notice."""
        self._require_open()
        cycles = min(round(duration * self.board.clock_hz), 2 * self.board.link.gap_cycles)
        self.flush()
        self.board.hold_low(True)
        self.board.run(cycles)
        self.board.hold_low(False)
        self.board.run(round(_BYTE_BITS * self._divisor))

    def close(self) -> None:
        """Let go of the port; closing again does nothing."""
        self.is_open = False
        if self._ends_board:
            self.board.close()

    def _require_open(self) -> None:
        if not self.is_open:
            raise OSError("the port is closed")

    def _take(self) -> None:
        data = self.board.receive(0xFFFF_FFFF)
        if data:
            self._received += data if self.on_receive is None else self.on_receive(data)
