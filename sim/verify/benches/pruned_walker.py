"""Testbench of hw/control/plan/pruned_walker.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.pruned_walker import PrunedWalker
from spatten.sim.verify.benches.planner_jobs import JobFeed, KeptIds, PrunedWalk, pruned_rows
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
WALKER = PrunedWalker(config=CONFIG)
JOBS = CONFIG.jobs_in_flight


class Rows(Twin):
    """Jobs whose rows' ids come and are taken by chance; `PrunedWalk` says when which block is wanted."""

    goals = {"rows": 60, "jobs": 20, "refused": 20, "other request": 20, "late grant": 20, "fewer tokens": 10}

    def reset(self) -> None:
        self.feed = JobFeed(self.source, CONFIG, rate=0.2, prunes=True)
        self.kept = KeptIds(self.source, CONFIG, self.feed)
        self.walk = PrunedWalk(CONFIG)

    def inputs(self) -> Values:
        walk = self.walk
        given: dict[str, Any] = self.feed.inputs()
        shown = self.kept.show(self.feed.count)
        self.takes = shown is not None and walk.is_granted and self.source.random() < 0.5
        self.walk_waits = self.source.random() < 0.2
        self.accepts = self.source.random() < 0.5
        self.granted = walk.stands and walk.is_asked and self.source.random() < 0.4
        self.walked = self.source.choice(sorted(walk.left)[-JOBS:] or [0])
        given |= {
            "kept_valid": shown is not None,
            "kept": shown,
            "kept_taken": self.takes,
            "walk_waits": self.walk_waits,
            "granted": self.granted,
            "walked_slot": self.walked % JOBS,
        }
        if walk.wants:
            given["accepts"] = self.accepts
        return given

    def outputs(self) -> Values:
        walk = self.walk
        wanted: dict[str, Any] = {"asks": walk.wants and not self.walk_waits}
        if self.walked in walk.left and self.walked + JOBS >= self.feed.count:
            wanted["rows_left"] = walk.left[self.walked]
        if walk.stands:
            block = walk.block
            wanted |= {
                "slot": walk.number % JOBS,
                "count": block.rows,
                "size": block.size,
                "stride": block.stride,
                "fetches": [{**fetch, "other": None} for fetch in block.fetches],
            }
        return wanted

    def clock(self) -> None:
        walk, kept = self.walk, self.kept
        asks = walk.wants and not self.walk_waits
        self.saw("refused", asks and not self.accepts)
        self.saw("other request", walk.wants and self.walk_waits)
        self.saw("late grant", walk.is_asked and walk.stands and not self.granted)
        if self.granted:
            job = self.feed.record(walk.number)
            self.saw("rows")
            self.saw("fewer tokens", pruned_rows(CONFIG, job) < job["keep_values"])
        ends = self.takes and kept.shown is not None and bool(kept.shown["last"])
        walk.clock(
            self.feed,
            kept=kept.shown,
            number=kept.job,
            accepts=asks and self.accepts,
            granted=self.granted,
            ends=ends,
        )
        if self.takes:
            kept.take()
        if self.feed.ended < kept.job:
            self.saw("jobs")
            self.feed.end()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def each_row_gets_its_block(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, Rows, seed=seed, cycles=PARAMETERS["cycles"])
