"""Keeps account of the blocks of a ring buffer, from their allocation to their last use."""

from typing import Any

from amaranth.hdl import Array, Assert, Module, Mux, ResetSignal, Shape, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.logic import equals
from spatten.hw.lib.parameters import check_integer, check_power_of_two

__all__ = ["BlockTable", "block_request", "entry_shape", "granted_block"]


def entry_shape(entries: int) -> Shape:
    """Shape of a block's number."""
    return unsigned((entries - 1).bit_length())


def block_request(*, sectors: int, uses_max: int) -> data.StructLayout:
    """A block that is wanted: `size` in sectors of a lane, and how often it will be used, at least once."""
    return data.StructLayout({"size": range(sectors + 1), "uses": range(uses_max + 1)})


def granted_block(*, sectors: int, entries: int) -> data.StructLayout:
    """A block: its number `entry`, and the sector `base` of a lane where it begins."""
    return data.StructLayout({"entry": entry_shape(entries), "base": range(sectors)})


class BlockTable(wiring.Component):
    """Numbers the blocks of a ring buffer, counts what has arrived of each, and gives up their space after their uses.

    Blocks are allocated one after the other. Their uses may end in any order; their space returns in the order in which
    it was given, as `hw.memory.ring_buffer.RingBuffer` wants it.

    Parameters
    ----------
    sectors : int
        Sectors of a lane of the ring.
    entries : int
        Most blocks at a time, a power of two.
    uses_max : int
        Most uses of a block.
    groups_max : int
        Most row groups of a block.

    Ports
    -----
    i : stream of `block_request`, in
    o : stream of `granted_block`, out, one for each request, in order
    o_allocate, i_block, o_free : streams, to and from the ring buffer
    arrives : in, `valid` and `entry`: another row group of a block is complete
    uses : in, `valid` and `entry`: a use of a block has ended
    arrived : out, for each block how many of its row groups are complete
    bases : out, for each block the sector where it begins

    A block may be used only after it was granted, and as often as its request said; a row group may arrive only for a
    block that is inside. Assertions check this in simulation.

    Latency: 1 cycle from `i` to `o_allocate`, none from `i_block` to `o`. Throughput: a block every three cycles, with
    the two of the ring buffer.
    """

    def __init__(self, *, sectors: int, entries: int, uses_max: int, groups_max: int) -> None:
        for name, value, least in (
            ("sectors", sectors, 1),
            ("entries", entries, 2),
            ("uses_max", uses_max, 1),
            ("groups_max", groups_max, 1),
        ):
            check_integer(name, value, least)
        check_power_of_two("entries", entries)
        self.sectors = sectors
        self.entries = entries
        self.uses_max = uses_max
        self.groups_max = groups_max
        event = data.StructLayout({"valid": 1, "entry": entry_shape(entries)})
        count = range(sectors + 1)
        super().__init__(
            {
                "i": In(stream.Signature(block_request(sectors=sectors, uses_max=uses_max))),
                "o": Out(stream.Signature(granted_block(sectors=sectors, entries=entries))),
                "o_allocate": Out(stream.Signature(count)),
                "i_block": In(stream.Signature(range(sectors))),
                "o_free": Out(stream.Signature(count)),
                "arrives": In(event),
                "uses": In(event),
                "arrived": Out(data.ArrayLayout(range(groups_max + 1), entries)),
                "bases": Out(data.ArrayLayout(range(sectors), entries)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        bits = (self.entries - 1).bit_length()
        first = Signal(bits)
        held = Signal(range(self.entries + 1))
        last = Signal(bits)
        asks = Signal()
        size = Signal(range(self.sectors + 1), reset_less=True)
        sizes = Array(Signal(range(self.sectors + 1), name=f"size{n}", reset_less=True) for n in range(self.entries))
        left = Array(Signal(range(self.uses_max + 1), name=f"left{n}", reset_less=True) for n in range(self.entries))

        # One request at a time goes to the ring, whose answer goes to `o`.
        takes, grants, frees = Signal(), Signal(), Signal()
        m.d.comb += [
            last.eq(first + held),
            takes.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(~asks & (held != self.entries)),
            grants.eq(self.o.valid & self.o.ready),
            self.o.valid.eq(self.i_block.valid),
            self.o.payload.entry.eq(last - 1),
            self.o.payload.base.eq(self.i_block.payload),
            self.i_block.ready.eq(self.o.ready),
        ]
        offered = Signal()
        m.d.comb += [self.o_allocate.valid.eq(offered), self.o_allocate.payload.eq(size)]
        with m.If(takes):
            m.d.sync += [asks.eq(1), offered.eq(1), size.eq(self.i.payload.size)]
            m.d.sync += [sizes[last].eq(self.i.payload.size)]
        with m.If(offered & self.o_allocate.ready):
            m.d.sync += offered.eq(0)
        with m.If(grants):
            m.d.sync += [asks.eq(0), self.bases[self.o.payload.entry].eq(self.i_block.payload)]
        m.d.sync += held.eq(held + takes - frees)

        for n in range(self.entries):
            enters = takes & equals(last, n)
            ends = self.uses.valid & equals(self.uses.entry, n)
            comes = self.arrives.valid & equals(self.arrives.entry, n)
            m.d.sync += [
                left[n].eq(Mux(enters, self.i.payload.uses, left[n] - ends)),
                self.arrived[n].eq(Mux(enters, 0, self.arrived[n] + comes)),
            ]

        # A block that has been granted, and whose uses have ended, gives up its space; one block at a time.
        used_up = Signal()
        m.d.comb += [
            used_up.eq(held.any() & ~left[first].any() & ~(asks & (held == 1))),
            self.o_free.valid.eq(used_up),
            self.o_free.payload.eq(sizes[first]),
            frees.eq(used_up & self.o_free.ready),
        ]
        with m.If(frees):
            m.d.sync += first.eq(first + 1)
        if asserts(platform):
            is_asked = Signal()
            m.d.comb += is_asked.eq(asks & ((last - 1)[:bits] == self.uses.entry))
            m.d.sync += [
                Assert(
                    ResetSignal() | ~self.uses.valid | (left[self.uses.entry].any() & ~is_asked),
                    "a block is used that has no uses left\n",
                ),
                Assert(
                    ResetSignal() | ~self.arrives.valid | ((self.arrives.entry - first)[:bits] < held),
                    "a row group arrives for a block that is not inside\n",
                ),
            ]
        return m
