"""Testbench of hw/datapath/tokens/line_ager.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.line_ager import LineAger
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
AGER = LineAger(layouts=LAYOUTS)
ANY_LINE = Anything(LAYOUTS.id_line)
LATENCY = 2
"""Cycles from a line to the line on `o`, and from there to the totals."""


class Gathers(Twin):
    """Gathers one after the other; what has come is a list of lines, and the totals are counted from it anew."""

    goals = {"cleared": 20, "halved up to thrice": 50, "halved more often": 50, "pinned only": 200, "next to next": 200}

    def reset(self) -> None:
        self.cycle = 0
        self.lines: list[tuple[int, dict[str, Any]]] = []
        """The lines of the gather, and the cycle in which each came."""
        self.has_begun = False
        self.clear = False
        self.age_shift = 0
        self.lines_left = 0
        self.quiet = 0
        self.history: deque[dict[str, Any] | None] = deque([None] * LATENCY, LATENCY)

    def inputs(self) -> Values:
        self.begins = not self.lines_left and self.quiet > 2 * LATENCY and self.source.random() < 0.3
        self.line = None
        if self.lines_left and self.source.random() < 0.8:
            self.line = ANY_LINE(self.source)
        given: dict[str, Any] = {"begins": self.begins, "i": {"valid": self.line is not None, "payload": self.line}}
        if self.has_begun and self.quiet <= LATENCY:
            given |= {"clear": self.clear, "age_shift": self.age_shift}
        return given

    def _aged(self, line: dict[str, Any]) -> dict[str, Any]:
        divisor = 0 if self.clear else 1 << self.age_shift
        importance = [value // divisor if divisor else 0 for value in line["importance"]]
        return line | {"importance": importance, "pinned": line["pinned"] & line["live"]}

    def outputs(self) -> Values:
        line = self.history[0]
        wanted: dict[str, Any] = {"o": {"valid": line is not None, "payload": line and self._aged(line)}}
        if self.has_begun:
            counted = [line for cycle, line in self.lines if cycle + 2 * LATENCY <= self.cycle]
            wanted["live_total"] = sum(line["live"].bit_count() for line in counted)
            wanted["pinned_total"] = sum((line["live"] & line["pinned"]).bit_count() for line in counted)
        return wanted

    def clock(self) -> None:
        if self.line is not None:
            self.saw("cleared", self.clear)
            self.saw("halved up to thrice", not self.clear and 0 < self.age_shift < 4)
            self.saw("halved more often", not self.clear and self.age_shift >= 4)
            self.saw("pinned only", self.line["pinned"] & ~self.line["live"])
            self.saw("next to next", self.history[-1] is not None)
            self.lines.append((self.cycle, self.line))
            self.lines_left -= 1
        self.quiet = 0 if self.lines_left or self.line is not None else self.quiet + 1
        self.history.append(self.line)
        self.cycle += 1
        if self.begins:
            self.has_begun = True
            self.lines = []
            self.lines_left = self.source.randint(1, LAYOUTS.lines)
            self.quiet = 0
            self.clear = self.source.random() < 0.1
            self.age_shift = self.source.choice([0, 1, 2, 3, 4, 5, 8, 16, self.source.randrange(32)])


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def lines_are_aged_and_counted(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, AGER, Gathers, seed=seed, cycles=PARAMETERS["cycles"])
