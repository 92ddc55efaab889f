"""Testbench of hw/control/job/kept_choice.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job.kept_choice import KeptChoice
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
CHOICE = KeptChoice(config=CONFIG)
HEADS = range(CONFIG.heads_max)
LANES = CONFIG.topk_lanes
ANY_CANDIDATES = Anything(CHOICE.i_candidates.payload.shape())
ANY_VALUE = Anything(CHOICE.answer.value.shape())
ANY_MARKS = Anything(CHOICE.i_topk.payload.shape())
OTHER_STEPS = [FinishStep.IDLE, FinishStep.SCATTER, FinishStep.STORE, FinishStep.SAVE, FinishStep.END]


class Kept(Twin):
    """Jobs that prune tokens, heads, both or neither. The importance that is read is kept by head, and which heads the
    engine marks is noted by head as well. Whether a step is over is what the component said."""

    goals = {
        "tokens": 20,
        "heads": 20,
        "both": 20,
        "few live": 20,
        "dead head marked": 20,
        "saturated": 20,
        "candidates stalled": 50,
        "marks stalled": 50,
        "marks early": 20,
    }

    def reset(self) -> None:
        self.steps: deque[FinishStep] = deque()
        self.over = True
        self.takes_tokens = False
        self.candidates: dict[str, Any] | None = None
        self.marks: dict[str, Any] | None = None

    def _new_job(self) -> None:
        source = self.source
        self.live_heads = source.randrange(1, 1 << len(HEADS))
        self.keep_heads = source.randint(1, len(HEADS))
        self.keep_tokens = source.randint(1, CONFIG.tokens_max)
        self.tokens, self.heads = source.choice([(0, 0), (1, 0), (0, 1), (1, 1)])
        steps = [FinishStep.TOKENS] if self.tokens else []
        steps += [FinishStep.HEADS] * source.randint(1, 3)
        steps += [FinishStep.READ, FinishStep.SEND, FinishStep.CHOOSE] if self.heads else []
        self.steps = deque([*steps, *(source.choice(OTHER_STEPS) for _ in range(source.randrange(4)))])
        self.lines_of_tokens = source.randint(1, 4)
        self.saw("tokens", self.tokens and not self.heads)
        self.saw("heads", self.heads and not self.tokens)
        self.saw("both", self.heads and self.tokens)

    def _enter(self) -> None:
        """Begin the next step."""
        if not self.steps:
            self._new_job()
        self.step = self.steps.popleft()
        if self.step == FinishStep.HEADS:
            self.unread = deque(head for head in HEADS if self.live_heads >> head & 1)
            self.read: dict[int, dict[str, Any]] = {}
            self.saw("few live", len(self.unread) < len(HEADS) // 2)
        lines = {FinishStep.TOKENS: self.lines_of_tokens, FinishStep.SEND: -(-len(HEADS) // LANES)}.get(self.step, 0)
        self.unsent, self.unmarked = lines, lines
        self.marked: list[int] = []

    def inputs(self) -> Values:
        source = self.source
        if self.over:
            self._enter()
        in_tokens, in_heads = self.step == FinishStep.TOKENS, self.step == FinishStep.SEND
        given: dict[str, Any] = {"step": self.step.value, "live_heads": self.live_heads}
        given |= {"keep_tokens": self.keep_tokens, "keep_heads": self.keep_heads}

        self.answer: dict[str, Any] | None = None
        if self.step == FinishStep.READ and self.unread and source.random() < 0.6:
            saturated = source.random() < 0.5
            self.answer = {"valid": 1, "value": ANY_VALUE(source), "saturated": saturated}
            given["answered_head"] = 1 << self.unread[0]
        given["answer"] = self.answer or {"valid": 0}

        # Candidates may wait before the step in which they are looked at.
        if self.candidates is None and (not in_tokens or self.unsent) and source.random() < (0.6 if in_tokens else 0.1):
            last = in_tokens and self.unsent == 1
            count = source.randint(1, LANES) if last else LANES
            self.candidates = ANY_CANDIDATES(source) | {"count": count, "last": last}
        if in_tokens and self.candidates is not None:
            self.candidates["last"] = self.unsent == 1
        given["i_candidates"] = {"valid": self.candidates is not None, "payload": self.candidates}

        # The engine answers a row when it has all of it.
        may_mark = (in_tokens or in_heads) and not self.unsent and self.unmarked
        if self.marks is None and may_mark and source.random() < 0.6:
            self.marks = ANY_MARKS(source) | {"last": self.unmarked == 1}
        given["i_topk"] = {"valid": self.marks is not None, "payload": self.marks}
        self.engine_ready = source.random() < 0.6
        self.kept_ready = source.random() < 0.6
        return given | {"o_topk": {"ready": self.engine_ready}, "o_kept": {"ready": self.kept_ready}}

    def _row(self) -> dict[str, Any] | None:
        """What goes to the engine."""
        if self.takes_tokens:
            if self.candidates is None:
                return None
            count = self.candidates["count"]
            keys = self.candidates["keys"][:count]
            return {"k": self.keep_tokens, "last": self.candidates["last"], "count": count, "values": _lanes(keys)}
        if self.step != FinishStep.SEND or not self.unsent:
            return None
        first = (-(-len(HEADS) // LANES) - self.unsent) * LANES
        heads = HEADS[first : first + LANES]
        keys = [2 * self.read[head]["value"] + 1 if head in self.read else 0 for head in heads]
        return {"k": self.keep_heads, "last": heads[-1] == HEADS[-1], "count": len(keys), "values": _lanes(keys)}

    def outputs(self) -> Values:
        in_tokens, in_heads = self.takes_tokens, self.step == FinishStep.SEND
        self.row = self._row()
        self.marks_taken = self.marks is not None and (in_heads or self.kept_ready)
        ends = self.marks_taken and self.marks is not None and self.marks["last"]
        wanted: dict[str, Any] = {
            "o_topk": {"valid": self.row is not None, "payload": self.row},
            "i_candidates": {"ready": in_tokens and self.engine_ready},
            "o_kept": {"valid": in_tokens and self.marks is not None},
        }
        if in_tokens:
            wanted["tokens_done"] = ends
        if in_heads:
            wanted["heads_done"] = ends
        if self.marks is not None:
            wanted["i_topk"] = {"ready": self.marks_taken}
            if in_tokens:
                wanted["o_kept"]["payload"] = self.marks["mask"]
        if self.step == FinishStep.CHOOSE:
            kept = [head for head in self.read if head in self.chosen]
            saturated = [head for head, answer in self.read.items() if answer["saturated"]]
            self.saw("dead head marked", self.chosen - set(self.read))
            self.saw("saturated", saturated)
            wanted["kept_heads"] = sum(1 << head for head in kept)
            wanted["saturated_heads"] = sum(1 << head for head in saturated)
        self.ends = ends
        return wanted

    def clock(self) -> None:
        in_tokens, in_heads = self.step == FinishStep.TOKENS, self.step == FinishStep.SEND
        self.saw("candidates stalled", self.row is not None and not self.engine_ready)
        self.saw("marks stalled", self.marks is not None and not self.marks_taken)
        self.saw("marks early", self.candidates is not None and not in_tokens)
        if self.answer is not None:
            self.read[self.unread.popleft()] = self.answer
        if self.row is not None and self.engine_ready:
            self.unsent -= 1
            if in_tokens:
                self.candidates = None
        if self.marks_taken and self.marks is not None:
            self.marked.append(self.marks["mask"])
            self.unmarked -= 1
            self.marks = None
            if in_heads and not self.unmarked:
                bits = [mask >> lane & 1 for mask in self.marked for lane in range(LANES)]
                self.chosen = {head for head in HEADS if bits[head]}
        self.over = self.ends if in_tokens or in_heads else self.step != FinishStep.READ or not self.unread
        self.takes_tokens = in_tokens and not self.over


def _lanes(keys: list[int]) -> list[int | None]:
    """The keys, and nothing in the lanes behind them."""
    return [*keys, *[None] * (LANES - len(keys))]


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_engine_chooses_tokens_and_heads(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, CHOICE, Kept, seed=seed, cycles=PARAMETERS["cycles"])
