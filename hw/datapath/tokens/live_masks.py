"""Which tokens of each slot's job are live, by id line."""

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.expander import mask_line
from spatten.hw.lib.ram import Ram

__all__ = ["LiveMasks"]


class LiveMasks(wiring.Component):
    """A memory with a mask for each id line of each slot: the gather writes them, the scatter of the same job reads
    them in order, from the first line on.

    Bit i of a mask is set if token i of the line is live. A scatter may read more lines than its job has: no token is
    live in those behind.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    write_enable, write_slot, write_line, write_mask : in
    begins, lines : in, from the next cycle on read this many lines; the lines before have left by then
    enable : in, lines are read, of `slot`
    slot : in
    job_lines : in, lines of the job: the masks of the lines behind them are 0
    o : stream of `mask_line(lanes)`, out; `last` on the last of the lines

    Latency: 2 cycles from `begins` to the first line's valid on `o`. Throughput: one write and one read per cycle; a
    line must not be read in the cycle in which it is written. `o.ready` reaches the memory's read enable.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "write_enable": In(1),
                "write_slot": In(layouts.slot),
                "write_line": In(layouts.line),
                "write_mask": In(layouts.lanes),
                "begins": In(1),
                "lines": In(layouts.line_count),
                "enable": In(1),
                "slot": In(layouts.slot),
                "job_lines": In(layouts.line_count),
                "o": Out(stream.Signature(mask_line(layouts.lanes))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layouts = self.layouts
        m.submodules.masks = masks = Ram(shape=layouts.lanes, depth=max(2, layouts.slots * layouts.lines))
        line = Signal(layouts.line, reset_less=True)
        lines_left = Signal(layouts.line_count)
        reads = Signal()
        valid = Signal()
        ready = Signal()
        last = Signal(reset_less=True)
        is_inside_job = Signal(reset_less=True)
        m.d.comb += [
            masks.write_enable.eq(self.write_enable),
            masks.write_address.eq(self._address(self.write_slot, self.write_line)),
            masks.write_data.eq(self.write_mask),
            ready.eq(~valid | self.o.ready),
            reads.eq(self.enable & (lines_left != 0) & ready),
            masks.read_enable.eq(reads),
            masks.read_address.eq(self._address(self.slot, line)),
            self.o.valid.eq(valid),
            self.o.payload.mask.eq(Mux(is_inside_job, masks.read_data, 0)),
            self.o.payload.last.eq(last),
        ]
        with m.If(self.begins):
            m.d.sync += [line.eq(0), lines_left.eq(self.lines)]
        with m.If(reads):
            m.d.sync += [line.eq(line + 1), lines_left.eq(lines_left - 1)]
            m.d.sync += [last.eq(lines_left == 1), is_inside_job.eq(line < self.job_lines)]
        with m.If(ready):
            m.d.sync += valid.eq(reads)
        if asserts(platform):
            is_done = (lines_left == 0) & (~valid | self.o.ready)
            m.d.sync += Assert(ResetSignal() | ~self.begins | is_done, "lines are asked for before others have left\n")
        return m

    def _address(self, slot: Value, line: Value) -> Value:
        return Cat(line[: ceil_log2(self.layouts.lines)], slot)
