"""Testbench of hw/control/plan/block_walker.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.block_walker import BlockWalker
from spatten.hw.memory.address_generator import QUERY, VALUE
from spatten.sim.verify.benches.planner_jobs import (
    JobFeed,
    Walk,
    block_format,
    format_code,
    query_plane,
)
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
RING: int = PARAMETERS["ring"]
WALKER = BlockWalker(config=CONFIG, ring=RING)
JOBS = CONFIG.jobs_in_flight


class Walker(Twin):
    """Random jobs, whose requests and grants are late by chance; `Walk` says when which block is wanted."""

    goals = {"jobs": 25, "late request": 50, "late grant": 50, "job waits": 5}
    goals |= {"chunks": 20} if RING == QUERY else {"two heads": 10}
    if RING == VALUE:
        goals |= {"pruned job": 5, "yields": 20}

    def reset(self) -> None:
        self.feed = JobFeed(self.source, CONFIG, rate=0.05)
        self.walk = Walk(CONFIG, RING)
        self.was_refused = False

    def inputs(self) -> Values:
        walk = self.walk
        given: dict[str, Any] = self.feed.inputs()
        self.saw("job waits", self.feed.count - walk.taken > 1)
        self.accepts = self.granted = self.yields = False
        self.pruned_left = self.source.choice([0, 1, 2])
        if RING == VALUE:
            given["yields"] = self.yields = self.source.random() < 0.2
            if walk.pruned and not walk.delay:
                given["pruned_left"] = self.pruned_left
        if walk.wants:
            given["accepts"] = self.accepts = self.source.random() < 0.5
        elif walk.stands:
            given["granted"] = self.granted = self.source.random() < 0.3
            if self.granted and RING != QUERY:
                given["serves_two"] = len(walk.block.heads) == 2
        return given

    def outputs(self) -> Values:
        walk = self.walk
        wanted: dict[str, Any] = {"asks": walk.wants and not self.yields}
        if RING == VALUE:
            wanted["waits"] = self.was_refused
        if not walk.stands:
            return wanted
        block, job = walk.block, self.feed.record(walk.taken)
        wanted |= {
            "slot": walk.taken % JOBS,
            "job": job,
            "head": block.head,
            "order": block.order % 256,
            "format": query_plane(job) if RING == QUERY else format_code(block_format(CONFIG, job, RING)),
        }
        if RING == QUERY:
            wanted |= {"rank": block.first_rank, "count": block.rows, "sector": block.fetches[0]["sector"]}
        else:
            wanted["has_partner"] = block.head | 1 in walk.left_heads()
        return wanted

    def clock(self) -> None:
        walk = self.walk
        asks = walk.wants and not self.yields
        self.was_refused = asks and not self.accepts
        self.saw("late request", self.was_refused)
        self.saw("late grant", walk.stands and walk.is_asked and not self.granted)
        self.saw("yields", walk.wants and self.yields)
        if self.granted:
            self.saw("chunks", walk.block.rows < self.feed.record(walk.taken)["rows"])
            self.saw("two heads", len(walk.block.heads) == 2)
        was_pruned, taken = walk.pruned, walk.taken
        walk.clock(self.feed, accepts=asks and self.accepts, granted=self.granted, pruned_left=self.pruned_left)
        self.saw("pruned job", was_pruned and not walk.pruned)
        if walk.taken != taken:
            self.saw("jobs")
            self.feed.end()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_wants_the_blocks_of_all_jobs(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, Walker, seed=seed, cycles=PARAMETERS["cycles"])
