"""Testbench of hw/datapath/select/pass_control.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.pass_control import PassControl
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
HAS_ONE_PASS: bool = PARAMETERS["has_one_pass"]
CONTROL = PassControl(has_one_pass=HAS_ONE_PASS)


class Rows(Twin):
    """Rows of random lengths and numbers of passes; what is left to do of the row in work is a list."""

    goals = {
        "row behind row": 30,
        "one beat": 30,
        **({} if HAS_ONE_PASS else {"second pass": 30, "waits for a beat": 50, "in vain": 30, "frees at once": 30}),
    }

    def reset(self) -> None:
        self.rows = 0
        """Rows in the buffers that are full, at most 2."""
        self.todo: list[str] = []
        """Of the row in work: "read", "last read", "decide", "free"."""
        self.left = self.decided = False

    def inputs(self) -> Values:
        self.rows += self.rows < 2 and self.source.random() < 0.5
        self.was_idle = not self.todo
        if not self.todo and self.rows:
            passes = 1 if HAS_ONE_PASS else self.source.choice([1, 1, 2, 3])
            for number in range(passes):
                beats = self.source.choice([1, 2, 3])
                self.saw("one beat", beats == 1)
                self.saw("second pass", number == 1)
                self.todo += ["read"] * (beats - 1) + ["last read"]
                if not HAS_ONE_PASS:
                    self.todo += ["decide"]
            if not HAS_ONE_PASS:
                self.todo += ["free"]
            self.first = True
        self.step = self.todo[0] if self.todo else ""
        if HAS_ONE_PASS:
            return {"is_full": self.rows > 0, "reads_last": self.step == "last read"}
        self.is_stored = self.source.random() < 0.7 or (self.first and "read" in self.step)
        self.is_compacted = self.source.random() < 0.6
        self.done = self.step == "decide" and self.source.random() < 0.4
        ports: dict[str, Any] = {
            "is_full": self.rows > 0,
            "is_stored": self.is_stored,
            "is_compacted": self.is_compacted,
            "done": self.done,
        }
        if "read" in self.step:
            ports["reads_last"] = self.step == "last read"
        if self.done:
            ports["finishes"] = self.todo[1] == "free"
        return ports

    def outputs(self) -> Values:
        reads = "read" in self.step and (HAS_ONE_PASS or self.is_stored)
        if HAS_ONE_PASS:
            frees = self.step == "last read"
        else:
            frees = self.step == "free" and self.is_compacted
            self.saw("waits for a beat", "read" in self.step and not self.is_stored)
            self.saw("in vain", self.step == "free" and not self.is_compacted)
        self.reads, self.frees = reads, frees
        self.starts = bool(self.todo) and self.first
        return {"starts": self.starts, "reads": reads, "frees": frees}

    def clock(self) -> None:
        self.saw("row behind row", self.starts and self.left)
        self.saw("frees at once", self.frees and self.decided)
        self.left = self.frees
        self.decided = self.step == "decide"
        if self.reads or self.frees or (self.step == "decide" and self.done):
            del self.todo[0]
            self.first = False
        self.rows -= self.frees


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_are_read_in_passes(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, CONTROL, Rows, seed=seed, cycles=PARAMETERS["cycles"])
