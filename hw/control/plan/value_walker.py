"""Takes space in the value ring, for the blocks of whole heads and for those of pruned rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.block_plan import BlockPlan
from spatten.hw.control.plan.block_walker import BlockWalker
from spatten.hw.control.plan.plan_layouts import block_issue, kept_ids, ring_grant, ring_request
from spatten.hw.control.plan.pruned_walker import PrunedWalker
from spatten.hw.lib.connections import optional
from spatten.hw.memory.address_generator import VALUE
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature

__all__ = ["ValueWalker"]


class ValueWalker(wiring.Component):
    """Takes the value blocks of all jobs, one after the other, as soon as there is space; and those of pruned rows.

    Blocks of pruned rows go first; but a request once made stays until it is taken.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, as of `hw.control.planner.Planner`
    kept_valid, kept, kept_taken : in, as of `hw.control.plan.pruned_walker.PrunedWalker`; like `o_pruned` only with
        local pruning
    o_request, i_grant : streams of `ring_request` and `ring_grant`, to and from the value ring's block table
    o_value, o_pruned : streams of entries, each block once it has its space: of whole heads, and of pruned rows
    o : stream of `block_issue`, the same block for its issuer, offered and taken together with one of these

    One request at a time: the table takes no other one before its grant. Whoever takes `o_value` or `o_pruned` stays
    ready until a block comes, or `o` would take back its offer. Combinational from `i_grant` to `o`, `o_value` and
    `o_pruned`, and from their `ready` to each other's `valid` and to that of `i_grant`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._prunes = config.has(Feature.PRUNE_VALUES)
        jobs = config.jobs_in_flight
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), jobs)),
                "started": In(range(2 * jobs)),
                **optional(self._prunes, kept_valid=In(1), kept=In(kept_ids(config)), kept_taken=In(1)),
                "o_request": Out(stream.Signature(ring_request(config, VALUE))),
                "i_grant": In(stream.Signature(ring_grant(config, VALUE))),
                "o_value": Out(stream.Signature(entry_shape(config.blocks))),
                **optional(self._prunes, o_pruned=Out(stream.Signature(entry_shape(config.blocks)))),
                "o": Out(stream.Signature(block_issue(config, VALUE))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.walker = walker = BlockWalker(config=config, ring=VALUE)
        m.submodules.plan = plan = BlockPlan(config=config, ring=VALUE)
        if self._prunes:
            m.submodules.pruned = pruned = PrunedWalker(config=config)
        job, request, grant = walker.job, self.o_request, self.i_grant
        grants = grant.valid & grant.ready
        is_pruned = Signal()
        if self._prunes:
            with m.If(request.valid & request.ready):
                m.d.sync += is_pruned.eq(pruned.asks)
        m.d.comb += [
            walker.slots.eq(self.slots),
            walker.started.eq(self.started),
            walker.serves_two.eq(walker.format.paired & ~walker.head[0] & walker.has_partner),
            walker.accepts.eq(request.ready),
            walker.granted.eq(grants & ~is_pruned if self._prunes else grants),
        ]
        if self._prunes:
            m.d.comb += [walker.yields.eq(pruned.asks), walker.pruned_left.eq(pruned.rows_left)]
        m.d.comb += [
            plan.job.eq(job),
            plan.block.eq(walker.format),
            plan.head.eq(walker.head),
            plan.rows.eq(job.reach),
        ]
        head_uses = Mux(walker.serves_two, job.rows << 1, job.rows)
        if not self._prunes:
            self._pass_on(m, walker, plan, head_uses)
            return m
        m.d.comb += [
            pruned.slots.eq(self.slots),
            pruned.started.eq(self.started),
            pruned.kept_valid.eq(self.kept_valid),
            pruned.kept.eq(self.kept),
            pruned.kept_taken.eq(self.kept_taken),
            pruned.walk_waits.eq(walker.waits),
            pruned.accepts.eq(request.ready),
            pruned.granted.eq(grants & is_pruned),
            pruned.walked_slot.eq(walker.slot),
        ]
        out_ready = Mux(is_pruned, self.o_pruned.ready, self.o_value.ready)
        m.d.comb += [
            request.valid.eq(walker.asks | pruned.asks),
            request.payload.uses.eq(Mux(pruned.asks, 1, head_uses)),
            request.payload.size.eq(Mux(pruned.asks, pruned.size, plan.size)),
            self.o.valid.eq(grant.valid & out_ready),
            grant.ready.eq(self.o.ready & out_ready),
            self.o_pruned.valid.eq(grant.valid & self.o.ready & is_pruned),
            self.o_pruned.payload.eq(grant.payload.entry),
            self.o_value.valid.eq(grant.valid & self.o.ready & ~is_pruned),
            self.o_value.payload.eq(grant.payload.entry),
        ]
        issue = self.o.payload
        m.d.comb += [
            issue.slot.eq(Mux(is_pruned, pruned.slot, walker.slot)),
            issue.entry.eq(grant.payload.entry),
            issue.place.eq(grant.payload.base),
            issue.stride.eq(Mux(is_pruned, pruned.stride, walker.format.stride)),
            issue.count.eq(Mux(is_pruned, pruned.count, job.reach)),
            issue.dense.eq(job.dense),
            issue.kept.eq(is_pruned),
            issue.order.eq((walker.order << 1) + 3),
            Value.cast(issue.fetch).eq(Mux(is_pruned, Value.cast(pruned.fetches), Value.cast(plan.fetches))),
        ]
        return m

    def _pass_on(self, m: Module, walker: BlockWalker, plan: BlockPlan, head_uses: Value) -> None:
        """Without local pruning: all blocks are those of whole heads."""
        job, request, grant, issue = walker.job, self.o_request, self.i_grant, self.o.payload
        m.d.comb += [
            request.valid.eq(walker.asks),
            request.payload.uses.eq(head_uses),
            request.payload.size.eq(plan.size),
            self.o.valid.eq(grant.valid & self.o_value.ready),
            grant.ready.eq(self.o.ready & self.o_value.ready),
            self.o_value.valid.eq(grant.valid & self.o.ready),
            self.o_value.payload.eq(grant.payload.entry),
            issue.slot.eq(walker.slot),
            issue.entry.eq(grant.payload.entry),
            issue.place.eq(grant.payload.base),
            issue.stride.eq(walker.format.stride),
            issue.count.eq(job.reach),
            issue.dense.eq(job.dense),
            issue.order.eq((walker.order << 1) + 3),
            Value.cast(issue.fetch).eq(Value.cast(plan.fetches)),
        ]
