"""Property module of the block table: every block is used to its end before its space returns, in order, and whole."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Assert, Assume, Cover, Elaboratable, Module, Mux, Signal

from spatten.hw.memory.block_table import BlockTable
from spatten.sim.verify.formal import Case, answer, consume, free, produce


class BlockProperties(Elaboratable):
    """One block, any, from its request on; around it whoever keeps to the rules.

    The ring answers what it was asked, once. A block is used as often as its request said, after it was granted; it
    gets at most `groups_max` row groups.
    """

    def __init__(self, table: BlockTable) -> None:
        self.table = table

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.table = table = self.table
        entries = table.entries
        takes = produce(m, table.i, name="i")
        grants = consume(m, table.o, name="o")
        asks = consume(m, table.o_allocate, name="o_allocate")
        frees = consume(m, table.o_free, name="o_free")
        produce(m, table.i_block, name="i_block")
        wanted = table.i.payload
        uses, arrives = table.uses, table.arrives
        m.d.comb += [
            uses.valid.eq(free(m, name="uses")),
            uses.entry.eq(free(m, len(uses.entry), name="uses_entry")),
            arrives.valid.eq(free(m, name="arrives")),
            arrives.entry.eq(free(m, len(arrives.entry), name="arrives_entry")),
        ]

        # The ring has been asked for a block and has not granted it; and what was asked of the table.
        owed, pending, unasked = Signal(), Signal(), Signal()
        m.d.sync += [
            owed.eq((owed | asks) & ~grants),
            pending.eq((pending | takes) & ~grants),
            unasked.eq((unasked | takes) & ~asks),
        ]
        m.d.comb += [
            Assume(~table.i_block.valid | owed),
            Assume(~table.i.valid | (wanted.uses > 0) & (wanted.uses <= table.uses_max)),
            Assume(~table.i.valid | (wanted.size <= table.sectors)),
            Assume(~table.i_block.valid | (table.i_block.payload < table.sectors)),
            Assert(~takes | ~pending, "one request at a time"),
            Assert(~asks | unasked, "the ring is asked once for each request"),
            Assert(~grants | owed, "a block is granted when the ring has granted it"),
            Assert(~table.o.valid | (table.o.payload.base == table.i_block.payload), "where the ring said"),
        ]

        # Blocks inside, and what is still to come of each: uses, and row groups.
        inside = Signal(range(entries + 1))
        next_entry = Signal(range(entries))
        oldest = Signal(range(entries))
        granted = Array(Signal(name=f"granted{n}") for n in range(entries))
        left = Array(Signal(range(table.uses_max + 1), name=f"model_left{n}") for n in range(entries))
        groups = Array(Signal(range(table.groups_max + 1), name=f"model_groups{n}") for n in range(entries))
        m.d.sync += [
            inside.eq(inside + takes - frees),
            next_entry.eq(next_entry + takes),
            oldest.eq(oldest + frees),
        ]
        last = Signal(range(entries))
        m.d.comb += [
            last.eq(next_entry - 1),
            Assert(inside <= entries, "no more blocks than entries"),
            Assert(~table.o.valid | (table.o.payload.entry == last), "entries are given in turn"),
            Assume(~uses.valid | (granted[uses.entry] & (left[uses.entry] != 0))),
            Assume(~arrives.valid | (granted[arrives.entry] & (groups[arrives.entry] != table.groups_max))),
        ]
        # What enters a place takes it from scratch; uses and arrivals are of blocks that were there.
        with m.If(uses.valid):
            m.d.sync += left[uses.entry].eq(left[uses.entry] - 1)
        with m.If(arrives.valid):
            m.d.sync += groups[arrives.entry].eq(groups[arrives.entry] + 1)
        with m.If(grants):
            m.d.sync += granted[last].eq(1)
        with m.If(frees):
            m.d.sync += granted[oldest].eq(0)
        with m.If(takes):
            m.d.sync += [left[next_entry].eq(wanted.uses), groups[next_entry].eq(0), granted[next_entry].eq(0)]
        for n in range(entries):
            m.d.comb += Assert(~granted[n] | (table.arrived[n] == groups[n]), f"arrived[{n}] counts the row groups")

        # One request, any: its size goes to the ring and comes back, and not before its uses.
        tracked, mine = Signal(), Signal()
        marked = Signal()
        ahead = Signal(range(entries + 1))
        size = Signal(range(table.sectors + 1), reset_less=True)
        base = Signal(range(table.sectors), reset_less=True)
        entry = Signal(range(entries), reset_less=True)
        m.d.comb += [
            marked.eq(takes & ~tracked & free(m, name="mark")),
            mine.eq(tracked & frees & (ahead == 0)),
        ]
        m.d.sync += [
            tracked.eq((tracked | marked) & ~mine),
            ahead.eq(Mux(tracked, ahead, inside) - frees),
        ]
        with m.If(marked):
            m.d.sync += [size.eq(wanted.size), entry.eq(next_entry)]
        is_last = tracked & (entry == last) & pending
        with m.If(is_last & grants):
            m.d.sync += base.eq(table.o.payload.base)
        m.d.comb += [
            Assert(~(is_last & table.o_allocate.valid) | (table.o_allocate.payload == size), "asked for as it was"),
            Assert(~(tracked & granted[entry]) | (table.bases[entry] == base), "bases has where a block begins"),
            Assert(~mine | (table.o_free.payload == size), "its space returns whole, in the order of the requests"),
            Assert(~mine | (granted[entry] & (left[entry] == 0)), "space returns after the last use"),
            Assert(~frees | (inside != 0), "no space returns that was not given"),
            Cover(mine & (inside == entries), "space returns while all entries are taken"),
            Cover(mine & takes, "space returns as another block is asked for"),
        ]
        used_up = Signal()
        m.d.comb += used_up.eq((inside != 0) & granted[oldest] & (left[oldest] == 0))
        answer(m, used_up, table.o_free.valid, within=0, name="space of the oldest block returns after its last use")
        answer(m, unasked, table.o_allocate.valid, within=0, name="the ring is asked a cycle after the request")
        answer(m, table.i_block.valid, table.o.valid, within=0, name="what the ring grants is granted")
        answer(m, ~pending & (inside != entries), table.i.ready, within=0, name="i is ready while an entry is free")
        return m


def _case(sectors: int, entries: int, uses_max: int, groups_max: int) -> Case:
    return Case(
        unit="BlockTable",
        size=f"{sectors} sectors, {entries} blocks, {uses_max} uses, {groups_max} groups",
        proves="space returns whole, in order and after the last use; entries, bases, arrivals, room, stream rules",
        properties=lambda: BlockProperties(
            BlockTable(sectors=sectors, entries=entries, uses_max=uses_max, groups_max=groups_max)
        ),
        depth=24,
    )


PROOFS = [_case(5, 2, 2, 2), _case(3, 4, 1, 1), _case(6, 4, 3, 3)]
