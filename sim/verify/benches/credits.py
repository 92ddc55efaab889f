"""Testbench of hw/control/row/credits.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.credits import Credits
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
PLACES: int = PARAMETERS["places"]


class Pipeline(Twin):
    """What is under way, in phases in which more is sent than leaves, and the other way round."""

    goals = {"all taken": 20, "all free": 20, "returned when all taken": 5, "taken and returned": 100}

    def reset(self) -> None:
        self.under_way = 0
        self.fills = True

    def inputs(self) -> Values:
        if self.source.random() < 0.01:
            self.fills = not self.fills
        likely, unlikely = (0.8, 0.3) if self.fills else (0.3, 0.8)
        self.takes = self.under_way < PLACES and self.source.random() < likely
        self.returns = self.under_way > 0 and self.source.random() < unlikely
        return {"takes": self.takes, "returns": self.returns}

    def outputs(self) -> Values:
        return {"has_one": self.under_way < PLACES}

    def clock(self) -> None:
        self.saw("all taken", self.under_way == PLACES)
        self.saw("all free", self.under_way == 0)
        self.saw("returned when all taken", self.under_way == PLACES and self.returns)
        self.saw("taken and returned", self.takes and self.returns)
        self.under_way += self.takes - self.returns


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def places_are_counted(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, Credits(places=PLACES), Pipeline, seed=seed, cycles=PARAMETERS["cycles"])
