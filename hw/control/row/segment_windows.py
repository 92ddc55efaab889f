"""Looks up how the windows of a segment's keys are read."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.row.row_layouts import placed_segment
from spatten.hw.control.segments import key_segment, set_windows
from spatten.hw.lib.fifo import SkidBuffer
from spatten.spec.config import Config, Feature

__all__ = ["SegmentWindows"]


class SegmentWindows(wiring.Component):
    """Adds to each segment how its windows are read, so that this is ready when the segment's turn comes.

    A window has as many block rows of each lane as `hw.control.format_tables.rows_per_read` says, and each of the
    ring's `slices` lanes has a key in each of them.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `key_segment`, o : stream of `placed_segment`, through a skid buffer
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {"i": In(stream.Signature(key_segment(config))), "o": Out(stream.Signature(placed_segment(config)))}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.buffer = buffer = SkidBuffer(shape=placed_segment(self.config))
        wiring.connect(m, buffer.o, wiring.flipped(self.o))
        segment, placed = self.i.payload, buffer.i.payload
        m.d.comb += [
            buffer.i.valid.eq(self.i.valid),
            self.i.ready.eq(buffer.i.ready),
            placed.segment.eq(segment),
        ]
        lsb = segment.lsb if self.config.has(Feature.PROGRESSIVE) else Const(0, 1)
        set_windows(m, self.config, placed.windows, segment=segment, joined=segment.joined, lsb=lsb)
        return m
