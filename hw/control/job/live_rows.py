"""The live list on its way to the planner, and the place of the query rows in it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job_layouts import job_layout
from spatten.hw.control.job_slots import slot_shape
from spatten.hw.control.plan.plan_layouts import live_write
from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.lib.logic import count_ones
from spatten.spec.config import Config

__all__ = ["LiveRows"]


class LiveRows(wiring.Component):
    """Writes the live list into the planner's memory as it comes, and counts the query rows in it.

    The query rows of a job are the live ones of its `queries` tokens from `query_offset` on. Ids come in ascending
    order, so their rank is the number of live tokens before them.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, slot, job : in, the job that starts, its slot, and how far it is; the counts begin at zero in step SHAPE
    i : stream of live ids (`live` of `hw.datapath.token_importance.Layouts`), always taken
    live_write : out, `live_write`
    before, within : out, live tokens before the first query row, and live query rows, so far
    complete : out, all of the list is counted

    Latency: none to `live_write`; 2 cycles to the counts, since each line's ids are compared in the first cycle and
    counted in the second. One line per cycle.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        tokens = range(config.tokens_max + 1)
        super().__init__(
            {
                "step": In(StartStep),
                "slot": In(slot_shape(config)),
                "job": In(job_layout(config)),
                "i": In(stream.Signature(layouts(config).live)),
                "live_write": Out(live_write(config)),
                "before": Out(tokens),
                "within": Out(tokens),
                "complete": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, job = self.config, self.job
        lanes = config.topk_lanes
        row = Signal(range(config.tokens_max // lanes + 1), reset_less=True)
        m.d.comb += [
            self.i.ready.eq(1),
            self.live_write.enable.eq(self.i.valid),
            self.live_write.slot.eq(self.slot),
            self.live_write.row.eq(row),
            self.live_write.ids.eq(self.i.payload.ids),
        ]

        end = Signal(range(2 * config.tokens_max + 1), reset_less=True)
        compared, ends = Signal(), Signal()
        ids_before, ids_within = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
        line = self.i.payload
        present = [n < line.count for n in range(lanes)]
        m.d.sync += [
            end.eq(job.query_offset + job.queries),
            compared.eq(self.i.valid),
            ends.eq(self.i.valid & line.last),
            ids_before.eq(Cat(here & (line.ids[n] < job.query_offset) for n, here in enumerate(present))),
            ids_within.eq(
                Cat(here & (line.ids[n] >= job.query_offset) & (line.ids[n] < end) for n, here in enumerate(present))
            ),
        ]
        before = Signal(range(config.tokens_max + 1), reset_less=True)
        within = Signal(range(config.tokens_max + 1), reset_less=True)
        begins = Signal()
        with m.If(begins):
            m.d.sync += self.complete.eq(0)
        with m.Elif(ends):
            m.d.sync += self.complete.eq(1)
        with m.If(self.i.valid):
            m.d.sync += row.eq(row + 1)
        with m.If(compared):
            m.d.sync += [
                before.eq(before + count_ones(list(ids_before))),
                within.eq(within + count_ones(list(ids_within))),
            ]
        with m.Switch(self.step), m.Case(StartStep.SHAPE):
            m.d.comb += begins.eq(1)
            m.d.sync += [row.eq(0), before.eq(0), within.eq(0)]
        m.d.comb += [self.before.eq(before), self.within.eq(within)]
        return m
