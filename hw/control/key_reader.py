"""Reads windows of the key ring for the Q x K array, as their keys arrive."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BANKS, window_layout
from spatten.hw.control.segments import key_header, key_segment, set_windows, windows
from spatten.hw.control.window_walker import ArrivalGate, WindowWalker
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.fifo import SkidBuffer
from spatten.hw.lib.logic import equals
from spatten.hw.memory.block_table import entry_shape
from spatten.hw.memory.ring_buffer import window_request
from spatten.spec.config import Config
from spatten.spec.constants import BLOCKS, KEPT_SLOTS
from spatten.spec.row_format import key_ring_sectors, lsb_sectors

__all__ = ["KeyReader"]


class KeyReader(wiring.Component):
    """Reads a row's keys window by window, as they arrive, and sends them with everything that belongs to the row.

    While a segment runs the next one is made ready, so the change costs no cycle. A window is read only if its scores
    will find a place at the end of the array.

    Parameters
    ----------
    config : Config
    places : int
        Score beats that the array's output holds, less what it keeps free.

    Ports
    -----
    i : stream of `key_segment`
    i_row : stream of row numbers; a valid one says that the next row's query is there
    arrived : in, for each key block how many of its row groups are there; again_arrived : in, the same for the part of
        the buffer behind the ring
    left : in, a score beat has left the array
    o_read : to the key ring; its header has the part for the converter, and the beat for the array
    used : out, `valid` and `entry`: a block has been read for the last time
    again_read, again_done : out, a group of keys of a row that is computed again has been read; all of its keys have
    again_slot : out, a bit for each kept slot: it is free, since a row of kind SINGLE that was computed again has been
        read
    waits : out, a row waits for its keys or its query

    Throughput: a window per cycle, across rows and segments.
    """

    def __init__(self, *, config: Config, places: int) -> None:
        self.config = config
        self.places = places
        self.sectors = key_ring_sectors(config)
        self.groups = config.tokens_max // config.topk_lanes
        entry = entry_shape(BLOCKS)
        groups = range(self.groups + 1)
        self.header = data.StructLayout(
            {
                "part": window_layout().members["part"],
                "count": range(config.softmax_lanes + 1),
                "group": range(max(ceil_log2(config.softmax_lanes), 1) + 1),
                "dim": 2,
                "last": 1,
                "row": key_header(config),
            }
        )
        request = window_request(self.sectors + lsb_sectors(config), BANKS, self.header)
        super().__init__(
            {
                "i": In(stream.Signature(key_segment(config))),
                "i_row": In(stream.Signature(range(config.tokens_max))),
                "arrived": In(data.ArrayLayout(groups, BLOCKS)),
                "again_arrived": In(groups),
                "left": In(1),
                "o_read": Out(wiring.Signature({"valid": Out(1), "payload": Out(request)})),
                "used": Out(data.StructLayout({"valid": 1, "entry": entry})),
                "again_read": Out(1),
                "again_done": Out(1),
                "again_slot": Out(KEPT_SLOTS),
                "waits": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        given = self.i.payload

        # `ready` holds the next segment; `now` is the one whose windows are made.
        layout = data.StructLayout({"segment": key_segment(config), **windows(config)})
        m.submodules.ready = ready = SkidBuffer(shape=layout)
        made = ready.i.payload
        m.d.comb += [ready.i.valid.eq(self.i.valid), self.i.ready.eq(ready.i.ready), made.segment.eq(given)]
        set_windows(m, config, made, segment=given, joined=given.joined, lsb=given.lsb)
        now = Signal(layout, reset_less=True)
        segment = now.segment
        runs, switches = Signal(), Signal()

        # Windows are made one after the other, each a cycle before it may be read.
        count = range(config.tokens_max + 1)
        rows_left = Signal(range(lanes + 1), reset_less=True)
        keys = Signal(count, reset_less=True)
        done = Signal(range(config.tokens_max), reset_less=True)
        left = Signal(count, reset_less=True)
        offset = Signal(range(config.softmax_lanes), reset_less=True)

        window = Signal(
            data.StructLayout(
                {
                    "request": self.o_read.payload.shape(),
                    "entry": entry_shape(BLOCKS),
                    "linear": 1,
                    "group": range(self.groups),
                    "fills": 1,
                    "ends_row": 1,
                    "ends_block": 1,
                    "again_read": 1,
                    "again_done": 1,
                    "again_slot": KEPT_SLOTS,
                }
            ),
            reset_less=True,
        )
        holds, steps, goes = Signal(), Signal(), Signal()
        window_keys = now.window_keys
        after = Signal(range(config.tokens_max + config.softmax_lanes))
        next_keys = Signal(count)
        last_row, ends = Signal(), Signal()
        m.submodules.walker = walker = WindowWalker(
            config=config, sectors=self.sectors, linear_sectors=lsb_sectors(config), left_shape=count
        )
        last_beat, last_window, part = walker.last_beat, walker.last_window, walker.part
        following = ready.o.payload
        m.d.comb += [walker.windows[name].eq(now[name]) for name in windows(config)]
        m.d.comb += [
            steps.eq(runs & (~holds | goes)),
            after.eq(done + window_keys),
            next_keys.eq(keys + segment.causal),
            walker.left.eq(left),
            walker.steps.eq(steps),
            walker.starts.eq(switches),
            walker.start.eq(following.segment.base),
            walker.linear.eq(segment.linear),
            walker.base.eq(segment.base),
            walker.limit.eq(segment.limit),
            last_row.eq(rows_left == 1),
            ends.eq(last_beat & last_window & last_row),
            switches.eq(~runs | (steps & ends)),
            ready.o.ready.eq(switches),
        ]
        request = window.request
        ends_group = equals(after & (lanes - 1), 0) if lanes > 1 else Const(1)
        with m.If(steps):
            m.d.sync += [
                request.sector.eq(walker.sector),
                request.sectors.eq(walker.count),
                request.header.part.eq(part.part),
                request.header.count.eq(Mux(last_window, left, window_keys)),
                request.header.group.eq(now.log_keys),
                request.header.dim.eq(segment.dim),
                request.header.last.eq(last_window & last_beat),
                request.header.row.row.eq(segment.row),
                request.header.row.kind.eq(segment.kind),
                request.header.row.kept_slot.eq(segment.kept_slot),
                request.header.row.mantissa.eq(segment.mantissa),
                request.header.row.shift.eq(segment.shift),
                request.header.row.flat_limit.eq(segment.flat_limit),
                window.entry.eq(segment.entry),
                window.linear.eq(segment.linear),
                window.group.eq(done >> lane_bits),
                window.fills.eq(last_beat & (last_window | (offset + window_keys == config.softmax_lanes))),
                window.ends_row.eq(last_beat & last_window),
                window.ends_block.eq(ends & segment.ends_block & ~segment.linear),
                window.again_read.eq(last_beat & segment.linear & (ends_group | last_window)),
                window.again_done.eq(ends & segment.linear),
                window.again_slot.eq(
                    Mux(
                        ends & segment.linear & equals(segment.kind, Kind.SINGLE),
                        Const(1, KEPT_SLOTS) << segment.kept_slot,
                        0,
                    )
                ),
            ]
        m.d.sync += holds.eq(runs | (holds & ~goes))

        with m.If(steps), m.If(last_beat):
            m.d.sync += [
                done.eq(Mux(last_window, 0, after)),
                left.eq(Mux(last_window, next_keys, left - window_keys)),
                offset.eq(Mux(last_window, 0, offset + window_keys)),
            ]
            with m.If(last_window):
                m.d.sync += [rows_left.eq(rows_left - 1), keys.eq(next_keys)]
        with m.If(switches):
            m.d.sync += [
                runs.eq(ready.o.valid),
                now.eq(following),
                rows_left.eq(following.segment.rows),
                keys.eq(following.segment.keys),
                left.eq(following.segment.keys),
                done.eq(0),
                offset.eq(0),
            ]

        # A window is read when its keys are there, its row's query is there, and its scores will have a place.
        m.submodules.gate = gate = ArrivalGate(config=config, has_linear=True)
        free = Signal(range(self.places + 1), init=self.places)
        has_keys = gate.has_rows
        m.d.comb += [
            gate.arrived.eq(self.arrived),
            gate.linear_arrived.eq(self.again_arrived),
            gate.begins.eq(steps),
            gate.entry.eq(window.entry),
            gate.linear.eq(window.linear),
            gate.next_entry.eq(segment.entry),
            gate.next_linear.eq(segment.linear),
            gate.group.eq(window.group),
            goes.eq(holds & self.i_row.valid & has_keys & (free.any() | ~window.fills)),
            self.waits.eq(holds & ~(self.i_row.valid & has_keys)),
            self.i_row.ready.eq(goes & window.ends_row),
            self.o_read.valid.eq(goes),
            self.o_read.payload.eq(request),
            self.o_read.payload.header.row.row.row.eq(self.i_row.payload),
            self.again_read.eq(goes & window.again_read),
            self.again_done.eq(goes & window.again_done),
            self.again_slot.eq(Mux(goes, window.again_slot, 0)),
        ]
        m.d.sync += [
            free.eq(free + self.left - (goes & window.fills)),
            self.used.valid.eq(goes & window.ends_block),
            self.used.entry.eq(window.entry),
        ]
        return m
