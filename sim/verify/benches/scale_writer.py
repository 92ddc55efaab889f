"""Testbench of hw/control/job/scale_writer.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job.scale_writer import ScaleWriter
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
WRITER = ScaleWriter(config=CONFIG)
HEADS = range(CONFIG.heads_max)
ANY_SCALES = Anything(WRITER.scales.shape())
OTHER_STEPS = [step for step in StartStep if step != StartStep.SHAPE]


class Writer(Twin):
    """Jobs whose live heads are a list that is worked off."""

    goals = {"all heads": 5, "one head": 20, "no head": 3, "follows without a pause": 20}

    def reset(self) -> None:
        self.unwritten: list[int] = []
        self.live: list[int] = []

    def inputs(self) -> Values:
        source = self.source
        self.begins = not self.unwritten and source.random() < 0.5
        if not self.begins:
            given: dict[str, Any] = {"step": source.choice(OTHER_STEPS).value}
        else:
            self.saw("follows without a pause", self.wrote_last())
            heads = source.choice([1 << source.choice(HEADS), (1 << len(HEADS)) - 1, source.getrandbits(len(HEADS))])
            if source.random() < 0.05:
                heads = 0
            self.live = [head for head in HEADS if heads >> head & 1]
            self.slot = source.randrange(CONFIG.jobs_in_flight)
            self.scales = ANY_SCALES(source)
            given = {"step": StartStep.SHAPE.value, "live_heads": heads}
        if self.begins or self.unwritten:
            given |= {"slot": self.slot, "scales": self.scales}
        return given

    def wrote_last(self) -> bool:
        """Whether the cycle before wrote the last scale of a job."""
        return bool(self.live) and self.is_fresh

    def outputs(self) -> Values:
        if not self.unwritten:
            return {"scale": {"enable": 0}}
        head = self.unwritten[0]
        return {"scale": {"enable": 1, "slot": self.slot, "head": head, **self.scales[head]}}

    def clock(self) -> None:
        self.is_fresh = bool(self.unwritten)
        self.unwritten = self.unwritten[1:]
        if self.begins:
            self.unwritten = list(self.live)
            self.saw("all heads", len(self.live) == len(HEADS))
            self.saw("one head", len(self.live) == 1)
            self.saw("no head", not self.live)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def scales_of_live_heads_are_written(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WRITER, Writer, seed=seed, cycles=PARAMETERS["cycles"])
