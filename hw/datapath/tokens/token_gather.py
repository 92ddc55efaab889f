"""The beginning of a job: the live tokens of a context become the rows of a slot, and the live list."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.rank_memory import one_hot
from spatten.hw.datapath.tokens.context_memory import gather_port, host_port
from spatten.hw.datapath.tokens.context_reader import ContextReader
from spatten.hw.datapath.tokens.line_ager import LineAger
from spatten.hw.datapath.tokens.live_masks import mask_write_port
from spatten.hw.datapath.tokens.live_rows import LiveRows
from spatten.hw.datapath.tokens.token_jobs import gather_jobs_port
from spatten.hw.datapath.tokens.token_layouts import Layouts

__all__ = ["TokenGather"]


class TokenGather(wiring.Component):
    """Gathers one job after the other, and lets the host at the contexts between them.

    A `ContextReader` reads the lines of the job's context and finds the live tokens, a `LineAger` ages and counts them,
    and `LiveRows` packs them. This component writes the rows to the job's slot, leaves the job to the scatter, and
    reports.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    i_gather, i_members, o_live, o_gathered, i_access, o_access : streams as in `TokenImportance`
    memory, host : out, `gather_port` and `host_port` of a `ContextMemory`
    jobs : out, `gather_jobs_port` of `TokenJobs`
    masks : out, `mask_write_port` of `LiveMasks`
    fills, write_enable, write_row, write_words : out, to the ports of the same names of a `RankMemory`; `fills` is set
        from the cycle after the command until the report is taken

    Latency and throughput are those of the gather and the host in `TokenImportance`.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "i_gather": In(stream.Signature(layouts.gather)),
                "i_members": In(stream.Signature(layouts.members)),
                "o_live": Out(stream.Signature(layouts.live)),
                "o_gathered": Out(stream.Signature(layouts.gathered)),
                "i_access": In(stream.Signature(layouts.access)),
                "o_access": Out(stream.Signature(layouts.state)),
                "memory": Out(gather_port(layouts)),
                "host": Out(host_port(layouts)),
                "jobs": Out(gather_jobs_port(layouts)),
                "masks": Out(mask_write_port(layouts)),
                "fills": Out(layouts.slots),
                "write_enable": Out(1),
                "write_row": Out(layouts.line),
                "write_words": Out(layouts.words),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layouts = self.layouts
        m.submodules.reader = reader = ContextReader(layouts=layouts)
        m.submodules.ager = ager = LineAger(layouts=layouts)
        m.submodules.rows = rows = LiveRows(layouts=layouts)
        for name in ("i_gather", "i_members", "i_access"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(reader, name))
        for name in ("o_access", "memory", "host"):
            wiring.connect(m, getattr(reader, name), wiring.flipped(getattr(self, name)))
        wiring.connect(m, reader.o, ager.i)
        wiring.connect(m, ager.o, rows.i)
        wiring.connect(m, rows.o_live, wiring.flipped(self.o_live))

        command = reader.command
        gathers = Signal()
        reports = Signal()
        with m.If(reader.begins):
            m.d.sync += gathers.eq(1)
        with m.If(rows.row_valid):
            m.d.sync += reports.eq(rows.row_last)
        with m.If(reports), m.If(self.o_gathered.ready):
            m.d.sync += [reports.eq(0), gathers.eq(0)]

        m.d.comb += [
            reader.taken_contexts.eq(self.jobs.taken_contexts),
            reader.taken_slots.eq(self.jobs.taken_slots),
            reader.is_gathering.eq(gathers),
            reader.has_room.eq(rows.has_room),
            ager.begins.eq(reader.begins),
            ager.clear.eq(command.clear),
            ager.age_shift.eq(command.age_shift),
            rows.begins.eq(reader.begins),
            # Which tokens of a line are live is known before they are packed.
            self.masks.enable.eq(ager.o.valid),
            self.masks.slot.eq(command.slot),
            self.masks.line.eq(ager.o.payload.line),
            self.masks.mask.eq(ager.o.payload.live),
            self.fills.eq(Mux(gathers, one_hot(command.slot, layouts.slots), 0)),
            self.write_enable.eq(rows.row_valid),
            self.write_row.eq(rows.row_number),
            self.write_words.eq(rows.row_words),
            self.jobs.begins.eq(reader.begins),
            self.jobs.begin_context.eq(self.i_gather.payload.context),
            self.jobs.begin_slot.eq(self.i_gather.payload.slot),
            self.jobs.gathered.eq(reports),
            self.jobs.slot.eq(command.slot),
            self.jobs.job.context.eq(reader.context),
            self.jobs.job.lines.eq(command.lines),
            self.jobs.job.clear.eq(command.clear),
            self.jobs.job.age_shift.eq(command.age_shift),
            self.jobs.job.live.eq(ager.live_total),
            self.o_gathered.valid.eq(reports),
            self.o_gathered.payload.slot.eq(command.slot),
            self.o_gathered.payload.live.eq(ager.live_total),
            self.o_gathered.payload.pinned.eq(ager.pinned_total),
        ]
        return m
