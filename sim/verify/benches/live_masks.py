"""Testbench of hw/datapath/tokens/live_masks.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.live_masks import LiveMasks
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
MASKS = LiveMasks(layouts=LAYOUTS)
Place = tuple[int, int]
"""A slot and a line."""


class Scatters(Twin):
    """Any lines are written while those of one slot after the other are read in order."""

    goals = {"line of the job": 200, "line behind the job": 100, "stalled": 100, "written beside a read": 200}

    def reset(self) -> None:
        self.masks: dict[Place, int] = {}
        self.order: list[int] = []
        """Lines that are still to be read."""
        self.shown: dict[str, Any] | None = None
        """The line on `o`."""
        self.has_begun = False
        self.slot = self.lines = self.job_lines = 0

    def inputs(self) -> Values:
        source = self.source
        self.ready = source.random() < 0.7
        self.enable = self.has_begun and source.random() < 0.9
        self.begins = not self.order and self.shown is None and source.random() < 0.5
        reads = self.enable and self.order and (self.shown is None or self.ready)
        self.read = (self.slot, self.order[0]) if reads else None
        self.write = None
        if source.random() < 0.6:
            place = source.randrange(LAYOUTS.slots), source.randrange(LAYOUTS.lines)
            self.write = place if place != self.read else None
        self.mask = source.getrandbits(LAYOUTS.lanes)
        given: dict[str, Any] = {
            "begins": self.begins,
            "enable": self.enable,
            "write_enable": self.write is not None,
            "o": {"ready": self.ready},
        }
        if self.write is not None:
            given |= {"write_slot": self.write[0], "write_line": self.write[1], "write_mask": self.mask}
        if self.begins:
            self.lines = source.randint(1, LAYOUTS.lines)
            given |= {"lines": self.lines}
        if self.order:
            given |= {"slot": self.slot, "job_lines": self.job_lines}
        return given

    def outputs(self) -> Values:
        return {"o": {"valid": self.shown is not None, "payload": self.shown}}

    def clock(self) -> None:
        self.saw("stalled", self.shown is not None and not self.ready)
        self.saw("written beside a read", self.write and self.read)
        if self.ready:
            self.shown = None
        if self.read is not None:
            line = self.order.pop(0)
            self.shown = {"last": not self.order}
            if line >= self.job_lines:
                self.shown["mask"] = 0
                self.saw("line behind the job")
            elif self.read in self.masks:
                self.shown["mask"] = self.masks[self.read]
                self.saw("line of the job")
        if self.write is not None:
            self.masks[self.write] = self.mask
        if self.begins:
            self.has_begun = True
            self.slot = self.source.randrange(LAYOUTS.slots)
            self.order = list(range(self.lines))
            self.job_lines = self.source.randint(1, LAYOUTS.lines)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def masks_come_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, MASKS, Scatters, seed=seed, cycles=PARAMETERS["cycles"])
