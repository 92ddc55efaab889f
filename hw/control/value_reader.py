"""Which probabilities meet which values, and when: from rows of probabilities to reads of the value ring."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BANKS, block_table, window_layout
from spatten.hw.control.job_slots import by_slot, row_layout, slot_layout
from spatten.hw.control.segments import set_windows, windows
from spatten.hw.control.window_walker import ArrivalGate, WindowWalker
from spatten.hw.datapath.pv import weight_beat
from spatten.hw.lib.expander import select
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.memory.block_table import entry_shape
from spatten.hw.memory.ring_buffer import window_request
from spatten.spec.config import Config
from spatten.spec.constants import BLOCKS
from spatten.spec.row_format import value_ring_sectors

__all__ = ["ValueReader", "kept_row", "prob_row"]


def prob_row(config: Config) -> data.StructLayout:
    """A beat of a row's probabilities: those of `count` keys, `last` ends the row."""
    probs = data.ArrayLayout(unsigned(config.prob_bits), config.softmax_lanes)
    return data.StructLayout(
        {"probs": probs, "count": range(config.softmax_lanes + 1), "last": 1, "row": row_layout(config)}
    )


def kept_row(config: Config) -> data.StructLayout:
    """A beat of the probabilities that top-k keeps of a row, its largest: as many as the top-k engine has lanes."""
    probs = data.ArrayLayout(unsigned(config.prob_bits), config.topk_lanes)
    return data.StructLayout(
        {"probs": probs, "count": range(config.topk_lanes + 1), "last": 1, "row": row_layout(config)}
    )


class ValueReader(wiring.Component):
    """Reads the values of a row's probabilities window by window, as they arrive.

    Rows with all of their probabilities wait in one queue, rows with only the largest (kept rows) in another; each
    queue keeps their order. While a row runs the next one is made ready, so the change costs no cycle. A window is read
    only if its result will find a place at the end of the array.

    Parameters
    ----------
    config : Config
    places : int
        Output beats that the prob x V array has places for.

    Ports
    -----
    slots : in, described at `hw.control.planner.Planner`
    i : stream of `prob_row`; i_kept : stream of `kept_row`
    i_block : stream of entries, the value block of each row of `i_kept`
    arrived, bases : in, for each value block how many of its row groups are there, and where it begins
    left : in, an output beat has left the array
    o_read : to the value ring, whose header has the part for the converter
    o_prob : stream of `hw.datapath.pv.weight_beat`, to the array, in time for its values
    used : out, `valid` and `entry`: a row has read its block
    waits : out, a row waits for its values

    Throughput: a window per cycle, across rows.
    """

    def __init__(self, *, config: Config, places: int) -> None:
        self.config = config
        self.places = places
        self.sectors = value_ring_sectors(config)
        self.groups = config.tokens_max // config.topk_lanes
        entry = entry_shape(BLOCKS)
        groups = range(self.groups + 1)
        self.header = window_layout().members["part"]
        self.prob = weight_beat(lanes=config.softmax_lanes, prob_bits=config.prob_bits, header=row_layout(config))
        request = window_request(self.sectors, BANKS, self.header)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "i": In(stream.Signature(prob_row(config))),
                "i_kept": In(stream.Signature(kept_row(config))),
                "i_block": In(stream.Signature(entry)),
                "arrived": In(data.ArrayLayout(groups, BLOCKS)),
                "bases": In(data.ArrayLayout(range(self.sectors), BLOCKS)),
                "left": In(1),
                "o_read": Out(wiring.Signature({"valid": Out(1), "payload": Out(request)})),
                "o_prob": Out(stream.Signature(self.prob)),
                "used": Out(data.StructLayout({"valid": 1, "entry": entry})),
                "waits": Out(1),
            }
        )

    def _queues(self, m: Module) -> tuple[list[Fifo], list[SkidBuffer]]:
        """The queues of rows, and streams of their beats, all and kept; kept beats are made as wide as the others."""
        config = self.config
        lanes, wide = config.softmax_lanes, config.topk_lanes
        depth = 2 * -(-config.tokens_max // lanes)
        rows = []
        beat_shape = data.StructLayout({k: v for k, v in prob_row(config).members.items() if k != "row"})
        for name in ("all", "kept"):
            m.submodules[f"{name}_rows"] = row_queue = Fifo(shape=row_layout(config), depth=depth)
            rows.append(row_queue)
        m.submodules.all_beats = all_beats = Fifo(shape=beat_shape, depth=depth)
        m.submodules.next_all = next_all = SkidBuffer(shape=beat_shape)
        wiring.connect(m, all_beats.o, next_all.i)
        kept_shape = data.StructLayout({k: v for k, v in kept_row(config).members.items() if k != "row"})
        m.submodules.kept_beats = kept_beats = Fifo(shape=kept_shape, depth=2 * -(-config.tokens_max // wide))
        for source, row_queue, beat_queue in ((self.i, rows[0], all_beats), (self.i_kept, rows[1], kept_beats)):
            begins = Signal(init=1)
            given = source.payload
            m.d.comb += [
                source.ready.eq(row_queue.i.ready & beat_queue.i.ready),
                row_queue.i.valid.eq(source.valid & beat_queue.i.ready & begins),
                row_queue.i.payload.eq(given.row),
                beat_queue.i.valid.eq(source.valid & row_queue.i.ready),
                beat_queue.i.payload.probs.eq(given.probs),
                beat_queue.i.payload.count.eq(given.count),
                beat_queue.i.payload.last.eq(given.last),
            ]
            with m.If(source.valid & source.ready):
                m.d.sync += begins.eq(given.last)

        # Parts of a kept beat, one after the other.
        m.submodules.next_kept = split = SkidBuffer(shape=beat_shape)
        parts = wide // lanes
        part = Signal(range(max(2, parts)))
        packed = kept_beats.o.payload
        left = Signal(range(wide + 1))
        is_last = Signal()
        m.d.comb += [
            left.eq(packed.count - part * lanes),
            is_last.eq(left <= lanes),
            split.i.valid.eq(kept_beats.o.valid),
            split.i.payload.probs.eq(
                select([Cat(packed.probs[n * lanes + i] for i in range(lanes)) for n in range(parts)], part)
            ),
            split.i.payload.count.eq(Mux(is_last, left, lanes)),
            split.i.payload.last.eq(packed.last & is_last),
            kept_beats.o.ready.eq(split.i.ready & is_last),
        ]
        with m.If(split.i.valid & split.i.ready):
            m.d.sync += part.eq(Mux(is_last, 0, part + 1))
        return rows, [next_all, split]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lane_bits = ceil_log2(config.topk_lanes)
        lanes = config.softmax_lanes
        rows, beats = self._queues(m)
        m.submodules.blocks = blocks = Fifo(shape=entry_shape(BLOCKS), depth=BLOCKS)
        wiring.connect(m, wiring.flipped(self.i_block), blocks.i)

        # The next row is made ready: first its job's record is looked up, then how its values lie.
        chosen_valid, chosen_kept = Signal(), Signal(reset_less=True)
        chosen = Signal(row_layout(config), name="chosen_row", reset_less=True)
        chosen_entry = Signal(entry_shape(BLOCKS), reset_less=True)
        segment = Signal(data.StructLayout({"dim": 2, "bits": 3, "second": 1}), reset_less=True)
        runs, switches, moves = Signal(), Signal(), Signal()
        layout = data.StructLayout(
            {
                "kept": 1,
                "row": row_layout(config),
                "entry": entry_shape(BLOCKS),
                "base": range(self.sectors),
                "dim": 2,
                **windows(config),
            }
        )
        m.submodules.ready = ready = SkidBuffer(shape=layout)
        turn = Signal()
        kept_waits = rows[1].o.valid & blocks.o.valid
        takes_kept = kept_waits & (turn | ~rows[0].o.valid)
        takes_all = rows[0].o.valid & ~takes_kept
        job = Signal(slot_layout(config), name="row_job")
        row_slot = Mux(takes_kept, rows[1].o.payload.slot, rows[0].o.payload.slot)
        m.d.comb += [
            Value.cast(job).eq(by_slot(self.slots, row_slot)),
            moves.eq(~chosen_valid | ready.i.ready),
            rows[0].o.ready.eq(takes_all & moves),
            rows[1].o.ready.eq(takes_kept & moves),
            blocks.o.ready.eq(takes_kept & moves),
        ]
        form_now = block_table(m, config, dim=job.head_dim, bits=job.value_bits, joined=Const(0, 1), name="job_form")
        with m.If(moves):
            m.d.sync += [
                chosen_valid.eq(takes_all | takes_kept),
                chosen_kept.eq(takes_kept),
                Value.cast(chosen).eq(Mux(takes_kept, Value.cast(rows[1].o.payload), Value.cast(rows[0].o.payload))),
                chosen_entry.eq(Mux(takes_kept, blocks.o.payload, rows[0].o.payload.values)),
                segment.dim.eq(job.head_dim),
                segment.bits.eq(job.value_bits),
            ]
            head = Mux(takes_kept, rows[1].o.payload.head, rows[0].o.payload.head)
            m.d.sync += segment.second.eq(form_now.paired & head[0])
            with m.If(takes_all | takes_kept):
                m.d.sync += turn.eq(takes_all)

        made = ready.i.payload
        m.d.comb += [
            ready.i.valid.eq(chosen_valid),
            made.kept.eq(chosen_kept),
            made.row.eq(chosen),
            made.entry.eq(chosen_entry),
            made.base.eq(select([self.bases[n] for n in range(BLOCKS)], chosen_entry)),
            made.dim.eq(segment.dim),
        ]
        set_windows(m, config, made, segment=segment, joined=Const(0, 1), lsb=Const(0, 1))

        # Windows of the row that runs are made one after the other, each a cycle before it may be read.
        now = Signal(layout, reset_less=True)
        done = Signal(range(config.tokens_max), reset_less=True)
        inside = Signal(range(lanes + 1), reset_less=True)
        window = Signal(
            data.StructLayout(
                {
                    "request": self.o_read.payload.shape(),
                    "entry": entry_shape(BLOCKS),
                    "group": range(self.groups),
                    "ends": 1,
                    "ends_row": 1,
                }
            ),
            reset_less=True,
        )
        holds, steps, goes = Signal(), Signal(), Signal()
        probs = Signal(beats[0].o.payload.shape(), name="probs_now")
        probs_valid = Signal()
        window_keys = now.window_keys
        left = Signal(range(lanes + 1), name="left_keys")
        ends, first = Signal(), Signal()
        m.submodules.walker = walker = WindowWalker(config=config, sectors=self.sectors, left_shape=left.shape())
        last_beat, last_window, part = walker.last_beat, walker.last_window, walker.part
        m.d.comb += [walker.windows[name].eq(now[name]) for name in windows(config)]
        m.submodules.probs_out = out = Fifo(shape=self.prob, depth=8)
        wiring.connect(m, out.o, wiring.flipped(self.o_prob))
        m.d.comb += [
            Value.cast(probs).eq(Mux(now.kept, Value.cast(beats[1].o.payload), Value.cast(beats[0].o.payload))),
            probs_valid.eq(Mux(now.kept, beats[1].o.valid, beats[0].o.valid)),
            left.eq(probs.count - inside),
            walker.left.eq(left),
            walker.steps.eq(steps),
            walker.starts.eq(switches),
            walker.start.eq(ready.o.payload.base),
            # Each part of a row's output takes a place of the queue behind the array.
            ends.eq(probs.last & last_window),
            first.eq(~inside.any() & walker.first_beat),
            steps.eq(runs & probs_valid & out.i.ready & (~holds | goes)),
            switches.eq(~runs | (steps & last_beat & ends)),
            ready.o.ready.eq(switches),
            out.i.valid.eq(steps & first),
            out.i.payload.probs.eq(probs.probs),
            out.i.payload.count.eq(probs.count),
            out.i.payload.last.eq(probs.last),
            out.i.payload.dim.eq(now.dim),
            out.i.payload.group.eq(now.log_keys),
            out.i.payload.header.eq(now.row),
        ]
        for number, queue in enumerate(beats):
            m.d.comb += queue.o.ready.eq(steps & last_beat & last_window & (now.kept if number else ~now.kept))
        with m.If(steps):
            m.d.sync += [
                window.request.sector.eq(walker.sector),
                window.request.sectors.eq(walker.count),
                window.request.header.eq(part.part),
                window.entry.eq(now.entry),
                window.group.eq(done >> lane_bits),
                window.ends.eq(ends),
                window.ends_row.eq(ends & last_beat),
            ]
            with m.If(last_beat):
                m.d.sync += [
                    inside.eq(Mux(last_window, 0, inside + window_keys)),
                    done.eq(done + window_keys),
                ]
        m.d.sync += holds.eq(steps | (holds & ~goes))
        with m.If(switches):
            m.d.sync += [
                runs.eq(ready.o.valid),
                now.eq(ready.o.payload),
                done.eq(0),
                inside.eq(0),
            ]

        # A window is read when its values are there, and its result will have a place.
        m.submodules.gate = gate = ArrivalGate(config=config)
        free = Signal(range(self.places + 1), init=self.places)
        has_keys = gate.has_rows
        m.d.comb += [
            gate.arrived.eq(self.arrived),
            gate.begins.eq(steps),
            gate.entry.eq(window.entry),
            gate.next_entry.eq(now.entry),
            gate.group.eq(window.group),
            goes.eq(holds & has_keys & (free.any() | ~window.ends)),
            self.waits.eq(holds & ~has_keys),
            self.o_read.valid.eq(goes),
            self.o_read.payload.eq(window.request),
        ]
        m.d.sync += [
            free.eq(free + self.left - (goes & window.ends)),
            self.used.valid.eq(goes & window.ends_row),
            self.used.entry.eq(window.entry),
        ]
        return m
