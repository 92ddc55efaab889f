"""Testbench of hw/datapath/select/equal_values.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.equal_values import EqualValues
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
EQUAL = EqualValues(width=WIDTH, lanes=LANES)


class Distinct(Twin):
    """The distinct values of each pass, as a set."""

    goals = {
        "equal": 50,
        "one bit differs": 50,
        "empty": 20,
        "one value": 10,
        "back to back": 50,
        "in another beat": 20,
    }

    def reset(self) -> None:
        self.now = 0
        self.beats: list[list[int | None]] = []
        self.is_first = True
        self.found: list[int] = []
        self.ended_at = -9
        self.values: dict[int, int | None] = {}
        """By cycle from when on `value` is to be seen; None if it means nothing. Likewise `are_equal`."""
        self.answers: dict[int, int | None] = {}
        self.value: int | None = None
        self.answer: int | None = None

    def _begin(self) -> None:
        value = self.source.getrandbits(WIDTH)
        other = value ^ 1 << self.source.randrange(WIDTH)
        count = self.source.choice([1, 1, 2, 3, 6])
        empty = self.source.choice([0, 0.3, 0.9, 1])
        self.beats = [[None if self.source.random() < empty else value for _ in range(LANES)] for _ in range(count)]
        for _ in range(self.source.choice([0, 0, 1, 2])):
            self.source.choice(self.beats)[self.source.randrange(LANES)] = other
        self.is_first = True

    def inputs(self) -> Values:
        self.beat: list[int | None] | None = None
        if self.source.random() < (0.3 if self.now % 200 < 60 else 0.95):
            if not self.beats:
                self._begin()
            self.beat = self.beats.pop(0)
        if self.beat is None:
            return {"i": {"valid": 0}}
        mask = sum((value is not None) << lane for lane, value in enumerate(self.beat))
        # A value outside the bin may be anything.
        values = [self.source.getrandbits(WIDTH) if value is None else value for value in self.beat]
        return {"i": {"valid": 1, "payload": {"values": values, "in_bin": mask, "first": self.is_first}}}

    def outputs(self) -> Values:
        self.value = self.values.pop(self.now, self.value)
        self.answer = self.answers.pop(self.now, self.answer)
        wanted: dict[str, Any] = {"value": self.value, "are_equal": self.answer}
        return wanted

    def clock(self) -> None:
        if self.beat is not None:
            if self.is_first:
                self.found = []
                self.saw("back to back", self.ended_at == self.now - 1)
                self.values[self.now + 1] = self.answers[self.now + 2] = None
            earlier = set(self.found)
            self.found += [value for value in self.beat if value is not None]
            self.is_first = False
            if not self.beats:
                self.ended_at = self.now
                distinct = set(self.found)
                self.values[self.now + 1] = self.found[0] if len(distinct) == 1 else None
                self.answers[self.now + 2] = len(distinct) == 1
                self.saw("equal", len(distinct) == 1)
                self.saw("one bit differs", len(distinct) == 2)
                self.saw("empty", not distinct)
                self.saw("one value", len(self.found) == 1)
                self.saw("in another beat", len(earlier) == 1 and len(distinct) == 2)
        self.now += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def equal_values_are_found(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, EQUAL, Distinct, seed=seed, cycles=PARAMETERS["cycles"])
