"""Testbench of hw/control/job/job_outcomes.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_outcomes import JobOutcomes
from spatten.hw.control.job.job_steps import FinishStep
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
OUTCOMES = JobOutcomes(config=CONFIG)
ALL_HEADS = (1 << CONFIG.heads_max) - 1
QUIET_STEPS = [FinishStep.IDLE, FinishStep.HEADS, FinishStep.STORE, FinishStep.SAVE]


class Outcomes(Twin):
    """Jobs that end slot after slot, pruned or not; an outcome is a dictionary that is filled step by step."""

    goals = {"pruned to fewer": 20, "fewer live than to keep": 20, "heads pruned": 20, "nothing pruned": 10}

    def reset(self) -> None:
        self.slot = -1
        self.steps: deque[FinishStep] = deque()
        self.notes: list[dict[str, int]] = [{} for _ in range(CONFIG.jobs_in_flight)]

    def _new_job(self) -> None:
        source = self.source
        self.slot = (self.slot + 1) % CONFIG.jobs_in_flight
        self.live_heads = source.randint(0, ALL_HEADS)
        self.live = source.choice([CONFIG.tokens_max, source.randint(1, CONFIG.tokens_max)])
        near = source.randint(max(1, self.live - 9), min(CONFIG.tokens_max, self.live + 9))
        self.keep_tokens = source.choice([source.randint(1, CONFIG.tokens_max), near])
        self.prunes_tokens = source.random() < 0.5
        prunes_heads = source.random() < 0.5
        steps = [FinishStep.SCATTER] * source.randint(1, 3)
        steps += [FinishStep.TOKENS] if self.prunes_tokens else []
        steps += [FinishStep.READ, FinishStep.SEND, FinishStep.CHOOSE] if prunes_heads else []
        steps += [source.choice(QUIET_STEPS)] * source.randrange(3)
        self.steps = deque([*steps, *[FinishStep.END] * source.randint(1, 3), FinishStep.IDLE])
        self.saw("heads pruned", prunes_heads)
        self.saw("nothing pruned", not prunes_heads and not self.prunes_tokens)
        self.saw("pruned to fewer", self.prunes_tokens and self.keep_tokens < self.live)
        self.saw("fewer live than to keep", self.prunes_tokens and self.keep_tokens > self.live)

    def inputs(self) -> Values:
        source = self.source
        if not self.steps:
            self._new_job()
        self.step = self.steps.popleft()
        given: dict[str, Any] = {"step": self.step.value, "slot": self.slot}
        given |= {"live": self.live, "live_heads": self.live_heads, "prunes_tokens": self.prunes_tokens}
        self.is_last = not self.steps or self.steps[0] != self.step
        if self.step == FinishStep.SCATTER:
            given |= {"scatter_taken": self.is_last, "keep_tokens": self.keep_tokens}
        elif self.step == FinishStep.CHOOSE:
            self.heads = {"kept_heads": source.randint(0, ALL_HEADS), "saturated_heads": source.randint(0, ALL_HEADS)}
            given |= self.heads
        elif self.step == FinishStep.END:
            self.saturated = source.randint(0, CONFIG.tokens_max)
            given |= {"ends": self.is_last, "saturated_tokens": self.saturated}
        return given

    def outputs(self) -> Values:
        return {"outcomes": self.notes}

    def clock(self) -> None:
        note = self.notes[self.slot]
        if self.step == FinishStep.SCATTER:
            if self.is_last:
                stay = [self.live, *([self.keep_tokens] if self.prunes_tokens else [])]
                note["kept_tokens"] = min(stay)
            else:
                note.pop("kept_tokens", None)
            note |= {"kept_heads": self.live_heads, "saturated_heads": 0}
        elif self.step == FinishStep.CHOOSE:
            note |= self.heads
        elif self.step == FinishStep.END and self.is_last:
            note["saturated_tokens"] = self.saturated


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def what_came_of_jobs_is_noted(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, OUTCOMES, Outcomes, seed=seed, cycles=PARAMETERS["cycles"])
