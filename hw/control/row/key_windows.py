"""Walks along the rows of a segment, and of each row along the windows of its keys."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Const, Module, Mux, ResetSignal, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.plan.plan_layouts import groups_max
from spatten.hw.control.row.row_layouts import key_window, placed_segment
from spatten.hw.control.window_walker import WindowWalker
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import equals
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.row_format import key_ring_sectors, lsb_sectors

__all__ = ["KeyWindows"]


class KeyWindows(wiring.Component):
    """Makes the windows of segment after segment, row after row: each row reads its keys from the first one on.

    A window is made in the cycle before it is offered.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `placed_segment`, of at least a row and a key, which an assertion checks in simulation
    o : stream of `key_window`; `ready` may depend on `valid`
    begins, next_entry, next_group, next_linear : out, in this cycle the next window is made, which is offered from the
        next cycle on; its block and group, and whether it lies behind the ring (as of
        `hw.control.window_walker.ArrivalGate`; `next_linear` only with progressive recompute)

    Latency: 2 cycles from a segment to its first window. Throughput: a window per cycle, across rows and segments.
    Combinational from `o.ready` to `begins` and `i.ready`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        super().__init__(
            {
                "i": In(stream.Signature(placed_segment(config))),
                "o": Out(stream.Signature(key_window(config))),
                "begins": Out(1),
                "next_entry": Out(entry_shape(config.blocks)),
                "next_group": Out(range(groups_max(config))),
                **optional(self._recomputes, next_linear=Out(1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        count = range(config.tokens_max + 1)
        # The segment whose windows are made, and its rows from this one on. Of this row: all keys, those in windows
        # before this one, those from this one on, and those that the beat of scores has already; how many keys are in
        # windows up to this one; and where behind the ring the last window before the limit begins.
        self._placed = Signal(placed_segment(config), reset_less=True)
        self._segment = segment = self._placed.segment
        self._rows_left = Signal(range(config.topk_lanes + 1), reset_less=True)
        self._keys = Signal(count, reset_less=True)
        self._keys_done = Signal(range(config.tokens_max), reset_less=True)
        self._keys_left = Signal(count, reset_less=True)
        self._last_place = Signal(range(key_ring_sectors(config) + lsb_sectors(config)), reset_less=True)
        self._beat_keys = Signal(range(config.softmax_lanes), reset_less=True)
        self._done_after = Signal(range(config.tokens_max + config.softmax_lanes))
        self._ends = Signal()

        runs = Signal()
        self._takes = Signal()
        m.submodules.walker = self._walker = walker = WindowWalker(
            config=config,
            sectors=key_ring_sectors(config),
            linear_sectors=lsb_sectors(config),
            left_shape=count,
            restarts=True,
        )
        m.d.comb += [
            self.begins.eq(runs & (~self.o.valid | self.o.ready)),
            self.next_entry.eq(segment.entry),
            self.next_group.eq(self._keys_done >> ceil_log2(config.topk_lanes)),
            *([self.next_linear.eq(segment.linear)] if self._recomputes else []),
            self._done_after.eq(self._keys_done + self._placed.windows.window_keys),
            self._ends.eq(walker.last_beat & walker.last_window & (self._rows_left == 1)),
            self._takes.eq(~runs | (self.begins & self._ends)),
            self.i.ready.eq(self._takes),
            walker.windows.eq(self._placed.windows),
            walker.left.eq(self._keys_left),
            walker.steps.eq(self.begins),
            walker.starts.eq(self._takes),
            walker.start.eq(self.i.payload.segment.base),
            *([walker.linear.eq(segment.linear)] if self._recomputes else []),
            walker.base.eq(segment.base),
            *([walker.last_place.eq(self._last_place)] if self._recomputes else []),
        ]
        m.d.sync += self.o.valid.eq(runs | (self.o.valid & ~self.o.ready))
        with m.If(self._takes):
            m.d.sync += runs.eq(self.i.valid)
        self._step(m)
        self._make(m)
        if asserts(platform):
            has_keys = self.i.payload.segment.rows.any() & self.i.payload.segment.keys.any()
            m.d.sync += Assert(ResetSignal() | ~self.i.valid | has_keys, "a segment has no rows or no keys\n")
        return m

    def _step(self, m: Module) -> None:
        """Goes on to the next window, row or segment."""
        walker, windows = self._walker, self._placed.windows
        next_keys = Signal(self._keys.shape())
        m.d.comb += next_keys.eq(self._keys + self._segment.causal)
        with m.If(self.begins), m.If(walker.last_beat):
            m.d.sync += [
                self._keys_done.eq(Mux(walker.last_window, 0, self._done_after)),
                self._keys_left.eq(Mux(walker.last_window, next_keys, self._keys_left - windows.window_keys)),
                self._beat_keys.eq(Mux(walker.last_window, 0, self._beat_keys + windows.window_keys)),
            ]
            with m.If(walker.last_window):
                m.d.sync += [self._rows_left.eq(self._rows_left - 1), self._keys.eq(next_keys)]
        with m.If(self._takes):
            segment = self.i.payload.segment
            m.d.sync += [
                self._placed.eq(self.i.payload),
                self._rows_left.eq(segment.rows),
                self._keys.eq(segment.keys),
                self._keys_left.eq(segment.keys),
                self._keys_done.eq(0),
                self._beat_keys.eq(0),
            ]
            if self._recomputes:
                m.d.sync += self._last_place.eq(segment.limit - self.i.payload.windows.step)

    def _make(self, m: Module) -> None:
        """Makes the window, in registers."""
        config, segment, walker = self.config, self._segment, self._walker
        last_beat, last_window = walker.last_beat, walker.last_window
        windows = self._placed.windows
        lanes = config.topk_lanes
        window = Signal(key_window(config), reset_less=True)
        m.d.comb += self.o.payload.eq(window)
        ends_beat = self._beat_keys + windows.window_keys == config.softmax_lanes
        ends_block = self._ends & segment.ends_block
        if self._recomputes:
            ends_group = equals(self._done_after & (lanes - 1), 0) if lanes > 1 else Const(1)
            frees = self._ends & segment.linear & equals(segment.kind, Kind.SINGLE)
            ends_block = ends_block & ~segment.linear
        request = window.request
        beat, scores = request.header, request.header.scores
        with m.If(self.begins):
            m.d.sync += [
                request.sector.eq(walker.sector),
                request.sectors.eq(walker.count),
                beat.part.eq(walker.part.part),
                beat.count.eq(Mux(last_window, self._keys_left, windows.window_keys)),
                beat.group.eq(windows.log_keys),
                beat.dim.eq(segment.dim),
                beat.last.eq(last_window & last_beat),
                scores.row.eq(segment.row),
            ]
            if self._recomputes:
                m.d.sync += [scores.kind.eq(segment.kind), scores.stash_slot.eq(segment.stash_slot)]
            m.d.sync += [scores.mantissa.eq(segment.mantissa), scores.shift.eq(segment.shift)]
            if self._recomputes:
                m.d.sync += scores.flat_limit.eq(segment.flat_limit)
            m.d.sync += window.entry.eq(segment.entry)
            if self._recomputes:
                m.d.sync += window.linear.eq(segment.linear)
            m.d.sync += [
                window.group.eq(self.next_group),
                window.fills.eq(last_beat & (last_window | ends_beat)),
                window.ends_row.eq(last_beat & last_window),
                window.ends_block.eq(ends_block),
            ]
            if self._recomputes:
                m.d.sync += [
                    window.again_read.eq(last_beat & segment.linear & (ends_group | last_window)),
                    window.again_done.eq(self._ends & segment.linear),
                    window.freed.eq(Mux(frees, Const(1, STASH_SLOTS) << segment.stash_slot, 0)),
                ]
