"""Testbench of hw/control/row/segment_windows.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.segment_windows import SegmentWindows
from spatten.hw.control.segments import key_segment
from spatten.sim.verify.benches.row_models import Buffer, any_format, windows_record
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import CODE_BITS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = SegmentWindows(config=CONFIG)
ANY_SEGMENT = Anything(key_segment(CONFIG))


class Segments(Twin):
    """Segments of every format of keys; the windows follow from the format of a block row alone."""

    goals = {"joined": 100, "lsb": 20, "several beats": 50, "several rows": 50, "odd head": 50, "full": 50}

    def reset(self) -> None:
        self.buffer = Buffer()
        self.offer: dict[str, Any] | None = None

    def _make(self) -> None:
        row, head, is_lsb = any_format(CONFIG, self.source, is_key=True)
        segment = ANY_SEGMENT(self.source) | {
            "dim": HEAD_DIMS.index(row.head_dim),
            "bits": CODE_BITS.index(row.bits),
            "joined": int(row.joined),
            "odd_head": head,
            "lsb": int(is_lsb),
        }
        windows = windows_record(CONFIG, row, head, is_lsb=is_lsb)
        self.offer = {"segment": segment, "windows": windows}
        self.saw("joined", row.joined)
        self.saw("lsb", is_lsb)
        self.saw("several beats", row.beats > 1)
        self.saw("several rows", windows["window_keys"] > CONFIG.slices)
        self.saw("odd head", head)

    def inputs(self) -> Values:
        if self.offer is None and self.source.random() < 0.7:
            self._make()
        self.takes = self.source.random() < 0.6
        offer = {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer["segment"]}
        return {"i": offer, "o": {"ready": self.takes}}

    def outputs(self) -> Values:
        valid = self.buffer.valid
        return {
            "i": {"ready": self.buffer.ready},
            "o": {"valid": 1, "payload": self.buffer.first} if valid else {"valid": 0},
        }

    def clock(self) -> None:
        self.saw("full", not self.buffer.ready)
        pushes = self.offer is not None and self.buffer.ready
        pops = self.buffer.valid and self.takes
        self.buffer.clock(pushes=pushes, entry=self.offer, pops=pops)
        if pushes:
            self.offer = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def windows_follow_from_the_format(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Segments, seed=seed, cycles=PARAMETERS["cycles"])
