"""Takes space in the key ring for block after block, and hands each to its issuer."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.block_plan import BlockPlan
from spatten.hw.control.plan.block_walker import BlockWalker
from spatten.hw.control.plan.plan_layouts import block_issue, ring_grant, ring_request
from spatten.hw.memory.address_generator import KEY
from spatten.spec.config import Config

__all__ = ["KeyWalker"]


class KeyWalker(wiring.Component):
    """Takes the key blocks of all jobs, one after the other, as soon as there is space.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, as of `hw.control.planner.Planner`
    o_request, i_grant : streams of `ring_request` and `ring_grant`, to and from the key ring's block table
    o_key : stream of `ring_grant`, each block once it has its space
    o : stream of `block_issue`, the same block for its issuer; both are offered together, and go together

    One request at a time: the table takes no other one before its grant. Whoever takes `o_key` stays ready until a
    block comes, or `o` would take back its offer. Combinational from `i_grant` to `o` and `o_key`, and from their
    `ready` to each other's `valid` and to that of `i_grant`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        jobs = config.jobs_in_flight
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), jobs)),
                "started": In(range(2 * jobs)),
                "o_request": Out(stream.Signature(ring_request(config, KEY))),
                "i_grant": In(stream.Signature(ring_grant(config, KEY))),
                "o_key": Out(stream.Signature(ring_grant(config, KEY))),
                "o": Out(stream.Signature(block_issue(config, KEY))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.walker = walker = BlockWalker(config=self.config, ring=KEY)
        m.submodules.plan = plan = BlockPlan(config=self.config, ring=KEY)
        job, block, grant = walker.job, walker.format, self.i_grant
        m.d.comb += [
            walker.slots.eq(self.slots),
            walker.started.eq(self.started),
            walker.serves_two.eq(block.paired & walker.has_partner & ~walker.head[0]),
            walker.accepts.eq(self.o_request.ready),
            walker.granted.eq(grant.valid & grant.ready),
            plan.job.eq(job),
            plan.block.eq(block),
            plan.head.eq(walker.head),
            plan.live_heads.eq(job.live_heads),
            plan.rows.eq(job.reach),
            self.o_request.valid.eq(walker.asks),
            self.o_request.payload.uses.eq(1),
            self.o_request.payload.size.eq(plan.size),
            self.o.valid.eq(grant.valid & self.o_key.ready),
            self.o_key.valid.eq(grant.valid & self.o.ready),
            grant.ready.eq(self.o.ready & self.o_key.ready),
            self.o_key.payload.eq(grant.payload),
        ]
        issue = self.o.payload
        m.d.comb += [
            issue.slot.eq(walker.slot),
            issue.entry.eq(grant.payload.entry),
            issue.place.eq(grant.payload.base),
            issue.stride.eq(block.stride),
            issue.count.eq(job.reach),
            issue.dense.eq(job.dense),
            issue.passes.eq(plan.passes),
            issue.fetch.eq(plan.fetches),
            issue.order.eq(walker.order << 1),
        ]
        return m
