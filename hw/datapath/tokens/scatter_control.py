"""The steps of a job's end: take the job, count its rows and lines, offer the rows, write the lines, report."""

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.assertions import asserts

__all__ = ["ScatterControl"]


class ScatterControl(wiring.Component):
    """Takes the commands of the scatter, one at a time, and takes each through its steps.

    Clearing and ageing concern every line of a context, everything else the lines of the job.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    i_scatter, o_scattered : streams as in `TokenImportance`
    slot, prunes : out, of the command in work
    i_job : in, `Layouts.job`, what the gather of `slot` has left, in the same cycle
    job : out, that of the command in work
    rows, last_count, lines : out, how many rows the slot has; tokens in the last of them; lines to be written. They
        hold from `begins` on.
    begins : out, for a cycle, 3 cycles after the command, so that from the next cycle on the slot can be read: then the
        last beat of probabilities before the command is in the memory
    offers : out, from the cycle after `begins` on, if the job prunes and has live tokens: the rows go to the top-k
        engine, until
    offered : in, the last of them is taken in this cycle
    writes : out, then, or from the cycle after `begins` on: the rows go to the lines, and these to the context, until
    written : in, the last of them is written in this cycle
    saturates, saturated_count : in, add this many tokens to those reported as saturated; not after the report begins
    ends : out, in this cycle the report is taken

    Latency: 4 cycles from a command to `offers` or `writes`, 1 from `written` to the report.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "i_scatter": In(stream.Signature(layouts.scatter)),
                "o_scattered": Out(stream.Signature(layouts.scattered)),
                "slot": Out(layouts.slot),
                "prunes": Out(1),
                "i_job": In(layouts.job),
                "job": Out(layouts.job),
                "rows": Out(layouts.line_count),
                "last_count": Out(range(layouts.lanes + 1)),
                "lines": Out(layouts.line_count),
                "begins": Out(1),
                "offers": Out(1),
                "offered": In(1),
                "writes": Out(1),
                "written": In(1),
                "saturates": In(1),
                "saturated_count": In(range(layouts.lanes + 1)),
                "ends": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lanes, lines = self.layouts.lanes, self.layouts.lines
        lane_bits = ceil_log2(lanes)
        slot = Signal(self.layouts.slot, reset_less=True)
        prunes = Signal(reset_less=True)
        job = Signal(self.layouts.job, reset_less=True)
        rows = Signal(self.rows.shape(), reset_less=True)
        last_count = Signal(self.last_count.shape(), reset_less=True)
        line_total = Signal(self.lines.shape(), name="lines", reset_less=True)
        saturated = Signal(range(self.layouts.tokens + 1), reset_less=True)
        # The steps, one after the other; `begins`, `offers` and `writes` are outputs.
        scatters = Signal()
        takes = Signal()
        loads = Signal()
        sizes = Signal()
        reports = Signal()
        m.d.comb += [
            self.i_scatter.ready.eq(~scatters),
            takes.eq(self.i_scatter.valid & ~scatters),
            self.slot.eq(slot),
            self.prunes.eq(prunes),
            self.job.eq(job),
            self.rows.eq(rows),
            self.last_count.eq(last_count),
            self.lines.eq(line_total),
            self.ends.eq(reports & self.o_scattered.ready),
            self.o_scattered.valid.eq(reports),
            self.o_scattered.payload.slot.eq(slot),
            self.o_scattered.payload.saturated.eq(saturated),
        ]
        m.d.sync += [loads.eq(takes), sizes.eq(loads), self.begins.eq(sizes)]
        with m.If(~scatters):
            m.d.sync += [slot.eq(self.i_scatter.payload.slot), prunes.eq(self.i_scatter.payload.prune)]
        with m.If(takes):
            m.d.sync += scatters.eq(1)
        with m.If(loads):
            m.d.sync += job.eq(self.i_job)
        with m.If(sizes):
            m.d.sync += [
                rows.eq((job.live + (lanes - 1)) >> lane_bits),
                last_count.eq(Mux(job.live[:lane_bits].any(), job.live[:lane_bits], lanes)),
                line_total.eq(Mux(job.clear | (job.age_shift != 0), lines, job.lines)),
            ]
        with m.If(self.begins):
            has_candidates = prunes & (job.live != 0)
            m.d.sync += [self.offers.eq(has_candidates), self.writes.eq(~has_candidates), saturated.eq(0)]
        with m.If(self.offered):
            m.d.sync += [self.offers.eq(0), self.writes.eq(1)]
        with m.If(self.written):
            m.d.sync += [self.writes.eq(0), reports.eq(1)]
        with m.If(self.ends):
            m.d.sync += [reports.eq(0), scatters.eq(0)]
        with m.If(self.saturates):
            m.d.sync += saturated.eq(saturated + self.saturated_count)
        if asserts(platform):
            m.d.sync += Assert(~self.offered | self.offers, "a last row is taken that is not offered\n")
            m.d.sync += Assert(~self.written | self.writes, "a last line is written that is not to be\n")
        return m
