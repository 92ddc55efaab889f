"""The accelerator's Verilog as a machine that a Python program uses like a board.

`Machine` compiles the Verilog with Verilator around `sim/machine/machine.cpp`, which holds the memory of every channel
and a checker of the AXI protocol, runs it as a process of its own, and talks to it over pipes. Nothing runs but what is
asked for: the clock stands still between two calls.

    with Machine(verilog, config) as machine:
        machine.write_memory(0, 0x1000, image)
        machine.write_register(0x10, 1)
        machine.run(1_000_000, until_interrupt=True)
        machine.statistics()[0].read_beats
"""

from __future__ import annotations

import dataclasses
import re
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from spatten.sim.machine.program import (
    SLICE_MILLISECONDS,
    CircuitError,
    MachineEndedError,
    MachineError,
    Program,
    check,
    compile_program,
)
from spatten.sim.verify.build import SimulatorError
from spatten.sim.verify.transformations import strip_initial_values
from spatten.spec.config import Config

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "MODELS",
    "RESPONSES",
    "ChannelStatistics",
    "CircuitError",
    "Command",
    "Condition",
    "Hbm2Timings",
    "Machine",
    "MachineEndedError",
    "MachineError",
    "Outside",
    "ProtocolError",
    "Reason",
    "RegisterError",
    "RegisterTimeoutError",
    "Run",
    "RunTimeoutError",
    "Status",
    "check_ports",
    "compile_machine",
    "output_ports",
    "port_widths",
    "ports_header",
]

_SOURCES = tuple(Path(__file__).resolve().with_name(name) for name in ("machine.cpp", "machine_memory.h"))
_CHUNK_BYTES = 1 << 24
"""Most bytes of memory in one message."""


class Status(IntEnum):
    """How `machine.cpp` answers a request; its enumeration of this name has the same values."""

    OK = 0
    REFUSED = 1
    BUS_ERROR = 2
    BUS_TIMEOUT = 3
    VIOLATION = 4
    STOPPED = 5


class Command(IntEnum):
    """What `machine.cpp` is asked to do; its enumeration of this name has the same values."""

    INFO = 0
    WRITE_REGISTER = 1
    READ_REGISTER = 2
    WRITE_MEMORY = 3
    READ_MEMORY = 4
    RUN = 5
    SET_MEMORY = 6
    FAULT = 7
    STOP = 8
    BACK_PRESSURE = 9
    RESET = 10
    STATISTICS = 11
    ALLOW = 12
    OUTSIDE = 13
    HASH_OUTPUTS = 14


class RegisterError(MachineError):
    """A register access was answered with `response`, "SLVERR" or "DECERR"."""

    def __init__(self, message: str, response: str) -> None:
        super().__init__(message)
        self.response = response


class RegisterTimeoutError(MachineError):
    """A register access was not answered; the register bus is stuck until a reset."""


class ProtocolError(MachineError):
    """The circuit broke the AXI protocol, in the cycle and channel that the message names; time stops until a reset."""


class RunTimeoutError(MachineError):
    """A run took too long in real time; the machine stands in the middle of the run and can go on."""


class Reason(Enum):
    """Why a run ended."""

    CYCLES = 0
    INTERRUPT = 2
    REGISTER = 3


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `Machine.run` did."""

    cycles: int
    """Cycles that passed, register accesses of a condition included."""
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class Condition:
    """The register at byte `address` reads `value` in the bits of `mask`; looked at every `interval` cycles."""

    address: int
    value: int
    mask: int = 0xFFFF_FFFF
    interval: int = 100

    def __post_init__(self) -> None:
        check("address", self.address, 0, 0xFFFF_FFFC)
        check("value", self.value, 0, 0xFFFF_FFFF)
        check("mask", self.mask, 0, 0xFFFF_FFFF)
        check("interval", self.interval, 1, 0xFFFF_FFFF)


@dataclass(frozen=True, kw_only=True)
class ChannelStatistics:
    """What passed through a channel since power-up, or since the statistics were cleared."""

    read_requests: int
    read_beats: int
    write_requests: int
    write_beats: int
    busy_cycles: int
    """Cycles in which the data wires of the memory carried a beat."""
    activations: int
    """hbm2: rows opened."""
    conflicts: int
    """hbm2: rows closed because another row of their bank was needed."""
    refreshes: int
    """hbm2: refreshes of all banks."""
    outside_bytes: int
    """Bytes written outside of the allowed regions."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """Writes outside of the allowed regions since `allow_writes`."""

    bytes: int
    """Bytes written outside of the allowed regions."""
    channel: int
    """Channel of the first such write; `channel`, `address` and `cycle` mean nothing where `bytes` is 0."""
    address: int
    cycle: int


_MAY_BE_ZERO = ("trefi", "controller_in", "controller_out", "write_low", "write_idle", "refresh_stagger")


@dataclass(frozen=True, kw_only=True)
class Hbm2Timings:
    """An HBM2 channel of 128 bits and its controller at a clock of 1 GHz: everything in cycles of 1 ns.

    The values from `cl` to `trfc` are those that DRAMsim3 publishes for an 8 Gb part (configs/HBM2_8Gb_x128.ini; tRTP
    is its tRTP_L). The page of 2 KB and the 4 x 4 banks of a channel are JEDEC JESD235's. The controller's values are
    chosen here: with 6 cycles each way, a read of a closed bank takes 12 + tRCD + CL = 40 cycles, as `ideal` does.
    """

    bank_groups: int = 4
    banks_per_group: int = 4
    row_sectors: int = 64
    """32-byte sectors of a row (page) of one bank: 2 KB."""
    controller_in: int = 6
    """From the AXI handshake to the first command."""
    controller_out: int = 6
    """From the data at the memory to the AXI beat."""
    cl: int = 14
    """CL, read command to data."""
    cwl: int = 4
    """CWL, write command to data."""
    trcd_read: int = 14
    """tRCDRD, activation to read."""
    trcd_write: int = 14
    """tRCDWR, activation to write."""
    trp: int = 14
    """tRP, precharge to activation."""
    tras: int = 34
    """tRAS, activation to precharge."""
    trtp: int = 6
    """tRTP, read to precharge."""
    twr: int = 16
    """tWR, end of written data to precharge."""
    tccd_s: int = 1
    """tCCD_S, column command to column command in another bank group."""
    tccd_l: int = 2
    """tCCD_L, column command to column command in the same bank group."""
    trrd_s: int = 4
    """tRRD_S, activation to activation in another bank group."""
    trrd_l: int = 6
    """tRRD_L, activation to activation in the same bank group."""
    tfaw: int = 30
    """tFAW, a time in which there are at most four activations."""
    twtr_s: int = 6
    """tWTR_S, end of written data to a read in another bank group."""
    twtr_l: int = 8
    """tWTR_L, end of written data to a read in the same bank group."""
    trefi: int = 3900
    """tREFI, between two refreshes of all banks; 0: none."""
    trfc: int = 260
    """tRFC, a refresh of all banks."""
    window: int = 32
    """Requests in order whose rows are opened early: the depth of DRAMsim3's command queue."""
    write_buffer: int = 64
    """Sectors that may wait to be written."""
    write_high: int = 48
    """From so many sectors waiting to be written on, writes go before reads until `write_low` are left."""
    write_low: int = 8
    """The number of waiting sectors at which reads go first again."""
    write_idle: int = 8
    """Cycles without a read after which all waiting sectors are written."""
    return_buffer: int = 64
    """Most beats that are read and not yet taken by the accelerator."""
    refresh_stagger: int = 0
    """From a channel's refresh to that of the next channel; 0: all refresh together, since a machine with data in all
    channels waits for each of them."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            low = 0 if field.name in _MAY_BE_ZERO else 1
            check(field.name, getattr(self, field.name), low, 1_000_000)
        if self.bank_groups * self.banks_per_group > 64:
            raise ValueError(f"a channel must have at most 64 banks, not {self.bank_groups * self.banks_per_group}")
        if not self.write_low < self.write_high <= self.write_buffer:
            raise ValueError(
                f"write_low < write_high <= write_buffer must hold, not {self.write_low}, {self.write_high}, "
                f"{self.write_buffer}"
            )
        if self.return_buffer < 16:
            raise ValueError(f"return_buffer must be at least a sector of the narrowest channel, 16 beats, "
                             f"not {self.return_buffer}")  # fmt: skip


RESPONSES = {"SLVERR": 2, "DECERR": 3}
MODELS = ("ideal", "hbm2")


class Machine(Program):
    """The simulated accelerator, its clock, its memory, and what can go wrong around them.

    Parameters
    ----------
    verilog : str
        The accelerator; its module `top` has the ports clk, rst, irq, `s_axi_*` (AXI4-Lite, 32 bits) and, for each
        channel, `m00_axi_*` (AXI4).
    config : Config
        Names the channels and the width of their data.
    top : str
        Name of the accelerator's module.
    waves : Path or None
        Write a VCD waveform of everything there; takes another build and is slow.
    optimize : int
        g++'s level, 0 to 3. At 2 it compiles for a third longer and runs by a tenth faster than at 1.
    threads : int
        Threads that simulate the circuit.
    random_start : int or None
        Start every register and writable memory word at random, by this seed, not with its initial value; takes another
        build. A circuit that works then does not rely on power-up values.
    answer_seconds : float
        Real time after which a machine without an answer is stopped.
    register_cycles : int
        Cycles within which a register must answer.
    progress : bool or None
        Show the progress of compiling on stderr; None: if that is a terminal.

    The new machine has been reset. One thread may use it at a time. Every method raises
    `MachineEndedError` if the process is gone; those that let time pass also raise `ProtocolError` and `CircuitError`.

    Cycle t lies between two rising edges of the clock. A handshake happens in cycle t if valid and ready are high in
    it; a latency of n is from a handshake in cycle t to valid's first being high in cycle t + n.
    """

    def __init__(
        self,
        verilog: str,
        config: Config,
        *,
        top: str = "spatten",
        waves: Path | None = None,
        optimize: int = 1,
        threads: int = 1,
        random_start: int | None = None,
        answer_seconds: float = 60,
        register_cycles: int = 10_000,
        progress: bool | None = None,
    ) -> None:
        check("register_cycles", register_cycles, 1, 0xFFFF_FFFF)
        if random_start is not None:
            check("random_start", random_start, 1, (1 << 31) - 1)
            verilog = strip_initial_values(verilog)
        program = compile_machine(
            verilog, config, top=top, waves=waves is not None, optimize=optimize, threads=threads, progress=progress
        )
        self.config = config
        self._register_cycles = register_cycles
        if waves is not None:
            waves.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(
            [str(program), "" if waves is None else str(waves.resolve()), str(random_start or 0)],
            answer_seconds=answer_seconds,
        )
        try:
            channels, beat_bytes, _, _ = self._info()
            assert (channels, 8 * beat_bytes) == (config.channels, config.channel_bits)
            self.reset()
        except BaseException:
            self.close()
            raise

    # -- Registers and memory -----------------------------------------------------------------------------------------

    def write_register(self, address: int, value: int, *, strobe: int = 15) -> None:
        """Write the 32-bit register at byte `address`, bytes by `strobe`; takes some cycles.

        Raises `RegisterError` for an error response, `RegisterTimeoutError` if none comes.
        """
        _check_register(address)
        check("value", value, 0, 0xFFFF_FFFF)
        check("strobe", strobe, 0, 15)
        self._exchange(Command.WRITE_REGISTER, struct.pack("<IIBI", address, value, strobe, self._register_cycles))

    def read_register(self, address: int) -> int:
        """Read the 32-bit register at byte `address`; takes some cycles.

        Raises `RegisterError` for an error response, `RegisterTimeoutError` if none comes.
        """
        _check_register(address)
        answer = self._exchange(Command.READ_REGISTER, struct.pack("<II", address, self._register_cycles))
        return int.from_bytes(answer, "little")

    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        """Write bytes to a channel's memory in no time, from the `address` on that its AXI master uses."""
        view = memoryview(data).cast("B")
        self._check_range(channel, address, len(view))
        for start in range(0, len(view), _CHUNK_BYTES):
            part = view[start : start + _CHUNK_BYTES]
            self._exchange(Command.WRITE_MEMORY, struct.pack("<IQ", channel, address + start), part)

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        """`size` bytes of a channel's memory in no time, from the `address` on that its AXI master uses.

        What was never written is zero.
        """
        check("size", size, 0, 1 << 40)
        self._check_range(channel, address, size)
        parts = []
        for start in range(0, size, _CHUNK_BYTES):
            part = min(size - start, _CHUNK_BYTES)
            parts.append(self._exchange(Command.READ_MEMORY, struct.pack("<IQI", channel, address + start, part)))
        return b"".join(parts)

    def _check_range(self, channel: int, address: int, size: int) -> None:
        check("channel", channel, 0, self.config.channels - 1)
        check("address", address, 0, (1 << 40) - 1)
        if address + size > 1 << 40:
            raise ValueError(f"address + size must be at most 2**40, not {address + size:#x}")

    # -- Time ---------------------------------------------------------------------------------------------------------

    @property
    def cycles(self) -> int:
        """Cycles since power-up, resets included."""
        return self._info()[2]

    @property
    def interrupt(self) -> bool:
        """The level of irq."""
        return bool(self._info()[3])

    def _info(self) -> tuple[int, int, int, int]:
        channels, beat_bytes, cycle, irq = struct.unpack("<IIQB", self._exchange(Command.INFO))
        return channels, beat_bytes, cycle, irq

    def run(
        self,
        cycles: int,
        *,
        until_interrupt: bool = False,
        until: Condition | None = None,
        timeout_seconds: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Run:
        """Let `cycles` cycles pass, or fewer: until irq is high, or until a register condition holds.

        Raises `RunTimeoutError` after `timeout_seconds` of real time; `progress` is called some times a second with the
        cycles passed so far.
        """
        check("cycles", cycles, 0, (1 << 63) - 1)
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be above 0 or None, not {timeout_seconds!r}")
        start = self.cycles
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        condition = (0, 0, 0, 1) if until is None else (until.address, until.mask, until.value, until.interval)
        passed = 0
        while True:
            milliseconds = SLICE_MILLISECONDS
            if deadline is not None:
                milliseconds = max(0, min(milliseconds, round(1000 * (deadline - time.monotonic()))))
            answer = self._exchange(
                Command.RUN,
                struct.pack(
                    "<QBBIIIIII",
                    max(0, cycles - passed),
                    until_interrupt,
                    until is not None,
                    *condition,
                    self._register_cycles,
                    milliseconds,
                ),
            )
            reason, now = struct.unpack("<BQ", answer)
            passed = now - start
            if progress is not None:
                progress(passed)
            if reason != 1:
                return Run(cycles=passed, reason=Reason(reason))
            if deadline is not None and time.monotonic() >= deadline:
                raise RunTimeoutError(f"{passed} of at most {cycles} cycles passed in {timeout_seconds:g} s")

    def reset(self, *, cycles: int = 16) -> None:
        """Reset the accelerator for so many cycles, and both sides of every bus.

        What is in flight is forgotten, so are faults and stopped channels; memory keeps its contents, its model and its
        back-pressure.
        """
        check("cycles", cycles, 2, 1_000_000)
        self._exchange(Command.RESET, struct.pack("<I", cycles))

    # -- Memory models and faults -------------------------------------------------------------------------------------

    def set_memory(
        self,
        model: str = "ideal",
        *,
        latency: int = 40,
        write_latency: int = 8,
        timings: Hbm2Timings | None = None,
    ) -> None:
        """Choose the memory model of all channels, while no request is in flight.

        In both, reads and writes of a channel share its data wires, one beat a cycle in total, any number of requests
        may be in flight, and a write is acknowledged `write_latency` cycles after its last beat; the contents
        change then.

        model : "ideal" or "hbm2"
            `ideal` offers a read taken in cycle t from cycle t + `latency` on, a beat every cycle; where a read beat
            and a beat to write both wait, they take turns. `hbm2` has rows, banks and refreshes as `timings` say.
        latency : int
            Cycles of a read, `ideal` only.

        Raises `MachineError` while a request is in flight.
        """
        if model not in MODELS:
            raise ValueError(f"model must be one of {', '.join(MODELS)}, not {model!r}")
        check("latency", latency, 1, 1_000_000)
        check("write_latency", write_latency, 1, 1_000_000)
        if timings is not None and model != "hbm2":
            raise ValueError(f"timings must be None with the model ideal, not {timings!r}")
        values = dataclasses.astuple(timings or Hbm2Timings())
        self._exchange(
            Command.SET_MEMORY, struct.pack(f"<BII{len(values)}I", MODELS.index(model), latency, write_latency, *values)
        )  # fmt: skip

    def inject(self, channel: int, *, beat: int, response: str = "SLVERR", write: bool = False) -> None:
        """Answer the channel's `beat`-th beat from now on (0 is the next) with an error.

        A read beat carries wrong data then; a write whose burst has the beat changes nothing.
        """
        check("channel", channel, 0, self.config.channels - 1)
        check("beat", beat, 0, (1 << 62) - 1)
        if response not in RESPONSES:
            raise ValueError(f"response must be one of {', '.join(RESPONSES)}, not {response!r}")
        self._exchange(Command.FAULT, struct.pack("<IBQB", channel, not write, beat, RESPONSES[response]))

    def stop_channel(
        self,
        channel: int,
        *,
        cycle: int | None = None,
        until: int | None = None,
        reads: bool = True,
        writes: bool = True,
        accept: bool = False,
    ) -> None:
        """Let a channel stop answering from `cycle` (None: now) until `until` (None: for ever). What it offers, stays.

        With `accept` it still takes requests. A later call takes the place of an earlier one.
        """
        check("channel", channel, 0, self.config.channels - 1)
        first = self.cycles if cycle is None else cycle
        check("cycle", first, 0, (1 << 63) - 1)
        last = (1 << 64) - 1 if until is None else until
        check("until", last, first, (1 << 64) - 1)
        self._exchange(Command.STOP, struct.pack("<IQQBBB", channel, first, last, reads, writes, accept))

    def resume_channel(self, channel: int) -> None:
        """Let a stopped channel answer again."""
        self.stop_channel(channel, cycle=0, until=0)

    def set_back_pressure(self, probability: float, *, seed: int = 1, registers: bool = False) -> None:
        """Let every handshake of every memory channel wait a cycle with this probability, 0 to below 1; 0: never.

        With `registers`, the handshakes of the register bus wait, too.
        """
        if not isinstance(probability, (int, float)) or isinstance(probability, bool):
            raise TypeError(f"probability must be a number, not {probability!r}")
        if not 0 <= probability < 1:
            raise ValueError(f"probability must be 0 to below 1, not {probability!r}")
        check("seed", seed, 0, (1 << 56) - 1)
        threshold = min(round(probability * 2**32), 2**32 - 1)
        self._exchange(Command.BACK_PRESSURE, struct.pack("<QIB", seed, threshold, registers))

    # -- What happened ------------------------------------------------------------------------------------------------

    def statistics(self, *, clear: bool = False) -> list[ChannelStatistics]:
        """What passed through each channel; `clear` starts again from zero."""
        answer = self._exchange(Command.STATISTICS, struct.pack("<B", clear))
        count = len(dataclasses.fields(ChannelStatistics))
        names = [field.name for field in dataclasses.fields(ChannelStatistics)]
        return [
            ChannelStatistics(**dict(zip(names, values, strict=True)))
            for values in struct.iter_unpack(f"<{count}Q", answer)
        ]

    def allow_writes(self, regions: Iterable[tuple[int, int, int]] | None) -> None:
        """Count writes outside of `regions` from now on: (channel, first byte, bytes) each; None: allow all.

        Such writes are carried out all the same; `outside` reports them.
        """
        payload = [struct.pack("<B", regions is not None)]
        for channel, address, size in regions or ():
            check("size", size, 0, 1 << 40)
            self._check_range(channel, address, size)
            payload.append(struct.pack("<IQQ", channel, address, size))
        self._exchange(Command.ALLOW, b"".join(payload))

    def outside(self, *, clear: bool = False) -> Outside:
        """What was written outside of the allowed regions."""
        answer = self._exchange(Command.OUTSIDE, struct.pack("<B", clear))
        count, channel, address, cycle = struct.unpack("<QIQQ", answer)
        return Outside(bytes=count, channel=channel, address=address, cycle=cycle)

    def output_hash(self, *, begin: bool = False) -> int:
        """A hash of what all outputs of the accelerator showed, in every cycle since a call with `begin`; 0 without
        one.

        Circuits that differ in names only have the same hash after the same run.
        """
        (value,) = struct.unpack("<Q", self._exchange(Command.HASH_OUTPUTS, struct.pack("<B", begin)))
        return int(value)

    # -- The process --------------------------------------------------------------------------------------------------

    def _exchange(self, command: Command, arguments: bytes = b"", bulk: memoryview | None = None) -> bytes:
        """Send a request and wait for its answer's payload; raises the error that another status than OK means."""
        status, payload = self.request(command, arguments, bulk)
        if status == Status.OK:
            return payload
        text = payload.decode(errors="replace")
        if status == Status.BUS_ERROR:
            responses = {str(code): name for name, code in RESPONSES.items()}
            raise RegisterError(text[1:], responses.get(text[0], "EXOKAY"))
        if status == Status.BUS_TIMEOUT:
            raise RegisterTimeoutError(text)
        if status == Status.VIOLATION:
            raise ProtocolError(text)
        if status == Status.STOPPED:
            raise CircuitError("\n".join([text, *self.failed_assertion()]))
        raise MachineError(text)


def _check_register(address: int) -> None:
    check("address", address, 0, 0xFFFF_FFFC)
    if address % 4:
        raise ValueError(f"address must be a multiple of 4, not {address:#x}")


# -- Building ---------------------------------------------------------------------------------------------------------

_MASTER_WIDTHS = {
    "awid": 1, "awaddr": 40, "awlen": 8, "awsize": 3, "awburst": 2, "awcache": 4, "awprot": 3, "awvalid": 1,
    "awready": 1, "wdata": 0, "wstrb": 0, "wlast": 1, "wvalid": 1, "wready": 1, "bid": 1, "bresp": 2, "bvalid": 1,
    "bready": 1, "arid": 1, "araddr": 40, "arlen": 8, "arsize": 3, "arburst": 2, "arcache": 4, "arprot": 3,
    "arvalid": 1, "arready": 1, "rid": 1, "rdata": 0, "rresp": 2, "rlast": 1, "rvalid": 1, "rready": 1,
}  # fmt: skip
"""Widths of the ports of a channel; 0: as wide as the configuration says."""
_LITE_WIDTHS = {
    "awaddr": 0, "awprot": 3, "awvalid": 1, "awready": 1, "wdata": 32, "wstrb": 4, "wvalid": 1, "wready": 1,
    "bresp": 2, "bvalid": 1, "bready": 1, "araddr": 0, "arprot": 3, "arvalid": 1, "arready": 1, "rdata": 32,
    "rresp": 2, "rvalid": 1, "rready": 1,
}  # fmt: skip
"""Widths of the ports of the registers; 0: as wide as the circuit has them."""
_WIDE = ("wdata", "wstrb", "rdata")


_MASTER_INPUTS = {"awready", "wready", "bid", "bresp", "bvalid", "arready", "rid", "rdata", "rresp", "rlast", "rvalid"}
_LITE_OUTPUTS = {"awready", "wready", "bresp", "bvalid", "arready", "rdata", "rresp", "rvalid"}


def output_ports(config: Config) -> list[str]:
    """The outputs of the accelerator by name."""
    ports = ["irq", *(f"s_axi_{name}" for name in _LITE_WIDTHS if name in _LITE_OUTPUTS)]
    for channel in range(config.channels):
        ports += [f"m{channel:02}_axi_{name}" for name in _MASTER_WIDTHS if name not in _MASTER_INPUTS]
    return ports


def port_widths(config: Config) -> dict[str, int]:
    """Every port that the accelerator must have, with its width; 0: any width."""
    widths = {"clk": 1, "rst": 1, "irq": 1}
    widths |= {f"s_axi_{name}": width for name, width in _LITE_WIDTHS.items()}
    data = {"wdata": config.channel_bits, "rdata": config.channel_bits, "wstrb": config.channel_bits // 8}
    for channel in range(config.channels):
        widths |= {f"m{channel:02}_axi_{name}": data.get(name, width) for name, width in _MASTER_WIDTHS.items()}
    return widths


def check_ports(verilog: str, config: Config, *, top: str = "spatten") -> None:
    """Raise `SimulatorError` naming the ports that `top` lacks or has with another width."""
    module = re.search(rf"^module \\?{re.escape(top)}\s*\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    if module is None:
        raise SimulatorError(f"the Verilog has no module {top}")
    found = {
        name: int(high or 0) + 1
        for high, name in re.findall(
            r"\b(?:input|output)\s+(?:wire\s+|reg\s+)?(?:\[(\d+):0\]\s*)?\\?(\w+)", module[0], re.ASCII
        )
    }
    wrong = [
        f"{name} ({found[name]} bits, must be {width})" if name in found else f"{name} (missing)"
        for name, width in port_widths(config).items()
        if name not in found or width not in (0, found[name])
    ]
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise SimulatorError(f"{top} must have the ports of {config.channels} channels: {', '.join(wrong[:8])}{more}")


def ports_header(config: Config) -> str:
    """`machine_ports.h`: what `sim/machine/machine.cpp` knows of the circuit it drives."""

    def pointer(port: str) -> str:
        return f"std::remove_reference_t<decltype(Top::{port})>*"

    lines = [
        "// Made by sim/machine/machine.py.",
        "#pragma once",
        "#include <array>",
        "#include <cstdint>",
        "#include <type_traits>",
        '#include "Vtop.h"',
        "namespace machine {",
        "using Top = Vtop;",
        f"constexpr unsigned kChannels = {config.channels};",
        f"constexpr unsigned kBeatBytes = {config.channel_bits // 8};",
        "struct Hbm2Timings {",
        *(f"    std::uint32_t {field.name};" for field in dataclasses.fields(Hbm2Timings)),
        "};",
        "struct ChannelPins {",
        *(f"    {'void*' if name in _WIDE else pointer(f'm00_axi_{name}')} {name};" for name in _MASTER_WIDTHS),
        "};",
        "struct RegisterPins {",
        *(f"    {pointer(f's_axi_{name}')} {name};" for name in _LITE_WIDTHS),
        "};",
        "inline std::array<ChannelPins, kChannels> channel_pins(Top& top) {",
        "    return {{",
    ]
    for channel in range(config.channels):
        pins = ", ".join(f"&top.m{channel:02}_axi_{name}" for name in _MASTER_WIDTHS)
        lines.append(f"        {{{pins}}},")
    lines += [
        "    }};",
        "}",
        "inline RegisterPins register_pins(Top& top) {",
        "    return {" + ", ".join(f"&top.s_axi_{name}" for name in _LITE_WIDTHS) + "};",
        "}",
        "constexpr std::uint64_t kHashBegin = 0xcbf29ce484222325;",
        "// FNV-1a, over words instead of bytes.",
        "template <class Port>",
        "std::uint64_t hash_port(const Port& port, std::uint64_t hash) {",
        "    if constexpr (std::is_integral_v<Port>) {",
        "        return (hash ^ port) * 0x100000001b3;",
        "    } else {",
        "        for (std::size_t n = 0; n < sizeof(Port) / sizeof(EData); ++n) hash = hash_port(port[n], hash);",
        "        return hash;",
        "    }",
        "}",
        "inline std::uint64_t hash_outputs(const Top& top, std::uint64_t hash) {",
        *(f"    hash = hash_port(top.{name}, hash);" for name in output_ports(config)),
        "    return hash;",
        "}",
        "}  // namespace machine",
        "",
    ]
    return "\n".join(lines)


def compile_machine(
    verilog: str,
    config: Config,
    *,
    top: str = "spatten",
    waves: bool = False,
    optimize: int = 1,
    threads: int = 1,
    progress: bool | None = None,
) -> Path:
    """The program of a machine, compiled or found in the cache; the parameters are those of `Machine`.

    Raises `SimulatorError` with the reason, or with the end of the compiler's log.
    """
    if not isinstance(verilog, str):
        raise TypeError(f"verilog must be a string, not {verilog!r}")
    if not isinstance(config, Config):
        raise TypeError(f"config must be a Config, not {config!r}")
    check_ports(verilog, config, top=top)
    return compile_program(
        "machine",
        verilog,
        top=top,
        sources=_SOURCES,
        headers={"machine_ports.h": ports_header(config)},
        waves=waves,
        optimize=optimize,
        threads=threads,
        progress=progress,
    )
