"""Testbench of the SDRAM controller's initialisation and refreshing against its twin; tests/hw/board/test_sdram.py
runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.sdram_commands import Command
from spatten.hw.board.sdram_upkeep import SdramUpkeep, settling_cycles
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.runs.sdram import TIMINGS
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
TIMING = TIMINGS[PARAMETERS["timing"]]


class UpkeepTwin(Twin):
    """Knows when the SDRAM is wanted, and from a batch's beginning the cycle of each command."""

    goals = {"begun": 5, "begun late": 2, "mode": 1, "mode after a warm reset": 1, "ended": 5}

    def reset(self) -> None:
        self.cycle = 0
        self.wants = True
        self.is_started = False
        self.warm = self.source.random() < 0.5
        self.due = settling_cycles(TIMING) if self.warm else TIMING.power_up
        self.script: dict[int, Command] = {}
        self.end = -1
        self.is_granted = False

    def inputs(self) -> Values:
        self.is_granted = self.wants and (self.is_granted or self.source.random() < 0.05)
        return {"grant": self.is_granted, "warm": self.warm}

    def outputs(self) -> Values:
        self.begins = self.wants and self.cycle >= self.due and not self.script and self.is_granted
        if self.begins:
            first = self.cycle + TIMING.t_rp
            self.script = {self.cycle: Command.PRECHARGE}
            self.script |= {first + n * TIMING.t_rfc: Command.REFRESH for n in range(TIMING.batch)}
            self.end = first + TIMING.batch * TIMING.t_rfc
            if not self.is_started:
                self.script[self.end] = Command.LOAD_MODE
                self.end += TIMING.t_mrd
        code = self.script.get(self.cycle, Command.NOP)
        a = {Command.PRECHARGE: {"bank": 0, "address": 1 << 10}, Command.LOAD_MODE: {"bank": 0, "address": 0x31}}
        command = {"o": {"code": int(code), **a.get(code, {})}} if self.wants else {}
        return {"wants": self.wants, "closes": self.begins, **command}

    def clock(self) -> None:
        self.saw("begun", self.begins)
        self.saw("begun late", self.begins and self.cycle > self.due)
        is_mode = self.script.get(self.cycle) is Command.LOAD_MODE
        self.saw("mode", is_mode)
        self.saw("mode after a warm reset", is_mode and self.warm)
        if self.script and self.cycle == self.end:
            self.saw("ended")
            self.wants, self.script, self.is_started = False, {}, True
            self.due += TIMING.refresh_period
        self.cycle += 1
        if self.cycle == self.due:
            self.wants = True


@cocotb.test
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_agrees_with_its_twin(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, SdramUpkeep(timing=TIMING), UpkeepTwin, seed=seed, cycles=PARAMETERS["cycles"])
