"""Reads the live masks of a job's lines at the job's end."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.live_masks import mask_read_port
from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.expander import mask_line

__all__ = ["MaskReader"]


class MaskReader(wiring.Component):
    """Which tokens are live in each line of a context, from the first on; none in lines beyond those of the job.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    begins, lines : in, from the next cycle on read this many lines from the first on
    enable : in, lines are read, of `slot`
    slot : in
    job_lines : in, lines of the job: the masks of the lines behind them are 0
    o : stream of `mask_line(lanes)`, out
    masks : out, `mask_read_port` of `LiveMasks`

    Latency: 2 cycles from `begins` to the first line's valid on `o`. Throughput: one line per cycle.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "begins": In(1),
                "lines": In(layouts.line_count),
                "enable": In(1),
                "slot": In(layouts.slot),
                "job_lines": In(layouts.line_count),
                "o": Out(stream.Signature(mask_line(layouts.lanes))),
                "masks": Out(mask_read_port(layouts)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        line = Signal(self.layouts.line, reset_less=True)
        lines_left = Signal(self.layouts.line_count)
        reads = Signal()
        valid = Signal()
        ready = Signal()
        last = Signal(reset_less=True)
        is_inside_job = Signal(reset_less=True)
        m.d.comb += [
            ready.eq(~valid | self.o.ready),
            reads.eq(self.enable & (lines_left != 0) & ready),
            self.masks.enable.eq(reads),
            self.masks.slot.eq(self.slot),
            self.masks.line.eq(line),
            self.o.valid.eq(valid),
            self.o.payload.mask.eq(Mux(is_inside_job, self.masks.mask, 0)),
            self.o.payload.last.eq(last),
        ]
        with m.If(self.begins):
            m.d.sync += [line.eq(0), lines_left.eq(self.lines)]
        with m.If(reads):
            m.d.sync += [line.eq(line + 1), lines_left.eq(lines_left - 1)]
            m.d.sync += [last.eq(lines_left == 1), is_inside_job.eq(line < self.job_lines)]
        with m.If(ready):
            m.d.sync += valid.eq(reads)
        return m
