"""Queues between stages: a FIFO in memory and a two-entry skid buffer in registers."""

from typing import Any

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.logic import following
from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.ram import Ram
from spatten.hw.lib.shared import Shared

__all__ = ["Fifo", "SkidBuffer"]


class Fifo(Shared):
    """First in, first out, `depth` entries in a `Ram` and one more in its output register.

    Parameters
    ----------
    shape : shape-like
        Shape of a payload, at least 1 bit.
    depth : int
        Entries that the queue can always hold, at least 2. Need not be a power of two.

    Ports
    -----
    i, o : streams of `shape`
    level : out, entries inside, 0 to depth + 1
    some : out, there is an entry inside; unlike `level` it follows from two registers of a bit

    Latency: 2 cycles from a transfer on `i` to its valid on `o`. Throughput: one entry per cycle. `i.ready` and
    `o.valid` come from registers, so it also breaks the ready path.
    """

    def __init__(self, *, shape: ShapeLike, depth: int) -> None:
        check_integer("depth", depth, 2)
        width = check_shape("shape", shape).width
        self.shape = shape
        self.depth = depth
        self.identity = ("Fifo", f"{depth} entries of {width} bits")
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 2)),
                "some": Out(1),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        m.submodules.ram = ram = Ram(shape=self.shape, depth=self.depth)
        write_pointer = Signal(range(self.depth))
        read_pointer = Signal(range(self.depth))
        stored = Signal(range(self.depth + 1))
        # What decides in the cycle comes from registers of one bit, which follow from `stored` and what happens.
        any_stored, full = Signal(), Signal()
        writes = Signal()
        reads = Signal()
        m.d.comb += [
            self.i.ready.eq(~full),
            writes.eq(self.i.valid & ~full),
            reads.eq(any_stored & (~self.o.valid | self.o.ready)),
            self.level.eq(stored + self.o.valid),
            self.some.eq(any_stored | self.o.valid),
            ram.write_enable.eq(writes),
            ram.write_address.eq(write_pointer),
            Value.cast(ram.write_data).eq(Value.cast(self.i.payload)),
            ram.read_enable.eq(reads),
            ram.read_address.eq(read_pointer),
            Value.cast(self.o.payload).eq(Value.cast(ram.read_data)),
        ]
        with m.If(writes & ~reads):
            m.d.sync += [stored.eq(stored + 1), any_stored.eq(1), full.eq(stored == self.depth - 1)]
        with m.If(reads & ~writes):
            m.d.sync += [stored.eq(stored - 1), any_stored.eq(stored != 1), full.eq(0)]
        with m.If(writes):
            m.d.sync += write_pointer.eq(following(write_pointer, self.depth))
        with m.If(reads):
            m.d.sync += read_pointer.eq(following(read_pointer, self.depth))
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += self.o.valid.eq(reads)
        return m


class SkidBuffer(wiring.Component):
    """Two entries in registers: cuts the ready path of a stream at full rate.

    Parameters
    ----------
    shape : shape-like
        Shape of a payload, at least 1 bit.

    Ports
    -----
    i, o : streams of `shape`

    Latency: 1 cycle. Throughput: one entry per cycle. `i.ready`, `o.valid` and `o.payload` come from registers.
    """

    def __init__(self, *, shape: ShapeLike) -> None:
        check_shape("shape", shape)
        self.shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        width = Shape.cast(self.shape).width
        first = Signal(width, reset_less=True)
        second = Signal(width, reset_less=True)
        first_valid = Signal()
        second_valid = Signal()
        leaves = Signal()
        m.d.comb += [
            self.i.ready.eq(~second_valid),
            self.o.valid.eq(first_valid),
            Value.cast(self.o.payload).eq(first),
            leaves.eq(~first_valid | self.o.ready),
        ]
        with m.If(leaves):
            m.d.sync += [
                first.eq(Mux(second_valid, second, Value.cast(self.i.payload))),
                first_valid.eq(second_valid | self.i.valid),
                second_valid.eq(0),
            ]
        with m.Elif(self.i.ready):
            m.d.sync += [second.eq(Value.cast(self.i.payload)), second_valid.eq(self.i.valid)]
        return m
