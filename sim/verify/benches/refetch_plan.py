"""Testbench of hw/control/plan/refetch_plan.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.refetch_plan import RefetchPlan
from spatten.hw.datapath.progressive import Kind
from spatten.sim.verify.benches.planner_jobs import flat_fetches, flat_format, live_heads, random_job
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
PLAN = RefetchPlan(config=CONFIG)
JOBS = CONFIG.jobs_in_flight


class Plan(Twin):
    """A row after the other stands for some cycles; in one of them its format is looked up."""

    goals = {"rows": 200, "LSBs": 50, "both planes": 50, "three fetches": 20, "two of three": 20, "late": 20}

    def reset(self) -> None:
        self.begin()

    def begin(self) -> None:
        """The next row stands, of one of the jobs."""
        source = self.source
        self.jobs = [random_job(source, CONFIG) for _ in range(JOBS)]
        self.slot = source.randrange(JOBS)
        self.job = self.jobs[self.slot]
        self.head = source.choice(live_heads(self.job))
        self.kind = source.choice([Kind.SINGLE, Kind.SECOND])
        self.age = 0
        """Cycles for which the row has stood."""
        self.loaded = source.randint(2, 4)
        """Age at which the format is looked up."""
        self.end = self.loaded + source.randint(3, 5)

    def inputs(self) -> Values:
        header = {"slot": self.slot, "head": self.head}
        return {
            "slots": self.jobs,
            "row": {"kind": self.kind, "header": header},
            "loads": self.age == self.loaded,
        }

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {}
        layout = flat_format(CONFIG, self.job, self.kind)
        if self.age >= 1:
            wanted["job"] = self.job
        if self.age > self.loaded:
            wanted["stride"] = layout.stride
        if self.age > self.loaded + 1:
            fetches = flat_fetches(CONFIG, self.job, self.kind, self.head)
            wanted["needed"] = sum(1 << number for number in fetches)
            wanted["fetches"] = [fetches.get(number) for number in range(len(PLAN.fetches))]
            if self.age == self.loaded + 2:
                self.saw("rows")
                self.saw("late", self.loaded > 2)
                self.saw("LSBs", self.kind == Kind.SECOND)
                self.saw("both planes", self.kind == Kind.SINGLE)
                self.saw("three fetches", len(fetches) == 3)
                self.saw("two of three", len(layout.fetches) == 3 and len(fetches) == 2)
        return wanted

    def clock(self) -> None:
        self.age += 1
        if self.age == self.end:
            self.begin()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_says_where_the_keys_of_a_flat_row_lie(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, PLAN, Plan, seed=seed, cycles=PARAMETERS["cycles"])
