"""Testbench of hw/datapath/tokens/token_jobs.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.token_jobs import TokenJobs
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
JOBS = TokenJobs(layouts=LAYOUTS)
ANY_JOB = Anything(LAYOUTS.job)


class Book(Twin):
    """Sets of what is taken. A job begins with any context and slot, of which the other may still be taken."""

    goals = {"all slots taken": 20, "no slot taken": 20, "begin beside an end": 50, "job of a slot": 200}

    def reset(self) -> None:
        self.contexts: set[int] = set()
        self.slots: set[int] = set()
        self.jobs: dict[int, dict[str, Any]] = {}

    def inputs(self) -> Values:
        source = self.source
        self.ends = source.random() < 0.35
        self.end_context, self.scatter_slot = source.randrange(LAYOUTS.contexts), source.randrange(LAYOUTS.slots)
        self.begin_context, self.begin_slot = source.randrange(LAYOUTS.contexts), source.randrange(LAYOUTS.slots)
        meets = self.ends and (self.begin_context == self.end_context or self.begin_slot == self.scatter_slot)
        self.begins = not meets and source.random() < 0.7
        self.gathered = source.random() < 0.5
        self.gathered_slot = source.randrange(LAYOUTS.slots)
        self.gathered_job = ANY_JOB(source)
        given: dict[str, Any] = {
            "begins": self.begins,
            "gathered": self.gathered,
            "ends": self.ends,
            "scatter_slot": self.scatter_slot,
        }
        if self.begins:
            given |= {"begin_context": self.begin_context, "begin_slot": self.begin_slot}
        if self.gathered:
            given |= {"gathered_slot": self.gathered_slot, "gathered_job": self.gathered_job}
        if self.ends:
            given |= {"end_context": self.end_context}
        return given

    def outputs(self) -> Values:
        return {
            "taken_contexts": sum(1 << context for context in self.contexts),
            "taken_slots": sum(1 << slot for slot in self.slots),
            "scatter_job": self.jobs.get(self.scatter_slot),
        }

    def clock(self) -> None:
        self.saw("all slots taken", len(self.slots) == LAYOUTS.slots)
        self.saw("no slot taken", not self.slots)
        self.saw("begin beside an end", self.begins and self.ends)
        self.saw("job of a slot", self.scatter_slot in self.jobs)
        if self.begins:
            self.contexts.add(self.begin_context)
            self.slots.add(self.begin_slot)
        if self.gathered:
            self.jobs[self.gathered_slot] = self.gathered_job
        if self.ends:
            self.contexts.discard(self.end_context)
            self.slots.discard(self.scatter_slot)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def jobs_are_remembered(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, JOBS, Book, seed=seed, cycles=PARAMETERS["cycles"])
