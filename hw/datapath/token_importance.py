"""Token importance: gathered by rank at the start of a job, accumulated, and scattered back by id at its end."""

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.rank_memory import RankMemory
from spatten.hw.datapath.tokens.context_memory import ContextMemory
from spatten.hw.datapath.tokens.context_reader import ContextReader
from spatten.hw.datapath.tokens.context_writer import ContextWriter, final_token
from spatten.hw.datapath.tokens.line_ager import LineAger
from spatten.hw.datapath.tokens.live_masks import LiveMasks
from spatten.hw.datapath.tokens.rank_packer import RankPacker
from spatten.hw.datapath.tokens.scatter_control import ScatterControl
from spatten.hw.datapath.tokens.slot_reader import SlotReader
from spatten.hw.datapath.tokens.token_jobs import TokenJobs
from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.connections import optional
from spatten.hw.lib.expander import Expander
from spatten.hw.lib.logic import one_hot, select
from spatten.hw.lib.parameters import check_integer

__all__ = ["Layouts", "TokenImportance"]


class TokenImportance(wiring.Component):
    """Importance of every token of each context, and which the previous layer kept; SpAtten's token accumulator.

    A context is one sequence. Its state lies by original token id in **id lines** of `lanes` tokens: importance, and a
    kept bit. A job (one layer) has a live list, the ids of its tokens in ascending order; the datapath knows a token by
    its **rank** in that list, and probabilities come in rank order. So a job takes a **slot** of rank-ordered memory:

    - *gather* reads the context's lines in order, decides which tokens are live (candidates of this layer that the
      layer before kept), compacts them, and fills the slot and the live list;
    - *accumulate* adds a beat of probabilities per cycle to the slot, whatever the order of rows;
    - *scatter* offers the slot's rows to the top-k engine if the job prunes, then writes importance and kept bits
      back to the context.

    The three run at the same time on different slots and contexts. A context and a slot are taken from the gather's
    command to the scatter's report; a gather waits until both are free. Only the scatter (and the host) writes to
    a context: clearing and ageing are applied to what the gather reads and again, for the tokens that are not live, to
    what the scatter writes, so a context stays as it was until its job ends.

    Saturation. A slot holds importance + sum in importance_bits + 1 bits, exact, since a job adds less than
    2**importance_bits to a token (its rows x heads x probability 1.0; `Config.token_importance_bits` covers all layers
    of a prompt). The top bit thus says that the token saturated in this job: the scatter clips and counts such a sum,
    once.

    Parameters
    ----------
    tokens : int
        Most tokens of a sequence, a power of two.
    prob_bits, importance_bits : int
        Widths of a probability and of an importance, unsigned.
    prob_lanes : int
        Probabilities per beat (P), a power of two.
    lanes : int
        Tokens of an id line and of a rank row (T), a power of two.
    contexts, slots : int
        Sequences whose state is held; jobs between their gather and their scatter.
    has_access : bool
        Whether states are read and written from outside: only then there are `i_access` and `o_access`.

    Ports (streams; payloads are the members of `Layouts`)
    -----
    i_probs : in, `probs`: P unsigned probabilities of consecutive ranks, of which `count` are used; `last` on a row's
        final beat; a row starts at rank 0. Rows of different slots may alternate. Always ready.
    i_gather : in, `gather`: take `slot` for a job of `context`. `clear`: all importance becomes 0 and everything is
        kept (a sequence's first job); `restart`: everything is kept (a step's first layer); `age_shift`: all importance
        is halved that many times, rounded down; `lines`, 1 to tokens / T: id lines to scan; later tokens are not live.
        `generates`: `generating_token`, within those lines, is live and pinned whatever else holds.
    i_members : in, `members`: per id line, from 0, the tokens that have K and V in this layer and are valid (`live`)
        and those never to be pruned (`pinned`)
    o_live : out, `live`: the live list in rows of T `ids`, full except the last; if no token is live, one row with
        `count` 0
    o_gathered : out, `gathered`: the slot is ready for probabilities; how many tokens are live, and how many of them
        pinned
    i_scatter : in, `scatter`: end the job of `slot`; to be sent after the slot's `o_gathered` and last probability.
        `prune`: ask the top-k engine which tokens stay; otherwise all live tokens do.
    o_candidates : out, `candidates`: importance by rank, T `keys` a row with the pinned bit above the importance,
        full except the last; no row if the job does not prune or no token is live
    i_kept : in, T bits per row of candidates: which tokens stay
    o_scattered : out, `scattered`: the context is written, its job done; how many tokens of the job saturated
    i_access : in, `access`: write `state` to, or read, id line `line` of a context; this waits while the context has a
        job, and the context's next job waits for this.
        A restore must write all lines. After reset a context holds nothing: it must be cleared or restored first.
    o_access : out, `state`: the answers to reads, in order

    Latency, in cycles, with G = 5 + min(3, 1 + log2(T)) + ceil(log2(T) / 2), 10 at T = 16:

    - G + 2 from the member line that completes a row to the row on `o_live`. A row leaves when a line has one more live
      token than it holds, or is the last; if that line completes two rows, the second comes a cycle later.
    - gather: lines + G + 1 from `i_gather` to `o_gathered`, one more if the last line completes two rows.
    - scatter: lines + 11 from `i_scatter` to `o_scattered`, where lines are those of the job's gather, or tokens / T if
      it cleared or aged. If it prunes: 6 cycles to the first candidates, then one row per cycle; `i_kept` is looked at
      from the third cycle after the last, by the line that needs it, and the report comes lines + 5 cycles after its
      first row was taken, less the lines before the first live token: lines + ceil(live / T) + 13 in all at best.
    - host: 2 cycles from a read to its answer.

    Throughput: a beat of probabilities, a line gathered and a line scattered per cycle, all at the same time; one
    gather and one scatter at a time. A gather pauses while more than 4 rows of the live list wait on `o_live`.

    The state by id is in a `ContextMemory`, the state by rank in a `RankMemory`; `TokenJobs` and `LiveMasks` hold what
    the gather of a job leaves for its scatter. In a gather, lines go through a `ContextReader`, a `LineAger` and a
    `RankPacker`. In a scatter, which has a `ScatterControl`, rows go through a `SlotReader`, an `Expander` and a
    `ContextWriter`.

    Source: SpAtten (HPCA 2021) sections III-A, III-B and Fig. 8.
    """

    def __init__(
        self,
        *,
        tokens: int,
        prob_bits: int,
        importance_bits: int,
        prob_lanes: int,
        lanes: int,
        contexts: int = 4,
        slots: int = 4,
        has_access: bool = True,
    ) -> None:
        sizes = {
            "tokens": tokens,
            "prob_bits": prob_bits,
            "importance_bits": importance_bits,
            "prob_lanes": prob_lanes,
            "lanes": lanes,
            "contexts": contexts,
            "slots": slots,
        }
        for name, value in sizes.items():
            check_integer(name, value, 1)
        if tokens < 2 or tokens & (tokens - 1):
            raise ValueError(f"tokens must be a power of two from 2, not {tokens!r}")
        for name in ("prob_lanes", "lanes"):
            value = sizes[name]
            if value & (value - 1) or value > tokens:
                raise ValueError(f"{name} must be a power of two up to tokens = {tokens}, not {value!r}")
        if importance_bits < prob_bits:
            raise ValueError(f"importance_bits must be at least prob_bits = {prob_bits}, not {importance_bits!r}")
        self.tokens = tokens
        self.prob_bits = prob_bits
        self.importance_bits = importance_bits
        self.prob_lanes = prob_lanes
        self.lanes = lanes
        self.contexts = contexts
        self.slots = slots
        self.has_access = has_access
        self.lines = tokens // lanes
        self.layouts = layouts = Layouts(**sizes)
        super().__init__(
            {
                "i_probs": In(stream.Signature(layouts.probs)),
                "i_gather": In(stream.Signature(layouts.gather)),
                "i_members": In(stream.Signature(layouts.members)),
                "o_live": Out(stream.Signature(layouts.live)),
                "o_gathered": Out(stream.Signature(layouts.gathered)),
                "i_scatter": In(stream.Signature(layouts.scatter)),
                "o_candidates": Out(stream.Signature(layouts.candidates)),
                "i_kept": In(stream.Signature(layouts.kept)),
                "o_scattered": Out(stream.Signature(layouts.scattered)),
                **optional(
                    has_access,
                    i_access=In(stream.Signature(layouts.access)),
                    o_access=Out(stream.Signature(layouts.state)),
                ),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for name in ("i_gather", "i_members", "i_scatter", *(["i_access"] if self.has_access else [])):
            check_stream(m, platform, getattr(self, name), name)
        layouts = self.layouts
        m.submodules.ranks = ranks = RankMemory(
            tokens=self.tokens,
            prob_bits=self.prob_bits,
            importance_bits=self.importance_bits,
            prob_lanes=self.prob_lanes,
            lanes=self.lanes,
            slots=self.slots,
        )
        m.submodules.contexts = contexts = ContextMemory(layouts=layouts, has_host=self.has_access)
        m.submodules.masks = masks = LiveMasks(layouts=layouts)
        m.submodules.jobs = jobs = TokenJobs(layouts=layouts)
        wiring.connect(m, wiring.flipped(self.i_probs), ranks.i)
        self._gather(m, ranks, contexts, masks, jobs)
        self._scatter(m, ranks, contexts, masks, jobs)
        if asserts(platform):
            probs = self.i_probs.payload
            is_taken = select(list(jobs.taken_slots), probs.slot)
            is_filled = select(list(ranks.fills), probs.slot)
            adds = self.i_probs.valid & probs.count.any()
            m.d.sync += Assert(~adds | (is_taken & ~is_filled), "i_probs: the slot is not gathered\n")
        return m

    def _gather(self, m: Module, ranks: RankMemory, contexts: ContextMemory, masks: LiveMasks, jobs: TokenJobs) -> None:
        """From the lines of a context to the rows of a slot and the live list. A gather ends with its report."""
        layouts = self.layouts
        m.submodules.reader = reader = ContextReader(layouts=layouts, has_access=self.has_access)
        m.submodules.ager = ager = LineAger(layouts=layouts)
        m.submodules.packer = packer = RankPacker(layouts=layouts)
        for name in ("i_gather", "i_members", *(["i_access"] if self.has_access else [])):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(reader, name))
        if self.has_access:
            wiring.connect(m, reader.o_access, wiring.flipped(self.o_access))
        wiring.connect(m, reader.memory, contexts.gather)
        if self.has_access:
            wiring.connect(m, reader.host, contexts.host)
        wiring.connect(m, reader.o, ager.i)
        wiring.connect(m, ager.o, packer.i)
        wiring.connect(m, packer.o_live, wiring.flipped(self.o_live))
        command = reader.command
        gathers = Signal()
        reports = Signal()
        with m.If(packer.row_valid):
            m.d.sync += reports.eq(packer.row_last)
        with m.If(reader.begins):
            m.d.sync += gathers.eq(1)
        with m.If(reports), m.If(self.o_gathered.ready):
            m.d.sync += [reports.eq(0), gathers.eq(0)]
        m.d.comb += [
            reader.taken_contexts.eq(jobs.taken_contexts),
            reader.taken_slots.eq(jobs.taken_slots),
            reader.has_room.eq(packer.has_room),
            reader.is_gathering.eq(gathers),
            ager.begins.eq(reader.begins),
            ager.clear.eq(command.clear),
            ager.age_shift.eq(command.age_shift),
            packer.begins.eq(reader.begins),
            # Which tokens of a line are live is known before they are packed.
            masks.write_enable.eq(ager.o.valid),
            masks.write_slot.eq(command.slot),
            masks.write_line.eq(ager.o.payload.line),
            masks.write_mask.eq(ager.o.payload.live),
            ranks.fills.eq(Mux(gathers, one_hot(command.slot, layouts.slots), 0)),
            ranks.write_enable.eq(packer.row_valid),
            ranks.write_row.eq(packer.row_number),
            ranks.write_words.eq(packer.row_words),
            jobs.begins.eq(reader.begins),
            jobs.begin_context.eq(self.i_gather.payload.context),
            jobs.begin_slot.eq(self.i_gather.payload.slot),
            jobs.gathered.eq(reports),
            jobs.gathered_slot.eq(command.slot),
            jobs.gathered_job.context.eq(reader.context),
            jobs.gathered_job.lines.eq(command.lines),
            jobs.gathered_job.clear.eq(command.clear),
            jobs.gathered_job.age_shift.eq(command.age_shift),
            jobs.gathered_job.live.eq(ager.live_total),
            self.o_gathered.valid.eq(reports),
            self.o_gathered.payload.slot.eq(command.slot),
            self.o_gathered.payload.live.eq(ager.live_total),
            self.o_gathered.payload.pinned.eq(ager.pinned_total),
        ]

    def _scatter(
        self, m: Module, ranks: RankMemory, contexts: ContextMemory, masks: LiveMasks, jobs: TokenJobs
    ) -> None:
        """From the rows of a slot to the top-k engine, and to the lines of a context."""
        layouts = self.layouts
        m.submodules.control = control = ScatterControl(layouts=layouts)
        m.submodules.rows = rows = SlotReader(layouts=layouts)
        m.submodules.expander = expander = Expander(shape=final_token(layouts), lanes=layouts.lanes)
        m.submodules.writer = writer = ContextWriter(layouts=layouts)
        wiring.connect(m, wiring.flipped(self.i_scatter), control.i_scatter)
        wiring.connect(m, control.o_scattered, wiring.flipped(self.o_scattered))
        wiring.connect(m, rows.o_candidates, wiring.flipped(self.o_candidates))
        wiring.connect(m, wiring.flipped(self.i_kept), rows.i_kept)
        wiring.connect(m, rows.o_rows, expander.i_rows)
        wiring.connect(m, masks.o, expander.i_masks)
        wiring.connect(m, writer.memory, contexts.scatter)
        m.d.comb += [
            jobs.scatter_slot.eq(control.slot),
            control.i_job.eq(jobs.scatter_job),
            jobs.ends.eq(control.ends),
            jobs.end_context.eq(control.job.context),
            rows.begins.eq(control.begins | control.offered),
            rows.rows.eq(control.rows),
            rows.last_count.eq(control.last_count),
            rows.offers.eq(control.offers),
            rows.writes.eq(control.writes),
            rows.slot.eq(control.slot),
            rows.prunes.eq(control.prunes),
            control.offered.eq(rows.offered),
            control.saturates.eq(rows.saturates),
            control.saturated_count.eq(rows.saturated_count),
            ranks.drains.eq(rows.drains),
            ranks.read_enable.eq(rows.read_enable),
            ranks.read_row.eq(rows.read_row),
            rows.read_words.eq(ranks.read_words),
            masks.begins.eq(control.begins),
            masks.lines.eq(control.lines),
            masks.enable.eq(control.writes),
            masks.slot.eq(control.slot),
            masks.job_lines.eq(control.job.lines),
            expander.o.ready.eq(1),
            writer.i.valid.eq(expander.o.valid),
            writer.i.payload.eq(expander.o.payload),
            writer.begins.eq(control.begins),
            writer.lines.eq(control.lines),
            writer.active.eq(control.writes),
            writer.job.eq(control.job),
            control.written.eq(writer.ends),
        ]
