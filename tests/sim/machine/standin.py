"""A small accelerator with the ports of the real one, for tests of what runs it: it copies sectors and adds one.

It can also break every rule on command, so that one build serves all tests.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from spatten.spec.config import Config

IDENTITY = 0x5BA77E57


class Register(IntEnum):
    """Byte addresses; one channel after the other has the same job. From 0x100 on: SLVERR, DECERR, no answer."""

    IDENTITY = 0x00
    SCRATCH = 0x04
    START = 0x08
    """Written: start. Read: bit 0 done, which is the interrupt; cleared by the next start or by writing 0."""
    SOURCE = 0x0C
    DESTINATION = 0x10
    BEATS = 0x14
    """A multiple of the burst."""
    BURST = 0x18
    """Beats of a burst."""
    MODE = 0x1C
    FAULT = 0x20
    READ_LATENCY = 0x24
    """Of channel 0: from its first AR handshake to RVALID."""
    WRITE_LATENCY = 0x28
    """Of channel 0: from its first WLAST handshake to BVALID."""
    BUSY = 0x2C
    """Cycles from start to done."""
    READ_ERRORS = 0x30
    """Beats of all channels with an error response; the same for bursts written."""
    WRITE_ERRORS = 0x34
    NOT_RESET = 0x38
    """What it was at power-up."""
    BREAK_RESET = 0x3C
    """Having been written last, lets ARVALID be high in reset."""
    SLVERR = 0x100
    DECERR = 0x200
    SILENT = 0x300


class Mode(IntEnum):
    """What a job does, as bits."""

    READ = 1
    WRITE = 2
    COPY = 7
    """Write what was read, plus one; READ + WRITE alone write a counter at the same time."""


class Fault(IntEnum):
    """Rules to break."""

    NONE = 0
    READ_VALID_FALLS = 1
    READ_ADDRESS_CHANGES = 2
    WRITE_LENGTH_CHANGES = 3
    DATA_VALID_FALLS = 4
    DATA_CHANGES = 5
    LAST_EARLY = 6
    LAST_MISSING = 7
    SIZE = 8
    FIXED_BURST = 9
    ANSWER_UNASKED = 10
    ASSERTION = 11
    REGISTER_VALID_FALLS = 12
    REGISTER_DATA_CHANGES = 13
    REGISTER_RESPONSE_CHANGES = 14


def signature(config: Config) -> dict[str, Any]:
    """Ports of the accelerator, clk and rst aside."""
    ports: dict[str, Any] = {"irq": Out(1)}
    lite = {
        "awaddr": In(12), "awprot": In(3), "awvalid": In(1), "awready": Out(1), "wdata": In(32), "wstrb": In(4),
        "wvalid": In(1), "wready": Out(1), "bresp": Out(2), "bvalid": Out(1), "bready": In(1), "araddr": In(12),
        "arprot": In(3), "arvalid": In(1), "arready": Out(1), "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1),
        "rready": In(1),
    }  # fmt: skip
    ports |= {f"s_axi_{name}": member for name, member in lite.items()}
    for channel in range(config.channels):
        for kind in ("aw", "ar"):
            request = {"id": 1, "addr": 40, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3, "valid": 1}
            ports |= {f"m{channel:02}_axi_{kind}{name}": Out(width) for name, width in request.items()}
            ports[f"m{channel:02}_axi_{kind}ready"] = In(1)
        bits = config.channel_bits
        rest = {
            "wdata": Out(bits), "wstrb": Out(bits // 8), "wlast": Out(1), "wvalid": Out(1), "wready": In(1),
            "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1), "rid": In(1), "rdata": In(bits),
            "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
        }  # fmt: skip
        ports |= {f"m{channel:02}_axi_{name}": member for name, member in rest.items()}
    return ports


class StandIn(wiring.Component):
    """Registers of `Register`, and in each channel an engine that obeys them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        super().__init__(signature(config))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        names = (Register.SCRATCH, Register.SOURCE, Register.DESTINATION, Register.BEATS, Register.BURST,
                 Register.MODE, Register.FAULT)  # fmt: skip
        written = {register: Signal(32, name=register.name.lower()) for register in names}
        start = Signal()
        running = Signal()
        done = Signal()
        busy = Signal(32)
        fault = written[Register.FAULT]
        # The rule about reset can only be broken by what a reset does not change: here the address last written to.
        broken = Signal()
        m.d.comb += broken.eq(self.s_axi_awaddr == Register.BREAK_RESET)
        readable = dict(written)
        for register in (Register.READ_LATENCY, Register.WRITE_LATENCY):
            readable[register] = Signal(32, name=register.name.lower())
        read_errors, write_errors = Signal(32), Signal(32)
        not_reset = Signal(32, reset_less=True)
        m.d.sync += not_reset.eq(not_reset)
        readable[Register.NOT_RESET] = not_reset
        readable |= {Register.BUSY: busy, Register.READ_ERRORS: read_errors, Register.WRITE_ERRORS: write_errors}
        engines = []
        for channel in range(self._config.channels):
            engine = _Engine(self, channel, written, start, broken, self._config.channel_bits // 8)
            m.submodules[f"engine{channel}"] = engine
            engines.append(engine)
        m.d.comb += [
            readable[Register.READ_LATENCY].eq(engines[0].read_latency),
            readable[Register.WRITE_LATENCY].eq(engines[0].write_latency),
            read_errors.eq(sum(engine.read_errors for engine in engines)),
            write_errors.eq(sum(engine.write_errors for engine in engines)),
            self.irq.eq(done),
        ]
        with m.If(running):
            m.d.sync += busy.eq(busy + 1)
            with m.If(~start & Cat(engine.idle for engine in engines).all()):
                m.d.sync += [running.eq(0), done.eq(1)]
        m.d.comb += Assert(~((fault == Fault.ASSERTION) & running), "the job must not run with this fault")
        self._registers(m, written, readable, start, done, fault)
        with m.If(start):
            m.d.sync += [running.eq(1), done.eq(0), busy.eq(0)]
        return m

    def _registers(self, m: Module, written: dict, readable: dict, start: Signal, done: Signal, fault: Signal) -> None:
        # A write is taken when both halves are there, and answered in the next cycle.
        take_write = self.s_axi_awvalid & self.s_axi_wvalid & ~self.s_axi_bvalid & (self.s_axi_awaddr < 0x300)
        stalled, b_stalled = Signal(), Signal()
        b_valid, r_valid = Signal(), Signal()
        data = Signal(32)
        b_response = Signal(2)
        m.d.sync += [
            stalled.eq(self.s_axi_rvalid & ~self.s_axi_rready),
            b_stalled.eq(self.s_axi_bvalid & ~self.s_axi_bready),
        ]
        m.d.comb += [
            self.s_axi_rdata.eq(data ^ (stalled & (fault == Fault.REGISTER_DATA_CHANGES))),
            self.s_axi_bresp.eq(b_response ^ (b_stalled & (fault == Fault.REGISTER_RESPONSE_CHANGES))),
            self.s_axi_awready.eq(take_write),
            self.s_axi_wready.eq(take_write),
            self.s_axi_arready.eq(~self.s_axi_rvalid & (self.s_axi_araddr < 0x300)),
            self.s_axi_bvalid.eq(b_valid | (fault == Fault.ANSWER_UNASKED)),
            self.s_axi_rvalid.eq(r_valid & ~(stalled & (fault == Fault.REGISTER_VALID_FALLS))),
        ]

        def response(address: Any) -> Any:
            return Mux(address >= 0x200, 3, Mux(address >= 0x100, 2, 0))

        m.d.sync += start.eq(0)
        with m.If(b_valid & self.s_axi_bready):
            m.d.sync += b_valid.eq(0)
        with m.If(take_write):
            m.d.sync += [b_valid.eq(1), b_response.eq(response(self.s_axi_awaddr))]
            with m.Switch(self.s_axi_awaddr):
                for register, signal in written.items():
                    with m.Case(register):
                        for byte in range(4):
                            with m.If(self.s_axi_wstrb[byte]):
                                part = slice(8 * byte, 8 * byte + 8)
                                m.d.sync += signal[part].eq(self.s_axi_wdata[part])
                with m.Case(Register.START):
                    m.d.sync += [start.eq(self.s_axi_wdata[0]), done.eq(0)]
        with m.If(r_valid & self.s_axi_rready):
            m.d.sync += r_valid.eq(0)
        with m.If(self.s_axi_arvalid & self.s_axi_arready):
            m.d.sync += [r_valid.eq(1), self.s_axi_rresp.eq(response(self.s_axi_araddr)), data.eq(0)]
            with m.Switch(self.s_axi_araddr):
                for register, signal in readable.items():
                    with m.Case(register):
                        m.d.sync += data.eq(signal)
                with m.Case(Register.IDENTITY):
                    m.d.sync += data.eq(IDENTITY)
                with m.Case(Register.START):
                    m.d.sync += data.eq(done)


class _Engine(wiring.Component):
    """Reads and writes one channel."""

    def __init__(
        self, top: StandIn, channel: int, written: dict, start: Signal, broken: Signal, beat_bytes: int
    ) -> None:
        results = {"read_latency": 32, "write_latency": 32, "read_errors": 16, "write_errors": 16, "idle": 1}
        super().__init__({name: Out(width) for name, width in results.items()})
        self._top, self._channel, self._written, self._start, self._broken = top, channel, written, start, broken
        self._beat_bytes = beat_bytes

    def elaborate(self, platform: Any) -> Module:
        m = Module()

        def pin(name: str) -> Any:
            return getattr(self._top, f"m{self._channel:02}_axi_{name}")

        burst = self._written[Register.BURST]
        mode = self._written[Register.MODE]
        fault = self._written[Register.FAULT]
        step = (burst * self._beat_bytes)[:32]
        size = self._beat_bytes.bit_length() - 1
        read_left, write_left, data_left, return_left, answer_left, in_burst = (Signal(32) for _ in range(6))
        read_address, write_address = Signal(32), Signal(32)
        read_stalled, write_stalled, data_stalled = Signal(), Signal(), Signal()
        counter = Signal(32)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8 * self._beat_bytes, depth=64)
        copies = mode[2]
        data_valid = (data_left != 0) & (~copies | fifo.r_rdy)
        last = in_burst == burst - 1
        m.d.comb += [
            pin("arvalid").eq(
                ((read_left != 0) & ~(read_stalled & (fault == Fault.READ_VALID_FALLS)))
                | (ResetSignal() & self._broken)
            ),
            pin("araddr").eq(read_address + Mux(read_stalled & (fault == Fault.READ_ADDRESS_CHANGES), 4096, 0)),
            pin("arlen").eq(burst - 1),
            pin("arsize").eq(Mux(fault == Fault.SIZE, size - 1, size)),
            pin("arburst").eq(Mux(fault == Fault.FIXED_BURST, 0, 1)),
            pin("arid").eq(1),
            pin("awvalid").eq(write_left != 0),
            pin("awaddr").eq(write_address),
            pin("awlen").eq(burst - 1 - (write_stalled & (fault == Fault.WRITE_LENGTH_CHANGES))),
            pin("awsize").eq(size),
            pin("awburst").eq(1),
            pin("wvalid").eq(data_valid & ~(data_stalled & (fault == Fault.DATA_VALID_FALLS))),
            pin("wdata").eq(Mux(copies, fifo.r_data + 1, counter) ^ (data_stalled & (fault == Fault.DATA_CHANGES))),
            pin("wstrb").eq(-1),
            pin("wlast").eq((last | ((fault == Fault.LAST_EARLY) & (in_burst == 0))) & (fault != Fault.LAST_MISSING)),
            pin("bready").eq(1),
            pin("rready").eq(~copies | fifo.w_rdy),
            fifo.w_data.eq(pin("rdata")),
            fifo.w_en.eq(copies & pin("rvalid")),
            fifo.r_en.eq(copies & pin("wvalid") & pin("wready")),
            self.idle.eq((data_left == 0) & (return_left == 0) & (answer_left == 0)),
        ]
        m.d.sync += [
            read_stalled.eq(pin("arvalid") & ~pin("arready")),
            write_stalled.eq(pin("awvalid") & ~pin("awready")),
            data_stalled.eq(pin("wvalid") & ~pin("wready")),
        ]
        with m.If(pin("arvalid") & pin("arready")):
            m.d.sync += [read_left.eq(read_left - burst), read_address.eq(read_address + step)]
        with m.If(pin("awvalid") & pin("awready")):
            m.d.sync += [write_left.eq(write_left - burst), write_address.eq(write_address + step)]
        with m.If(pin("wvalid") & pin("wready")):
            m.d.sync += [data_left.eq(data_left - 1), in_burst.eq(Mux(last, 0, in_burst + 1)), counter.eq(counter + 1)]
        with m.If(pin("rvalid") & pin("rready")):
            m.d.sync += [return_left.eq(return_left - 1), self.read_errors.eq(self.read_errors + pin("rresp")[1])]
        with m.If(pin("bvalid")):
            m.d.sync += [answer_left.eq(answer_left - burst), self.write_errors.eq(self.write_errors + pin("bresp")[1])]
        read_count, write_count = Signal(32), Signal(32)
        for count, first, then, result in (
            (read_count, pin("arvalid") & pin("arready"), pin("rvalid"), self.read_latency),
            (write_count, pin("wvalid") & pin("wready") & last, pin("bvalid"), self.write_latency),
        ):
            with m.If(count != 0):
                m.d.sync += count.eq(count + 1)
            with m.Elif(first & (result == 0)):
                m.d.sync += count.eq(1)
            with m.If((count != 0) & then):
                m.d.sync += [result.eq(count), count.eq(0)]
        beats = self._written[Register.BEATS]
        with m.If(self._start):
            m.d.sync += [
                read_left.eq(Mux(mode[0], beats, 0)),
                return_left.eq(Mux(mode[0], beats, 0)),
                write_left.eq(Mux(mode[1], beats, 0)),
                data_left.eq(Mux(mode[1], beats, 0)),
                answer_left.eq(Mux(mode[1], beats, 0)),
                in_burst.eq(0),
                counter.eq(0),
                read_address.eq(self._written[Register.SOURCE]),
                write_address.eq(self._written[Register.DESTINATION]),
                self.read_latency.eq(0),
                self.write_latency.eq(0),
                self.read_errors.eq(0),
                self.write_errors.eq(0),
            ]
        return m
