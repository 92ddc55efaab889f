"""The report of a job, when its output is in memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.job_outcomes import job_outcome
from spatten.hw.control.job_layouts import flag_of, report_layout
from spatten.hw.control.job_slots import (
    choice_event,
    row_count,
    slot_event,
    slot_layout,
    slot_shape,
    store_event,
)
from spatten.hw.control.saved.state_layouts import state_command
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import select, store_at
from spatten.spec.config import Config, Feature
from spatten.spec.job import Flag

__all__ = ["BEAT_COUNT", "SECTOR_COUNT", "JobReport"]

BEAT_COUNT = unsigned(8)
"""A counter of output beats, which begins again at zero: more than twice as many as are ever on their way."""
SECTOR_COUNT = unsigned(16)
"""A counter of sectors that a channel writes: more than twice as many as are ever on their way."""


def _has_passed(counter: Value, mark: Value) -> Value:
    """Whether a counter is not before a mark, of both counting on without end."""
    return ~(counter - mark)[len(mark) - 1]


class JobReport(wiring.Component):
    """Waits until memory has acknowledged the last byte of a job's output, and reports the job; jobs go in order.

    A job whose context's state is to be stored has that done between the two, and waits for those bytes as well. With
    its report a job gives its slot up. This overlaps with the choice of who stays after the next job.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, totals : in, described at `hw.control.job.job_start.JobStart`
    prepared : in, `slot_event`: all of this slot's record and total stand
    choice : in, `choice_event`; outcomes : in, array of `job_outcome`
    written, recomputed_rows, saturated_elements : in, described at `hw.control.job.row_counts.RowCounts`; of these
        `recomputed_rows` only with progressive recompute
    beats_in, beats_done : in, counters of `hw.datapath.output_packer.OutputPacker`
    queued, acknowledged : in, for each channel how many sectors it has been given to write, and how many are in memory
    o_store : stream of `state_command`, to `hw.control.state.StateStore`
    stored_heads : out, which heads the context keeps; part of the state
    store : out, `store_event`; like `o_store` and `stored_heads` only where states are saved
    o_report : stream of `report_layout`
    ends : out, a job gives its slot up

    Latency: the report is offered 2 cycles after the last acknowledgement, and no earlier than 5 cycles after the event
    of the job's last row.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._saves = config.has(Feature.SAVED_STATES)
        jobs = config.jobs_in_flight
        rows = data.ArrayLayout(row_count(config), jobs)
        report = report_layout(config)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), jobs)),
                "totals": In(rows),
                "prepared": In(slot_event(config)),
                "choice": In(choice_event(config)),
                "outcomes": In(data.ArrayLayout(job_outcome(config), jobs)),
                "written": In(rows),
                **(
                    {"recomputed_rows": In(data.ArrayLayout(report.members["recomputed"], jobs))}
                    if config.has(Feature.PROGRESSIVE)
                    else {}
                ),
                "saturated_elements": In(data.ArrayLayout(report.members["output_saturated"], jobs)),
                "beats_in": In(BEAT_COUNT),
                "beats_done": In(BEAT_COUNT),
                "queued": In(data.ArrayLayout(SECTOR_COUNT, config.channels)),
                "acknowledged": In(data.ArrayLayout(SECTOR_COUNT, config.channels)),
                **optional(
                    self._saves,
                    o_store=Out(stream.Signature(state_command(config))),
                    stored_heads=Out(unsigned(config.heads_max)),
                    store=Out(store_event(config)),
                ),
                "o_report": Out(stream.Signature(report)),
                "ends": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._slot = Signal(slot_shape(self.config))
        record = slot_layout(self.config).members
        stored = ("context", "flags", "state") if self._saves else ()
        fields = ("tag", *stored, "live", "live_heads")
        self._job = Signal(data.StructLayout({name: record[name] for name in fields}), reset_less=True)
        """What is needed of the record of `slot`, a cycle behind it."""
        for name in fields:
            m.d.sync += self._job[name].eq(self._of_slot([self.slots[n][name] for n in range(len(self.slots))]))
        self._fields(m)
        self._sequence(m)
        return m

    def _of_slot(self, values: Any) -> Value:
        """The value of the job that is reported next."""
        return select(list(values), self._slot)

    def _fields(self, m: Module) -> None:
        """The report, and the command to store the state."""
        job, report = self._job, self.o_report.payload
        jobs = range(self.config.jobs_in_flight)
        has_heads = self.config.has(Feature.PRUNE_HEADS)
        kept_heads = self._of_slot([self.outcomes[n].kept_heads for n in jobs]) if has_heads else job.live_heads
        m.d.comb += [
            report.tag.eq(job.tag),
            report.live_tokens.eq(job.live),
            report.kept_tokens.eq(self._of_slot([self.outcomes[n].kept_tokens for n in jobs])),
            report.live_heads.eq(job.live_heads),
            report.kept_heads.eq(kept_heads),
            report.rows.eq(self._of_slot(self.totals)),
        ]
        if self.config.has(Feature.PROGRESSIVE):
            m.d.comb += report.recomputed.eq(self._of_slot(self.recomputed_rows))
        m.d.comb += [
            report.output_saturated.eq(self._of_slot(self.saturated_elements)),
            report.tokens_saturated.eq(self._of_slot([self.outcomes[n].saturated_tokens for n in jobs])),
        ]
        if has_heads:
            m.d.comb += report.heads_saturated.eq(self._of_slot([self.outcomes[n].saturated_heads for n in jobs]))
        if self._saves:
            m.d.comb += [
                self.o_store.payload.context.eq(job.context),
                self.o_store.payload.sector.eq(job.state),
            ]
            m.d.sync += self.stored_heads.eq(kept_heads)

    def _sequence(self, m: Module) -> None:
        """What a report waits for."""
        config, slot = self.config, self._slot
        jobs = config.jobs_in_flight
        prepared = [Signal(name=f"prepared{n}") for n in range(jobs)]
        chosen = [Signal(name=f"chosen{n}") for n in range(jobs)]
        with m.If(self.prepared.valid):
            store_at(m, prepared, self.prepared.slot, 1)
        with m.If(self.choice.valid):
            store_at(m, chosen, self.choice.slot, 1)
        beats = Signal(BEAT_COUNT, reset_less=True)
        """How many had entered the packer when the job's last row had."""
        sectors = Signal(data.ArrayLayout(SECTOR_COUNT, config.channels), reset_less=True)
        """How many sectors each channel had been given when those beats had left the packer."""
        in_memory = Signal(config.channels, reset_less=True)
        passed, stored = Signal(), Signal()
        m.d.comb += passed.eq(_has_passed(self.beats_done, beats))
        for channel in range(config.channels):
            m.d.sync += in_memory[channel].eq(_has_passed(self.acknowledged[channel], sectors[channel]))
        all_written = self._of_slot(self.written) == self._of_slot(self.totals)
        with m.FSM(name="report") as fsm:
            with m.State("WAIT"), m.If(self._of_slot(prepared) & all_written):
                m.d.sync += beats.eq(self.beats_in)
                m.next = "BEATS"
            with m.State("BEATS"), m.If(passed):
                m.d.sync += sectors.eq(self.queued)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "ACKNOWLEDGED"
            with m.State("ACKNOWLEDGED"), m.If(in_memory.all() & self._of_slot(chosen)):
                m.next = "REPORT"
                if self._saves:
                    with m.If(flag_of(config, self._job.flags, Flag.STORE_STATE) & ~stored):
                        m.next = "STORE"
            if self._saves:
                with m.State("STORE"):
                    m.d.comb += self.o_store.valid.eq(1)
                    with m.If(self.o_store.ready):
                        # The state is in memory when the channels have acknowledged all that they have by now.
                        m.d.sync += [stored.eq(1), sectors.eq(self.queued)]
                        m.next = "COMPARE"
            with m.State("REPORT"):
                m.d.comb += self.o_report.valid.eq(1)
                if self._saves:
                    m.d.sync += stored.eq(0)
                with m.If(self.o_report.ready):
                    m.d.comb += self.ends.eq(1)
                    store_at(m, chosen, slot, 0)
                    store_at(m, prepared, slot, 0)
                    if jobs > 1:
                        m.d.sync += slot.eq(slot + 1)
                    m.next = "WAIT"
            if self._saves:
                m.d.comb += self.store.waits.eq(fsm.ongoing("STORE"))
        if self._saves:
            m.d.comb += [self.store.done.eq(self.o_store.ready), self.store.context.eq(self._job.context)]
