"""Begins and ends jobs: finds the live tokens and heads, prepares the job, chooses which of them stay, reports."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.head_ageing import HeadAgeing
from spatten.hw.control.head_port import HeadPort
from spatten.hw.control.job_layouts import job_layout, report_layout
from spatten.hw.control.job_slots import slot_event, slot_layout, write_entry
from spatten.hw.control.job_start import JobStart
from spatten.hw.control.job_steps import StartStep
from spatten.hw.control.planner import members_request
from spatten.hw.control.row_counts import RowCounts, context_event
from spatten.hw.control.segments import scale_write
from spatten.hw.control.state import head_state, layouts, state_command
from spatten.hw.datapath.head_importance import entry_access, entry_value
from spatten.hw.datapath.quick_select import candidate_beat
from spatten.hw.datapath.topk import kept_beat
from spatten.hw.lib.expander import select
from spatten.hw.lib.logic import count_ones, equals, first_set, product
from spatten.spec.config import Config
from spatten.spec.job import Flag
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["JobControl", "topk_sizes"]


def topk_sizes(config: Config) -> dict[str, int]:
    """Parameters of the top-k engine that prunes tokens and heads."""
    return {
        "width": max(config.token_importance_bits, config.head_importance_bits) + 1,
        "lanes": config.topk_lanes,
        "n_max": max(config.tokens_max, config.heads_max),
    }


class JobControl(wiring.Component):
    """Starts jobs in order, ends them in order, and keeps for each context which of its heads are kept.

    *Start*: a job gets the next slot when that slot is free, no earlier job needs the job's context any more, and the
    ageing of the head importance for the previous job is over. The job's bitmaps are read, through the query ring; the
    context's state is gathered into the slot, which gives the live list. A job whose tokens are all known to be live
    counts as started without waiting for the list. A job without a live token, head or query row is an error.

    *End*: after the job's last probability the importance of its tokens goes back to the context, and the tokens and
    heads that stay are chosen. After memory has acknowledged the last byte of the job's output, the job is reported.
    The choice for one job and the wait for the output of the job before it overlap.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_job : stream of `job_layout`; taken when it has started
    o_report : stream of `report_layout`
    slots, started : out, described at `hw.control.planner.Planner`
    scale : out, `scale_write`; live_write : out, described at the planner
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
        self.jobs = config.jobs_in_flight
        self.slot_bits = max(1, ceil_log2(self.jobs))
        self.slot = slot_layout(config)
        own = layouts(config)
        sizes = topk_sizes(config)
        lanes = config.topk_lanes
        live_rows = -(-config.tokens_max // lanes)
        ids = data.ArrayLayout(range(config.tokens_max), lanes)
        event = slot_event(config)
        heads = {"slots": config.contexts, "heads": config.heads_max, "bits": config.head_importance_bits}
        command = state_command(config)
        super().__init__(
            {
                "i_job": In(stream.Signature(job_layout(config))),
                "o_report": Out(stream.Signature(report_layout(config))),
                "slots": Out(data.ArrayLayout(self.slot, self.jobs)),
                "started": Out(range(2 * self.jobs)),
                "scale": Out(scale_write(config)),
                "live_write": Out(
                    data.StructLayout(
                        {"enable": 1, "slot": self.slot_bits, "row": range(max(2, live_rows)), "ids": ids}
                    )
                ),
                "o_rows": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o_load": Out(stream.Signature(command)),
                "i_loaded": In(head_state(config)),
                "load_rows": In(stream.Signature(members_request(config))),
                "o_store": Out(stream.Signature(command)),
                "store_heads": Out(head_state(config)),
                "o_gather": Out(stream.Signature(own.gather)),
                "o_lines": Out(stream.Signature(own.members)),
                "i_live": In(stream.Signature(own.live)),
                "i_gathered": In(stream.Signature(own.gathered)),
                "o_scatter": Out(stream.Signature(own.scatter)),
                "i_candidates": In(stream.Signature(own.candidates)),
                "o_kept": Out(stream.Signature(own.kept)),
                "i_scattered": In(stream.Signature(own.scattered)),
                "o_access": Out(stream.Signature(entry_access(**heads))),
                "i_access": In(stream.Signature(entry_value(config.head_importance_bits))),
                "o_topk": Out(stream.Signature(candidate_beat(sizes["width"], sizes["lanes"], sizes["n_max"]))),
                "i_topk": In(stream.Signature(kept_beat(sizes["width"], sizes["lanes"]))),
                "probs_done": In(event),
                "heads_done": In(context_event(config)),
                "row_written": In(event),
                "recomputed": In(event),
                "saturated": In(range(config.head_dim_max + 1)),
                "beats_in": In(8),
                "beats_done": In(8),
                "queued": In(data.ArrayLayout(16, config.channels)),
                "acknowledged": In(data.ArrayLayout(16, config.channels)),
                "nothing_live": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        self._storing = Signal()
        """The head importance of a state has been read, but the state has not been saved yet."""
        self._begin(m)
        self._count_rows(m)
        self._finish(m)
        return m

    def _begin(self, m):
        config = self.config
        m.submodules.start = start = self._start = JobStart(config=config)
        connect, flipped = wiring.connect, wiring.flipped
        connect(m, flipped(self.i_job), start.i_job)
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
            start.loaded_kept.eq(self.i_loaded.kept),
        ]
        self._total, self._pinned, self._ends, self._aging = (
            list(start.totals),
            list(start.pinned),
            start.ends,
            start.ageing,
        )
        jobs = range(self.jobs)
        self._gathered = [Signal(name=f"gathered{n}") for n in jobs]
        self._known = [Signal(name=f"known{n}") for n in jobs]
        with m.Switch(start.step), m.Case(StartStep.START):
            write_entry(m, self._gathered, start.slot, 1)
            write_entry(m, self._known, start.slot, 1)
        m.submodules.ageing = ageing = self._ageing = HeadAgeing(config=config)
        m.d.comb += [
            ageing.begins.eq(start.step == StartStep.SHAPE),
            ageing.job.eq(start.job),
            ageing.loaded.eq(self.i_loaded),
            self._aging.eq(ageing.busy),
        ]

    # -- Rows on their way --------------------------------------------------------------------------------------------

    def _count_rows(self, m: Module) -> None:
        m.submodules.rows = rows = self._rows = RowCounts(config=self.config)
        m.d.comb += [
            rows.begins.eq(self._start.begins),
            rows.slot.eq(self._start.slot),
            rows.context.eq(self._start.job.context),
            rows.probs_done.eq(self.probs_done),
            rows.row_written.eq(self.row_written),
            rows.recomputed.eq(self.recomputed),
            rows.heads_done.eq(self.heads_done),
            rows.saturated.eq(self.saturated),
        ]

    # -- The end ------------------------------------------------------------------------------------------------------

    def _finish(self, m: Module) -> None:
        config = self.config
        lanes = config.topk_lanes
        ended = Signal(range(2 * self.jobs))
        slot = Signal(self.slot_bits, name="ending_slot")
        m.d.comb += slot.eq(ended[: self.slot_bits] if self.jobs > 1 else 0)
        job = Signal(self.slot, name="ending_job", reset_less=True)
        m.d.sync += Value.cast(job).eq(select([Value.cast(self.slots[n]) for n in range(self.jobs)], slot))
        total = Signal.like(self._total[0], name="ending_total")
        m.d.comb += total.eq(select(self._total, slot))
        count = range(config.tokens_max + 1)
        kept_tokens = [Signal(count, name=f"kept_tokens{n}", reset_less=True) for n in range(self.jobs)]
        kept_heads = [Signal(config.heads_max, name=f"report_heads{n}", reset_less=True) for n in range(self.jobs)]
        lost_tokens = [Signal(count, name=f"lost_tokens{n}", reset_less=True) for n in range(self.jobs)]
        lost_heads = [Signal(config.heads_max, name=f"lost_heads{n}", reset_less=True) for n in range(self.jobs)]
        chosen = [Signal(name=f"chosen{n}") for n in range(self.jobs)]

        def note(registers: list[Signal], value: Any) -> None:
            for n, register in enumerate(registers):
                with m.If(equals(slot, n)):
                    m.d.sync += register.eq(value)

        # The importance of the live heads, in the order of their ranks.
        left = Signal(config.heads_max, name="heads_left", reset_less=True)
        answered = Signal(config.heads_max, name="heads_answered", reset_less=True)
        values = Signal(config.heads_max * config.head_importance_bits, name="head_values", reset_less=True)
        marks = Signal(config.heads_max, name="head_marks", reset_less=True)
        head = Signal(max(1, ceil_log2(config.heads_max)), name="asked_head")
        m.d.comb += head.eq(first_set(left))
        reads = Signal(name="reads_heads")
        reading = Signal(name="reading_heads")
        m.submodules.head_port = port = HeadPort(config=config)
        wiring.connect(m, wiring.flipped(self.o_access), port.o)
        wiring.connect(m, wiring.flipped(self.i_access), port.i)
        wiring.connect(m, self._ageing.o, port.i_ageing)
        m.d.comb += [
            port.reads.eq(reading),
            port.i_read.valid.eq(reads),
            port.i_read.payload.context.eq(job.context),
            port.i_read.payload.head.eq(head),
            self._ageing.answer.eq(port.answer),
        ]

        saved = Signal(config.heads_max * config.head_importance_bits, name="saved_heads", reset_less=True)
        saved_marks = Signal(config.heads_max, reset_less=True)
        m.d.comb += [
            Value.cast(self.store_heads.importance).eq(saved),
            self.store_heads.saturated.eq(saved_marks),
        ]
        offset = Signal(range(config.heads_max + lanes + 1), name="head_rank", reset_less=True)
        heads_count = Signal(range(config.heads_max + 1), name="ending_heads", reset_less=True)
        m.d.sync += heads_count.eq(count_ones(list(job.live_heads)))
        unsent = Signal(range(config.heads_max + 1), name="heads_unsent", reset_less=True)
        sends = Signal(name="sends_heads")
        tokens = Signal(name="sends_tokens")
        width = config.head_importance_bits
        pinned_count = Signal(range(config.tokens_max + 1), reset_less=True)
        m.d.sync += pinned_count.eq(select(self._pinned, slot))
        k = Signal(range(config.tokens_max + 1), name="keep_now", reset_less=True)
        m.d.sync += k.eq(Mux(job.keep_tokens > pinned_count, job.keep_tokens, pinned_count))
        topk = self.o_topk.payload
        candidates = self.i_candidates.payload
        m.d.comb += [
            self.o_topk.valid.eq(Mux(tokens, self.i_candidates.valid, sends)),
            self.i_candidates.ready.eq(tokens & self.o_topk.ready),
            topk.k.eq(Mux(tokens, k, job.keep_heads)),
            topk.last.eq(Mux(tokens, candidates.last, unsent <= lanes)),
            topk.count.eq(Mux(tokens, candidates.count, Mux(unsent <= lanes, unsent, lanes))),
        ]
        for lane in range(lanes):
            value = values.word_select(lane, width) if lane < config.heads_max else Const(0)
            m.d.comb += topk.values[lane].eq(Mux(tokens, candidates.keys[lane], value))
        with m.If(sends & self.o_topk.ready):
            m.d.sync += [unsent.eq(unsent - topk.count), values.eq(values >> (lanes * width))]

        # The engine's answers go to the token importance unit, or are the kept heads by rank.
        to_heads = Signal(name="answers_are_heads")
        to_tokens = Signal(name="answers_are_tokens")
        answer = self.i_topk.payload
        m.d.comb += [
            self.o_kept.valid.eq(self.i_topk.valid & to_tokens),
            self.o_kept.payload.eq(answer.mask),
            self.i_topk.ready.eq(to_heads | (to_tokens & self.o_kept.ready)),
        ]
        ranks = Signal(config.heads_max, name="kept_ranks", reset_less=True)
        with m.If(self.i_topk.valid & to_heads):
            m.d.sync += [ranks.eq(ranks | (answer.mask << offset)[: config.heads_max]), offset.eq(offset + lanes)]
        by_head = Signal(config.heads_max, name="kept_by_head")
        for h in range(config.heads_max):
            rank = Signal(len(head), name=f"rank_of_head{h}", reset_less=True)
            m.d.sync += rank.eq(count_ones([job.live_heads[i] for i in range(h)]))
            m.d.comb += by_head[h].eq(job.live_heads[h] & ranks.bit_select(rank, 1))

        all_probs, ready_probs, ready_heads = Signal(), Signal(), Signal()
        m.d.comb += all_probs.eq(select(self._gathered, slot) & (select(list(self._rows.probs), slot) == total))
        m.d.sync += ready_heads.eq(select(list(self._rows.added), job.context) == total)
        m.d.comb += [
            self.o_scatter.payload.slot.eq(slot),
            self.o_scatter.payload.prune.eq(job.flags[Flag.PRUNE_TOKENS]),
        ]
        scattered = Signal()
        with m.FSM(name="finish") as fsm:
            # `job` and `ready_probs` are a cycle behind `slot`; registers computed from `job` are another cycle behind.
            m.d.sync += ready_probs.eq(all_probs & fsm.ongoing("IDLE"))
            with m.State("IDLE"), m.If((ended != self.started) & ready_probs):
                m.next = "SCATTER"
            with m.State("SCATTER"):
                m.d.comb += self.o_scatter.valid.eq(1)
                note(kept_tokens, job.live)
                note(kept_heads, job.live_heads)
                note(lost_heads, 0)
                with m.If(self.o_scatter.ready):
                    m.next = "HEADS"
                    with m.If(job.flags[Flag.PRUNE_TOKENS]):
                        note(kept_tokens, Mux(k < job.live, k, job.live))
                        m.next = "TOKENS"
            with m.State("TOKENS"):
                m.d.comb += [tokens.eq(1), to_tokens.eq(1)]
                with m.If(self.o_kept.valid & self.o_kept.ready & answer.last):
                    m.next = "HEADS"
            with m.State("HEADS"):
                m.d.sync += [left.eq(job.live_heads), answered.eq(job.live_heads), ranks.eq(0), offset.eq(0)]
                m.d.sync += [unsent.eq(heads_count), marks.eq(0)]
                with m.If(~job.flags[Flag.PRUNE_HEADS]):
                    m.next = "STORE"
                with m.Elif(ready_heads & ~self._aging):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += [reading.eq(1), reads.eq(left.any())]
                with m.If(reads & self.o_access.ready):
                    m.d.sync += left.eq(left & (left - 1))
                with m.If(self.i_access.valid):
                    # Answers come in at the top and push earlier ones down; ALIGN brings the first to the bottom.
                    m.d.sync += [
                        answered.eq(answered & (answered - 1)),
                        values.eq(Cat(values[width:], self.i_access.payload.value)),
                        marks.eq(marks | Mux(self.i_access.payload.saturated, answered & (~answered + 1), 0)),
                    ]
                with m.If(~answered.any()):
                    m.next = "ALIGN"
            with m.State("ALIGN"):
                absent = (config.heads_max - heads_count)[: len(heads_count)]
                m.d.sync += values.eq(values >> product(Const(width, 8), absent))
                note(lost_heads, marks)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += [sends.eq(unsent.any()), to_heads.eq(1)]
                with m.If(self.i_topk.valid & answer.last):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                note(kept_heads, by_head)
                m.next = "STORE"
            with m.State("STORE"):
                # One state is saved at a time: its heads are read now, its tokens when the job's output is in memory.
                m.d.sync += [left.eq((1 << config.heads_max) - 1), answered.eq((1 << config.heads_max) - 1)]
                with m.If(~job.flags[Flag.STORE_STATE]):
                    m.next = "END"
                with m.Elif(ready_heads & ~self._aging & ~self._storing):
                    m.d.sync += saved_marks.eq(0)
                    m.next = "SAVE"
            with m.State("SAVE"):
                m.d.comb += [reading.eq(1), reads.eq(left.any())]
                with m.If(reads & self.o_access.ready):
                    m.d.sync += left.eq(left & (left - 1))
                with m.If(self.i_access.valid):
                    lowest = answered & (~answered + 1)
                    m.d.sync += [
                        answered.eq(answered & (answered - 1)),
                        saved.eq(Cat(saved, self.i_access.payload.value)[width:]),
                        saved_marks.eq(saved_marks | Mux(self.i_access.payload.saturated, lowest, 0)),
                    ]
                with m.If(~answered.any()):
                    m.d.sync += self._storing.eq(1)
                    m.next = "END"
            with m.State("END"):
                m.d.comb += self.i_scattered.ready.eq(1)
                with m.If(self.i_scattered.valid & ready_heads):
                    note(lost_tokens, self.i_scattered.payload.saturated)
                    m.d.comb += scattered.eq(1)
                    m.next = "IDLE"
                m.d.comb += self.i_scattered.ready.eq(ready_heads)
        choice = self._start.choice
        m.d.comb += [
            choice.valid.eq(scattered),
            choice.context.eq(job.context),
            choice.slot.eq(slot),
            choice.stores.eq(job.flags[Flag.STORE_STATE]),
            choice.kept_heads.eq(select(kept_heads, slot)),
        ]
        with m.If(scattered):
            m.d.sync += ended.eq(Mux(ended == 2 * self.jobs - 1, 0, ended + 1))
            note(chosen, 1)
            note(self._gathered, 0)
        self._report(m, kept_tokens, kept_heads, lost_tokens, lost_heads, chosen)

    def _report(
        self,
        m: Module,
        kept_tokens: list[Signal],
        kept_heads: list[Signal],
        lost_tokens: list[Signal],
        lost_heads: list[Signal],
        chosen: list[Signal],
    ) -> None:
        """Waits until a job's output is in memory, and sends the job's report."""
        config = self.config
        slot = Signal(self.slot_bits, name="report_slot")
        job = Signal(self.slot, name="report_job", reset_less=True)
        m.d.sync += Value.cast(job).eq(select([Value.cast(self.slots[n]) for n in range(self.jobs)], slot))
        # `beats`: how many had entered the packer when the job's last row had. `snapshot`: how many sectors each
        # channel had been given when those beats had left the packer.
        beats = Signal(8, reset_less=True)
        passed, stored = Signal(), Signal()
        m.d.comb += [
            self.o_store.payload.context.eq(job.context),
            self.o_store.payload.sector.eq(job.state),
        ]
        m.d.sync += self.store_heads.kept.eq(select(kept_heads, slot))
        snapshot = Signal(data.ArrayLayout(16, config.channels), reset_less=True)
        written = Signal(config.channels, reset_less=True)
        m.d.comb += passed.eq(~(self.beats_done - beats)[7])
        for channel in range(config.channels):
            distance = (self.acknowledged[channel] - snapshot[channel])[15]
            m.d.sync += written[channel].eq(~distance)
        report = self.o_report.payload
        m.d.comb += [
            report.tag.eq(job.tag),
            report.live_tokens.eq(job.live),
            report.kept_tokens.eq(select(kept_tokens, slot)),
            report.live_heads.eq(job.live_heads),
            report.kept_heads.eq(select(kept_heads, slot)),
            report.rows.eq(select(self._total, slot)),
            report.recomputed.eq(select(list(self._rows.recomputed_rows), slot)),
            report.output_saturated.eq(select(list(self._rows.saturated_elements), slot)),
            report.tokens_saturated.eq(select(lost_tokens, slot)),
            report.heads_saturated.eq(select(lost_heads, slot)),
        ]
        all_out = select(list(self._rows.written), slot) == select(self._total, slot)
        with m.FSM(name="report") as fsm:
            with m.State("WAIT"), m.If(select(self._known, slot) & all_out):
                m.d.sync += beats.eq(self.beats_in)
                m.next = "BEATS"
            with m.State("BEATS"), m.If(passed):
                m.d.sync += snapshot.eq(self.queued)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "ACKNOWLEDGED"
            with m.State("ACKNOWLEDGED"), m.If(written.all() & select(chosen, slot)):
                m.next = "REPORT"
                with m.If(job.flags[Flag.STORE_STATE] & ~stored):
                    m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += self.o_store.valid.eq(1)
                with m.If(self.o_store.ready):
                    # The state is in memory when the channels have acknowledged all that they have been given by now.
                    m.d.sync += [stored.eq(1), self._storing.eq(0), snapshot.eq(self.queued)]
                    m.next = "COMPARE"
            with m.State("REPORT"):
                m.d.comb += self.o_report.valid.eq(1)
                m.d.sync += stored.eq(0)
                with m.If(self.o_report.ready):
                    m.d.comb += self._ends.eq(1)
                    for n in range(self.jobs):
                        with m.If(equals(slot, n)):
                            m.d.sync += [chosen[n].eq(0), self._known[n].eq(0)]
                    if self.jobs > 1:
                        m.d.sync += slot.eq(slot + 1)
                    m.next = "WAIT"
            store = self._start.store
            m.d.comb += [
                store.waits.eq(fsm.ongoing("STORE")),
                store.done.eq(self.o_store.ready),
                store.context.eq(job.context),
            ]
