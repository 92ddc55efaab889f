"""Testbench of hw/control/plan/key_walker.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.key_walker import KeyWalker
from spatten.hw.memory.address_generator import KEY
from spatten.sim.verify.benches.planner_jobs import Grants, JobFeed, Walk, issue_of
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
WALKER = KeyWalker(config=CONFIG)


class Keys(Twin):
    """Random jobs, a block table that is late by chance, and neighbours that take a block when they like."""

    goals = {"blocks": 60, "jobs": 25, "two heads": 10, "one of two heads": 5, "both stall": 10, "three fetches": 2}
    goals |= {"issuer stalls": 10, "row control stalls": 10}

    def reset(self) -> None:
        self.feed = JobFeed(self.source, CONFIG)
        self.walk = Walk(CONFIG, KEY)
        self.grants = Grants(self.source, CONFIG, KEY)

    def inputs(self) -> Values:
        self.ready = [self.source.random() < 0.6 for _ in range(2)]
        return {
            **self.feed.inputs(),
            **self.grants.inputs(),
            "o": {"ready": self.ready[0]},
            "o_key": {"ready": self.ready[1]},
        }

    def outputs(self) -> Values:
        walk, grant = self.walk, self.grants.shown
        wanted: dict[str, Any] = {
            "o_request": {"valid": walk.wants},
            "i_grant": {"ready": all(self.ready)},
            "o": {"valid": grant is not None and self.ready[1]},
            "o_key": {"valid": grant is not None and self.ready[0]},
        }
        if walk.wants:
            wanted["o_request"]["payload"] = {"size": walk.block.size, "uses": 1}
        if grant is not None:
            wanted["o_key"]["payload"] = grant
            wanted["o"]["payload"] = {
                **issue_of(walk.block, lanes=CONFIG.topk_lanes),
                "slot": walk.taken % CONFIG.jobs_in_flight,
                "entry": grant["entry"],
                "place": grant["base"],
                "dense": self.feed.record(walk.taken)["dense"],
                "kept": 0,
                "order": 2 * walk.block.order % 256,
            }
        return wanted

    def clock(self) -> None:
        walk, grants = self.walk, self.grants
        granted = grants.shown is not None and all(self.ready)
        if grants.shown is not None:
            self.saw("both stall", not any(self.ready))
            self.saw("issuer stalls", self.ready == [False, True])
            self.saw("row control stalls", self.ready == [True, False])
        if granted:
            self.saw("blocks")
            self.saw("two heads", len(walk.block.heads) == 2)
            self.saw("three fetches", len(walk.block.fetches) == 3)
            self.saw("one of two heads", len(walk.block.heads) == 1 and walk.block.fetches[0]["pitch"] % 2)
        asks = walk.wants
        walk.clock(self.feed, accepts=asks and grants.ready, granted=granted)
        grants.clock(asked=asks, granted=granted)
        if walk.taken > self.feed.ended:
            self.saw("jobs")
            self.feed.end()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_takes_every_key_block(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, Keys, seed=seed, cycles=PARAMETERS["cycles"])
