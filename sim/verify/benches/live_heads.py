"""Testbench of hw/control/job/live_heads.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job.live_heads import LiveHeads
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.job import Flag

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
LIVE = LiveHeads(config=CONFIG)
HEADS = range(CONFIG.heads_max)
CONTEXTS = range(CONFIG.contexts)
ANY_JOB = Anything(LIVE.job.shape())
OTHER_STEPS = [step for step in StartStep if step != StartStep.LOAD]


class Live(Twin):
    """Sets of heads: those that each context keeps, and a job's. A job may change in any cycle, as in a queue."""

    goals = {
        "loaded": 50,
        "chosen": 100,
        "both": 20,
        "cleared": 50,
        "restarted": 50,
        "some live": 100,
        "other step": 50,
    }

    def reset(self) -> None:
        self.kept = [set(HEADS) for _ in CONTEXTS]
        self.live: set[int] | None = None
        """Live heads of the job of the cycle before; `count` is a cycle behind."""
        self.count: int | None = None
        self.job = self._new_job()

    def _new_job(self) -> dict[str, Any]:
        job: dict[str, Any] = ANY_JOB(self.source)
        job["context"] = self.source.choice(CONTEXTS)
        job["flags"] &= ~(1 << Flag.CLEAR | 1 << Flag.RESTART)
        job["flags"] |= self.source.choice([0, 0, 1 << Flag.CLEAR, 1 << Flag.RESTART])
        return job

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.5:
            self.job = self._new_job()
        self.loads = source.random() < 0.2
        self.step = StartStep.LOAD if self.loads or source.random() < 0.2 else source.choice(OTHER_STEPS)
        self.loaded = {head for head in HEADS if source.random() < 0.5}
        # The job that loads waits until no earlier job has its context.
        contexts = [n for n in CONTEXTS if not self.loads or n != self.job["context"]]
        self.chosen = {head for head in HEADS if source.random() < 0.5}
        self.chooses = source.choice(contexts) if contexts and source.random() < 0.2 else None
        given: dict[str, Any] = {"step": self.step.value, "job": self.job}
        # The heads of a state are also there in steps that load nothing.
        if self.step == StartStep.LOAD or source.random() < 0.5:
            given |= {"loaded": self.loads or self.step != StartStep.LOAD, "loaded_kept": _bits(self.loaded)}
        self.saw("other step", given.get("loaded") and not self.loads)
        if self.chooses is None:
            return given | {"choice": {"valid": 0}}
        return given | {"choice": {"valid": 1, "context": self.chooses, "kept_heads": _bits(self.chosen)}}

    def outputs(self) -> Values:
        wanted = {}
        if self.live is not None:
            wanted["live_heads"] = _bits(self.live)
        if self.count is not None:
            wanted["count"] = self.count
        return wanted

    def clock(self) -> None:
        flags = self.job["flags"]
        is_new = flags >> Flag.CLEAR & 1 or flags >> Flag.RESTART & 1
        mask = {head for head in HEADS if self.job["head_mask"] >> head & 1}
        self.count = None if self.live is None else len(self.live)
        self.live = mask if is_new else mask & self.kept[self.job["context"]]
        if self.loads:
            self.kept[self.job["context"]] = self.loaded
        if self.chooses is not None:
            self.kept[self.chooses] = self.chosen
        self.saw("loaded", self.loads)
        self.saw("chosen", self.chooses is not None)
        self.saw("both", self.loads and self.chooses is not None)
        self.saw("cleared", flags >> Flag.CLEAR & 1)
        self.saw("restarted", flags >> Flag.RESTART & 1)
        self.saw("some live", self.live and self.live != mask)


def _bits(heads: set[int]) -> int:
    return sum(1 << head for head in heads)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def live_heads_are_those_that_are_kept(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, LIVE, Live, seed=seed, cycles=PARAMETERS["cycles"])
