"""How many rows of each job in flight have got how far."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_layouts import report_layout
from spatten.hw.control.job_slots import context_shape, row_count, slot_event, slot_shape
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import equals
from spatten.spec.config import Config, Feature

__all__ = ["RowCounts", "context_event"]


def context_event(config: Config) -> data.StructLayout:
    """An event of a row: `valid` in the cycle in which it happens, and in `slot` the context of the row's job."""
    return data.StructLayout({"valid": 1, "slot": context_shape(config)})


class RowCounts(wiring.Component):
    """Counts for each job in flight the rows that have reached each stage, and what happened to them on the way.

    The counters of a slot, and that of a context, begin at zero when a job takes the slot.

    Parameters
    ----------
    config : Config

    Ports
    -----
    begins, slot, context : in, a job takes this slot; it works on this context
    probs_done, row_written, recomputed : in, `slot_event`: all probabilities of a row have left softmax; all output of
        a row has gone to the output packer; a row is flat and will be computed again (`recomputed`, like
        `recomputed_rows` only with progressive recompute)
    heads_done : in, `context_event`: a row has been added to the head importance; like `context` and `added` only with
        head pruning
    saturated : in, how many elements have saturated in this cycle's output beat, which is of `row_written.slot`
    probs, written : out, array by slot: how many rows' probabilities, and how many rows' outputs, are done
    added : out, array by context: how many rows have been added to the head importance
    recomputed_rows, saturated_elements : out, array by slot, as wide as the report has them: counted modulo that

    Latency: a count holds an event from the next cycle on, written rows and saturated elements from the one after it.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self._has_heads = config.has(Feature.PRUNE_HEADS)
        event = slot_event(config)
        jobs = config.jobs_in_flight
        report = report_layout(config)
        super().__init__(
            {
                "begins": In(1),
                "slot": In(slot_shape(config)),
                **optional(self._has_heads, context=In(context_shape(config))),
                "probs_done": In(event),
                "row_written": In(event),
                **optional(self._recomputes, recomputed=In(event)),
                **optional(self._has_heads, heads_done=In(context_event(config))),
                "saturated": In(range(config.head_dim_max + 1)),
                "probs": Out(data.ArrayLayout(row_count(config), jobs)),
                "written": Out(data.ArrayLayout(row_count(config), jobs)),
                **optional(self._has_heads, added=Out(data.ArrayLayout(row_count(config), config.contexts))),
                **(
                    {"recomputed_rows": Out(data.ArrayLayout(report.members["recomputed"], jobs))}
                    if self._recomputes
                    else {}
                ),
                "saturated_elements": Out(data.ArrayLayout(report.members["output_saturated"], jobs)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Saturated elements come with every part of a row, while only the last part is an event `row_written`.
        saturated = Signal.like(self.saturated, name="saturated_now", reset_less=True)
        row_written = Signal.like(self.row_written, name="row_written_now")
        m.d.sync += [saturated.eq(self.saturated), row_written.eq(self.row_written)]
        for n in range(self.config.jobs_in_flight):
            begins = self.begins & equals(self.slot, n)
            for name, counts, event in (
                ("probs", self.probs, self.probs_done),
                ("written", self.written, row_written),
                *([("recomputed", self.recomputed_rows, self.recomputed)] if self._recomputes else []),
            ):
                counter = Signal.like(counts[n], name=f"{name}{n}", reset_less=True)
                happens = event.valid & equals(event.slot, n)
                m.d.sync += counter.eq(Mux(begins, 0, counter + happens))
                m.d.comb += counts[n].eq(counter)
            elements = Signal.like(self.saturated_elements[n], name=f"saturated{n}", reset_less=True)
            m.d.sync += elements.eq(Mux(begins, 0, elements + Mux(equals(row_written.slot, n), saturated, 0)))
            m.d.comb += self.saturated_elements[n].eq(elements)
        for n in range(self.config.contexts if self._has_heads else 0):
            begins = self.begins & equals(self.context, n)
            added = Signal.like(self.added[n], name=f"added{n}", reset_less=True)
            happens = self.heads_done.valid & equals(self.heads_done.slot, n)
            m.d.sync += added.eq(Mux(begins, 0, added + happens))
            m.d.comb += self.added[n].eq(added)
        return m
