"""Testbench of hw/datapath/tokens/context_memory.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.context_memory import ContextMemory
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
MEMORY = ContextMemory(layouts=LAYOUTS)
ANY_STATE = Anything(LAYOUTS.state)
Place = tuple[int, int]
"""A context and a line."""


class Users(Twin):
    """A gather on one context, a scatter on another, and a host that writes anywhere else than the gather reads."""

    goals = {
        "gather reads": 200,
        "gather's state held": 100,
        "scatter reads": 200,
        "scatter's state held": 100,
        "host writes": 200,
        "scatter writes while the gather reads": 50,
        "kept lines of a scatter": 50,
        "all lines kept": 50,
    }

    def reset(self) -> None:
        self.words: dict[Place, Any] = {}
        self.kept_lines = [0] * LAYOUTS.contexts
        self.gathered: tuple[int, Any] | None = None
        """The context that the gather has read last, and its word, if it is known."""
        self.scattered: Any = None
        self._turn()

    def _turn(self) -> None:
        """New contexts for gather and scatter, which are never the same."""
        source = self.source
        self.gather_context, self.scatter_context = source.sample(range(LAYOUTS.contexts), 2)
        self.active = source.random() < 0.8
        self.gathered = self.scattered = None

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.1:
            self._turn()
        self.reads = self.reads_back = self.writes = self.host_writes = None
        if source.random() < 0.6:
            self.reads = self.gather_context, source.randrange(LAYOUTS.lines)
        if self.active and source.random() < 0.6:
            self.reads_back = self.scatter_context, source.randrange(LAYOUTS.lines)
        if self.active and source.random() < 0.4:
            place = self.scatter_context, source.randrange(LAYOUTS.lines)
            self.writes = place if place != self.reads_back else None
        if self.writes is None and source.random() < 0.5:
            place = source.randrange(LAYOUTS.contexts), source.randrange(LAYOUTS.lines)
            self.host_writes = place if place not in (self.reads, self.reads_back) else None
        self.ends = self.writes is not None and source.random() < 0.3
        self.state = ANY_STATE(source)
        self.ended_lines = source.randrange(LAYOUTS.lines + 1)
        self.asked_context = source.randrange(LAYOUTS.contexts)
        gather: dict[str, Any] = {"enable": self.reads is not None, "context": self.gather_context}
        scatter: dict[str, Any] = {
            "active": self.active,
            "read": self.reads_back is not None,
            "write": self.writes is not None,
            "ends": self.ends,
        }
        host: dict[str, Any] = {"write": self.host_writes is not None}
        if self.reads is not None:
            gather["line"] = self.reads[1]
        if self.active:
            scatter["context"] = self.scatter_context
        if self.reads_back is not None:
            scatter["read_line"] = self.reads_back[1]
        if self.writes is not None:
            scatter |= {"write_line": self.writes[1], "write_state": self.state}
        if self.ends:
            scatter["kept_lines"] = self.ended_lines
        if self.host_writes is not None:
            host |= {"context": self.host_writes[0], "line": self.host_writes[1], "state": self.state}
        return {"gather": gather | {"asked_context": self.asked_context}, "scatter": scatter, "host": host}

    def outputs(self) -> Values:
        return {
            "gather": {"state": self.gathered, "kept_lines": self.kept_lines[self.asked_context]},
            "scatter": {"state": self.scattered if self.active else None},
            "host": {"busy": self.writes is not None},
        }

    def clock(self) -> None:
        self.saw("gather reads", self.reads in self.words)
        self.saw("gather's state held", self.reads is None and self.gathered)
        self.saw("scatter reads", self.reads_back in self.words)
        self.saw("scatter's state held", self.reads_back is None and self.scattered)
        self.saw("host writes", self.host_writes)
        self.saw("scatter writes while the gather reads", self.writes and self.reads)
        self.saw("kept lines of a scatter", 0 < self.kept_lines[self.asked_context] < LAYOUTS.lines)
        self.saw("all lines kept", self.kept_lines[self.asked_context] == LAYOUTS.lines)
        if self.reads is not None:
            self.gathered = self.words.get(self.reads)
        if self.reads_back is not None:
            self.scattered = self.words.get(self.reads_back)
        for place in (self.writes, self.host_writes):
            if place is not None:
                self.words[place] = self.state
        if self.ends:
            self.kept_lines[self.scatter_context] = self.ended_lines
        if self.host_writes is not None:
            self.kept_lines[self.host_writes[0]] = LAYOUTS.lines


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def everyone_reads_what_was_written(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, MEMORY, Users, seed=seed, cycles=PARAMETERS["cycles"])
