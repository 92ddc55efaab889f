"""Testbench of hw/control/job/job_sizes.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_sizes import JobSizes
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.job_reference import legal_job, sizes_of
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.job import Mode

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SIZES = JobSizes(config=CONFIG)


class Sizes(Twin):
    """Jobs that stand still for a while; their sizes are those of the golden model."""

    goals = {"dense": 50, "sparse": 50, "all queries valid": 50, "some": 50, "none": 50, "causal": 50, "new token": 20}

    def reset(self) -> None:
        self.stands = 0

    def inputs(self) -> Values:
        if self.source.random() < 0.5 and self.stands != 1:
            self.stands = 0
        if not self.stands:
            self.job = legal_job(CONFIG, self.source)
        return {"job": self.job}

    def outputs(self) -> Values:
        return {"sizes": sizes_of(CONFIG, self.job)} if self.stands else {}

    def clock(self) -> None:
        self.stands += 1
        if self.stands == 2:
            sizes = sizes_of(CONFIG, self.job)
            self.saw("dense" if sizes["dense"] else "sparse")
            missing = self.job["queries"] - sizes["rows"]
            self.saw("all queries valid" if not missing else "some" if sizes["rows"] else "none")
            self.saw("causal", self.job["mode"] == Mode.CAUSAL)
            self.saw("new token", self.job["mode"] == Mode.GENERATION and sizes["dense"])


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def sizes_are_those_of_the_golden_model(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, SIZES, Sizes, seed=seed, cycles=PARAMETERS["cycles"])
