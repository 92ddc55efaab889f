"""Ages the id lines of a gather, and counts their live and pinned tokens."""

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.token_layouts import AGE_BITS, Layouts, age_by_high_bits, age_by_low_bits, unstalled
from spatten.hw.lib.assertions import asserts

__all__ = ["LineAger"]


class LineAger(wiring.Component):
    """Brings the importance in an id line to what it is at the job's start, and counts tokens over a gather's lines.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    begins : in, a gather begins, whose lines come in later cycles: the totals become 0. The lines before are in them.
    clear, age_shift : in, as in the job's command: all importance becomes 0, or is halved that many times. These hold
        from a job's first line on `i` to its last line on `o`.
    i : `unstalled` stream of `Layouts.id_line`, in: `pinned` matters for live tokens only
    o : `unstalled` stream of `Layouts.id_line`, out: the same with its final importance; all pinned tokens are live
    live_total, pinned_total : out, how many tokens were live, and how many of them pinned

    Latency: 2 cycles from `i` to `o`, 2 more to the totals. Throughput: one line per cycle.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "begins": In(1),
                "clear": In(1),
                "age_shift": In(AGE_BITS),
                "i": In(unstalled(layouts.id_line)),
                "o": Out(unstalled(layouts.id_line)),
                "live_total": Out(range(layouts.tokens + 1)),
                "pinned_total": Out(range(layouts.tokens + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lanes = self.layouts.lanes
        read = self.i.payload
        # The first part of ageing, and then the second.
        half_valid = Signal()
        aged_valid = Signal()
        half = Signal(self.layouts.id_line, name="half_aged", reset_less=True)
        aged = Signal(self.layouts.id_line, name="aged", reset_less=True)
        m.d.sync += [
            half_valid.eq(self.i.valid),
            half.line.eq(read.line),
            half.last.eq(read.last),
            half.live.eq(read.live),
            half.pinned.eq(read.pinned),
            aged_valid.eq(half_valid),
            aged.line.eq(half.line),
            aged.last.eq(half.last),
            aged.live.eq(half.live),
            aged.pinned.eq(half.pinned & half.live),
        ]
        for lane in range(lanes):
            fully_aged = age_by_high_bits(half.importance[lane], self.age_shift)
            m.d.sync += [
                half.importance[lane].eq(age_by_low_bits(read.importance[lane], self.age_shift)),
                aged.importance[lane].eq(Mux(self.clear, 0, fully_aged)),
            ]
        m.d.comb += [self.o.valid.eq(aged_valid), self.o.payload.eq(aged)]

        counted = Signal()
        live_count = Signal(range(lanes + 1), reset_less=True)
        pinned_count = Signal(range(lanes + 1), reset_less=True)
        live_total = Signal(self.live_total.shape(), reset_less=True)
        pinned_total = Signal(self.pinned_total.shape(), reset_less=True)
        m.d.sync += [counted.eq(aged_valid), live_count.eq(sum(aged.live)), pinned_count.eq(sum(aged.pinned))]
        with m.If(self.begins):
            m.d.sync += [live_total.eq(0), pinned_total.eq(0)]
        with m.If(counted):
            m.d.sync += [live_total.eq(live_total + live_count), pinned_total.eq(pinned_total + pinned_count)]
        m.d.comb += [self.live_total.eq(live_total), self.pinned_total.eq(pinned_total)]
        if asserts(platform):
            is_empty = ~(self.i.valid | half_valid | aged_valid | counted)
            m.d.sync += Assert(ResetSignal() | ~self.begins | is_empty, "a gather begins with lines not counted\n")
        return m
