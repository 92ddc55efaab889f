"""Packs what local pruning keeps of a row: token ids for the planner, probabilities for the value reader."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.plan.plan_layouts import groups_max, id_shape, kept_ids, live_read, live_row_shape
from spatten.hw.control.value_reader import pruned_row
from spatten.hw.datapath.topk import kept_beat
from spatten.hw.lib.connections import by_member
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import select
from spatten.hw.lib.packer import Compactor
from spatten.spec.config import Config

__all__ = ["LocalValues"]


class LocalValues(wiring.Component):
    """Gives the probabilities that the top-k engine marks the ids of their tokens, and packs both.

    The n-th probability of a row is that of the n-th token of its job's live list; where the live tokens are dense
    that is token n.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `hw.datapath.topk.kept_beat`
    live_read : out, `hw.control.plan.plan_layouts.live_read`; live_ids : in, the ids of the row that was read last,
        from the next cycle on: the live lists are the planner's
    list_busy : in, a live list is being written in this cycle, so none can be read
    dense : in, for each job in flight whether its live tokens are dense
    o_ids : stream of `hw.control.plan.plan_layouts.kept_ids`, by way of a queue that holds two whole rows
    o_pruned : stream of `hw.control.value_reader.pruned_row`

    A beat waits while a live list is written. Latency: 1 cycle, that of `hw.lib.packer.Compactor`, and for `o_ids` that
    of a queue. Throughput: a beat per cycle. A packed beat leaves in the cycle in which the value reader takes its
    probabilities and the queue its ids; so the value reader, once it is ready, must stay so until it takes a beat, as a
    FIFO does (the queue of ids asserts it).
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        row = row_layout(config)
        element = data.StructLayout({"prob": config.prob_bits, "id": id_shape(config)})
        self.compactor = Compactor(shape=element, lanes=config.topk_lanes, header=row)
        super().__init__(
            {
                "i": In(stream.Signature(kept_beat(config.prob_bits, config.topk_lanes, row))),
                "live_read": Out(live_read(config)),
                "live_ids": In(data.ArrayLayout(id_shape(config), config.topk_lanes)),
                "list_busy": In(1),
                "dense": In(config.jobs_in_flight),
                "o_ids": Out(stream.Signature(kept_ids(config))),
                "o_pruned": Out(stream.Signature(pruned_row(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.compactor = compactor = self.compactor
        m.submodules.kept_ids = queue = Fifo(shape=kept_ids(config), depth=2 * groups_max(config))
        wiring.connect(m, queue.o, wiring.flipped(self.o_ids))
        self._identify(m, compactor)
        packed, kept = compactor.o, self.o_pruned
        lanes = [packed.payload.lanes[lane] for lane in range(config.topk_lanes)]
        row = packed.payload.header
        m.d.comb += [
            packed.ready.eq(queue.i.ready & kept.ready),
            queue.i.valid.eq(packed.valid & kept.ready),
            *by_member(
                queue.i.payload, packed.payload, ids=Cat(lane.id for lane in lanes), slot=row.slot, head=row.head
            ),
            kept.valid.eq(packed.valid & queue.i.ready),
            *by_member(kept.payload, packed.payload, probs=Cat(lane.prob for lane in lanes), row=row),
        ]
        return m

    def _identify(self, m: Module, compactor: Compactor) -> None:
        """Looks up the ids of each beat of `i`, and gives them to the compactor with the probabilities."""
        config = self.config
        lanes, id_bits = config.topk_lanes, id_shape(config).width
        line = Signal(live_row_shape(config))
        """Which beat of its row comes next, and so which row of the live list belongs to it."""
        slot = self.i.payload.header.slot
        valid = Signal()
        beat = Signal.like(self.i.payload, name="beat", reset_less=True)
        beat_line = Signal.like(line, name="beat_line", reset_less=True)
        is_dense = Signal(reset_less=True)
        takes = Signal()
        m.d.comb += [
            self.live_read.enable.eq(self.i.valid & self.i.ready),
            self.live_read.slot.eq(slot),
            self.live_read.row.eq(line),
            takes.eq(~valid | compactor.i.ready),
            self.i.ready.eq(takes & ~self.list_busy),
        ]
        with m.If(takes):
            m.d.sync += [
                valid.eq(self.i.valid & ~self.list_busy),
                beat.eq(self.i.payload),
                beat_line.eq(line),
                is_dense.eq(select(list(self.dense), slot)),
            ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += line.eq(Mux(self.i.payload.last, 0, line + 1))
        identified = compactor.i.payload
        m.d.comb += [
            compactor.i.valid.eq(valid),
            identified.mask.eq(beat.mask),
            identified.last.eq(beat.last),
            identified.header.eq(beat.header),
        ]
        for lane in range(lanes):
            rank = Cat(Const(lane, ceil_log2(lanes)), beat_line)[:id_bits]
            m.d.comb += [
                identified.lanes[lane].prob.eq(beat.values[lane]),
                identified.lanes[lane].id.eq(Mux(is_dense, rank, self.live_ids[lane])),
            ]
