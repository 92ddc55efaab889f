"""Begins and ends jobs: finds the live tokens and heads, prepares the job, chooses which of them stay, reports."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.job.head_port import HeadPort, head_access
from spatten.hw.control.job.job_finish import JobFinish
from spatten.hw.control.job.job_report import BEAT_COUNT, SECTOR_COUNT, JobReport
from spatten.hw.control.job.job_start import JobStart
from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job.kept_choice import topk_sizes
from spatten.hw.control.job.row_counts import RowCounts, context_event
from spatten.hw.control.job_layouts import job_layout, report_layout
from spatten.hw.control.job_slots import slot_event, slot_layout
from spatten.hw.control.plan.plan_layouts import live_write, members_request
from spatten.hw.control.saved.state_layouts import head_state, layouts, state_command
from spatten.hw.control.segments import scale_write
from spatten.hw.datapath.head_importance import entry_value
from spatten.hw.datapath.quick_select import candidate_beat
from spatten.hw.datapath.topk import kept_beat
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import select, store_at
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["JobControl", "topk_sizes"]


class JobControl(wiring.Component):
    """Starts jobs in order, and ends them in order.

    `JobStart` gives a job its slot, finds its live tokens and heads, and writes its record, by which the other stages
    go. `RowCounts` follows its rows. `JobFinish` settles after the job's last probability which tokens and heads stay.
    `JobReport` reports the job after memory has acknowledged the last byte of its output. `HeadPort` brings the head
    importance up to date for a job that begins, and reads it for `JobFinish`.

    The start of a job, the choice of who stays after an earlier one, and the wait for the output of one before that
    overlap.

    What only a feature needs (`spec.config.Feature`) is not there without it: `o_load` to `store_heads` without saved
    states, `o_access`, `i_access` and `heads_done` without head pruning, `recomputed` without progressive recompute.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_job : stream of `job_layout`; taken when it has started
    o_report : stream of `report_layout`
    slots, started : out, described at `hw.control.planner.Planner`
    scale : out, `scale_write`; live_write : out, `live_write`
    o_rows : requests to the sector reader, for bitmaps and for what `hw.control.state.StateLoad` asks for on
        `load_rows`; i_rows : the bitmaps from the sector reader
    o_load, i_loaded, o_store, store_heads : commands to `hw.control.state.StateLoad` and `hw.control.state.StateStore`,
        and the heads' state that was read or is to be written
    o_gather, o_lines, i_live, i_gathered, o_scatter, i_candidates, o_kept, i_scattered : to and from
        `hw.datapath.token_importance.TokenImportance`
    o_access, i_access : to and from `hw.datapath.head_importance.HeadImportance`
    o_topk, i_topk : to and from the top-k engine that prunes tokens and heads
    probs_done, heads_done, row_written : in, events of rows: all probabilities of the row have left softmax; the row
        has been added to the head importance (this event names the context instead of the slot); all output of the row
        has gone to the output packer
    recomputed : in, event of a row that is flat and will be computed again
    saturated : in, how many elements have saturated in this cycle's output beat, which is of `row_written.slot`
    beats_in, beats_done : in, counters of `hw.datapath.output_packer.OutputPacker`
    queued, acknowledged : in, for each channel how many sectors it has been given to write, and how many are in memory
    nothing_live : out, the job that starts has no live token, head or query row
    busy : out, a job is under way
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._has_heads = config.has(Feature.PRUNE_HEADS)
        self._saves = config.has(Feature.SAVED_STATES)
        self._recomputes = config.has(Feature.PROGRESSIVE)
        jobs = config.jobs_in_flight
        payloads = layouts(config)
        sizes = topk_sizes(config)
        event = slot_event(config)
        super().__init__(
            {
                "i_job": In(stream.Signature(job_layout(config))),
                "o_report": Out(stream.Signature(report_layout(config))),
                "slots": Out(data.ArrayLayout(slot_layout(config), jobs)),
                "started": Out(range(2 * jobs)),
                "scale": Out(scale_write(config)),
                "live_write": Out(live_write(config)),
                "o_rows": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                **optional(
                    self._saves,
                    o_load=Out(stream.Signature(state_command(config))),
                    i_loaded=In(head_state(config)),
                    load_rows=In(stream.Signature(members_request(config))),
                    o_store=Out(stream.Signature(state_command(config))),
                    store_heads=Out(head_state(config)),
                ),
                "o_gather": Out(stream.Signature(payloads.gather)),
                "o_lines": Out(stream.Signature(payloads.members)),
                "i_live": In(stream.Signature(payloads.live)),
                "i_gathered": In(stream.Signature(payloads.gathered)),
                "o_scatter": Out(stream.Signature(payloads.scatter)),
                "i_candidates": In(stream.Signature(payloads.candidates)),
                "o_kept": Out(stream.Signature(payloads.kept)),
                "i_scattered": In(stream.Signature(payloads.scattered)),
                **optional(
                    self._has_heads,
                    o_access=Out(stream.Signature(head_access(config))),
                    i_access=In(stream.Signature(entry_value(config.head_importance_bits))),
                ),
                "o_topk": Out(stream.Signature(candidate_beat(sizes["width"], sizes["lanes"], sizes["n_max"]))),
                "i_topk": In(stream.Signature(kept_beat(sizes["width"], sizes["lanes"]))),
                "probs_done": In(event),
                **optional(self._has_heads, heads_done=In(context_event(config))),
                "row_written": In(event),
                **optional(self._recomputes, recomputed=In(event)),
                "saturated": In(range(config.head_dim_max + 1)),
                "beats_in": In(BEAT_COUNT),
                "beats_done": In(BEAT_COUNT),
                "queued": In(data.ArrayLayout(SECTOR_COUNT, config.channels)),
                "acknowledged": In(data.ArrayLayout(SECTOR_COUNT, config.channels)),
                "nothing_live": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.start = self._start = JobStart(config=config)
        m.submodules.rows = self._rows = RowCounts(config=config)
        m.submodules.finish = self._finish = JobFinish(config=config)
        if self._has_heads:
            m.submodules.head_port = self._head_port = HeadPort(config=config)
        m.submodules.report = self._report = JobReport(config=config)
        self._join_start(m)
        self._join_rows(m)
        self._join_finish(m)
        self._join_report(m)
        for name, member in self.signature.members.items():
            if member.is_signature and member.flow == In:
                check_stream(m, platform, getattr(self, name), name)
        if asserts(platform):
            self._check_slots(m)
        return m

    def _join_start(self, m: Module) -> None:
        """What begins: the start of a job, and for it the head importance."""
        start = self._start
        connect, flipped = wiring.connect, wiring.flipped
        connect(m, flipped(self.i_job), start.i_job)
        if self._saves:
            connect(m, start.o_load, flipped(self.o_load))
            connect(m, flipped(self.load_rows), start.i_load_rows)
        connect(m, start.o_rows, flipped(self.o_rows))
        connect(m, flipped(self.i_rows), start.i_rows)
        connect(m, start.o_gather, flipped(self.o_gather))
        connect(m, start.o_lines, flipped(self.o_lines))
        connect(m, flipped(self.i_live), start.i_live)
        connect(m, flipped(self.i_gathered), start.i_gathered)
        m.d.comb += [
            self.slots.eq(start.slots),
            self.started.eq(start.started),
            self.scale.eq(start.scale),
            self.live_write.eq(start.live_write),
            self.nothing_live.eq(start.nothing_live),
            self.busy.eq(start.busy),
        ]
        if self._saves:
            m.d.comb += start.loaded_kept.eq(self.i_loaded.kept)
        if self._has_heads:
            m.d.comb += start.ageing.eq(self._head_port.busy)
        m.d.comb += start.choice.eq(self._finish.choice)
        if self._saves:
            m.d.comb += start.store.eq(self._report.store)
        m.d.comb += start.ends.eq(self._report.ends)
        if self._has_heads:
            m.d.comb += [self._head_port.begins.eq(start.begins), self._head_port.job.eq(start.job)]
            if self._saves:
                m.d.comb += self._head_port.loaded.eq(self.i_loaded)

    def _join_rows(self, m: Module) -> None:
        """The counts of rows."""
        start, rows = self._start, self._rows
        m.d.comb += [
            rows.begins.eq(start.begins),
            rows.slot.eq(start.slot),
        ]
        if self._has_heads:
            m.d.comb += rows.context.eq(start.job.context)
        m.d.comb += [rows.probs_done.eq(self.probs_done), rows.row_written.eq(self.row_written)]
        if self._recomputes:
            m.d.comb += rows.recomputed.eq(self.recomputed)
        if self._has_heads:
            m.d.comb += rows.heads_done.eq(self.heads_done)
        m.d.comb += rows.saturated.eq(self.saturated)

    def _join_finish(self, m: Module) -> None:
        """The choice of who stays, and the head importance that it reads."""
        start, rows, finish = self._start, self._rows, self._finish
        connect, flipped = wiring.connect, wiring.flipped
        connect(m, finish.o_scatter, flipped(self.o_scatter))
        connect(m, flipped(self.i_scattered), finish.i_scattered)
        connect(m, flipped(self.i_candidates), finish.i_candidates)
        connect(m, finish.o_kept, flipped(self.o_kept))
        connect(m, finish.o_topk, flipped(self.o_topk))
        connect(m, flipped(self.i_topk), finish.i_topk)
        if self._has_heads:
            port = self._head_port
            connect(m, finish.o_read, port.i_read)
            connect(m, port.o, flipped(self.o_access))
            connect(m, flipped(self.i_access), port.i)
        m.d.comb += [
            finish.slots.eq(start.slots),
            finish.started.eq(start.started),
            finish.totals.eq(start.totals),
            finish.pinned.eq(start.pinned),
            finish.prepared.valid.eq(start.step == StartStep.START),
            finish.prepared.slot.eq(start.slot),
            finish.probs.eq(rows.probs),
        ]
        if self._has_heads:
            m.d.comb += [finish.added.eq(rows.added), finish.ageing.eq(port.busy)]
            if self._saves:
                m.d.comb += finish.store.eq(self._report.store)
            m.d.comb += [port.reads.eq(finish.reads), finish.answer.eq(port.answer)]

    def _join_report(self, m: Module) -> None:
        """The report, and the state that is stored before it."""
        start, rows, finish, report = self._start, self._rows, self._finish, self._report
        connect, flipped = wiring.connect, wiring.flipped
        if self._saves:
            connect(m, report.o_store, flipped(self.o_store))
        connect(m, report.o_report, flipped(self.o_report))
        m.d.comb += [
            report.slots.eq(start.slots),
            report.totals.eq(start.totals),
            report.prepared.valid.eq(start.step == StartStep.START),
            report.prepared.slot.eq(start.slot),
            report.choice.eq(finish.choice),
            report.outcomes.eq(finish.outcomes),
            report.written.eq(rows.written),
        ]
        if self._recomputes:
            m.d.comb += report.recomputed_rows.eq(rows.recomputed_rows)
        m.d.comb += [
            report.saturated_elements.eq(rows.saturated_elements),
            report.beats_in.eq(self.beats_in),
            report.beats_done.eq(self.beats_done),
            report.queued.eq(self.queued),
            report.acknowledged.eq(self.acknowledged),
        ]
        if self._saves:
            if self._has_heads:
                m.d.comb += [
                    self.store_heads.importance.eq(finish.saved.importance),
                    self.store_heads.saturated.eq(finish.saved.saturated),
                ]
            m.d.comb += self.store_heads.kept.eq(report.stored_heads)

    def _check_slots(self, m: Module) -> None:
        """A slot is a job's from its beginning to its report; rows come of jobs that have a slot, none too many; they
        add to the head importance when that is aged."""
        start, rows, report = self._start, self._rows, self._report
        taken = [Signal(name=f"taken{n}") for n in range(self.config.jobs_in_flight)]
        ending = report.o_report.payload
        reported = Signal.like(start.slot)
        with m.If(report.ends):
            m.d.sync += reported.eq(reported + 1 if len(taken) > 1 else 0)
            store_at(m, taken, reported, 0)
        with m.If(start.begins):
            store_at(m, taken, start.slot, 1)
        checks = [
            (~start.begins | ~select(taken, start.slot), "a job begins in a slot that another has"),
            (~report.ends | select(taken, reported), "a job is reported that has no slot"),
            (
                ~report.ends | (ending.rows == select(list(rows.written), reported)[: len(ending.rows)]),
                "rows are missing",
            ),
        ]
        if self._has_heads:
            aged_context = Signal.like(start.job.context)
            with m.If(start.begins):
                m.d.sync += aged_context.eq(start.job.context)
            is_aged = self._head_port.busy & (self.heads_done.slot == aged_context)
            checks.append((~self.heads_done.valid | ~is_aged, "a row adds to a head importance that is not aged yet"))
        for name, counts in (("probs_done", rows.probs), ("row_written", rows.written)):
            event = getattr(self, name)
            is_due = select(taken, event.slot) & (
                select(list(counts), event.slot) < select(list(start.totals), event.slot)
            )
            checks.append((~event.valid | is_due, f"{name}: the job has no such row"))
        m.d.sync += [Assert(ResetSignal() | holds, f"{what}\n") for holds, what in checks]
