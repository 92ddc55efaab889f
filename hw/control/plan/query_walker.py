"""Takes space in the query ring, for chunks of queries and for what else is read through that ring."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.block_walker import BlockWalker
from spatten.hw.control.plan.plan_layouts import block_issue, members_request, ring_grant, ring_request
from spatten.hw.lib.logic import product
from spatten.hw.memory.address_generator import QUERY
from spatten.spec.config import Config

__all__ = ["QueryWalker"]


class QueryWalker(wiring.Component):
    """Takes the query blocks of all jobs, chunk by chunk, as soon as there is space; and serves `i_members`.

    Rows of bitmaps and saved states (members) go first, since a job cannot start without them.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, as of `hw.control.planner.Planner`
    i_members : stream of `members_request`
    o_request, i_grant : streams of `ring_request` and `ring_grant`, to and from the query ring's block table
    o_members, o_query : streams of `ring_grant`, each block once it has its space: of members, and of queries
    o : stream of `block_issue`, the same block for its issuer, offered and taken together with one of these

    One request at a time: the table takes no other one before its grant. Whoever takes `o_members` or `o_query` stays
    ready until a block comes, or `o` would take back its offer. Combinational from `i_members` to `o_request`, from
    `o_request.ready` to `i_members.ready`, from `i_grant` to `o`, `o_members` and `o_query`, and from their `ready` to
    each other's `valid` and to that of `i_grant`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        jobs = config.jobs_in_flight
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), jobs)),
                "started": In(range(2 * jobs)),
                "i_members": In(stream.Signature(members_request(config))),
                "o_request": Out(stream.Signature(ring_request(config, QUERY))),
                "i_grant": In(stream.Signature(ring_grant(config, QUERY))),
                "o_members": Out(stream.Signature(ring_grant(config, QUERY))),
                "o_query": Out(stream.Signature(ring_grant(config, QUERY))),
                "o": Out(stream.Signature(block_issue(config, QUERY))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.walker = walker = BlockWalker(config=self.config, ring=QUERY)
        request, grant, members = self.o_request, self.i_grant, self.i_members
        # A request once made stays until it is taken, also if members come meanwhile.
        asks_members, walk_waits = Signal(), Signal()
        m.d.sync += walk_waits.eq(walker.asks & ~asks_members & ~request.ready)
        sectors = Mux(asks_members, members.payload.sectors, walker.format.sectors)
        rows = Mux(asks_members, members.payload.rows, walker.count)
        m.d.comb += [
            asks_members.eq(members.valid & ~walk_waits),
            request.valid.eq(asks_members | walker.asks),
            request.payload.uses.eq(1),
            request.payload.size.eq(product(sectors, rows)),
            members.ready.eq(request.ready & asks_members),
        ]
        is_members = Signal()
        asked = Signal(members.payload.shape(), reset_less=True)
        with m.If(request.valid & request.ready):
            m.d.sync += [is_members.eq(asks_members), asked.eq(members.payload)]

        out_ready = Mux(is_members, self.o_members.ready, self.o_query.ready)
        m.d.comb += [
            walker.slots.eq(self.slots),
            walker.started.eq(self.started),
            walker.accepts.eq(request.ready & ~asks_members),
            walker.granted.eq(grant.valid & grant.ready & ~is_members),
            self.o.valid.eq(grant.valid & out_ready),
            grant.ready.eq(self.o.ready & out_ready),
            self.o_members.valid.eq(grant.valid & self.o.ready & is_members),
            self.o_query.valid.eq(grant.valid & self.o.ready & ~is_members),
            self.o_members.payload.eq(grant.payload),
            self.o_query.payload.eq(grant.payload),
        ]
        self._describe(m, walker, is_members=is_members, asked=asked)
        return m

    def _describe(self, m: Module, walker: BlockWalker, *, is_members: Signal, asked: Any) -> None:
        """Sets the payload of `o`: the chunk, or the members that were `asked` for, whose ids are 0, 1, ..."""
        lane_bits = ceil_log2(self.config.topk_lanes)
        grant, issue = self.i_grant.payload, self.o.payload
        fetch = issue.fetch[0]
        skip = walker.rank[:lane_bits] if lane_bits else Const(0, 1)
        m.d.comb += [
            issue.slot.eq(walker.slot),
            issue.entry.eq(grant.entry),
            issue.place.eq(grant.base),
            issue.order.eq((walker.order << 1) - 1),
            issue.dense.eq(is_members | walker.job.dense),
            issue.count.eq(Mux(is_members, asked.rows, walker.count)),
            issue.first_row.eq(Mux(is_members, 0, walker.rank >> lane_bits)),
            issue.skip.eq(Mux(is_members, 0, skip)),
            issue.stride.eq(Mux(is_members, asked.sectors, walker.format.sectors)),
            fetch.sector.eq(Mux(is_members, asked.sector, walker.sector)),
            fetch.pitch.eq(Mux(is_members, asked.sectors, walker.format.sectors)),
            fetch.sectors.eq(Mux(is_members, asked.sectors, walker.format.sectors)),
            fetch.place.eq(0),
            fetch.other.eq(is_members),
        ]
