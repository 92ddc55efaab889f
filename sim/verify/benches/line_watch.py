"""Testbench of the watch in hw/board/uart.py; tests/hw/board/test_link_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.uart import LineWatch
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
COMPONENT = LineWatch(cycles=PARAMETERS["long"])


class Watch(Twin):
    """A line that stays for shorter and longer than what is long."""

    goals = {"gap": 20, "break": 20, "just not": 5}

    def reset(self) -> None:
        self.line = 1
        self.stays = 0
        self.same = 0
        self.level = 1
        self.said = {"gap": 0, "breaks": 0}

    def inputs(self) -> Values:
        if self.stays == 0:
            self.line ^= 1
            self.stays = self.source.randint(1, 2 * COMPONENT.cycles)
        self.stays -= 1
        return {"line": self.line}

    def outputs(self) -> Values:
        return self.said

    def clock(self) -> None:
        is_long = self.same >= COMPONENT.cycles
        self.saw("just not", self.line != self.level and self.same == COMPONENT.cycles - 1)
        self.said = {"gap": is_long and self.level, "breaks": is_long and not self.level}
        self.saw("gap", self.said["gap"])
        self.saw("break", self.said["breaks"])
        self.same = self.same + 1 if self.line == self.level else 0
        self.level = self.line


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_says_what_is_long(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Watch, seed=seed, cycles=PARAMETERS["cycles"])
