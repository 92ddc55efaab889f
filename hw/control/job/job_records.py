"""The records of the jobs in flight, as their start writes them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.job_sizes import job_sizes
from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job_layouts import job_layout
from spatten.hw.control.job_slots import row_count, slot_layout, slot_shape
from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.lib.logic import equals, product, store_at
from spatten.spec.config import Config
from spatten.spec.job import Mode

__all__ = ["JobRecords"]


class JobRecords(wiring.Component):
    """Writes what every stage knows of a job: from its descriptor in step SHAPE, and from the live list in GATHERED.

    A dense job's record is final after SHAPE. For another job the numbers of tokens and rows follow in GATHERED.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, slot : in, the slot of the job that starts, and how far it is
    job, descriptor : in, the job, from a register, and as the queue's memory shows it; they stay until it has started
    sizes : in, `job_sizes` of the job
    live_heads, head_count : in, its live heads, and a cycle behind them their number
    gathered : in, its live and pinned tokens (`gathered` of `hw.datapath.token_importance.Layouts`)
    before, within : in, live tokens before its first query row, and its live query rows
    slots : out, array of `slot_layout`
    totals : out, array by slot: rows of the job, each query row once for every live head
    pinned : out, array by slot: live tokens that are pinned

    Latency: `slots` and `pinned` are written at the end of the step's cycle, `totals` a cycle later.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        jobs = config.jobs_in_flight
        tokens = range(config.tokens_max + 1)
        super().__init__(
            {
                "step": In(StartStep),
                "slot": In(slot_shape(config)),
                "job": In(job_layout(config)),
                "descriptor": In(job_layout(config)),
                "sizes": In(job_sizes(config)),
                "live_heads": In(unsigned(config.heads_max)),
                "head_count": In(range(config.heads_max + 1)),
                "gathered": In(layouts(config).gathered),
                "before": In(tokens),
                "within": In(tokens),
                "slots": Out(data.ArrayLayout(slot_layout(config), jobs)),
                "totals": Out(data.ArrayLayout(row_count(config), jobs)),
                "pinned": Out(data.ArrayLayout(tokens, jobs)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, job, sizes = self.config, self.job, self.sizes
        jobs = range(config.jobs_in_flight)
        tokens = range(config.tokens_max + 1)
        totals = [Signal(row_count(config), name=f"total{n}", reset_less=True) for n in jobs]
        pinned = [Signal(tokens, name=f"pinned{n}", reset_less=True) for n in jobs]
        m.d.comb += [self.totals[n].eq(totals[n]) for n in jobs]
        m.d.comb += [self.pinned[n].eq(pinned[n]) for n in jobs]

        rows = Signal(tokens, reset_less=True)
        order = Signal.like(self.slots[0].order)
        live, before, within = self.gathered.live, self.before, self.within
        with m.Switch(self.step):
            with m.Case(StartStep.SHAPE):
                m.d.sync += rows.eq(sizes.rows)
                members = job_layout(config).members
                self._write(
                    m,
                    **{name: self.descriptor[name] for name in slot_layout(config).members if name in members},
                    live_heads=self.live_heads,
                    live=job.valid_length,
                    first_rank=job.query_offset,
                    rows=sizes.rows,
                    reach=sizes.reach,
                    dense=sizes.dense,
                    query_origin=self.descriptor.query - sizes.before_queries,
                    query_step=sizes.query_step,
                    key_step=sizes.key_step,
                    lsb_step=sizes.lsb_step,
                    value_step=sizes.value_step,
                    order=order,
                )
            with m.Case(StartStep.GATHERED):
                store_at(m, pinned, self.slot, self.gathered.pinned)
                with m.If(~sizes.dense):
                    m.d.sync += rows.eq(within)
                    reach = Mux(equals(job.mode, Mode.CAUSAL), before + within, live)
                    self._write(m, live=live, first_rank=before, rows=within, reach=reach)

        # A cycle after each of these steps `rows` and `head_count` are there.
        begins, begun, written = Signal(), Signal(), Signal()
        with m.Switch(self.step), m.Case(StartStep.SHAPE):
            m.d.comb += begins.eq(1)
        m.d.sync += [
            begun.eq(begins),
            written.eq((self.step == StartStep.SHAPE) | (self.step == StartStep.GATHERED)),
        ]
        with m.If(begun):
            m.d.sync += order.eq(order + self.head_count)
        total = Signal(row_count(config))
        m.d.comb += total.eq(product(rows, self.head_count))
        with m.If(written):
            store_at(m, totals, self.slot, total)
        return m

    def _write(self, m: Module, **values: Any) -> None:
        """Sets these fields of the record of `slot`."""
        for name, value in values.items():
            store_at(m, [self.slots[n][name] for n in range(self.config.jobs_in_flight)], self.slot, value)
