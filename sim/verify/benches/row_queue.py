"""Testbench of hw/control/row/row_queue.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.row_queue import RowQueue
from spatten.sim.verify.benches.row_models import Queue
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
LANES: int = PARAMETERS["lanes"]
COMPONENT = RowQueue(config=CONFIG, lanes=LANES)
ANY_BEAT = Anything(COMPONENT.i.payload.shape())
BEATS_MAX = -(-CONFIG.tokens_max // LANES)
ROWS_MAX = 2 * -(-CONFIG.tokens_max // CONFIG.softmax_lanes)


class Rows(Twin):
    """Rows of any length; what they are and their beats are taken at different paces."""

    goals = {"two longest rows": 5, "full of rows": 5, "full of beats": 5, "row": 100, "beats wait for nothing": 100}

    def reset(self) -> None:
        self.rows, self.beats = Queue(ROWS_MAX), Queue(2 * BEATS_MAX)
        self.offer: dict[str, Any] | None = None
        self.left = 0
        self.short = False
        self.begins = True
        self.pace = {"rows": 0.5, "beats": 0.5}

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.02:
            self.pace = {name: source.choice([0, 0.3, 1]) for name in self.pace}
            self.short = source.random() < 0.5
        if self.offer is None and source.random() < 0.8:
            if self.left == 0:
                longest = source.choice([1, 1, 2]) if self.short else BEATS_MAX
                self.left = min(source.choice([longest, source.randint(1, longest)]), BEATS_MAX)
            self.left -= 1
            self.offer = ANY_BEAT(source) | {"last": self.left == 0}
        self.takes = {name: source.random() < pace for name, pace in self.pace.items()}
        offer = {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer}
        return {"i": offer, "o_row": {"ready": self.takes["rows"]}, "o_beat": {"ready": self.takes["beats"]}}

    def outputs(self) -> Values:
        self.ready = self.rows.ready and self.beats.ready
        row: dict[str, Any] = {"valid": 0}
        beat: dict[str, Any] = {"valid": 0}
        if self.rows.valid:
            row = {"valid": 1, "payload": self.rows.first}
        if self.beats.valid:
            beat = {"valid": 1, "payload": {name: self.beats.first[name] for name in ("probs", "count", "last")}}
        return {"i": {"ready": self.ready}, "o_row": row, "o_beat": beat}

    def clock(self) -> None:
        self.saw("two longest rows", len(self.beats) >= 2 * BEATS_MAX)
        self.saw("full of rows", not self.rows.ready)
        self.saw("full of beats", not self.beats.ready and self.rows.ready)
        self.saw("beats wait for nothing", self.beats.valid and self.takes["beats"])
        goes = self.offer is not None and self.ready
        row = self.offer["row"] if self.offer else None
        self.saw("row", goes and self.begins)
        self.rows.clock(pushes=goes and self.begins, entry=row, pops=self.rows.valid and self.takes["rows"])
        self.beats.clock(pushes=goes, entry=self.offer, pops=self.beats.valid and self.takes["beats"])
        if goes and self.offer is not None:
            self.begins = bool(self.offer["last"])
            self.offer = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_and_beats_keep_their_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Rows, seed=seed, cycles=PARAMETERS["cycles"])
