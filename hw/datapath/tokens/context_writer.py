"""Writes the id lines of a job back to its context, where tokens that were not live are aged."""

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.context_memory import scatter_port
from spatten.hw.datapath.tokens.token_layouts import Layouts, age_by_high_bits, age_by_low_bits, unstalled
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.zero_eliminator import masked_row

__all__ = ["ContextWriter", "final_token"]


def final_token(layouts: Layouts) -> data.StructLayout:
    """What goes back of a live token: its `importance`, and whether it is `kept`."""
    return data.StructLayout({"importance": layouts.importance_bits, "kept": 1})


class ContextWriter(wiring.Component):
    """Writes lines as fast as they come: each reads its old state, ages it, and replaces the live tokens in it.

    Tokens that are not live are aged or cleared as the gather has read them, and are not kept.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    begins, lines : in, from the next cycle on so many lines come, from the first of the context on
    active : in, from the first line on up to the cycle of `ends`
    job : in, `Layouts.job`, the job that ends; it holds while `active`
    i : `unstalled` stream of `masked_row(final_token, lanes)`, in: a line, with its live tokens
    ends : out, in this cycle the last line is written
    memory : out, `scatter_port` of a `ContextMemory`

    Latency: 3 cycles from a line to its write. Throughput: one line per cycle.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        line = masked_row(final_token(layouts), layouts.lanes)
        super().__init__(
            {
                "begins": In(1),
                "lines": In(layouts.line_count),
                "active": In(1),
                "job": In(layouts.job),
                "i": In(unstalled(line)),
                "ends": Out(1),
                "memory": Out(scatter_port(layouts)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layouts, memory = self.layouts, self.memory
        line = Signal(layouts.line, reset_less=True)
        lines_left = Signal(layouts.line_count, reset_less=True)
        with m.If(self.begins):
            m.d.sync += [line.eq(0), lines_left.eq(self.lines)]
        with m.If(self.i.valid):
            m.d.sync += [line.eq(line + 1), lines_left.eq(lines_left - 1)]
        # `placed` is beside the memory's output, `aged` behind the first part of ageing, `merged` behind the second.
        stages = ("placed", "aged", "merged")
        layout = data.StructLayout(
            {"line": layouts.line, "last": 1, "live": unsigned(layouts.lanes), "state": layouts.state}
        )
        placed_valid, aged_valid, merged_valid = (Signal(name=f"{stage}_valid") for stage in stages)
        placed, aged, merged = (Signal(layout, name=stage, reset_less=True) for stage in stages)
        m.d.sync += [
            placed_valid.eq(self.i.valid),
            placed.line.eq(line),
            placed.last.eq(lines_left == 1),
            placed.live.eq(self.i.payload.mask),
            aged_valid.eq(placed_valid),
            merged_valid.eq(aged_valid),
        ]
        for before, after in ((placed, aged), (aged, merged)):
            m.d.sync += [after.line.eq(before.line), after.last.eq(before.last), after.live.eq(before.live)]
            m.d.sync += after.state.kept.eq(before.state.kept)
        for lane in range(layouts.lanes):
            token = self.i.payload.lanes[lane]
            half_aged = Signal(layouts.importance_bits, name=f"half_aged{lane}", reset_less=True)
            unchanged = Mux(self.job.clear, 0, age_by_high_bits(half_aged, self.job.age_shift))
            m.d.sync += [
                placed.state.importance[lane].eq(token.importance),
                placed.state.kept[lane].eq(token.kept),
                half_aged.eq(age_by_low_bits(memory.state.importance[lane], self.job.age_shift)),
                aged.state.importance[lane].eq(placed.state.importance[lane]),
                merged.state.importance[lane].eq(Mux(aged.live[lane], aged.state.importance[lane], unchanged)),
            ]
        m.d.comb += [
            self.ends.eq(merged_valid & merged.last),
            memory.active.eq(self.active),
            memory.context.eq(self.job.context),
            memory.read.eq(self.i.valid),
            memory.read_line.eq(line),
            memory.write.eq(merged_valid),
            memory.write_line.eq(merged.line),
            memory.write_state.eq(merged.state),
            memory.ends.eq(self.ends),
            memory.kept_lines.eq(self.job.lines),
        ]
        if asserts(platform):
            m.d.sync += Assert(~self.i.valid | self.active, "a line comes while no scatter writes\n")
        return m
