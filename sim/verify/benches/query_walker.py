"""Testbench of hw/control/plan/query_walker.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.query_walker import QueryWalker
from spatten.hw.memory.address_generator import QUERY
from spatten.sim.verify.benches.planner_jobs import Grants, JobFeed, Walk, issue_of
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
WALKER = QueryWalker(config=CONFIG)


class Queries(Twin):
    """Random jobs and members, a block table that is late by chance, and neighbours that take a block when they like.

    `asking` is whose request stands, from the cycle in which it is made until it is taken, and `granting` whose block
    is owed.
    """

    goals = {"chunks": 60, "jobs": 10, "members": 40, "members first": 10, "members wait": 5, "job begins inside": 5}

    def reset(self) -> None:
        self.feed = JobFeed(self.source, CONFIG)
        self.walk = Walk(CONFIG, QUERY)
        self.grants = Grants(self.source, CONFIG, QUERY)
        self.members: dict[str, int] | None = None
        self.asking = self.granting = ""
        self.asked: dict[str, int] = {}

    def inputs(self) -> Values:
        source = self.source
        if self.members is None and source.random() < 0.05:
            self.members = {
                "sector": source.getrandbits(CONFIG.sector_bits),
                "sectors": source.randint(1, 4),
                "rows": source.randint(1, CONFIG.topk_lanes),
            }
        self.ready = {name: source.random() < 0.6 for name in ("o", "o_members", "o_query")}
        given = {**self.feed.inputs(), **self.grants.inputs()}
        if not self.asking:
            self.asking = "members" if self.members is not None else "query" if self.walk.wants else ""
        return {
            **given,
            "i_members": {"valid": self.members is not None, "payload": self.members},
            **{name: {"ready": ready} for name, ready in self.ready.items()},
        }

    def outputs(self) -> Values:
        grant, block = self.grants.shown, f"o_{self.granting}"
        goes = grant is not None and self.ready["o"] and self.ready[block]
        wanted: dict[str, Any] = {
            "o_request": {"valid": bool(self.asking)},
            "i_members": {"ready": self.asking == "members" and self.grants.ready},
            "o": {"valid": grant is not None and self.ready[block]},
            "o_members": {"valid": grant is not None and self.granting == "members" and self.ready["o"]},
            "o_query": {"valid": grant is not None and self.granting == "query" and self.ready["o"]},
        }
        if self.asking == "members":
            assert self.members is not None
            size = self.members["sectors"] * self.members["rows"]
            wanted["o_request"]["payload"] = {"size": size, "uses": 1}
        elif self.asking:
            wanted["o_request"]["payload"] = {"size": self.walk.block.size, "uses": 1}
        if grant is not None:
            wanted["i_grant"] = {"ready": goes}
            wanted[block]["payload"] = grant
            wanted["o"]["payload"] = {**self.issue(), "entry": grant["entry"], "place": grant["base"], "kept": 0}
        return wanted

    def issue(self) -> dict[str, Any]:
        """What the issuer is told of the block that is owed."""
        if self.granting == "members":
            sectors = self.asked["sectors"]
            fetch = {"sector": self.asked["sector"], "pitch": sectors, "sectors": sectors, "place": 0, "other": 1}
            return {
                "stride": sectors,
                "first_row": 0,
                "skip": 0,
                "count": self.asked["rows"],
                "dense": 1,
                "fetch": [fetch, None, None],
            }
        return {
            **issue_of(self.walk.block, lanes=CONFIG.topk_lanes),
            "slot": self.walk.taken % CONFIG.jobs_in_flight,
            "dense": self.feed.record(self.walk.taken)["dense"],
            "order": (2 * self.walk.block.order - 1) % 256,
        }

    def clock(self) -> None:
        walk, grants, asking = self.walk, self.grants, self.asking
        granted = grants.shown is not None and self.ready["o"] and self.ready[f"o_{self.granting}"]
        is_taken = bool(asking) and grants.ready
        self.saw("members first", asking == "members" and walk.wants)
        self.saw("members wait", asking == "query" and self.members is not None)
        if granted and self.granting == "query":
            self.saw("chunks")
            self.saw("job begins inside", walk.block.first_rank % CONFIG.topk_lanes)
        self.saw("members", granted and self.granting == "members")
        walk.clock(
            self.feed,
            accepts=asking == "query" and is_taken,
            granted=granted and self.granting == "query",
        )
        grants.clock(asked=bool(asking), granted=granted)
        if is_taken:
            if asking == "members":
                assert self.members is not None
                self.asked, self.members = self.members, None
            self.granting, self.asking = asking, ""
        if walk.taken > self.feed.ended:
            self.saw("jobs")
            self.feed.end()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_takes_every_chunk_and_all_members(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, Queries, seed=seed, cycles=PARAMETERS["cycles"])
