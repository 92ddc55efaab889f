"""Testbench of hw/board/board_reset.py; tests/hw/board/test_board_reset.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.board.board_reset import RESET_CYCLES, BoardReset
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()


class Button(Twin):
    """A button that is pressed now and then, for short and for long, and an SDRAM that gets ready."""

    goals = {"pressed": 20, "pressed in a reset": 5, "held beyond a reset": 10, "ready": 5, "warm reset": 10}

    def reset(self) -> None:
        self.cycle = 0
        self.until = RESET_CYCLES
        self.warm = False
        self.history = [False, False, False]
        self.pressed = False

    def inputs(self) -> Values:
        if self.source.random() < (0.02 if self.history[0] else 0.04):
            self.pressed = not self.pressed
        self.ready = self.source.random() < 0.01
        return {"pressed": self.pressed, "ready": self.ready}

    def outputs(self) -> Values:
        return {"reset": self.cycle < self.until, "warm": self.warm}

    def clock(self) -> None:
        self.cycle += 1
        before, now = self.history[2], self.history[1]
        if now and not before:
            self.saw("pressed")
            self.saw("pressed in a reset", self.cycle < self.until)
            self.saw("warm reset", self.warm)
            self.until = self.cycle + RESET_CYCLES
        self.saw("held beyond a reset", all(self.history) and self.cycle == self.until)
        self.history = [self.pressed, *self.history[:2]]
        self.saw("ready", self.ready)
        self.warm |= self.ready


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def a_button_makes_one_short_reset(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, BoardReset(), Button, seed=seed, cycles=PARAMETERS["cycles"])
