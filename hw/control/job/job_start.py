"""The start of a job: its slot, its live tokens and heads, its record."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.job.job_records import JobRecords
from spatten.hw.control.job.job_sizes import JobSizes
from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job.live_heads import LiveHeads
from spatten.hw.control.job.live_rows import LiveRows
from spatten.hw.control.job.member_lines import MemberLines
from spatten.hw.control.job.scale_writer import ScaleWriter
from spatten.hw.control.job_layouts import flag_of, job_layout
from spatten.hw.control.job_slots import choice_event, row_count, slot_layout, slot_shape, store_event
from spatten.hw.control.plan.plan_layouts import live_write, members_request
from spatten.hw.control.saved.state_layouts import head_state, layouts, state_command
from spatten.hw.control.segments import scale_write
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import equals, following, select
from spatten.spec.config import Config, Feature
from spatten.spec.job import Flag, Mode
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["JobStart"]


class JobStart(wiring.Component):
    """Starts jobs in order, one at a time.

    A job gets the next slot when that slot is free, no earlier job needs the job's context any more, and the ageing of
    the head importance for the previous job is over. The context's state is loaded, if the job says so. The job's
    bitmaps are read, through the query ring; the context's tokens are gathered into the slot, which gives the live
    list. A job whose tokens are all known to be live counts as started without waiting for the list. A job without a
    live token, head or query row is an error.

    This unit goes through the steps (`StartStep`), and the units inside it go by them: `JobSizes`, `LiveHeads`,
    `MemberLines`, `LiveRows`, `ScaleWriter` and `JobRecords`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_job : stream of `job_layout`; taken when it has started, and it stays until then
    step, slot, job : out, how far the start of a job is, the job's slot, and the job: that of `i_job` a cycle later
    begins : out, the job takes its slot: the cycle of step SHAPE
    ends : in, a job gives its slot up
    ageing : in, the head importance for the job that began last is still being cleared, loaded or aged; only with head
        pruning
    choice : in, `choice_event`; store : in, `store_event`: either of them ends a job's use of its context
    slots, totals, pinned : out, described at `JobRecords`
    started : out, how many jobs have been started, modulo twice the slots
    live_write, scale : out, described at `LiveRows` and `ScaleWriter`
    o_load : stream of `state_command`, taken when the state is loaded; loaded_kept : in, kept heads of that state
    i_load_rows : stream of `members_request`, what is asked for while a state is loaded; like `o_load`, `loaded_kept`
        and `store` only where states are saved
    o_rows : stream of `members_request`, for bitmaps and states; i_rows : stream of the bitmaps
    o_gather, o_lines, i_live, i_gathered : to and from `hw.datapath.token_importance.TokenImportance`
    nothing_live : out, the job has no live token, head or query row; nothing more happens until a reset
    busy : out, a job waits or has a slot

    Latency: if nothing has to be waited for, a job begins 2 cycles after it has come on `i_job`, and a dense job counts
    as started in the next. `i_job` is taken when the live list is complete, whether or not the job is dense.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._saves = config.has(Feature.SAVED_STATES)
        jobs = config.jobs_in_flight
        tokens = range(config.tokens_max + 1)
        payloads = layouts(config)
        super().__init__(
            {
                "i_job": In(stream.Signature(job_layout(config))),
                "step": Out(StartStep),
                "slot": Out(slot_shape(config)),
                "job": Out(job_layout(config)),
                "begins": Out(1),
                "ends": In(1),
                **optional(config.has(Feature.PRUNE_HEADS), ageing=In(1)),
                "choice": In(choice_event(config)),
                **optional(self._saves, store=In(store_event(config))),
                "slots": Out(data.ArrayLayout(slot_layout(config), jobs)),
                "totals": Out(data.ArrayLayout(row_count(config), jobs)),
                "pinned": Out(data.ArrayLayout(tokens, jobs)),
                "started": Out(range(2 * jobs)),
                "live_write": Out(live_write(config)),
                "scale": Out(scale_write(config)),
                **optional(
                    self._saves,
                    o_load=Out(stream.Signature(state_command(config))),
                    loaded_kept=In(head_state(config).members["kept"]),
                    i_load_rows=In(stream.Signature(members_request(config))),
                ),
                "o_rows": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o_gather": Out(stream.Signature(payloads.gather)),
                "o_lines": Out(stream.Signature(payloads.members)),
                "i_live": In(stream.Signature(payloads.live)),
                "i_gathered": In(stream.Signature(payloads.gathered)),
                "nothing_live": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        descriptor = self.i_job.payload
        # Fields that are computed with come from a register, since reading the queue's memory takes a third of a cycle.
        job = Signal.like(descriptor, name="job_register", reset_less=True)
        self._job_valid = Signal()
        m.d.sync += [job.eq(descriptor), self._job_valid.eq(self.i_job.valid & ~self.i_job.ready)]
        m.d.comb += self.job.eq(job)
        self._loads = Signal()
        """The query ring and its reader work for the state that is loaded."""
        self._wants_pinned = Signal()
        """The bitmap that is asked for is that of pinned tokens."""
        self._context_busy = Signal(self.config.contexts)
        """Bit n: a job in flight needs context n."""
        self._units(m)
        self._requests(m)
        self._count_slots(m)
        self._sequence(m)
        self._free_contexts(m)
        if asserts(platform):
            self._check(m)
        return m

    def _units(self, m: Module) -> None:
        """The units that go by the steps."""
        config, descriptor = self.config, self.i_job.payload
        m.submodules.sizes = sizes = JobSizes(config=config)
        m.submodules.heads = heads = LiveHeads(config=config)
        m.submodules.lines = lines = MemberLines(config=config)
        m.submodules.rows = rows = LiveRows(config=config)
        m.submodules.scales = scales = ScaleWriter(config=config)
        m.submodules.records = records = JobRecords(config=config)
        self._sizes, self._heads, self._lines, self._rows = sizes.sizes, heads, lines, rows
        for unit in (heads, lines, rows, scales, records):
            m.d.comb += unit.step.eq(self.step)
        for unit in (sizes, heads, lines, rows, records):
            m.d.comb += unit.job.eq(self.job)
        for unit in (rows, scales, records):
            m.d.comb += unit.slot.eq(self.slot)
        wiring.connect(m, lines.o, wiring.flipped(self.o_lines))
        wiring.connect(m, wiring.flipped(self.i_rows), lines.i_rows)
        wiring.connect(m, wiring.flipped(self.i_live), rows.i)
        if self._saves:
            m.d.comb += [heads.loaded.eq(self.o_load.ready), heads.loaded_kept.eq(self.loaded_kept)]
        m.d.comb += [
            heads.choice.eq(self.choice),
            lines.has_kv_sector.eq(descriptor.has_kv),
            lines.pinned_sector.eq(descriptor.pinned),
            lines.wants_pinned.eq(self._wants_pinned),
            self.live_write.eq(rows.live_write),
            scales.live_heads.eq(heads.live_heads),
            scales.scales.eq(descriptor.scales),
            self.scale.eq(scales.scale),
            records.descriptor.eq(descriptor),
            records.sizes.eq(sizes.sizes),
            records.live_heads.eq(heads.live_heads),
            records.head_count.eq(heads.count),
            records.gathered.eq(self.i_gathered.payload),
            records.before.eq(rows.before),
            records.within.eq(rows.within),
            self.slots.eq(records.slots),
            self.totals.eq(records.totals),
            self.pinned.eq(records.pinned),
        ]

    def _requests(self, m: Module) -> None:
        """What is asked of the sector reader, the unit that loads states, and the token importance unit."""
        job = self.job
        rows = self._lines.o_rows
        gather = self.o_gather.payload
        if self._saves:
            loads = self._loads
            m.d.comb += [
                self.o_rows.valid.eq(Mux(loads, self.i_load_rows.valid, rows.valid)),
                Value.cast(self.o_rows.payload).eq(
                    Mux(loads, Value.cast(self.i_load_rows.payload), Value.cast(rows.payload))
                ),
                rows.ready.eq(self.o_rows.ready),
                self.i_load_rows.ready.eq(loads & self.o_rows.ready),
                self.o_load.valid.eq(loads),
                self.o_load.payload.context.eq(job.context),
                self.o_load.payload.sector.eq(self.i_job.payload.state),
            ]
        else:
            wiring.connect(m, rows, wiring.flipped(self.o_rows))
        m.d.comb += [
            gather.context.eq(job.context),
            gather.slot.eq(self.slot),
            gather.clear.eq(flag_of(self.config, job.flags, Flag.CLEAR)),
            gather.restart.eq(flag_of(self.config, job.flags, Flag.RESTART)),
            gather.age_shift.eq(job.age_shift),
            gather.lines.eq(self._lines.lines),
            gather.generates.eq(equals(job.mode, Mode.GENERATION)),
            gather.generating_token.eq(job.query_offset),
        ]

    def _count_slots(self, m: Module) -> None:
        """Which slot is next, and how many are used."""
        jobs = self.config.jobs_in_flight
        self._next_slot = next_slot = Signal(range(2 * jobs))
        self._used = Signal(range(jobs + 1))
        m.d.comb += self.slot.eq(next_slot[: len(self.slot)] if jobs > 1 else 0)
        m.d.sync += self._used.eq(self._used + self.begins - self.ends)
        m.d.comb += self.busy.eq(self._used.any() | self.i_job.valid)
        with m.Switch(self.step), m.Case(StartStep.START):
            m.d.sync += next_slot.eq(following(next_slot, 2 * jobs))

    def _sequence(self, m: Module) -> None:
        """The steps of a job's start. An answer of the sector reader or of the token importance unit ends a step."""
        config, jobs = self.config, self.config.jobs_in_flight
        job, sizes, rows, step = self.job, self._sizes, self._rows, self.step
        has_kv, pinned = (flag_of(config, job.flags, flag) for flag in (Flag.HAS_KV, Flag.PINNED))
        live = self.i_gathered.payload.live
        starts = Signal()
        with m.If(starts):
            m.d.sync += self.started.eq(following(self.started, 2 * jobs))
        context_free = ~select(list(self._context_busy), job.context)
        may_begin = self._job_valid & (self._used != jobs) & context_free
        if config.has(Feature.PRUNE_HEADS):
            may_begin = may_begin & ~self.ageing
        with m.Switch(step):
            # Head importance is aged for one job at a time; if jobs are short that takes longer than all else.
            with m.Case(StartStep.IDLE), m.If(may_begin):
                m.d.sync += step.eq(StartStep.SHAPE)
                if self._saves:
                    with m.If(flag_of(config, job.flags, Flag.LOAD_STATE)):
                        m.d.sync += step.eq(StartStep.LOAD)
            if self._saves:
                with m.Case(StartStep.LOAD):
                    m.d.comb += self._loads.eq(1)
                    with m.If(self.o_load.ready):
                        m.d.sync += step.eq(StartStep.LOADED)
                with m.Case(StartStep.LOADED):
                    m.d.sync += step.eq(StartStep.SHAPE)
            with m.Case(StartStep.SHAPE):
                m.d.comb += self.begins.eq(1)
                m.d.sync += [self._wants_pinned.eq(0), self._context_busy.bit_select(job.context, 1).eq(1)]
                m.d.sync += step.eq(StartStep.GATHER)
                with m.If(has_kv):
                    m.d.sync += step.eq(StartStep.ASK)
                with m.Elif(pinned):
                    m.d.sync += [self._wants_pinned.eq(1), step.eq(StartStep.ASK)]
                with m.If(~self._heads.live_heads.any() | (sizes.dense & ~sizes.has_rows)):
                    m.d.sync += step.eq(StartStep.EMPTY)
                with m.Elif(sizes.dense):
                    m.d.comb += starts.eq(1)
            with m.Case(StartStep.ASK), m.If(self.o_rows.ready):
                m.d.sync += step.eq(StartStep.ROW)
            with m.Case(StartStep.ROW), m.If(self.i_rows.valid):
                with m.If(self._wants_pinned):
                    m.d.sync += step.eq(StartStep.GATHER)
                with m.Elif(pinned):
                    m.d.sync += [self._wants_pinned.eq(1), step.eq(StartStep.ASK)]
                with m.Else():
                    m.d.sync += step.eq(StartStep.GATHER)
            with m.Case(StartStep.GATHER):
                m.d.comb += self.o_gather.valid.eq(1)
                with m.If(self.o_gather.ready):
                    m.d.sync += step.eq(StartStep.LINES)
            with m.Case(StartStep.LINES), m.If(self.i_gathered.valid & rows.complete & ~self.scale.enable):
                m.d.sync += step.eq(StartStep.GATHERED)
            with m.Case(StartStep.GATHERED):
                m.d.comb += self.i_gathered.ready.eq(1)
                m.d.sync += step.eq(StartStep.START)
                with m.If(~live.any() | (~sizes.dense & ~rows.within.any())):
                    m.d.sync += step.eq(StartStep.EMPTY)
            with m.Case(StartStep.START):
                m.d.comb += [self.i_job.ready.eq(1), starts.eq(~sizes.dense)]
                m.d.sync += step.eq(StartStep.IDLE)
            with m.Case(StartStep.EMPTY):
                m.d.comb += self.nothing_live.eq(1)

    def _free_contexts(self, m: Module) -> None:
        """A context is free when its job has chosen who stays; if its state is stored, when that is done."""
        if not self._saves:
            with m.If(self.choice.valid):
                m.d.sync += self._context_busy.bit_select(self.choice.context, 1).eq(0)
            return
        with m.If(self.choice.valid), m.If(~self.choice.stores):
            m.d.sync += self._context_busy.bit_select(self.choice.context, 1).eq(0)
        with m.If(self.store.waits), m.If(self.store.done):
            m.d.sync += self._context_busy.bit_select(self.store.context, 1).eq(0)

    def _check(self, m: Module) -> None:
        """A dense job counts as started before anything is asked for it, another one only when its list is complete.

        So the planner, which asks for the rows of jobs that have started by the same ring, never waits for a bitmap of
        a dense job; and what comes from other units has been asked for.
        """

        def within(*steps: StartStep) -> Value:
            return self.step.matches(*steps)

        asked = within(StartStep.ASK, StartStep.ROW, StartStep.GATHER, StartStep.LINES, StartStep.GATHERED)
        is_started = self.started != self._next_slot
        chosen = select(list(self._context_busy), self.choice.context)
        for holds, what in (
            (~asked | (is_started == self._sizes.dense), "a job is started at the wrong time"),
            (
                ~within(StartStep.IDLE, StartStep.LOAD, StartStep.LOADED, StartStep.SHAPE) | ~is_started,
                "a job is started early",
            ),
            (~self.i_rows.valid | within(StartStep.ROW), "i_rows: no bitmap was asked for"),
            (~self.i_live.valid | within(StartStep.LINES), "i_live: no list was asked for"),
            (~self.i_gathered.valid | within(StartStep.LINES, StartStep.GATHERED), "i_gathered: no job is gathered"),
            (~self.ends | self._used.any(), "ends: no job has a slot"),
            (~self.choice.valid | chosen, "choice: no job has the context"),
        ):
            m.d.sync += Assert(ResetSignal() | holds, f"{what}\n")
