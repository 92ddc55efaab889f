"""Testbench of hw/control/row/stash_slots.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.stash_slots import StashSlots
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.constants import STASH_SLOTS

PARAMETERS = parameters()


class Slots(Twin):
    """The slots that are taken, as a set."""

    goals = {"full": 50, "freed when full": 20, "taken and freed": 100, "several freed": 50, "a gap": 100}

    def reset(self) -> None:
        self.taken: set[int] = set()

    def inputs(self) -> Values:
        free = set(range(STASH_SLOTS)) - self.taken
        self.next = min(free, default=None)
        self.takes = bool(free) and self.source.random() < 0.5
        rate = self.source.choice([0, 0, 0.2, 0.6])
        self.freed = {slot for slot in self.taken if self.source.random() < rate}
        return {"takes": self.takes, "freed": sum(1 << slot for slot in self.freed)}

    def outputs(self) -> Values:
        wanted = {"has_free": self.next is not None, "taken": sum(1 << slot for slot in self.taken)}
        return wanted if self.next is None else {**wanted, "slot": self.next}

    def clock(self) -> None:
        self.saw("full", self.next is None)
        self.saw("freed when full", self.next is None and self.freed)
        self.saw("taken and freed", self.takes and self.freed)
        self.saw("several freed", len(self.freed) > 1)
        self.saw("a gap", self.takes and self.taken and self.next is not None and self.next < max(self.taken))
        self.taken -= self.freed
        if self.takes and self.next is not None:
            self.taken.add(self.next)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def a_free_slot_is_given_away(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, StashSlots(), Slots, seed=seed, cycles=PARAMETERS["cycles"])
