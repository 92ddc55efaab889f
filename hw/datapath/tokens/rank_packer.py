"""Packs the live tokens of id lines into rank rows, those of a slot and of the live list."""

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, ResetSignal, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.tokens.token_layouts import Layouts, unstalled
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.packer import Packer
from spatten.hw.lib.zero_eliminator import ZeroEliminator

__all__ = ["RankPacker"]

ELIMINATOR_STAGES = 3
"""Registers of the zero eliminator: 0.63 ns a stage at 16 lanes in 45 nm."""
ROWS_WAITING = 4
"""Rows of the live list that may wait before the gather pauses; at full rate 2 wait in passing."""
LINE_REGISTERS = 3
"""Registers between the memory of the contexts and this component."""


class RankPacker(wiring.Component):
    """Compacts id lines and joins them to rows of T live tokens. Nothing stalls.

    A row is complete with the line that has one more live token than the row holds, or with the last line. It then
    leaves on `row_words` without waiting, and on `o_live` through a queue, as its taker likes.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    begins : in, a gather begins, whose lines come in later cycles: its first row has the number 0. The rows of the
        gather before have left on `row_words`.
    i : `unstalled` stream of `Layouts.id_line`, in: all tokens that are `pinned` are live
    row_valid, row_number, row_words, row_last : out, a row for the slot, `Layouts.words`, zeros behind the last token
    o_live : stream of `Layouts.live`, out, the live list, as in `TokenImportance`
    has_room : out, further lines may be read: in the cycle before, at most 4 rows were in the queue. After `has_room`
        has fallen there is still room for the lines in the 3 registers before this component, and for one that is read
        meanwhile.

    Latency, with T = lanes: min(3, 1 + log2(T)) + 2 + ceil(log2(T) / 2) cycles from the line that completes a row to
    `row_valid`; the second of the two rows that a last line can complete follows a cycle later. 2 cycles later `o_live`
    has the row. Throughput: one line per cycle.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "begins": In(1),
                "i": In(unstalled(layouts.id_line)),
                "row_valid": Out(1),
                "row_number": Out(layouts.line),
                "row_words": Out(layouts.words),
                "row_last": Out(1),
                "o_live": Out(stream.Signature(layouts.live)),
                "has_room": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layouts = self.layouts
        lanes = layouts.lanes
        token = data.StructLayout(
            {"importance": layouts.importance_bits, "pinned": 1, "id": unsigned(ceil_log2(layouts.tokens))}
        )
        stages = min(ELIMINATOR_STAGES, ZeroEliminator.steps(lanes))
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=token, lanes=lanes, stages=stages, header=1)
        m.submodules.packer = packer = Packer(shape=token, lanes=lanes)
        line = self.i.payload
        m.d.comb += [
            eliminator.i.valid.eq(self.i.valid),
            eliminator.i.payload.mask.eq(line.live),
            eliminator.i.payload.header.eq(line.last),
            eliminator.o.ready.eq(packer.i.ready),
            packer.i.valid.eq(eliminator.o.valid),
            Value.cast(packer.i.payload.lanes).eq(Value.cast(eliminator.o.payload.lanes)),
            packer.i.payload.count.eq(eliminator.o.payload.count),
            packer.i.payload.last.eq(eliminator.o.payload.header),
            packer.o.ready.eq(1),
        ]
        for lane in range(lanes):
            m.d.comb += [
                eliminator.i.payload.lanes[lane].importance.eq(line.importance[lane]),
                eliminator.i.payload.lanes[lane].pinned.eq(line.pinned[lane]),
                eliminator.i.payload.lanes[lane].id.eq(Cat(Const(lane, ceil_log2(lanes)), line.line)),
            ]

        # After `has_room` has fallen a row may still come from each line in the registers, in the zero eliminator and
        # in the packer, a second one from the last line, and one from the line that is taken meanwhile.
        m.submodules.live_list = live_list = Fifo(
            shape=layouts.live, depth=ROWS_WAITING + LINE_REGISTERS + stages + packer.delay + 2
        )
        number = Signal(layouts.line, name="row_number", reset_less=True)
        row = packer.o.payload
        with m.If(self.begins):
            m.d.sync += number.eq(0)
        with m.If(packer.o.valid):
            m.d.sync += number.eq(number + 1)
        m.d.sync += self.has_room.eq(live_list.level <= ROWS_WAITING)
        m.d.comb += [
            self.row_valid.eq(packer.o.valid),
            self.row_number.eq(number),
            self.row_last.eq(row.last),
            live_list.i.valid.eq(packer.o.valid),
            live_list.i.payload.count.eq(row.count),
            live_list.i.payload.last.eq(row.last),
        ]
        for lane in range(lanes):
            m.d.comb += [
                self.row_words[lane].sum.eq(row.lanes[lane].importance),
                self.row_words[lane].pinned.eq(row.lanes[lane].pinned),
                live_list.i.payload.ids[lane].eq(row.lanes[lane].id),
            ]
        wiring.connect(m, live_list.o, wiring.flipped(self.o_live))
        if asserts(platform):
            m.d.sync += Assert(ResetSignal() | ~self.begins | ~packer.o.valid, "a gather begins with a row not gone\n")
            m.d.sync += Assert(~packer.o.valid | live_list.i.ready, "a row of the live list found no room\n")
            m.d.sync += Assert(~self.i.valid | eliminator.i.ready, "an id line found the zero eliminator stalled\n")
        return m
