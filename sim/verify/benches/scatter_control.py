"""Testbench of hw/datapath/tokens/scatter_control.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.scatter_control import ScatterControl
from spatten.hw.datapath.tokens.token_layouts import AGE_BITS
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
CONTROL = ScatterControl(layouts=LAYOUTS)
LANES = LAYOUTS.lanes
BEGINS = 3
"""Cycles from a command to `begins`."""


class Scatters(Twin):
    """A command and its steps, by the cycles since it was taken and by the names of the steps that follow."""

    goals = {
        "offered and written": 20,
        "nobody to prune": 3,
        "no pruning": 20,
        "ragged last row": 20,
        "full last row": 5,
        "all lines, cleared": 5,
        "all lines, aged": 20,
        "lines of the job": 5,
        "saturated": 20,
        "stalled report": 20,
    }

    def reset(self) -> None:
        self.step = "idle"
        self.age = 0
        self.saturated = 0

    def _job(self) -> dict[str, int]:
        source = self.source
        return {
            "context": source.randrange(LAYOUTS.contexts),
            "lines": source.randint(1, LAYOUTS.lines),
            "clear": source.random() < 0.2,
            "age_shift": source.choice([0, 0, 1, 1 << AGE_BITS - 1, source.randrange(1 << AGE_BITS)]),
            "live": source.choice([0, 1, LANES, 2 * LANES, LAYOUTS.tokens, source.randint(0, LAYOUTS.tokens)]),
        }

    def inputs(self) -> Values:
        source = self.source
        given: dict[str, Any] = {
            "i_scatter": {"valid": 0},
            "o_scattered": {"ready": source.random() < 0.5},
            "offered": self.step == "offers" and source.random() < 0.3,
            "written": self.step == "writes" and source.random() < 0.2,
            "saturates": self.step == "writes" and source.random() < 0.3,
        }
        if source.random() < 0.5:
            if self.step == "idle":
                self.command = {"slot": source.randrange(LAYOUTS.slots), "prune": source.random() < 0.6}
                self.job = self._job()
                given["i_scatter"] = {"valid": 1, "payload": self.command}
            else:
                # The next command waits.
                given["i_scatter"] = {"valid": 1}
        if self.step == "prepares" and self.age == 1:
            given["i_job"] = self.job
        if given["saturates"]:
            given["saturated_count"] = source.randint(1, min(LANES, max(1, self.job["live"])))
        self.given = given
        return given

    def outputs(self) -> Values:
        is_working = self.step != "idle"
        wanted: dict[str, Any] = {
            "i_scatter": {"ready": not is_working},
            "begins": self.step == "prepares" and self.age == BEGINS,
            "offers": self.step == "offers",
            "writes": self.step == "writes",
            "o_scattered": {"valid": self.step == "reports"},
            "ends": self.step == "reports" and self.given["o_scattered"]["ready"],
        }
        if is_working:
            wanted |= {"slot": self.command["slot"], "prunes": self.command["prune"]}
        if is_working and (self.step != "prepares" or self.age == BEGINS):
            live = self.job["live"]
            rows = [min(LANES, live - first) for first in range(0, live, LANES)]
            is_whole = self.job["clear"] or self.job["age_shift"]
            wanted |= {"job": self.job, "rows": len(rows), "lines": LAYOUTS.lines if is_whole else self.job["lines"]}
            if rows:
                wanted["last_count"] = rows[-1]
        if self.step == "reports":
            saturated = self.saturated % (1 << LAYOUTS.tokens.bit_length())
            wanted["o_scattered"]["payload"] = {"slot": self.command["slot"], "saturated": saturated}
        return wanted

    def clock(self) -> None:
        self.age += 1
        if self.given["saturates"]:
            self.saturated += self.given["saturated_count"]
        if self.step == "idle" and self.given["i_scatter"]["valid"]:
            self.step, self.age, self.saturated = "prepares", 1, 0
        elif self.step == "prepares" and self.age == BEGINS + 1:
            offers = self.command["prune"] and self.job["live"]
            self.step = "offers" if offers else "writes"
            self._count(bool(offers))
        elif self.given["offered"]:
            self.step = "writes"
            self.saw("offered and written")
        elif self.given["written"]:
            self.step = "reports"
            self.saw("saturated", self.saturated)
        elif self.step == "reports" and self.given["o_scattered"]["ready"]:
            self.step = "idle"
        elif self.step == "reports":
            self.saw("stalled report")

    def _count(self, offers: bool) -> None:
        job = self.job
        self.saw("nobody to prune", self.command["prune"] and not job["live"])
        self.saw("no pruning", not self.command["prune"])
        self.saw("ragged last row", offers and job["live"] % LANES)
        self.saw("full last row", offers and not job["live"] % LANES)
        self.saw("all lines, cleared", job["clear"] and not job["age_shift"])
        self.saw("all lines, aged", not job["clear"] and job["age_shift"])
        self.saw("lines of the job", not job["clear"] and not job["age_shift"])


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def a_job_ends_step_by_step(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, CONTROL, Scatters, seed=seed, cycles=PARAMETERS["cycles"])
