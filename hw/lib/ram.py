"""Memories in modules of their own: with a write and a read port, or with one that does both and a read port."""

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Shape, ShapeLike, Value, unsigned
from amaranth.lib import memory
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.shared import Shared

__all__ = ["Ram", "ReadWriteRam"]


class Ram(Shared):
    """One write port and one synchronous read port.

    It is a module of its own, the same for all memories of a size, so that an ASIC flow can put an SRAM macro in its
    place; an FPGA flow infers block RAM.

    Parameters
    ----------
    shape : shape-like
        Shape of one word, at least 1 bit.
    depth : int
        Words, at least 2. Need not be a power of two; addresses from `depth` up must not be used.

    Ports
    -----
    write_enable, write_address, write_data : in
    read_enable, read_address : in
    read_data : out, a word; it holds until the next read

    Latency: `read_data` is valid in the cycle after `read_enable`. Throughput: one write and one read per cycle.

    A word must not be read in the cycle in which it is written: `read_data` then keeps the word before. The read is
    gated off rather than answered with either word, because that is what makes the memory map to a bare block RAM (on
    ECP5 the answer would cost 88 LUTs and 139 flip-flops for 512 x 64 bits, the gate one LUT).
    """

    def __init__(self, *, shape: ShapeLike, depth: int) -> None:
        width = check_shape("shape", shape).width
        check_integer("depth", depth, 2)
        self.shape = shape
        self.depth = depth
        self.identity = ("Ram", f"{depth} words of {width} bits")
        address = unsigned((depth - 1).bit_length())
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(address),
                "write_data": In(shape),
                "read_enable": In(1),
                "read_address": In(address),
                "read_data": Out(shape),
            }
        )

    @property
    def module_name(self) -> str:
        """The module's name, such as ram_512x64, so that a flow finds the memories that it replaces."""
        return f"ram_{self.depth}x{Shape.cast(self.shape).width}"

    def build(self, platform: Any) -> Module:
        m = Module()
        width = Shape.cast(self.shape).width
        m.submodules.words = words = memory.Memory(shape=unsigned(width), depth=self.depth, init=[])
        write = words.write_port()
        read = words.read_port()
        collides = self.write_enable & (self.write_address == self.read_address)
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(Value.cast(self.write_data)),
            read.en.eq(self.read_enable & ~collides),
            read.addr.eq(self.read_address),
        ]
        m.d.comb += Value.cast(self.read_data).eq(read.data)
        return m


class ReadWriteRam(Shared):
    """One port that writes or reads, and one synchronous read port: a memory with two readers, the words once.

    Like `Ram`, it is a module of its own for each size, for an SRAM macro with a read-write and a read port.

    Parameters
    ----------
    shape : shape-like
        Shape of one word, at least 1 bit.
    depth : int
        Words, at least 2. Need not be a power of two; addresses from `depth` up must not be used.

    Ports
    -----
    write_enable, access_read_enable : in, the first port writes or reads; not both in a cycle
    access_address, write_data : in, of the first port
    access_read_data : out, a word; it holds until the first port reads again
    read_enable, read_address : in; read_data : out, a word; it holds until the second port reads again

    Latency: read data are valid in the cycle after their enable. Throughput: one access on each port per cycle.

    A word must not be read on the second port in the cycle in which it is written: `read_data` then keeps the word
    before, as in `Ram`.
    """

    def __init__(self, *, shape: ShapeLike, depth: int) -> None:
        width = check_shape("shape", shape).width
        check_integer("depth", depth, 2)
        self.shape = shape
        self.depth = depth
        self.identity = ("ReadWriteRam", f"{depth} words of {width} bits")
        address = unsigned((depth - 1).bit_length())
        super().__init__(
            {
                "write_enable": In(1),
                "access_read_enable": In(1),
                "access_address": In(address),
                "write_data": In(shape),
                "access_read_data": Out(shape),
                "read_enable": In(1),
                "read_address": In(address),
                "read_data": Out(shape),
            }
        )

    @property
    def module_name(self) -> str:
        """The module's name, such as ram_rw_64x160."""
        return f"ram_rw_{self.depth}x{Shape.cast(self.shape).width}"

    def build(self, platform: Any) -> Module:
        m = Module()
        width = Shape.cast(self.shape).width
        m.submodules.words = words = memory.Memory(shape=unsigned(width), depth=self.depth, init=[])
        write, access, read = words.write_port(), words.read_port(), words.read_port()
        collides = self.write_enable & (self.access_address == self.read_address)
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.access_address),
            write.data.eq(Value.cast(self.write_data)),
            # Gated with the write, so that a flow sees one port of the two.
            access.en.eq(self.access_read_enable & ~self.write_enable),
            access.addr.eq(self.access_address),
            read.en.eq(self.read_enable & ~collides),
            read.addr.eq(self.read_address),
        ]
        m.d.comb += [
            Value.cast(self.access_read_data).eq(access.data),
            Value.cast(self.read_data).eq(read.data),
        ]
        if asserts(platform):
            m.d.sync += Assert(
                ResetSignal() | ~self.write_enable | ~self.access_read_enable, "a read and a write on one port\n"
            )
        return m
