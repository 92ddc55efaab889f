"""The end of a job: its importance goes back to the context, and it is settled who stays."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_answer, head_read
from spatten.hw.control.job.head_reader import HeadReader, saved_heads
from spatten.hw.control.job.job_outcomes import JobOutcomes, job_outcome
from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job.kept_choice import KeptChoice, topk_sizes
from spatten.hw.control.job_layouts import flag_of
from spatten.hw.control.job_slots import (
    choice_event,
    row_count,
    slot_event,
    slot_layout,
    slot_shape,
    store_event,
)
from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.quick_select import candidate_beat
from spatten.hw.datapath.topk import kept_beat
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import following, select, store_at
from spatten.spec.config import Config, Feature
from spatten.spec.job import Flag

__all__ = ["JobFinish"]


class JobFinish(wiring.Component):
    """Ends jobs in order, one at a time, up to the choice of who stays; `JobReport` does the rest.

    After the job's last probability the importance of its tokens goes back to the context, and the tokens that stay are
    chosen, no fewer than are pinned. The heads that stay are chosen when all rows have been added to the head
    importance. If the context's state is to be stored, the heads' importance is read, when the state of the job before
    has been stored.

    Where heads cannot be pruned, nothing is known of their importance: nothing is read or waited for.

    This unit goes through the steps (`FinishStep`), and the units inside it go by them: `HeadReader`, `KeptChoice` and
    `JobOutcomes`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started, totals, pinned : in, described at `hw.control.job.job_start.JobStart`
    prepared : in, `slot_event`: all of this slot's record, total and pinned tokens stand
    probs, added : in, described at `hw.control.job.row_counts.RowCounts`
    ageing : in, the head importance for the job that began last is still being cleared, loaded or aged
    store : in, `store_event`; only where the importance of heads is stored
    o_scatter, i_scattered, i_candidates, o_kept : to and from `hw.datapath.token_importance.TokenImportance`
    o_topk, i_topk : to and from the top-k engine
    reads, o_read, answer : to and from `hw.control.job.head_port.HeadPort`; like `added` and `ageing` only with head
        pruning
    choice : out, `choice_event`
    saved : out, `saved_heads`, from the end of step SAVE until the next job's state is to be saved; like `store`
    outcomes : out, described at `JobOutcomes`

    Latency: 6 cycles from the last probability to `choice` if nothing is pruned or stored, and the token importance
    unit takes no time.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._has_heads = config.has(Feature.PRUNE_HEADS)
        self._saves = config.has(Feature.SAVED_STATES)
        self._saves_heads = self._has_heads and self._saves
        jobs = config.jobs_in_flight
        payloads = layouts(config)
        sizes = topk_sizes(config)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), jobs)),
                "started": In(range(2 * jobs)),
                "totals": In(data.ArrayLayout(row_count(config), jobs)),
                "pinned": In(data.ArrayLayout(range(config.tokens_max + 1), jobs)),
                "prepared": In(slot_event(config)),
                "probs": In(data.ArrayLayout(row_count(config), jobs)),
                **optional(
                    self._has_heads, added=In(data.ArrayLayout(row_count(config), config.contexts)), ageing=In(1)
                ),
                **optional(self._saves_heads, store=In(store_event(config))),
                "o_scatter": Out(stream.Signature(payloads.scatter)),
                "i_scattered": In(stream.Signature(payloads.scattered)),
                "i_candidates": In(stream.Signature(payloads.candidates)),
                "o_kept": Out(stream.Signature(payloads.kept)),
                "o_topk": Out(stream.Signature(candidate_beat(sizes["width"], sizes["lanes"], sizes["n_max"]))),
                "i_topk": In(stream.Signature(kept_beat(sizes["width"], sizes["lanes"]))),
                **optional(
                    self._has_heads,
                    reads=Out(1),
                    o_read=Out(stream.Signature(head_read(config))),
                    answer=In(head_answer(config)),
                ),
                "choice": Out(choice_event(config)),
                **({"saved": Out(saved_heads(config))} if self._saves_heads else {}),
                "outcomes": Out(data.ArrayLayout(job_outcome(config), jobs)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        jobs = self.config.jobs_in_flight
        self._step = Signal(FinishStep)
        self._ended = Signal(range(2 * jobs))
        """How many jobs have ended, modulo twice the slots."""
        self._slot = Signal(slot_shape(self.config))
        record = slot_layout(self.config).members
        fields = ["context", "flags", "live", "live_heads", "keep_tokens"]
        if self._has_heads:
            fields.append("keep_heads")
        self._job = Signal(data.StructLayout({name: record[name] for name in fields}), reset_less=True)
        """What is needed of the record of `slot`, a cycle behind it."""
        self._keep_tokens = Signal(range(self.config.tokens_max + 1), reset_less=True)
        """How many tokens stay, if so many are live."""
        self._probs_done = Signal()
        """All rows' probabilities have left softmax."""
        self._heads_added = Signal()
        """All rows have been added to the head importance."""
        self._storing = Signal()
        """The heads of a state have been read, but the state has not been stored yet."""
        m.d.comb += self._slot.eq(self._ended[: len(self._slot)] if jobs > 1 else 0)
        for name in fields:
            m.d.sync += self._job[name].eq(select([self.slots[n][name] for n in range(jobs)], self._slot))
        self._units(m)
        self._conditions(m)
        self._sequence(m)
        if asserts(platform):
            self._check(m)
        return m

    def _units(self, m: Module) -> None:
        """The units that go by the steps."""
        config, job = self.config, self._job
        connect, flipped = wiring.connect, wiring.flipped
        readers = []
        if self._has_heads:
            m.submodules.reader = self._reader = HeadReader(config=config)
            readers = [self._reader]
        m.submodules.kept = kept = self._kept = KeptChoice(config=config)
        m.submodules.outcomes = outcomes = self._outcomes = JobOutcomes(config=config)
        units: list[Any] = [*readers, kept, outcomes]
        for unit in units:
            m.d.comb += unit.step.eq(self._step)
        for unit in units if self._has_heads else ():
            m.d.comb += unit.live_heads.eq(job.live_heads)
        for unit in (kept, outcomes):
            m.d.comb += unit.keep_tokens.eq(self._keep_tokens)
        for reader in readers:
            m.d.comb += [reader.answer.eq(self.answer), kept.answer.eq(self.answer)]
            connect(m, reader.o, flipped(self.o_read))
        connect(m, flipped(self.i_candidates), kept.i_candidates)
        connect(m, kept.o_kept, flipped(self.o_kept))
        connect(m, kept.o_topk, flipped(self.o_topk))
        connect(m, flipped(self.i_topk), kept.i_topk)
        for reader in readers:
            m.d.comb += [
                self.reads.eq(reader.reads),
                reader.context.eq(job.context),
                kept.answered_head.eq(reader.answered_head),
                kept.keep_heads.eq(job.keep_heads),
            ]
        prunes_tokens = flag_of(config, job.flags, Flag.PRUNE_TOKENS)
        m.d.comb += [outcomes.live.eq(job.live), outcomes.prunes_tokens.eq(prunes_tokens)]
        if self._saves_heads:
            m.d.comb += self.saved.eq(self._reader.saved)
        m.d.comb += [
            outcomes.slot.eq(self._slot),
            outcomes.scatter_taken.eq(self.o_scatter.ready),
        ]
        if self._has_heads:
            m.d.comb += [
                outcomes.saturated_heads.eq(kept.saturated_heads),
                outcomes.kept_heads.eq(kept.kept_heads),
            ]
        m.d.comb += [
            outcomes.saturated_tokens.eq(self.i_scattered.payload.saturated),
            self.outcomes.eq(outcomes.outcomes),
            self.o_scatter.payload.slot.eq(self._slot),
            self.o_scatter.payload.prune.eq(prunes_tokens),
        ]

    def _conditions(self, m: Module) -> None:
        """What the steps wait for; registers that are computed from `job` are another cycle behind `slot`."""
        config, slot, job = self.config, self._slot, self._job
        prepared = [Signal(name=f"prepared{n}") for n in range(config.jobs_in_flight)]
        with m.If(self.prepared.valid):
            store_at(m, prepared, self.prepared.slot, 1)
        with m.If(self.choice.valid):
            store_at(m, prepared, slot, 0)
        total = Signal(row_count(config))
        all_probs = Signal()
        m.d.comb += [
            total.eq(select(list(self.totals), slot)),
            all_probs.eq(select(prepared, slot) & (select(list(self.probs), slot) == total)),
        ]
        m.d.sync += self._probs_done.eq(all_probs & (self._step == FinishStep.IDLE))
        if self._has_heads:
            m.d.sync += self._heads_added.eq(select(list(self.added), job.context) == total)
        pinned = Signal(range(config.tokens_max + 1), reset_less=True)
        m.d.sync += [
            pinned.eq(select(list(self.pinned), slot)),
            self._keep_tokens.eq(Mux(job.keep_tokens > pinned, job.keep_tokens, pinned)),
        ]

    def _sequence(self, m: Module) -> None:
        """The steps of a job's end."""
        config, jobs = self.config, self.config.jobs_in_flight
        step, kept = self._step, self._kept
        prunes_tokens = flag_of(config, self._job.flags, Flag.PRUNE_TOKENS)
        may_read, may_save, all_done = Signal(), Signal(), Signal()
        if self._has_heads:
            m.d.comb += may_read.eq(self._heads_added & ~self.ageing)
        if self._saves_heads:
            # One state is saved at a time: its heads are read now, its tokens when the job's output is in memory.
            m.d.comb += may_save.eq(may_read & ~self._storing)
        m.d.comb += all_done.eq(
            self.i_scattered.valid & self._heads_added if self._has_heads else self.i_scattered.valid
        )
        if self._saves_heads:
            m.d.comb += self._reader.saves.eq(may_save & flag_of(config, self._job.flags, Flag.STORE_STATE))
        m.d.comb += self._outcomes.ends.eq(all_done)
        after_tokens = FinishStep.HEADS if self._has_heads else FinishStep.END
        with m.Switch(step):
            with m.Case(FinishStep.IDLE), m.If((self._ended != self.started) & self._probs_done):
                m.d.sync += step.eq(FinishStep.SCATTER)
            with m.Case(FinishStep.SCATTER):
                m.d.comb += self.o_scatter.valid.eq(1)
                with m.If(self.o_scatter.ready):
                    m.d.sync += step.eq(after_tokens)
                    with m.If(prunes_tokens):
                        m.d.sync += step.eq(FinishStep.TOKENS)
            with m.Case(FinishStep.TOKENS), m.If(kept.tokens_done):
                m.d.sync += step.eq(after_tokens)
            if self._has_heads:
                self._head_steps(m, may_read)
            if self._saves_heads:
                with m.Case(FinishStep.STORE):
                    with m.If(~flag_of(config, self._job.flags, Flag.STORE_STATE)):
                        m.d.sync += step.eq(FinishStep.END)
                    with m.Elif(may_save):
                        m.d.sync += step.eq(FinishStep.SAVE)
                with m.Case(FinishStep.SAVE), m.If(self._reader.done):
                    m.d.sync += [self._storing.eq(1), step.eq(FinishStep.END)]
            with m.Case(FinishStep.END):
                m.d.comb += self.i_scattered.ready.eq(self._heads_added if self._has_heads else 1)
                with m.If(all_done):
                    m.d.comb += self.choice.valid.eq(1)
                    m.d.sync += step.eq(FinishStep.IDLE)
        if self._saves_heads:
            with m.If(self.store.waits), m.If(self.store.done):
                m.d.sync += self._storing.eq(0)
        kept_heads: Value = self._job.live_heads
        if self._has_heads:
            kept_heads = select([self._outcomes.outcomes[n].kept_heads for n in range(jobs)], self._slot)
        m.d.comb += [
            self.choice.slot.eq(self._slot),
            self.choice.context.eq(self._job.context),
            self.choice.kept_heads.eq(kept_heads),
        ]
        if self._saves:
            m.d.comb += self.choice.stores.eq(flag_of(config, self._job.flags, Flag.STORE_STATE))
        with m.If(self.choice.valid):
            m.d.sync += self._ended.eq(following(self._ended, 2 * jobs))

    def _head_steps(self, m: Module, may_read: Signal) -> None:
        """The steps that choose the heads which stay."""
        step, kept = self._step, self._kept
        after_heads = FinishStep.STORE if self._saves else FinishStep.END
        with m.Case(FinishStep.HEADS):
            with m.If(~flag_of(self.config, self._job.flags, Flag.PRUNE_HEADS)):
                m.d.sync += step.eq(after_heads)
            with m.Elif(may_read):
                m.d.sync += step.eq(FinishStep.READ)
        with m.Case(FinishStep.READ), m.If(self._reader.done):
            m.d.sync += step.eq(FinishStep.SEND)
        with m.Case(FinishStep.SEND), m.If(kept.heads_done):
            m.d.sync += step.eq(FinishStep.CHOOSE)
        with m.Case(FinishStep.CHOOSE):
            m.d.sync += step.eq(after_heads)

    def _check(self, m: Module) -> None:
        """What comes from other units has been asked for."""
        is_idle = self._step.matches(FinishStep.IDLE, FinishStep.SCATTER)
        checks = [
            (~self.i_scattered.valid | ~is_idle, "i_scattered: no job is scattered"),
            (~self.i_topk.valid | self._step.matches(FinishStep.TOKENS, FinishStep.SEND), "i_topk: nothing is chosen"),
        ]
        if self._has_heads:
            checks.append((~self.answer.valid | ~self.reads | ~self._reader.done, "answer: nothing was asked for"))
        for holds, what in checks:
            m.d.sync += Assert(ResetSignal() | holds, f"{what}\n")
