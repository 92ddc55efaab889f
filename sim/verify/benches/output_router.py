"""Testbench of hw/control/output_router.py; tests/hw/control/test_routers.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.output_router import OutputRouter
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
ROUTER = OutputRouter(config=CONFIG)
ANY_BEAT = Anything(ROUTER.i.payload.shape())
JOB = ("heads", "output", "context", "multiplier")
"""Of a job's record what goes with its rows."""
ANY_JOB = Anything(ROUTER.slots[0].shape())


class Fork(Twin):
    """Each beat, with what belongs to it of its job, to both takers in one cycle."""

    goals = {"taken": 200, "packer stalls": 100, "importance stalls": 100, "weighs nothing": 50, "written": 50}

    def reset(self) -> None:
        self.beat: dict[str, Any] | None = None

    def inputs(self) -> Values:
        if self.beat is None and self.source.random() < 0.8:
            self.beat = ANY_BEAT(self.source)
            self.beat["header"]["slot"] %= CONFIG.jobs_in_flight
        self.jobs = [{name: ANY_JOB(self.source)[name] for name in JOB} for _ in range(CONFIG.jobs_in_flight)]
        self.placed_ready, self.weighted_ready = self.source.random() < 0.7, self.source.random() < 0.7
        return {
            "i": {"valid": self.beat is not None, "payload": self.beat},
            "slots": self.jobs,
            "o_placed": {"ready": self.placed_ready},
            "o_weighted": {"ready": self.weighted_ready},
        }

    def outputs(self) -> Values:
        if self.beat is None:
            return {"o_placed": {"valid": 0}, "o_weighted": {"valid": 0}, "row_written": {"valid": 0}, "saturated": 0}
        beat, row = self.beat, self.beat["header"]
        job = self.jobs[row["slot"]]
        placed = {
            **{name: beat[name] for name in ("lanes", "part", "dim")},
            **{"row": row["number"], "head": row["head"], "heads": job["heads"], "base": job["output"]},
        }
        weighted = {
            **{name: beat[name] for name in ("lanes", "last")},
            **{"slot": job["context"], "head": row["head"]},
            "multiplier": job["multiplier"] if row["accumulate"] else 0,
        }
        self.is_taken = self.placed_ready and self.weighted_ready
        return {
            "i": {"ready": self.is_taken},
            "o_placed": {"valid": self.weighted_ready, "payload": placed},
            "o_weighted": {"valid": self.placed_ready, "payload": weighted},
            "row_written": {"valid": self.is_taken and beat["last"], "slot": row["slot"]},
            "saturated": beat["saturated"] if self.is_taken else 0,
        }

    def clock(self) -> None:
        if self.beat is None:
            return
        self.saw("packer stalls", not self.placed_ready)
        self.saw("importance stalls", not self.weighted_ready)
        if self.is_taken:
            self.saw("taken")
            self.saw("weighs nothing", not self.beat["header"]["accumulate"])
            self.saw("written", self.beat["last"])
            self.beat = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def both_take_a_beat_in_one_cycle(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, ROUTER, Fork, seed=seed, cycles=PARAMETERS["cycles"])
