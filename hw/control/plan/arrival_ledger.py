"""Remembers which row groups have been asked for, and tells when each has arrived."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.plan.plan_layouts import (
    SectorClass,
    block_event,
    emitted_group,
    fetched_group,
    query_chunk,
    sectors_shape,
)
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import equals, product
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature

__all__ = ["ArrivalLedger"]


class ArrivalLedger(wiring.Component):
    """Passes row groups on to the fetch unit, and tells each one's block when it has arrived.

    The fetch unit completes row groups in order and counts them; so a queue of what has left is enough. It has a place
    for each group that the fetch unit lets be under way, half of what its count tells apart, and a few more: it is
    never full, which an assertion checks in simulation.

    Parameters
    ----------
    config : Config
    sequence_bits : int
        Width of the fetch unit's count.

    Ports
    -----
    i : stream of `emitted_group`
    o : stream of `fetched_group`, to the fetch unit
    completed : in, the fetch unit's count of completed row groups
    arrives : out, array of `block_event`, by ring: a row group of a block has arrived
    refetch_arrives : out, a row group behind the key ring has arrived; only with progressive recompute
    chunk : out, `query_chunk`: the ids of a query block leave in this cycle
    sectors : out, array by `SectorClass`: the sectors that leave in this cycle

    Combinational from `i` to `o`, `chunk` and `sectors`, and from `o.ready` to `i.ready`, `chunk` and `sectors`. A
    group's arrival is told in the cycle in which `completed` counts it, or later: one in a cycle.
    """

    def __init__(self, *, config: Config, sequence_bits: int) -> None:
        self.config = config
        self.sequence_bits = sequence_bits
        self._recomputes = config.has(Feature.PROGRESSIVE)
        super().__init__(
            {
                "i": In(stream.Signature(emitted_group(config))),
                "o": Out(stream.Signature(fetched_group(config))),
                "completed": In(sequence_bits),
                "arrives": Out(block_event(config)).array(3),
                **optional(self._recomputes, refetch_arrives=Out(1)),
                "chunk": Out(query_chunk(config)),
                "sectors": Out(data.ArrayLayout(sectors_shape(config), len(SectorClass))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.under_way = under_way = Fifo(
            shape=data.StructLayout({"ring": 2, "entry": entry_shape(self.config.blocks), "counts": 1}),
            depth=(1 << (self.sequence_bits - 1)) + 4,
        )
        emitted, group = self.i.payload, self.i.payload.group
        leaves = Signal()
        amount = Signal(self.sectors[0].shape())
        m.d.comb += [
            self.i.ready.eq(self.o.ready & under_way.i.ready),
            self.o.valid.eq(self.i.valid & under_way.i.ready),
            self.o.payload.eq(group),
            under_way.i.valid.eq(self.i.valid & self.o.ready),
            under_way.i.payload.ring.eq(group.ring),
            under_way.i.payload.entry.eq(emitted.entry),
            under_way.i.payload.counts.eq(emitted.counts),
            leaves.eq(self.o.valid & self.o.ready),
            self.chunk.valid.eq(leaves & equals(group.ring, QUERY)),
            self.chunk.entry.eq(emitted.entry),
            self.chunk.ids.eq(group.ids),
            amount.eq(product(group.count, group.sectors)),
        ]
        for code in SectorClass:
            m.d.comb += self.sectors[code].eq(Mux(leaves & equals(emitted.sector_class, code.value), amount, 0))

        told = Signal(self.sequence_bits)
        tells = Signal()
        m.d.comb += [tells.eq((told != self.completed) & under_way.o.valid), under_way.o.ready.eq(tells)]
        with m.If(tells):
            m.d.sync += told.eq(told + 1)
        arrival = under_way.o.payload
        for ring in (QUERY, KEY, VALUE):
            m.d.comb += [
                self.arrives[ring].valid.eq(tells & arrival.counts & equals(arrival.ring, ring)),
                self.arrives[ring].entry.eq(arrival.entry),
            ]
        if self._recomputes:
            m.d.comb += self.refetch_arrives.eq(tells & arrival.counts & equals(arrival.ring, LINEAR))
        if asserts(platform):
            m.d.sync += Assert(
                ResetSignal() | ~self.i.valid | under_way.i.ready,
                "more row groups are under way than the ledger has places\n",
            )
        return m
