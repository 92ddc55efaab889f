"""Reads the rows of a slot at the end of its job: for the top-k engine, and then for the context."""

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.context_writer import final_token
from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.logic import one_hot

__all__ = ["SlotReader"]


class SlotReader(wiring.Component):
    """The rows of a slot in order, from the first on, as often as it is told to begin.

    While the scatter *offers*, the rows go to the top-k engine as candidates. While it *writes*, they go to the id
    lines: each with the engine's answer to it if the job prunes; all their tokens stay if it does not.

    A row is in the memory's output, which holds, and then in a register: the importance, all ones where the token has
    saturated in this job, that is where the top bit of its sum is set. Saturated tokens are counted when their row goes
    to the lines, so once.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    begins, rows : in, from the next cycle on read this many rows from the first on; the rows before have left by then
    last_count : in, tokens of the last of the rows; the others are full
    offers, writes : in, rows are read, of `slot`, for the engine or for the lines; never both
    slot : in
    prunes : in, the engine's answers are waited for
    o_candidates, i_kept : streams as in `TokenImportance`
    offered : out, in this cycle the engine takes the last of the rows
    o_rows : stream of T `final_token`, out, to the id lines
    saturates, saturated_count : out, so many tokens of a row have saturated; in the cycle after the row has left
    drains, read_enable, read_row, read_words : the ports of the same names of a `RankMemory`

    Latency: 3 cycles from `begins` to the first row's valid. Throughput: one row per cycle. Both registers take a row
    when they are empty or their successor takes theirs. The valid of `i_kept` reaches that of `o_rows`, whose ready
    reaches that of `i_kept`.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "begins": In(1),
                "rows": In(layouts.line_count),
                "last_count": In(range(layouts.lanes + 1)),
                "offers": In(1),
                "writes": In(1),
                "slot": In(layouts.slot),
                "prunes": In(1),
                "o_candidates": Out(stream.Signature(layouts.candidates)),
                "i_kept": In(stream.Signature(layouts.kept)),
                "offered": Out(1),
                "o_rows": Out(stream.Signature(data.ArrayLayout(final_token(layouts), layouts.lanes))),
                "saturates": Out(1),
                "saturated_count": Out(range(layouts.lanes + 1)),
                "drains": Out(layouts.slots),
                "read_enable": Out(1),
                "read_row": Out(layouts.line),
                "read_words": In(layouts.words),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i_kept, "i_kept")
        valid = Signal()
        ready = Signal()
        row = Signal(self.layouts.final_row, name="final_row", reset_less=True)
        count = Signal(self.last_count.shape(), reset_less=True)
        self._read(m, valid, ready, row, count)
        self._pass_on(m, valid, ready, row, count)
        if asserts(platform):
            m.d.sync += Assert(~(self.offers & self.writes), "rows are to go to the engine and to the lines at once\n")
        return m

    def _read(self, m: Module, valid: Signal, ready: Signal, row: Any, count: Signal) -> None:
        """Read row after row, and clip the row in the memory's output into the register `row`."""
        layouts = self.layouts
        importance_bits = layouts.importance_bits
        enable = self.offers | self.writes
        number = Signal(layouts.line, name="row", reset_less=True)
        rows_left = Signal(layouts.line_count)
        reads = Signal()
        fetched = Signal()
        fetched_last = Signal(reset_less=True)
        fetched_ready = Signal()
        row_ready = Signal()
        m.d.comb += [
            self.drains.eq(Mux(enable, one_hot(self.slot, layouts.slots), 0)),
            reads.eq(enable & (rows_left != 0) & fetched_ready),
            self.read_enable.eq(reads),
            self.read_row.eq(number),
            fetched_ready.eq(~fetched | row_ready),
            row_ready.eq(~valid | ready),
        ]
        with m.If(self.begins):
            m.d.sync += [number.eq(0), rows_left.eq(self.rows)]
        with m.Elif(reads):
            m.d.sync += [number.eq(number + 1), rows_left.eq(rows_left - 1), fetched_last.eq(rows_left == 1)]
        with m.If(fetched_ready):
            m.d.sync += fetched.eq(reads)
        with m.If(row_ready):
            m.d.sync += valid.eq(fetched)
        with m.If(row_ready & fetched):
            m.d.sync += [row.last.eq(fetched_last), count.eq(Mux(fetched_last, self.last_count, layouts.lanes))]
            for lane in range(layouts.lanes):
                word = self.read_words[lane]
                saturated = word.sum[importance_bits]
                m.d.sync += [
                    row.importance[lane].eq(word.sum[:importance_bits] | saturated.replicate(importance_bits)),
                    row.pinned[lane].eq(word.pinned),
                    row.saturated[lane].eq(saturated),
                ]

    def _pass_on(self, m: Module, valid: Value, ready: Signal, row: Any, count: Signal) -> None:
        """The row goes to the top-k engine, or with the engine's answer to the id lines."""
        lanes = self.layouts.lanes
        candidates, rows = self.o_candidates, self.o_rows
        placed = Signal()
        m.d.comb += [
            candidates.valid.eq(valid & self.offers),
            candidates.payload.count.eq(count),
            candidates.payload.last.eq(row.last),
            self.offered.eq(candidates.valid & candidates.ready & candidates.payload.last),
            rows.valid.eq(valid & self.writes & (self.i_kept.valid | ~self.prunes)),
            self.i_kept.ready.eq(valid & self.writes & self.prunes & rows.ready),
            placed.eq(rows.valid & rows.ready),
            ready.eq(Mux(self.offers, candidates.ready, placed)),
        ]
        for lane in range(lanes):
            m.d.comb += [
                candidates.payload.keys[lane].eq(Cat(row.importance[lane], row.pinned[lane])),
                rows.payload[lane].importance.eq(row.importance[lane]),
                rows.payload[lane].kept.eq(self.i_kept.payload[lane] | ~self.prunes),
            ]
        saturates = Signal()
        saturated_count = Signal(range(lanes + 1), reset_less=True)
        m.d.sync += [saturates.eq(placed), saturated_count.eq(sum(row.saturated))]
        m.d.comb += [self.saturates.eq(saturates), self.saturated_count.eq(saturated_count)]
