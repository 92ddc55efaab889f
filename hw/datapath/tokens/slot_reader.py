"""Reads the rows of a slot at the end of its job, and clips what has saturated."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.rank_memory import one_hot
from spatten.hw.datapath.tokens.token_layouts import Layouts

__all__ = ["SlotReader"]


class SlotReader(wiring.Component):
    """The rows of a slot in order, from the first on, as often as it is told to begin.

    A row is in the memory's output, which holds, and then in a register: the importance, all ones where the token has
    saturated in this job, that is where the top bit of its sum is set.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    begins, rows : in, from the next cycle on read this many rows from the first on; the rows before have left by then
    enable : in, rows are read, of `slot`
    slot : in
    o : stream of `Layouts.final_row`, out; `last` on the last of the rows
    drains, read_enable, read_row, read_words : the ports of the same names of a `RankMemory`

    Latency: 3 cycles from `begins` to the first row's valid on `o`. Throughput: one row per cycle. Both registers take
    a row when they are empty or their successor takes theirs.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "begins": In(1),
                "rows": In(layouts.line_count),
                "enable": In(1),
                "slot": In(layouts.slot),
                "o": Out(stream.Signature(layouts.final_row)),
                "drains": Out(layouts.slots),
                "read_enable": Out(1),
                "read_row": Out(layouts.line),
                "read_words": In(layouts.words),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layouts = self.layouts
        importance_bits = layouts.importance_bits
        row = Signal(layouts.line, reset_less=True)
        rows_left = Signal(layouts.line_count)
        reads = Signal()
        fetched = Signal()
        fetched_last = Signal(reset_less=True)
        fetched_ready = Signal()
        final = Signal()
        final_ready = Signal()
        final_row = Signal(layouts.final_row, reset_less=True)
        m.d.comb += [
            self.drains.eq(Mux(self.enable, one_hot(self.slot, layouts.slots), 0)),
            reads.eq(self.enable & (rows_left != 0) & fetched_ready),
            self.read_enable.eq(reads),
            self.read_row.eq(row),
            fetched_ready.eq(~fetched | final_ready),
            final_ready.eq(~final | self.o.ready),
            self.o.valid.eq(final),
            self.o.payload.eq(final_row),
        ]
        with m.If(self.begins):
            m.d.sync += [row.eq(0), rows_left.eq(self.rows)]
        with m.Elif(reads):
            m.d.sync += [row.eq(row + 1), rows_left.eq(rows_left - 1), fetched_last.eq(rows_left == 1)]
        with m.If(fetched_ready):
            m.d.sync += fetched.eq(reads)
        with m.If(final_ready):
            m.d.sync += final.eq(fetched)
        with m.If(final_ready & fetched):
            m.d.sync += final_row.last.eq(fetched_last)
            for lane in range(layouts.lanes):
                word = self.read_words[lane]
                saturated = word.sum[importance_bits]
                m.d.sync += [
                    final_row.importance[lane].eq(word.sum[:importance_bits] | saturated.replicate(importance_bits)),
                    final_row.pinned[lane].eq(word.pinned),
                    final_row.saturated[lane].eq(saturated),
                ]
        return m
