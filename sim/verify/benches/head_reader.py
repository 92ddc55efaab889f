"""Testbench of hw/control/job/head_reader.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.head_reader import HeadReader
from spatten.hw.control.job.job_steps import FinishStep
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
READER = HeadReader(config=CONFIG)
HEADS = range(CONFIG.heads_max)
ANY_ANSWER = Anything(READER.answer.shape())
OTHER_STEPS = [FinishStep.IDLE, FinishStep.TOKENS, FinishStep.SEND, FinishStep.CHOOSE, FinishStep.END]


class Reader(Twin):
    """Goes through the steps of jobs that end; heads to be read are a list, and answers come after a random time."""

    goals = {
        "read": 20,
        "saved": 20,
        "neither": 5,
        "saturated": 20,
        "not saturated": 20,
        "held": 100,
        "stalled": 100,
        "done": 40,
    }

    def reset(self) -> None:
        self.steps: deque[FinishStep] = deque()
        self.step = FinishStep.IDLE
        self.ends = True
        """The step ends: where heads are read, in the cycle after the last answer, which has `done`."""
        self.heads: list[int] = []
        """Heads that are read in this step."""
        self.unasked: deque[int] = deque()
        self.answers: deque[int] = deque()
        """For each read that is not answered, how many cycles its answer takes yet."""
        self.unanswered: deque[int] = deque()
        self.importance: list[int] | None = None
        """What was read of each head for the last state; None while a state is being read, and before the first."""
        self.saturated: set[int] | None = None

    def _new_job(self) -> None:
        """Choose the steps of a job, other ones between them."""
        source = self.source
        self.context = source.randrange(CONFIG.contexts)
        self.live_heads = source.randrange(1, 1 << len(HEADS))
        self.reads, self.saves = source.random() < 0.6, source.random() < 0.6
        steps = [FinishStep.SCATTER] + [FinishStep.HEADS] * source.randint(1, 3)
        steps += [FinishStep.READ, FinishStep.SEND] if self.reads else []
        steps += [FinishStep.STORE] * (source.randint(1, 3) if self.saves else 1)
        steps += [FinishStep.SAVE] if self.saves else []
        self.steps = deque([*steps, *(source.choice(OTHER_STEPS) for _ in range(source.randrange(4)))])
        self.saw("neither", not self.reads and not self.saves)
        self.saw("read", self.reads)

    def inputs(self) -> Values:
        source = self.source
        if self.ends:
            if not self.steps:
                self._new_job()
            self.step = self.steps.popleft()
            if self.step in (FinishStep.READ, FinishStep.SAVE):
                live = [head for head in HEADS if self.live_heads >> head & 1]
                self.heads = live if self.step == FinishStep.READ else list(HEADS)
                self.unasked, self.unanswered = deque(self.heads), deque(self.heads)
                self.read: list[dict[str, int]] = []
        self.saves_now = self.step == FinishStep.STORE and (not self.steps or self.steps[0] == FinishStep.SAVE)
        self.saves_now = self.saves_now and self.saves
        comes = bool(self.answers) and self.answers[0] <= 0
        self.answer = ANY_ANSWER(source) | {"valid": 1} if comes else None
        if self.answer is not None:
            self.answer["saturated"] = source.random() < 0.3
        self.ready = source.random() < 0.7
        given: dict[str, Any] = {
            "step": self.step.value,
            "context": self.context,
            "live_heads": self.live_heads,
            "o": {"ready": self.ready},
        }
        given["answer"] = self.answer or {"valid": 0}
        if self.step == FinishStep.STORE:
            given["saves"] = self.saves_now
        return given

    def outputs(self) -> Values:
        is_reading = self.step in (FinishStep.READ, FinishStep.SAVE)
        wanted: dict[str, Any] = {"reads": is_reading, "o": {"valid": is_reading and bool(self.unasked)}}
        if is_reading:
            wanted["done"] = not self.unanswered
        if is_reading and self.unasked:
            wanted["o"]["payload"] = {"context": self.context, "head": self.unasked[0]}
        if self.answer is not None:
            wanted["answered_head"] = 1 << self.unanswered[0]
        saved: dict[str, Any] = {}
        if self.importance is not None:
            saved["importance"] = self.importance
        if self.saturated is not None:
            saved["saturated"] = sum(1 << head for head in self.saturated)
        return wanted | {"saved": saved}

    def clock(self) -> None:
        is_reading = self.step in (FinishStep.READ, FinishStep.SAVE)
        self.saw("held", self.importance is not None and self.step == FinishStep.READ)
        self.saw("stalled", is_reading and self.unasked and not self.ready)
        self.ends = not is_reading or not self.unanswered
        self.saw("done", is_reading and self.ends)
        self.answers = deque(left - 1 for left in self.answers)
        if self.answer is not None:
            self.read.append(self.answer)
            self.answers.popleft()
            self.unanswered.popleft()
            self.saw("saturated" if self.answer["saturated"] else "not saturated")
            if self.step == FinishStep.SAVE:
                self._save()
        if is_reading and self.unasked and self.ready:
            self.unasked.popleft()
            self.answers.append(self.source.randrange(6))
        if self.saves_now:
            self.saturated = None

    def _save(self) -> None:
        self.importance = self.saturated = None
        if not self.unanswered:
            self.importance = [answer["value"] for answer in self.read]
            self.saturated = {head for head, answer in enumerate(self.read) if answer["saturated"]}
        self.saw("saved", not self.unanswered)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def heads_are_read_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, READER, Reader, seed=seed, cycles=PARAMETERS["cycles"])
