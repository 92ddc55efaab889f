"""Testbench of hw/control/row/score_scales.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job_layouts import score_scale
from spatten.hw.control.row.score_scales import ScoreScales
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = ScoreScales(config=CONFIG)
ANY_SCALE = Anything(score_scale())


class Scales(Twin):
    """Scales of any head of any job are written and read, also in one cycle, but not the same."""

    goals = {"walk": 100, "again": 100, "again waits": 50, "holds": 100, "writes beside a read": 100}

    def reset(self) -> None:
        self.scales: dict[tuple[int, int], dict[str, int]] = {}
        self.read: dict[str, int] = {}
        self.asked: tuple[int, int] | None = None

    def _any_place(self) -> tuple[int, int]:
        return self.source.randrange(CONFIG.jobs_in_flight), self.source.randrange(CONFIG.heads_max)

    def inputs(self) -> Values:
        source = self.source
        known = list(self.scales)
        self.walk = source.choice(known) if known and source.random() < 0.3 else None
        if self.asked is None and known and source.random() < 0.3:
            self.asked = source.choice(known)
        place = self._any_place()
        self.write = {"slot": place[0], "head": place[1], **ANY_SCALE(source)}
        self.writes = source.random() < 0.5 and place not in (self.walk, self.asked)
        return {
            "scale": {"enable": 1, **self.write} if self.writes else {"enable": 0},
            "walk": _stream(self.walk),
            "again": _stream(self.asked),
        }

    def outputs(self) -> Values:
        return {"again": {"ready": self.walk is None}, "o": self.read}

    def clock(self) -> None:
        place = self.walk or self.asked
        self.saw("walk", self.walk)
        self.saw("again", self.asked and not self.walk)
        self.saw("again waits", self.asked and self.walk)
        self.saw("holds", self.read and place is None)
        self.saw("writes beside a read", self.writes and place)
        if place is not None:
            self.read = self.scales[place]
        if self.walk is None:
            self.asked = None
        if self.writes:
            self.scales[self.write["slot"], self.write["head"]] = {
                name: self.write[name] for name in ("mantissa", "shift")
            }


def _stream(place: tuple[int, int] | None) -> dict[str, Any]:
    if place is None:
        return {"valid": 0}
    return {"valid": 1, "payload": {"slot": place[0], "head": place[1]}}


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def scales_are_kept(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Scales, seed=seed, cycles=PARAMETERS["cycles"])
