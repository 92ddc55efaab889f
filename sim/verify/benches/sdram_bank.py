"""Testbench of a bank of the SDRAM controller against its twin; tests/hw/board/test_sdram.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.sdram_bank import SdramBank
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.runs.sdram import TIMINGS
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
TIMING = TIMINGS[PARAMETERS["timing"]]


class BankTwin(Twin):
    """Knows the cycles of the last ACTIVE and of the last word written."""

    goals = {"closed at the first chance": 20, "closed late": 20, "written while tRAS runs": 20, "reopened": 20}

    def reset(self) -> None:
        self.cycle = 0
        self.is_open = False
        self.row: int | None = None
        self.opened = self.written = -100

    @property
    def may_close(self) -> bool:
        return self.cycle - self.opened >= TIMING.t_ras and self.cycle - self.written >= TIMING.t_wr

    def inputs(self) -> Values:
        chance = self.source.random()
        self.opens = not self.is_open and chance < 0.4
        self.writes = self.is_open and chance < 0.3
        self.closes = self.is_open and self.may_close and not self.writes and chance < 0.7
        if self.opens:
            self.new_row = self.source.getrandbits(TIMING.part.row_bits)
        row = {"i_row": self.new_row} if self.opens else {}
        return {"opens": self.opens, "writes": self.writes, "closes": self.closes, **row}

    def outputs(self) -> Values:
        row = {} if self.row is None else {"row": self.row}
        return {"is_open": self.is_open, "may_close": self.may_close, **row}

    def clock(self) -> None:
        if self.closes:
            first = max(self.opened + TIMING.t_ras, self.written + TIMING.t_wr) == self.cycle
            self.saw("closed at the first chance", first)
            self.saw("closed late", not first)
            self.is_open = False
        if self.writes:
            self.saw("written while tRAS runs", self.cycle - self.opened < TIMING.t_ras)
            self.written = self.cycle
        if self.opens:
            self.saw("reopened", self.row is not None)
            self.is_open, self.row, self.opened = True, self.new_row, self.cycle
        self.cycle += 1


@cocotb.test
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_agrees_with_its_twin(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, SdramBank(timing=TIMING), BankTwin, seed=seed, cycles=PARAMETERS["cycles"])
