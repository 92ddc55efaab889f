"""The serial line, 8 data bits, no parity, 1 stop bit: a receiver, a transmitter, a watch for silence and breaks."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.parameters import check_integer
from spatten.spec.link_protocol import DIVISOR_BITS

__all__ = ["LineWatch", "UartReceiver", "UartTransmitter"]

_DATA_BITS = 8
_STOP = 1 + _DATA_BITS
"""Number of the stop bit; the start bit has the number 0."""


class UartReceiver(wiring.Component):
    """Takes bytes off the line: samples each bit in its middle.

    Ports
    -----
    rx : in, the line, not synchronous to the clock
    divisor : in, cycles of a bit, at least 4; may change while the line is idle
    line : out, the line, synchronous to the clock
    received : out, set for a cycle when a byte with a stop bit has come; `byte` then is that byte
    framing_error : out, set for a cycle when a byte without a stop bit has come

    Latency: `received` is set 3 cycles after the middle of the stop bit. The next start bit is looked for from there
    on, so a sender may be faster by half a bit in ten.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "rx": In(1),
                "divisor": In(DIVISOR_BITS),
                "line": Out(1, init=1),
                "received": Out(1),
                "byte": Out(_DATA_BITS),
                "framing_error": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        meta = Signal(init=1)
        line = Signal(init=1)
        before = Signal(init=1)
        m.d.sync += [meta.eq(self.rx), line.eq(meta), before.eq(line)]
        m.d.comb += self.line.eq(line)

        busy = Signal()
        bit = Signal(range(_STOP + 1), reset_less=True)
        wait = Signal(DIVISOR_BITS, reset_less=True)
        data = Signal(_DATA_BITS, reset_less=True)
        m.d.comb += self.byte.eq(data)
        m.d.sync += [self.received.eq(0), self.framing_error.eq(0), wait.eq(wait - 1)]
        with m.If(~busy):
            m.d.sync += [bit.eq(0), wait.eq((self.divisor >> 1) - 1), busy.eq(before & ~line)]
        with m.Elif(~wait.any()):
            m.d.sync += [wait.eq(self.divisor - 1), bit.eq(bit + 1)]
            with m.If(bit == 0):
                # A start bit that has gone in its middle was none.
                m.d.sync += busy.eq(~line)
            with m.Elif(bit == _STOP):
                m.d.sync += [busy.eq(0), self.received.eq(line), self.framing_error.eq(~line)]
            with m.Else():
                m.d.sync += data.eq(Cat(data[1:], line))
        return m


class UartTransmitter(wiring.Component):
    """Puts bytes on the line.

    Ports
    -----
    i : stream of bytes, in
    divisor : in, cycles of a bit; may change while `i.ready`
    tx : out, the line, from a register

    Latency: the start bit begins 2 cycles after a transfer on `i`. Throughput: a byte in 10 * divisor + 1 cycles.
    `i.ready` comes from a register.
    """

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(_DATA_BITS)), "divisor": In(DIVISOR_BITS), "tx": Out(1, init=1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        busy = Signal()
        bits = Signal(_DATA_BITS + 1, reset_less=True)
        left = Signal(range(_STOP + 1), reset_less=True)
        wait = Signal(DIVISOR_BITS, reset_less=True)
        ends = Signal(reset_less=True)
        m.d.comb += self.i.ready.eq(~busy)
        m.d.sync += self.tx.eq(Mux(busy, bits[0], 1))
        m.d.sync += [wait.eq(wait - 1), ends.eq(wait == 1)]
        with m.If(~busy):
            m.d.sync += [
                busy.eq(self.i.valid),
                bits.eq(Cat(Const(0, 1), self.i.payload)),
                left.eq(_STOP),
                wait.eq(self.divisor - 1),
                ends.eq(0),
            ]
        with m.Elif(ends):
            m.d.sync += [bits.eq(Cat(bits[1:], Const(1, 1))), left.eq(left - 1), wait.eq(self.divisor - 1)]
            with m.If(~left.any()):
                m.d.sync += busy.eq(0)
        return m


class LineWatch(wiring.Component):
    """Says that the line has not changed for long.

    Parameters
    ----------
    cycles : int
        What is long, a power of two.

    Ports
    -----
    line : in, synchronous to the clock
    gap : out, set while the line has been high for at least `cycles` cycles
    breaks : out, set while it has been low for at least `cycles` cycles
    """

    def __init__(self, *, cycles: int) -> None:
        check_integer("cycles", cycles, 2)
        if cycles & (cycles - 1):
            raise ValueError(f"cycles must be a power of two, not {cycles!r}")
        self.cycles = cycles
        super().__init__({"line": In(1), "gap": Out(1), "breaks": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        before = Signal(init=1)
        # The top bit stays set until the line changes.
        count = Signal(self.cycles.bit_length())
        m.d.sync += [before.eq(self.line), self.gap.eq(count[-1] & before), self.breaks.eq(count[-1] & ~before)]
        with m.If(self.line != before):
            m.d.sync += count.eq(0)
        with m.Elif(~count[-1]):
            m.d.sync += count.eq(count + 1)
        return m
