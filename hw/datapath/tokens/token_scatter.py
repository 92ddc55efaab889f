"""The end of a job: its slot's rows go to the top-k engine, and then back to the id lines of its context."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.context_memory import scatter_port
from spatten.hw.datapath.tokens.context_writer import ContextWriter, final_token
from spatten.hw.datapath.tokens.live_masks import mask_read_port
from spatten.hw.datapath.tokens.mask_reader import MaskReader
from spatten.hw.datapath.tokens.scatter_control import ScatterControl
from spatten.hw.datapath.tokens.slot_reader import SlotReader
from spatten.hw.datapath.tokens.token_jobs import scatter_jobs_port
from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.expander import Expander

__all__ = ["TokenScatter"]


class TokenScatter(wiring.Component):
    """Scatters one job after the other.

    A `ScatterControl` takes the commands. A `SlotReader` reads the slot's rows: once for the top-k engine, if the job
    prunes and has live tokens, and once for the context. Then each row meets the engine's answer, a `MaskReader` says
    which tokens of each line are live, an `Expander` puts the row's tokens into their places in the lines, and a
    `ContextWriter` writes these.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    i_scatter, o_candidates, i_kept, o_scattered : streams as in `TokenImportance`
    memory : out, `scatter_port` of a `ContextMemory`
    jobs : out, `scatter_jobs_port` of `TokenJobs`
    masks : out, `mask_read_port` of `LiveMasks`
    drains, read_enable, read_row, read_words : the ports of the same names of a `RankMemory`

    Latency and throughput are those of the scatter in `TokenImportance`.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "i_scatter": In(stream.Signature(layouts.scatter)),
                "o_candidates": Out(stream.Signature(layouts.candidates)),
                "i_kept": In(stream.Signature(layouts.kept)),
                "o_scattered": Out(stream.Signature(layouts.scattered)),
                "memory": Out(scatter_port(layouts)),
                "jobs": Out(scatter_jobs_port(layouts)),
                "masks": Out(mask_read_port(layouts)),
                "drains": Out(layouts.slots),
                "read_enable": Out(1),
                "read_row": Out(layouts.line),
                "read_words": In(layouts.words),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layouts = self.layouts
        m.submodules.control = control = ScatterControl(layouts=layouts)
        m.submodules.rows = rows = SlotReader(layouts=layouts)
        m.submodules.live_lines = live_lines = MaskReader(layouts=layouts)
        m.submodules.expander = expander = Expander(shape=final_token(layouts), lanes=layouts.lanes)
        m.submodules.writer = writer = ContextWriter(layouts=layouts)
        wiring.connect(m, wiring.flipped(self.i_scatter), control.i_scatter)
        wiring.connect(m, control.o_scattered, wiring.flipped(self.o_scattered))
        wiring.connect(m, control.jobs, wiring.flipped(self.jobs))
        wiring.connect(m, live_lines.masks, wiring.flipped(self.masks))
        wiring.connect(m, live_lines.o, expander.i_masks)
        wiring.connect(m, expander.o, writer.i)
        wiring.connect(m, writer.memory, wiring.flipped(self.memory))
        m.d.comb += [
            rows.begins.eq(control.begins | control.offered),
            rows.rows.eq(control.rows),
            rows.enable.eq(control.offers | control.writes),
            rows.slot.eq(control.slot),
            self.drains.eq(rows.drains),
            self.read_enable.eq(rows.read_enable),
            self.read_row.eq(rows.read_row),
            rows.read_words.eq(self.read_words),
            live_lines.begins.eq(control.begins),
            live_lines.lines.eq(control.lines),
            live_lines.enable.eq(control.writes),
            live_lines.slot.eq(control.slot),
            live_lines.job_lines.eq(control.job.lines),
            writer.begins.eq(control.begins),
            writer.lines.eq(control.lines),
            writer.active.eq(control.writes),
            writer.job.eq(control.job),
            control.written.eq(writer.ends),
        ]
        self._pass_rows(m, control, rows, expander)
        return m

    def _pass_rows(self, m: Module, control: ScatterControl, rows: SlotReader, expander: Expander) -> None:
        """The rows go to the top-k engine first, and then, with the engine's answer, to the id lines."""
        lanes = self.layouts.lanes
        row = rows.o.payload
        candidates = self.o_candidates
        placed = Signal()
        m.d.comb += [
            candidates.valid.eq(rows.o.valid & control.offers),
            candidates.payload.count.eq(Mux(row.last, control.last_count, lanes)),
            candidates.payload.last.eq(row.last),
            control.offered.eq(candidates.valid & candidates.ready & candidates.payload.last),
            expander.i_rows.valid.eq(rows.o.valid & control.writes & (self.i_kept.valid | ~control.prunes)),
            self.i_kept.ready.eq(rows.o.valid & control.writes & control.prunes & expander.i_rows.ready),
            placed.eq(expander.i_rows.valid & expander.i_rows.ready),
            rows.o.ready.eq(Mux(control.offers, candidates.ready, placed)),
        ]
        for lane in range(lanes):
            token = expander.i_rows.payload[lane]
            m.d.comb += [
                candidates.payload.keys[lane].eq(Cat(row.importance[lane], row.pinned[lane])),
                token.importance.eq(row.importance[lane]),
                token.kept.eq(self.i_kept.payload[lane] | ~control.prunes),
            ]
        # A token is counted when its row goes to the lines, so once.
        saturates = Signal()
        saturated_count = Signal(range(lanes + 1), reset_less=True)
        m.d.sync += [saturates.eq(placed), saturated_count.eq(sum(row.saturated))]
        m.d.comb += [control.saturates.eq(saturates), control.saturated_count.eq(saturated_count)]
