"""Testbench of hw/datapath/tokens/context_writer.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.context_writer import ContextWriter
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
WRITER = ContextWriter(layouts=LAYOUTS)
LANES = LAYOUTS.lanes
ANY_JOB = Anything(LAYOUTS.job)
ANY_STATE = Anything(LAYOUTS.state)
LATENCY = 3
"""Cycles from a line to its write."""


class Scatters(Twin):
    """Jobs one after the other; what a line becomes is computed when it comes, from what its context then holds."""

    goals = {"cleared": 20, "halved up to thrice": 50, "halved more often": 20, "unchanged": 50, "next to next": 200}

    def reset(self) -> None:
        self.job: dict[str, Any] = {}
        self.lines = self.lines_left = 0
        self.begun = False
        self.active = False
        self.state: dict[str, Any] | None = None
        """What the memory shows."""
        self.history: deque[dict[str, Any] | None] = deque([None] * LATENCY, LATENCY)

    def inputs(self) -> Values:
        source = self.source
        self.begins = not self.begun and not self.active and source.random() < 0.3
        if self.begun and source.random() < 0.5:
            self.begun, self.active = False, True
        self.line = None
        if self.active and self.lines_left and source.random() < 0.8:
            mask = source.getrandbits(LANES)
            tokens = [{"importance": 0, "kept": 0} for _ in range(LANES)]
            for lane in range(LANES):
                if mask >> lane & 1:
                    importance = source.getrandbits(LAYOUTS.importance_bits)
                    tokens[lane] = {"importance": importance, "kept": source.random() < 0.5}
            self.line = {"mask": mask, "lanes": tokens}
        given: dict[str, Any] = {
            "begins": self.begins,
            "active": self.active,
            "i": {"valid": self.line is not None, "payload": self.line},
            "memory": {"state": self.state},
        }
        if self.active:
            given["job"] = self.job
        if self.begins:
            self.lines = source.randint(1, LAYOUTS.lines)
            given["lines"] = self.lines
        return given

    def outputs(self) -> Values:
        written = self.history[0]
        ends = written is not None and written["last"]
        memory: dict[str, Any] = {
            "active": self.active,
            "read": self.line is not None,
            "write": written is not None,
            "ends": ends,
        }
        if self.active:
            memory["context"] = self.job["context"]
        if self.line is not None:
            memory["read_line"] = self.lines - self.lines_left
        if written is not None:
            memory |= {"write_line": written["line"], "write_state": written["state"]}
        if ends:
            memory["kept_lines"] = self.job["lines"]
        return {"ends": ends, "memory": memory}

    def _written(self, line: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
        """The line as it is to be written, in the place of what the context holds before."""
        importance, kept = [], 0
        for lane in range(LANES):
            token = line["lanes"][lane]
            if line["mask"] >> lane & 1:
                importance.append(token["importance"])
                kept += token["kept"] << lane
            else:
                importance.append(0 if self.job["clear"] else before["importance"][lane] // 2 ** self.job["age_shift"])
        number = self.lines - self.lines_left
        return {"line": number, "last": self.lines_left == 1, "state": {"importance": importance, "kept": kept}}

    def clock(self) -> None:
        ends = self.history[0] is not None and self.history[0]["last"]
        result = None
        if self.line is not None:
            self.state = ANY_STATE(self.source)
            result = self._written(self.line, self.state)
            self.lines_left -= 1
            shift = 0 if self.job["clear"] else self.job["age_shift"]
            self.saw("cleared", self.job["clear"])
            self.saw("halved up to thrice", 0 < shift < 4)
            self.saw("halved more often", shift >= 4)
            self.saw("unchanged", not self.job["clear"] and not shift)
            self.saw("next to next", self.history[-1] is not None)
        self.history.append(result)
        if ends:
            self.active = False
        if self.begins:
            self.begun = True
            self.lines_left = self.lines
            shift = self.source.choice([0, 1, 2, 3, 4, 5, 8, 16, self.source.randrange(32)])
            self.job = ANY_JOB(self.source) | {"clear": self.source.random() < 0.15, "age_shift": shift}


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def lines_are_written(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WRITER, Scatters, seed=seed, cycles=PARAMETERS["cycles"])
