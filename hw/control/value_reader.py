"""Which probabilities meet which values, and when: from rows of probabilities to reads of the value ring."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import window_layout
from spatten.hw.control.job_slots import row_layout, slot_layout
from spatten.hw.control.plan.plan_layouts import block_event
from spatten.hw.control.row.beat_splitter import BeatSplitter
from spatten.hw.control.row.credits import Credits
from spatten.hw.control.row.row_layouts import groups_shape, prob_beat, value_window
from spatten.hw.control.row.row_queue import RowQueue
from spatten.hw.control.row.value_rows import ValueRows
from spatten.hw.control.row.value_windows import ValueWindows
from spatten.hw.control.window_walker import ArrivalGate
from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import SkidBuffer
from spatten.hw.lib.unstalled import unstalled
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import value_ring_sectors

__all__ = ["ValueReader", "prob_row", "pruned_row"]


def prob_row(config: Config) -> data.StructLayout:
    """A beat of a row's probabilities (`prob_beat`), and its `row`."""
    return data.StructLayout({**prob_beat(config, config.softmax_lanes).members, "row": row_layout(config)})


def pruned_row(config: Config) -> data.StructLayout:
    """A beat of the probabilities that top-k keeps of a row, its largest: as many as the top-k engine has lanes."""
    return data.StructLayout({**prob_beat(config, config.topk_lanes).members, "row": row_layout(config)})


class ValueReader(wiring.Component):
    """Reads the values of a row's probabilities window by window, as they arrive.

    Rows with all of their probabilities wait in one queue, rows with only the largest (pruned rows) in another; each
    queue keeps their order, and has room for two whole rows. Rows of both kinds take turns. While a row runs the next
    one is made ready, so the change costs no cycle. A window is read only when its values are there, and its result
    will find a place at the end of the array.

    It is joined of components in hw/control/row, and of the `ArrivalGate` of hw/control/window_walker.py:

        i ------> RowQueue --------------------+-> ValueRows: which is next? -> ValueWindows -> ArrivalGate, Credits
        i_pruned -> RowQueue -> BeatSplitter ----+   i_block --^                       ^
                                               +------- beats of probabilities ------+

    Without local pruning there are no pruned rows, and no `i_pruned` and `i_block`.

    Parameters
    ----------
    config : Config
    places : int
        Output beats that the prob x V array has places for.

    Ports
    -----
    slots : in, described at `hw.control.planner.Planner`
    i : stream of `prob_row`; i_pruned : stream of `pruned_row`, the pruned rows
    i_block : stream of entries, the value block of each row of `i_pruned`
    arrived, bases : in, for each value block how many of its row groups are there, and where it begins
    left : in, an output beat has left the array
    o_read : to the value ring, a `hw.memory.ring_buffer.window_request` with the part for the converter as header
    o_prob : stream of `hw.datapath.pv.weight_beat`, to the array, in time for its values
    used : out, `block_event`: a row has read its block

    Latency: 6 cycles from a row's first beat to its first read. Throughput: a window per cycle, across rows.

    It assumes that `left` is set once for each output beat that it has sent the values of, which `Credits` asserts in
    simulation; and that no row has more probabilities than `tokens_max`, which `RowQueue` does. Pruned rows come here
    and their ids to the planner together; the planner needs all ids of a row to fill its block, so a row must always
    find room in both queues while another waits for its block: that is why they have room for two.
    """

    def __init__(self, *, config: Config, places: int) -> None:
        self.config = config
        self.places = places
        self._prunes = config.has(Feature.PRUNE_VALUES)
        self.header = window_layout().members["part"]
        entry = entry_shape(config.blocks)
        self._windows = ValueWindows(config=config)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "i": In(stream.Signature(prob_row(config))),
                **optional(
                    self._prunes, i_pruned=In(stream.Signature(pruned_row(config))), i_block=In(stream.Signature(entry))
                ),
                "arrived": In(data.ArrayLayout(groups_shape(config), config.blocks)),
                "bases": In(data.ArrayLayout(range(value_ring_sectors(config)), config.blocks)),
                "left": In(1),
                "o_read": Out(unstalled(value_window(config).members["request"])),
                "o_prob": Out(stream.Signature(self._windows.prob)),
                "used": Out(block_event(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.whole_queue = whole_queue = RowQueue(config=config, lanes=config.softmax_lanes)
        m.submodules.next_beat = next_beat = SkidBuffer(shape=prob_beat(config, config.softmax_lanes))
        if self._prunes:
            m.submodules.pruned_queue = pruned_queue = RowQueue(config=config, lanes=config.topk_lanes)
            m.submodules.splitter = splitter = BeatSplitter(config=config)
        m.submodules.rows = rows = ValueRows(config=config)
        m.submodules.value_windows = windows = self._windows
        m.submodules.gate = gate = ArrivalGate(config=config)
        m.submodules.credits = credits = Credits(places=self.places)
        connect = wiring.connect
        connect(m, wiring.flipped(self.i), whole_queue.i)
        connect(m, whole_queue.o_row, rows.i)
        connect(m, whole_queue.o_beat, next_beat.i)
        connect(m, next_beat.o, windows.i_beat)
        if self._prunes:
            connect(m, wiring.flipped(self.i_pruned), pruned_queue.i)
            connect(m, pruned_queue.o_row, rows.i_pruned)
            connect(m, pruned_queue.o_beat, splitter.i)
            connect(m, splitter.o, windows.i_pruned_beat)
            connect(m, wiring.flipped(self.i_block), rows.i_block)
        connect(m, rows.o, windows.i)
        connect(m, windows.o_prob, wiring.flipped(self.o_prob))
        holds, goes = windows.o.valid, windows.o.ready
        window = windows.o.payload
        m.d.comb += [
            rows.slots.eq(self.slots),
            rows.bases.eq(self.bases),
            gate.arrived.eq(self.arrived),
            gate.begins.eq(windows.begins),
            gate.entry.eq(window.entry),
            gate.next_entry.eq(windows.next_entry),
            gate.group.eq(window.group),
            gate.next_group.eq(windows.next_group),
            goes.eq(holds & gate.has_rows & (credits.has_one | ~window.fills)),
            credits.takes.eq(goes & window.fills),
            credits.returns.eq(self.left),
            self.o_read.valid.eq(goes),
            self.o_read.payload.eq(window.request),
        ]
        m.d.sync += [self.used.valid.eq(goes & window.ends_row), self.used.entry.eq(window.entry)]
        return m
