"""Walks along the windows of values that a row's probabilities meet."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.plan.plan_layouts import groups_max
from spatten.hw.control.row.row_layouts import prob_beat, value_row, value_window
from spatten.hw.control.window_walker import WindowWalker
from spatten.hw.datapath.pv import weight_beat
from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import Fifo
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import value_ring_sectors

__all__ = ["ValueWindows"]

_WEIGHTS = 8
"""Beats of probabilities that wait in front of the array."""


class ValueWindows(wiring.Component):
    """Makes the windows of row after row, beat after beat of its probabilities, which go on to the array.

    A beat meets as many windows as its probabilities need; where a value takes several beats of the array, each window
    place is read so many times. A window is made in the cycle before it is offered, and its beat of probabilities goes
    to the array when its first window is made.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `value_row`
    i_beat, i_pruned_beat : streams of `prob_beat` of `softmax_lanes`: of rows with all of their probabilities, and of
        pruned rows (only with local pruning)
    o : stream of `value_window`; `ready` may depend on `valid`
    o_prob : stream of `hw.datapath.pv.weight_beat`, through a queue of 8
    begins, next_entry, next_group : out, in this cycle the next window is made, which is offered from the next cycle
        on; its block and group (as of `hw.control.window_walker.ArrivalGate`)

    Latency: 2 cycles from a row to its first window. Throughput: a window per cycle, across rows. Combinational from
    `o.ready` to `begins` and to the `ready` of all inputs.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._prunes = config.has(Feature.PRUNE_VALUES)
        self.prob = weight_beat(lanes=config.softmax_lanes, prob_bits=config.prob_bits, header=row_layout(config))
        beat = prob_beat(config, config.softmax_lanes)
        super().__init__(
            {
                "i": In(stream.Signature(value_row(config))),
                "i_beat": In(stream.Signature(beat)),
                **optional(self._prunes, i_pruned_beat=In(stream.Signature(beat))),
                "o": Out(stream.Signature(value_window(config))),
                "o_prob": Out(stream.Signature(self.prob)),
                "begins": Out(1),
                "next_entry": Out(entry_shape(config.blocks)),
                "next_group": Out(range(groups_max(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.softmax_lanes
        # The row whose windows are made, and its values in windows before this one: of the row, and of the beat.
        row = Signal(value_row(config), reset_less=True)
        row_done = Signal(range(config.tokens_max), reset_less=True)
        beat_done = Signal(range(lanes + 1), reset_less=True)
        runs, takes, ends_row = Signal(), Signal(), Signal()
        beat, beat_valid = Signal(self.i_beat.payload.shape()), Signal()
        left = Signal(range(lanes + 1))
        m.submodules.walker = walker = WindowWalker(
            config=config, sectors=value_ring_sectors(config), left_shape=left.shape()
        )
        m.submodules.probs = probs = Fifo(shape=self.prob, depth=_WEIGHTS)
        wiring.connect(m, probs.o, wiring.flipped(self.o_prob))
        ends_beat = self.begins & walker.last_beat & walker.last_window
        begins_beat = ~beat_done.any() & walker.first_beat
        weights = probs.i.payload
        next_beat: Value = Value.cast(self.i_beat.payload)
        next_valid: Value = self.i_beat.valid
        if self._prunes:
            next_beat = Mux(row.is_pruned, Value.cast(self.i_pruned_beat.payload), next_beat)
            next_valid = Mux(row.is_pruned, self.i_pruned_beat.valid, next_valid)
        m.d.comb += [
            Value.cast(beat).eq(next_beat),
            beat_valid.eq(next_valid),
            left.eq(beat.count - beat_done),
            walker.windows.eq(row.windows),
            walker.left.eq(left),
            walker.steps.eq(self.begins),
            walker.starts.eq(takes),
            walker.start.eq(self.i.payload.base),
            ends_row.eq(beat.last & walker.last_window),
            self.begins.eq(runs & beat_valid & probs.i.ready & (~self.o.valid | self.o.ready)),
            self.next_entry.eq(row.entry),
            self.next_group.eq(row_done >> ceil_log2(config.topk_lanes)),
            takes.eq(~runs | (self.begins & walker.last_beat & ends_row)),
            self.i.ready.eq(takes),
        ]
        if self._prunes:
            m.d.comb += [
                self.i_beat.ready.eq(ends_beat & ~row.is_pruned),
                self.i_pruned_beat.ready.eq(ends_beat & row.is_pruned),
            ]
        else:
            m.d.comb += self.i_beat.ready.eq(ends_beat)
        m.d.comb += [
            probs.i.valid.eq(self.begins & begins_beat),
            weights.probs.eq(beat.probs),
            weights.count.eq(beat.count),
            weights.last.eq(beat.last),
            weights.dim.eq(row.dim),
            weights.group.eq(row.windows.log_keys),
            weights.header.eq(row.row),
        ]
        window = Signal(value_window(config), reset_less=True)
        m.d.comb += self.o.payload.eq(window)
        m.d.sync += self.o.valid.eq(self.begins | (self.o.valid & ~self.o.ready))
        with m.If(self.begins):
            m.d.sync += [
                window.request.sector.eq(walker.sector),
                window.request.sectors.eq(walker.count),
                window.request.header.eq(walker.part.part),
                window.entry.eq(row.entry),
                window.group.eq(self.next_group),
                # Each beat of a value is a part of the row's output, which takes a place of its own.
                window.fills.eq(ends_row),
                window.ends_row.eq(ends_row & walker.last_beat),
            ]
            with m.If(walker.last_beat):
                m.d.sync += [
                    beat_done.eq(Mux(walker.last_window, 0, beat_done + row.windows.window_keys)),
                    row_done.eq(row_done + row.windows.window_keys),
                ]
        with m.If(takes):
            m.d.sync += [runs.eq(self.i.valid), row.eq(self.i.payload), row_done.eq(0), beat_done.eq(0)]
        return m
