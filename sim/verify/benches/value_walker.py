"""Testbench of hw/control/plan/value_walker.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.value_walker import ValueWalker
from spatten.hw.memory.address_generator import VALUE
from spatten.sim.verify.benches.planner_jobs import Block, Grants, JobFeed, KeptIds, PrunedWalk, Walk, issue_of
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
WALKER = ValueWalker(config=CONFIG)
JOBS = CONFIG.jobs_in_flight


class ValueBlocks(Twin):
    """Random jobs, whose pruned rows' ids come when all blocks of earlier jobs have been granted.

    `asking` is whose request stands, from the cycle in which it is made until it is taken, and `granting` whose block
    is owed: "value" for a whole head's, "pruned" for a pruned row's.
    """

    goals = {"heads": 40, "jobs": 20, "two heads": 5, "pruned rows": 30, "pruned jobs": 8, "pruned job waits": 30}

    def reset(self) -> None:
        self.feed = JobFeed(self.source, CONFIG)
        self.walk = Walk(CONFIG, VALUE)
        self.kept = KeptIds(self.source, CONFIG, self.feed, rate=0.6)
        self.pruned = PrunedWalk(CONFIG)
        self.grants = Grants(self.source, CONFIG, VALUE)
        self.asking = self.granting = ""

    def inputs(self) -> Values:
        given = {**self.feed.inputs(), **self.grants.inputs()}
        shown = self.kept.show(min(self.walk.taken + 1, self.feed.count))
        self.takes = shown is not None and self.pruned.is_granted and self.source.random() < 0.6
        self.ready = {name: self.source.random() < 0.6 for name in ("o", "o_value", "o_pruned")}
        if not self.asking:
            self.asking = "pruned" if self.pruned.wants else "value" if self.walk.wants else ""
        return {
            **given,
            "kept_valid": shown is not None,
            "kept": shown,
            "kept_taken": self.takes,
            **{name: {"ready": ready} for name, ready in self.ready.items()},
        }

    def block(self, kind: str) -> Block:
        return self.pruned.block if kind == "pruned" else self.walk.block

    def outputs(self) -> Values:
        grant, granting = self.grants.shown, f"o_{self.granting}"
        wanted: dict[str, Any] = {
            "o_request": {"valid": bool(self.asking)},
            "o": {"valid": grant is not None and self.ready[granting]},
            "o_value": {"valid": grant is not None and self.granting == "value" and self.ready["o"]},
            "o_pruned": {"valid": grant is not None and self.granting == "pruned" and self.ready["o"]},
        }
        if self.asking:
            block = self.block(self.asking)
            wanted["o_request"]["payload"] = {"size": block.size, "uses": block.uses}
        if grant is not None:
            wanted["i_grant"] = {"ready": self.ready["o"] and self.ready[granting]}
            wanted[granting]["payload"] = grant["entry"]
            wanted["o"]["payload"] = {**self.issue(), "entry": grant["entry"], "place": grant["base"]}
        return wanted

    def issue(self) -> dict[str, Any]:
        """What the issuer is told of the block that is owed."""
        block = self.block(self.granting)
        issue = issue_of(block, lanes=CONFIG.topk_lanes)
        fetches = [fetch and {**fetch, "other": None} for fetch in issue["fetch"]]
        issue |= {"fetch": fetches, "kept": self.granting == "pruned"}
        if self.granting == "pruned":
            return issue | {"slot": self.pruned.number % JOBS}
        return issue | {
            "slot": self.walk.taken % JOBS,
            "dense": self.feed.record(self.walk.taken)["dense"],
            "order": (2 * block.order + 3) % 256,
        }

    def clock(self) -> None:
        walk, pruned, kept, grants, asking = self.walk, self.pruned, self.kept, self.grants, self.asking
        granted = grants.shown is not None and self.ready["o"] and self.ready[f"o_{self.granting}"]
        is_taken = bool(asking) and grants.ready
        self.saw("heads", granted and self.granting == "value")
        self.saw("two heads", granted and self.granting == "value" and len(walk.block.heads) == 2)
        self.saw("pruned rows", granted and self.granting == "pruned")
        was_pruned = walk.pruned
        left = pruned.left.get(walk.taken, 0)
        self.saw("pruned job waits", was_pruned and left)
        walk.clock(
            self.feed,
            accepts=asking == "value" and is_taken,
            granted=granted and self.granting == "value",
            pruned_left=left,
        )
        self.saw("pruned jobs", was_pruned and not walk.pruned)
        pruned.clock(
            self.feed,
            kept=kept.shown,
            number=kept.job,
            accepts=asking == "pruned" and is_taken,
            granted=granted and self.granting == "pruned",
            ends=self.takes and kept.shown is not None and bool(kept.shown["last"]),
        )
        grants.clock(asked=bool(asking), granted=granted)
        if self.takes:
            kept.take()
        if is_taken:
            self.granting, self.asking = asking, ""
        if self.feed.ended < min(walk.taken, kept.job):
            self.saw("jobs")
            self.feed.end()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_takes_every_value_block(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, ValueBlocks, seed=seed, cycles=PARAMETERS["cycles"])
