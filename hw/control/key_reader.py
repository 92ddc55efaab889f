"""Reads windows of the key ring for the Q x K array, as their keys arrive."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.plan.plan_layouts import block_event
from spatten.hw.control.row.credits import Credits
from spatten.hw.control.row.key_windows import KeyWindows
from spatten.hw.control.row.row_layouts import groups_shape, key_beat, key_window
from spatten.hw.control.row.segment_windows import SegmentWindows
from spatten.hw.control.segments import key_segment
from spatten.hw.control.window_walker import ArrivalGate
from spatten.hw.lib.connections import optional
from spatten.hw.lib.unstalled import unstalled
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS

__all__ = ["KeyReader"]


class KeyReader(wiring.Component):
    """Reads a row's keys window by window, as they arrive, and sends them with everything that belongs to the row.

    While a segment runs the next one is made ready, so the change costs no cycle. A window is read only when its keys
    are there, the query of its row is, and its scores will find a place at the end of the array.

    It is joined of components in hw/control/row: `SegmentWindows` looks up how a segment is read, `KeyWindows` walks
    along its windows, `Credits` counts places; and of the `ArrivalGate` of hw/control/window_walker.py. Without
    progressive recompute no row is computed again, and there are no ports of such rows, `again_arrived` to
    `again_freed`.

    Parameters
    ----------
    config : Config
    places : int
        Score beats that may be under way from the key ring on (`hw.datapath.qk.QkArray.places`, less the two that the
        array leaves free).

    Ports
    -----
    i : stream of `key_segment`
    i_row : stream of row numbers; a valid one says that the next row's query is there
    arrived : in, for each key block how many of its row groups are there; again_arrived : in, the same of the row in
        the refetch area (`hw.control`)
    left : in, a score beat has left the array
    o_read : to the key ring, a `hw.memory.ring_buffer.window_request` whose header is a `key_beat`
    used : out, `block_event`: a block has been read for the last time
    again_read, again_done : out, the last read of a group of keys of a row that is computed again is asked for; that of
        all of its keys is. The ring answers long before a group that is asked for then is written.
    again_freed : out, a bit for each stash slot: it is free, since a row of kind SINGLE that was computed again has
        been read
    waits : out, a row waits for its keys or its query

    Latency: 3 cycles from a segment to its first read. Throughput: a window per cycle, across rows and segments.

    It assumes that `left` is set once for each beat of scores that it has sent the keys of, which `Credits` asserts in
    simulation; and that the row numbers come in the order of the segments' rows.
    """

    def __init__(self, *, config: Config, places: int) -> None:
        self.config = config
        self.places = places
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self.header = key_beat(config)
        groups = groups_shape(config)
        super().__init__(
            {
                "i": In(stream.Signature(key_segment(config))),
                "i_row": In(stream.Signature(range(config.tokens_max))),
                "arrived": In(data.ArrayLayout(groups, config.blocks)),
                **optional(self._recomputes, again_arrived=In(groups)),
                "left": In(1),
                "o_read": Out(unstalled(key_window(config).members["request"])),
                "used": Out(block_event(config)),
                **optional(self._recomputes, again_read=Out(1), again_done=Out(1), again_freed=Out(STASH_SLOTS)),
                "waits": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.segments = segments = SegmentWindows(config=config)
        m.submodules.key_windows = windows = KeyWindows(config=config)
        m.submodules.gate = gate = ArrivalGate(config=config, has_linear=self._recomputes)
        m.submodules.credits = credits = Credits(places=self.places)
        wiring.connect(m, wiring.flipped(self.i), segments.i)
        wiring.connect(m, segments.o, windows.i)
        holds, goes = windows.o.valid, windows.o.ready
        window = windows.o.payload
        scores = self.o_read.payload.header.scores
        m.d.comb += [
            gate.arrived.eq(self.arrived),
            *([gate.linear_arrived.eq(self.again_arrived)] if self._recomputes else []),
            gate.begins.eq(windows.begins),
            gate.entry.eq(window.entry),
            *([gate.linear.eq(window.linear)] if self._recomputes else []),
            gate.next_entry.eq(windows.next_entry),
            *([gate.next_linear.eq(windows.next_linear)] if self._recomputes else []),
            gate.group.eq(window.group),
            gate.next_group.eq(windows.next_group),
            goes.eq(holds & self.i_row.valid & gate.has_rows & (credits.has_one | ~window.fills)),
            credits.takes.eq(goes & window.fills),
            credits.returns.eq(self.left),
            self.waits.eq(holds & ~(self.i_row.valid & gate.has_rows)),
            self.i_row.ready.eq(goes & window.ends_row),
            self.o_read.valid.eq(goes),
            self.o_read.payload.eq(window.request),
            scores.row.number.eq(self.i_row.payload),
        ]
        if self._recomputes:
            m.d.comb += [
                self.again_read.eq(goes & window.again_read),
                self.again_done.eq(goes & window.again_done),
                self.again_freed.eq(Mux(goes, window.freed, 0)),
            ]
        m.d.sync += [self.used.valid.eq(goes & window.ends_block), self.used.entry.eq(window.entry)]
        return m
