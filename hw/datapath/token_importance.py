"""Token importance: gathered by rank at the start of a job, accumulated, and scattered back by id at its end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value, ValueLike, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.rank_memory import RankMemory, index_shape, one_hot, rank_probs
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.expander import Expander, select
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.packer import Packer
from spatten.hw.lib.parameters import check_integer
from spatten.hw.lib.ram import Ram
from spatten.hw.lib.zero_eliminator import ZeroEliminator

__all__ = ["Layouts", "TokenImportance"]

AGE_BITS = 5
"""Width of a job's age shift: 0 to 31."""
FIRST_SHIFT, SECOND_SHIFT = range(0, 2), range(2, AGE_BITS)
"""Bits of the age shift that are applied behind the memory, and those a register later."""
ELIMINATOR_STAGES = 3
"""Registers of the zero eliminator: 0.63 ns a stage at 16 lanes in 45 nm."""
LIVE_ROWS_WAITING = 4
"""Rows of the live list that may wait before the gather pauses; at full rate 2 wait in passing."""


class Layouts:
    """Payloads of the unit's streams, from its parameters; see `TokenImportance`."""

    def __init__(
        self,
        *,
        tokens: int,
        prob_bits: int,
        importance_bits: int,
        prob_lanes: int,
        lanes: int,
        contexts: int,
        slots: int,
    ) -> None:
        slot = index_shape(slots)
        context = index_shape(contexts)
        count = range(lanes + 1)
        lines = tokens // lanes
        self.probs = rank_probs(prob_bits=prob_bits, lanes=prob_lanes, slots=slots)
        self.gather = data.StructLayout(
            {
                "context": context,
                "slot": slot,
                "clear": 1,
                "restart": 1,
                "age_shift": AGE_BITS,
                "lines": range(lines + 1),
                "generates": 1,
                "own": range(tokens),
            }
        )
        self.members = data.StructLayout({"live": unsigned(lanes), "pinned": unsigned(lanes)})
        self.live = data.StructLayout({"ids": data.ArrayLayout(range(tokens), lanes), "count": count, "last": 1})
        self.gathered = data.StructLayout({"slot": slot, "live": range(tokens + 1), "pinned": range(tokens + 1)})
        self.scatter = data.StructLayout({"slot": slot, "prune": 1})
        self.candidates = data.StructLayout(
            {"keys": data.ArrayLayout(importance_bits + 1, lanes), "count": count, "last": 1}
        )
        self.kept = unsigned(lanes)
        self.scattered = data.StructLayout({"slot": slot, "saturated": range(tokens + 1)})
        self.state = data.StructLayout(
            {"importance": data.ArrayLayout(importance_bits, lanes), "kept": unsigned(lanes)}
        )
        self.access = data.StructLayout(
            {"context": context, "line": index_shape(lines), "write": 1, "state": self.state}
        )


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

    Ports (streams; payloads are the members of `Layouts`)
    -----
    i_probs : in, `probs`: P unsigned probabilities of consecutive ranks, of which `count` are used; `last` on a row's
        final beat; a row starts at rank 0. Rows of different slots may alternate. Always ready.
    i_gather : in, `gather`: take `slot` for a job of `context`. `clear`: all importance becomes 0 and everything is
        kept (a sequence's first job); `restart`: everything is kept (a step's first layer); `age_shift`: all importance
        is halved that many times, rounded down; `lines`, 1 to tokens / T: id lines to scan; later tokens are not live.
        `generates`: token `own`, within those lines, is live and pinned whatever else holds.
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
                "i_access": In(stream.Signature(layouts.access)),
                "o_access": Out(stream.Signature(layouts.state)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for name in ("i_gather", "i_members", "i_scatter", "i_kept", "i_access"):
            check_stream(m, platform, getattr(self, name), name)
        ranks = RankMemory(
            tokens=self.tokens,
            prob_bits=self.prob_bits,
            importance_bits=self.importance_bits,
            prob_lanes=self.prob_lanes,
            lanes=self.lanes,
            slots=self.slots,
        )
        job_layout = data.StructLayout(
            {
                "context": index_shape(self.contexts),
                "lines": range(self.lines + 1),
                "clear": 1,
                "age_shift": AGE_BITS,
                "live": range(self.tokens + 1),
            }
        )
        shared = _Shared(
            ranks=ranks,
            states=_StateMemory(contexts=self.contexts, lines=self.lines, shape=self.layouts.state),
            live_lines=Ram(shape=self.lanes, depth=max(2, self.slots * self.lines)),
            context_taken=[Signal(name=f"context{n}_taken") for n in range(self.contexts)],
            slot_taken=[Signal(name=f"slot{n}_taken") for n in range(self.slots)],
            kept_lines=[Signal(range(self.lines + 1), name=f"context{n}_kept_lines") for n in range(self.contexts)],
            jobs=[Signal(job_layout, name=f"slot{n}_job", reset_less=True) for n in range(self.slots)],
        )
        m.submodules.ranks = shared.ranks
        m.submodules.states = shared.states
        m.submodules.live_lines = shared.live_lines
        wiring.connect(m, wiring.flipped(self.i_probs), ranks.i)
        self._gather(m, platform, shared)
        self._scatter(m, shared)
        return m

    def _gather(self, m: Module, platform: Any, shared: "_Shared") -> None:
        """Commands of the gather and of the host; from the id lines to the slot and the live list."""
        ranks, states = shared.ranks, shared.states
        command, access = self.i_gather.payload, self.i_access.payload
        lanes = self.lanes
        lane_bits = ceil_log2(lanes)

        # One gather or one access at a time. The host goes first: it gets only a context that has no job, and delays
        # the gather only until it has taken its answer. While a write of the host waits for a scatter, a gather of the
        # same context waits, too, so that it does not overtake the write.
        gathers, reports, fetches, answers = Signal(), Signal(), Signal(), Signal()
        idle, starts, accesses, is_accessed = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            is_accessed.eq(self.i_access.valid & (access.context == command.context)),
            idle.eq(~gathers & ~fetches & ~answers),
            self.i_access.ready.eq(
                idle & ~select(shared.context_taken, access.context) & ~(access.write & states.job_write)
            ),
            accesses.eq(self.i_access.valid & self.i_access.ready),
            self.i_gather.ready.eq(
                idle
                & ~accesses
                & ~is_accessed
                & ~select(shared.context_taken, command.context)
                & ~select(shared.slot_taken, command.slot)
            ),
            starts.eq(self.i_gather.valid & self.i_gather.ready),
        ]
        job = Signal(self.layouts.gather, reset_less=True)
        context = Signal.like(command.context, name="gather_context", reset_less=True)
        kept_lines = Signal(range(self.lines + 1), reset_less=True)
        line = Signal(index_shape(self.lines), name="gather_line", reset_less=True)
        lines_left = Signal(range(self.lines + 1), name="gather_lines_left")
        row = Signal(index_shape(self.lines), name="gather_row", reset_less=True)
        live_total = Signal(range(self.tokens + 1), reset_less=True)
        pinned_total = Signal(range(self.tokens + 1), reset_less=True)
        with m.If(idle):
            wanted = Mux(accesses, access.context, command.context)
            m.d.sync += [
                context.eq(wanted),
                kept_lines.eq(select(shared.kept_lines, wanted)),
                line.eq(Mux(accesses, access.line, 0)),
            ]
        with m.If(starts):
            m.d.sync += [job.eq(command), lines_left.eq(command.lines), gathers.eq(1)]
            m.d.sync += [row.eq(0), live_total.eq(0), pinned_total.eq(0)]
            _set(m, shared.context_taken, command.context, 1)
            _set(m, shared.slot_taken, command.slot, 1)

        # The host reads through the gather's port, and the memory's output holds until the host has taken the answer.
        state = states.gather_state
        m.d.sync += fetches.eq(accesses & ~access.write)
        with m.If(fetches):
            m.d.sync += answers.eq(1)
        with m.If(answers & self.o_access.ready):
            m.d.sync += answers.eq(0)
        m.d.comb += [
            self.o_access.valid.eq(answers),
            self.o_access.payload.importance.eq(state.importance),
            self.o_access.payload.kept.eq(Mux(line < kept_lines, state.kept, 0)),
            states.host_write.eq(accesses & access.write),
            states.host_context.eq(access.context),
            states.host_line.eq(access.line),
            states.host_state.eq(access.state),
        ]
        with m.If(states.host_write):
            _set(m, shared.kept_lines, access.context, self.lines)

        # Walk over the id lines while the live list has room. Register 1, `read`, is beside the memory's output.
        has_room, walks = Signal(), Signal()
        m.d.comb += [
            self.i_members.ready.eq((lines_left != 0) & has_room),
            walks.eq(self.i_members.ready & self.i_members.valid),
            states.gather_read.eq(walks | fetches),
            states.gather_context.eq(context),
            states.gather_line.eq(line),
        ]
        with m.If(walks):
            m.d.sync += [line.eq(line + 1), lines_left.eq(lines_left - 1)]
        read, aged, member = (_GatheredLine(self, name) for name in ("read", "aged", "member"))
        read_kept = Signal(reset_less=True)
        read_everything = Signal(reset_less=True)
        read_own = Signal(lanes, reset_less=True)
        m.d.sync += [
            read.valid.eq(walks),
            read.line.eq(line),
            read.last.eq(lines_left == 1),
            read.live.eq(self.i_members.payload.live),
            read.pinned.eq(self.i_members.payload.pinned),
            read_kept.eq(line < kept_lines),
            read_everything.eq(job.clear | job.restart),
            read_own.eq(Mux(job.generates & (job.own[lane_bits:] == line), one_hot(job.own[:lane_bits], lanes), 0)),
        ]

        # Register 2, `aged`: which tokens are live; the first part of ageing. Register 3, `member`: the second part.
        kept = (state.kept & read_kept.replicate(lanes)) | read_everything.replicate(lanes)
        m.d.sync += [
            aged.valid.eq(read.valid),
            aged.line.eq(read.line),
            aged.last.eq(read.last),
            aged.live.eq((read.live & kept) | read_own),
            aged.pinned.eq(read.pinned | read_own),
            member.valid.eq(aged.valid),
            member.line.eq(aged.line),
            member.last.eq(aged.last),
            member.live.eq(aged.live),
            member.pinned.eq(aged.pinned & aged.live),
        ]
        for lane in range(lanes):
            second = _shift(aged.importance[lane], job.age_shift, SECOND_SHIFT)
            m.d.sync += [
                aged.importance[lane].eq(_shift(state.importance[lane], job.age_shift, FIRST_SHIFT)),
                member.importance[lane].eq(Mux(job.clear, 0, second)),
            ]
        m.d.comb += [
            shared.live_lines.write_enable.eq(member.valid),
            shared.live_lines.write_address.eq(_place(job.slot, member.line, self.lines)),
            shared.live_lines.write_data.eq(member.live),
        ]
        live_count = Signal(range(lanes + 1), reset_less=True)
        pinned_count = Signal(range(lanes + 1), reset_less=True)
        counted = Signal()
        m.d.sync += [counted.eq(member.valid), live_count.eq(sum(member.live)), pinned_count.eq(sum(member.pinned))]
        with m.If(counted):
            m.d.sync += [live_total.eq(live_total + live_count), pinned_total.eq(pinned_total + pinned_count)]

        # Compact the lines and join them to rows. Nothing stalls: the next gather begins after the last row of this.
        element = data.StructLayout(
            {"importance": self.importance_bits, "pinned": 1, "id": unsigned(ceil_log2(self.tokens))}
        )
        stages = min(ELIMINATOR_STAGES, ZeroEliminator.steps(lanes))
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=element, lanes=lanes, stages=stages, header=1)
        m.submodules.packer = packer = Packer(shape=element, lanes=lanes)
        m.d.comb += [
            eliminator.i.valid.eq(member.valid),
            eliminator.i.payload.mask.eq(member.live),
            eliminator.i.payload.header.eq(member.last),
            eliminator.o.ready.eq(packer.i.ready),
            packer.i.valid.eq(eliminator.o.valid),
            Value.cast(packer.i.payload.lanes).eq(Value.cast(eliminator.o.payload.lanes)),
            packer.i.payload.count.eq(eliminator.o.payload.count),
            packer.i.payload.last.eq(eliminator.o.payload.header),
            packer.o.ready.eq(1),
        ]
        for lane in range(lanes):
            m.d.comb += [
                eliminator.i.payload.lanes[lane].importance.eq(member.importance[lane]),
                eliminator.i.payload.lanes[lane].pinned.eq(member.pinned[lane]),
                eliminator.i.payload.lanes[lane].id.eq(Cat(Const(lane, lane_bits), member.line)),
            ]

        # Rows go into the slot and the live list. After `has_room` has fallen a row may still come from each line in
        # the registers, in the zero eliminator and in the packer, a second one from the last line, and one from the
        # line that is taken meanwhile.
        m.submodules.live_rows = live_rows = Fifo(
            shape=self.layouts.live, depth=LIVE_ROWS_WAITING + 3 + stages + packer.delay + 2
        )
        row_out = packer.o.payload
        m.d.comb += [
            ranks.fills.eq(Mux(gathers, one_hot(job.slot, self.slots), 0)),
            ranks.write_enable.eq(packer.o.valid),
            ranks.write_row.eq(row),
            live_rows.i.valid.eq(packer.o.valid),
            live_rows.i.payload.count.eq(row_out.count),
            live_rows.i.payload.last.eq(row_out.last),
        ]
        for lane in range(lanes):
            m.d.comb += [
                ranks.write_words[lane].sum.eq(row_out.lanes[lane].importance),
                ranks.write_words[lane].pinned.eq(row_out.lanes[lane].pinned),
                live_rows.i.payload.ids[lane].eq(row_out.lanes[lane].id),
            ]
        wiring.connect(m, live_rows.o, wiring.flipped(self.o_live))
        m.d.sync += has_room.eq(live_rows.level <= LIVE_ROWS_WAITING)
        if asserts(platform):
            slot = self.i_probs.payload.slot
            is_ready = select(shared.slot_taken, slot) & ~(gathers & (job.slot == slot))
            adds = self.i_probs.valid & self.i_probs.payload.count.any()
            m.d.sync += Assert(~adds | is_ready, "i_probs: the slot is not gathered\n")
            m.d.sync += Assert(~packer.o.valid | live_rows.i.ready, "a row of the live list found no room\n")
            m.d.sync += Assert(~member.valid | eliminator.i.ready, "an id line found the zero eliminator stalled\n")

        with m.If(packer.o.valid):
            m.d.sync += [row.eq(row + 1), reports.eq(row_out.last)]
        m.d.comb += [
            self.o_gathered.valid.eq(reports),
            self.o_gathered.payload.slot.eq(job.slot),
            self.o_gathered.payload.live.eq(live_total),
            self.o_gathered.payload.pinned.eq(pinned_total),
        ]
        with m.If(reports):
            for index, left in enumerate(shared.jobs):
                with m.If(one_hot(job.slot, self.slots)[index]):
                    m.d.sync += [
                        left.context.eq(context),
                        left.lines.eq(job.lines),
                        left.clear.eq(job.clear),
                        left.age_shift.eq(job.age_shift),
                        left.live.eq(live_total),
                    ]
            with m.If(self.o_gathered.ready):
                m.d.sync += [reports.eq(0), gathers.eq(0)]

    def _scatter(self, m: Module, shared: "_Shared") -> None:
        """Commands of the scatter; from the slot to the top-k engine and to the id lines."""
        ranks, states = shared.ranks, shared.states
        lanes = self.lanes
        lane_bits = ceil_log2(lanes)
        slot = Signal.like(self.i_scatter.payload.slot, name="scatter_slot", reset_less=True)
        prunes = Signal(reset_less=True)
        job = Signal.like(shared.jobs[0], name="scatter_job", reset_less=True)
        total_rows = Signal(range(self.lines + 1), reset_less=True)
        total_lines = Signal(range(self.lines + 1), reset_less=True)
        last_count = Signal(range(lanes + 1), reset_less=True)
        saturated = Signal(range(self.tokens + 1), reset_less=True)
        scatters, drains, offers, writes, reports = Signal(), Signal(), Signal(), Signal(), Signal()
        reads_rows, ends = Signal(), Signal()

        row = Signal(index_shape(self.lines), name="scatter_row", reset_less=True)
        rows_left = Signal(range(self.lines + 1), name="scatter_rows_left")
        line = Signal(index_shape(self.lines), name="scatter_line", reset_less=True)
        lines_left = Signal(range(self.lines + 1), name="scatter_lines_left")
        written_line = Signal(index_shape(self.lines), reset_less=True)
        unwritten_lines = Signal(range(self.lines + 1), reset_less=True)

        # One step after the other: take the slot's job, count its rows and lines, offer rows, write lines, report.
        # The first row is read 4 cycles after the command, when the last beat before the command is in the memory.
        takes, loads, sizes, begins, offered = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.i_scatter.ready.eq(~scatters),
            takes.eq(self.i_scatter.valid & ~scatters),
            offered.eq(self.o_candidates.valid & self.o_candidates.ready & self.o_candidates.payload.last),
            drains.eq(offers | writes),
            self.o_scattered.valid.eq(reports),
            self.o_scattered.payload.slot.eq(slot),
            self.o_scattered.payload.saturated.eq(saturated),
        ]
        m.d.sync += [loads.eq(takes), sizes.eq(loads), begins.eq(sizes)]
        with m.If(~scatters):
            m.d.sync += [slot.eq(self.i_scatter.payload.slot), prunes.eq(self.i_scatter.payload.prune)]
        with m.If(takes):
            m.d.sync += scatters.eq(1)
        with m.If(loads):
            m.d.sync += job.eq(select([left.as_value() for left in shared.jobs], slot))
        with m.If(sizes):
            # Clearing and ageing concern every line of the context, everything else those of the job.
            m.d.sync += [
                total_rows.eq((job.live + (lanes - 1)) >> lane_bits),
                last_count.eq(Mux(job.live[:lane_bits].any(), job.live[:lane_bits], lanes)),
                total_lines.eq(Mux(job.clear | (job.age_shift != 0), self.lines, job.lines)),
            ]
        with m.If(begins):
            has_candidates = prunes & (job.live != 0)
            m.d.sync += [offers.eq(has_candidates), writes.eq(~has_candidates), saturated.eq(0)]
            m.d.sync += [line.eq(0), lines_left.eq(total_lines), written_line.eq(0), unwritten_lines.eq(total_lines)]
        with m.If(offered):
            m.d.sync += [offers.eq(0), writes.eq(1)]
        with m.If(ends):
            m.d.sync += [writes.eq(0), reports.eq(1)]
        with m.If(reports & self.o_scattered.ready):
            m.d.sync += [reports.eq(0), scatters.eq(0)]
            _set(m, shared.context_taken, job.context, 0)
            _set(m, shared.slot_taken, slot, 0)

        # A row of the slot is in the memory's output, which holds, and then, with saturated importance, in a register.
        fetched, fetched_last = Signal(), Signal(reset_less=True)
        final, final_last = Signal(), Signal(reset_less=True)
        importance = [
            Signal(self.importance_bits, name=f"final_importance{lane}", reset_less=True) for lane in range(lanes)
        ]
        pinned = Signal(lanes, reset_less=True)
        overflows = Signal(lanes, reset_less=True)
        fetched_ready, final_ready, final_taken = Signal(), Signal(), Signal()
        m.d.comb += [
            ranks.drains.eq(Mux(drains, one_hot(slot, self.slots), 0)),
            reads_rows.eq(drains & (rows_left != 0) & fetched_ready),
            ranks.read_enable.eq(reads_rows),
            ranks.read_row.eq(row),
            fetched_ready.eq(~fetched | final_ready),
            final_ready.eq(~final | final_taken),
        ]
        with m.If(begins | offered):
            m.d.sync += [row.eq(0), rows_left.eq(total_rows)]
        with m.Elif(reads_rows):
            m.d.sync += [row.eq(row + 1), rows_left.eq(rows_left - 1), fetched_last.eq(rows_left == 1)]
        with m.If(fetched_ready):
            m.d.sync += fetched.eq(reads_rows)
        with m.If(final_ready):
            m.d.sync += final.eq(fetched)
        with m.If(final_ready & fetched):
            m.d.sync += final_last.eq(fetched_last)
            for lane in range(lanes):
                word = ranks.read_words[lane]
                overflow = word.sum[self.importance_bits]
                m.d.sync += [
                    importance[lane].eq(word.sum[: self.importance_bits] | overflow.replicate(self.importance_bits)),
                    pinned[lane].eq(word.pinned),
                    overflows[lane].eq(overflow),
                ]

        # The rows go to the top-k engine first, and then, with the engine's answer, to the id lines.
        m.submodules.expander = expander = Expander(shape=self.importance_bits + 1, lanes=lanes)
        m.d.comb += [
            self.o_candidates.valid.eq(final & offers),
            self.o_candidates.payload.count.eq(Mux(final_last, last_count, lanes)),
            self.o_candidates.payload.last.eq(final_last),
            expander.i_rows.valid.eq(final & writes & (self.i_kept.valid | ~prunes)),
            self.i_kept.ready.eq(final & writes & prunes & expander.i_rows.ready),
            final_taken.eq(Mux(offers, self.o_candidates.ready, expander.i_rows.valid & expander.i_rows.ready)),
        ]
        for lane in range(lanes):
            kept = self.i_kept.payload[lane] | ~prunes
            m.d.comb += [
                self.o_candidates.payload.keys[lane].eq(Cat(importance[lane], pinned[lane])),
                expander.i_rows.payload[lane].eq(Cat(importance[lane], kept)),
            ]
        overflow_count = Signal(range(lanes + 1), reset_less=True)
        counted = Signal()
        m.d.sync += [counted.eq(expander.i_rows.valid & expander.i_rows.ready), overflow_count.eq(sum(overflows))]
        with m.If(counted):
            m.d.sync += saturated.eq(saturated + overflow_count)

        # Which tokens are live in each line; none in lines beyond those of the job.
        masks, masks_last, masks_inside = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        reads_mask = Signal()
        masks_ready = Signal()
        m.d.comb += [
            masks_ready.eq(~masks | expander.i_masks.ready),
            reads_mask.eq(writes & (lines_left != 0) & masks_ready),
            shared.live_lines.read_enable.eq(reads_mask),
            shared.live_lines.read_address.eq(_place(slot, line, self.lines)),
            expander.i_masks.valid.eq(masks),
            expander.i_masks.payload.mask.eq(Mux(masks_inside, shared.live_lines.read_data, 0)),
            expander.i_masks.payload.last.eq(masks_last),
        ]
        with m.If(reads_mask):
            m.d.sync += [line.eq(line + 1), lines_left.eq(lines_left - 1)]
            m.d.sync += [masks_last.eq(lines_left == 1), masks_inside.eq(line < job.lines)]
        with m.If(masks_ready):
            m.d.sync += masks.eq(reads_mask)

        # Lines go back as fast as they come: read the context, age the tokens that are not live, write.
        m.d.comb += [
            expander.o.ready.eq(1),
            states.job_active.eq(writes),
            states.job_context.eq(job.context),
            states.job_read.eq(expander.o.valid),
            states.job_read_line.eq(written_line),
        ]
        with m.If(expander.o.valid):
            m.d.sync += [written_line.eq(written_line + 1), unwritten_lines.eq(unwritten_lines - 1)]
        placed, aged, merged = (_ScatteredLine(self, name) for name in ("placed", "aged", "merged"))
        m.d.sync += [
            placed.valid.eq(expander.o.valid),
            placed.line.eq(written_line),
            placed.last.eq(unwritten_lines == 1),
            placed.live.eq(expander.o.payload.mask),
        ]
        for before, after in ((placed, aged), (aged, merged)):
            m.d.sync += [after.valid.eq(before.valid), after.line.eq(before.line), after.last.eq(before.last)]
            m.d.sync += [after.live.eq(before.live), after.kept.eq(before.kept)]
        old = [Signal(self.importance_bits, name=f"old_importance{lane}", reset_less=True) for lane in range(lanes)]
        for lane in range(lanes):
            element = Value.cast(expander.o.payload.lanes[lane])
            unchanged = Mux(job.clear, 0, _shift(old[lane], job.age_shift, SECOND_SHIFT))
            m.d.sync += [
                placed.importance[lane].eq(element[:-1]),
                placed.kept[lane].eq(element[-1]),
                old[lane].eq(_shift(states.job_state.importance[lane], job.age_shift, FIRST_SHIFT)),
                aged.importance[lane].eq(placed.importance[lane]),
                merged.importance[lane].eq(Mux(aged.live[lane], aged.importance[lane], unchanged)),
            ]
            m.d.comb += states.job_write_state.importance[lane].eq(merged.importance[lane])
        m.d.comb += [
            states.job_write.eq(merged.valid),
            states.job_write_line.eq(merged.line),
            states.job_write_state.kept.eq(merged.kept),
            ends.eq(merged.valid & merged.last),
        ]
        with m.If(ends):
            _set(m, shared.kept_lines, job.context, job.lines)


@dataclass(frozen=True)
class _Shared:
    """What gather and scatter share."""

    ranks: RankMemory
    states: "_StateMemory"
    live_lines: Ram
    """Which tokens are live, by slot and id line."""
    context_taken: list[Signal]
    slot_taken: list[Signal]
    """Contexts and slots are taken from a gather's command to the scatter's report."""
    kept_lines: list[Signal]
    """By context: lines from this one on hold no kept token, whatever their kept bits say."""
    jobs: list[Signal]
    """By slot: what its gather leaves for its scatter."""


class _StateMemory(wiring.Component):
    """The id lines of all contexts, a memory for each; gather, scatter and host use a context's memory in turns."""

    def __init__(self, *, contexts: int, lines: int, shape: data.StructLayout) -> None:
        self.contexts = contexts
        self.lines = lines
        self.shape = shape
        context, line = index_shape(contexts), index_shape(lines)
        super().__init__(
            {
                "gather_read": In(1),
                "gather_context": In(context),
                "gather_line": In(line),
                "gather_state": Out(shape),
                "job_active": In(1),
                "job_context": In(context),
                "job_read": In(1),
                "job_read_line": In(line),
                "job_state": Out(shape),
                "job_write": In(1),
                "job_write_line": In(line),
                "job_write_state": In(shape),
                "host_write": In(1),
                "host_context": In(context),
                "host_line": In(line),
                "host_state": In(shape),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        rams = [Ram(shape=self.shape.size, depth=max(2, self.lines)) for _ in range(self.contexts)]
        for context, ram in enumerate(rams):
            m.submodules[f"context{context}"] = ram
            job_reads = Signal(name=f"job_reads{context}")
            gather_reads = self.gather_read & one_hot(self.gather_context, self.contexts)[context]
            m.d.comb += [
                job_reads.eq(self.job_active & one_hot(self.job_context, self.contexts)[context]),
                ram.read_enable.eq(Mux(job_reads, self.job_read, gather_reads)),
                ram.read_address.eq(Mux(job_reads, self.job_read_line, self.gather_line)),
                ram.write_enable.eq(
                    (self.job_write & one_hot(self.job_context, self.contexts)[context])
                    | (self.host_write & one_hot(self.host_context, self.contexts)[context])
                ),
                # The host waits while a job writes, to whatever context.
                ram.write_address.eq(Mux(self.job_write, self.job_write_line, self.host_line)),
                ram.write_data.eq(Mux(self.job_write, self.job_write_state.as_value(), self.host_state.as_value())),
            ]
        words = [ram.read_data for ram in rams]
        m.d.comb += [
            self.gather_state.eq(select(words, self.gather_context)),
            self.job_state.eq(select(words, self.job_context)),
        ]
        return m


class _GatheredLine:
    """The registers of an id line on its way to the zero eliminator."""

    def __init__(self, unit: TokenImportance, name: str) -> None:
        self.valid = Signal(name=f"gather_{name}")
        self.last = Signal(name=f"gather_{name}_last", reset_less=True)
        self.line = Signal(index_shape(unit.lines), name=f"gather_{name}_line", reset_less=True)
        self.live = Signal(unit.lanes, name=f"gather_{name}_live", reset_less=True)
        self.pinned = Signal(unit.lanes, name=f"gather_{name}_pinned", reset_less=True)
        self.importance = [
            Signal(unit.importance_bits, name=f"gather_{name}_importance{lane}", reset_less=True)
            for lane in range(unit.lanes)
        ]


class _ScatteredLine:
    """The registers of an id line on its way back to its context."""

    def __init__(self, unit: TokenImportance, name: str) -> None:
        self.valid = Signal(name=f"scatter_{name}")
        self.last = Signal(name=f"scatter_{name}_last", reset_less=True)
        self.line = Signal(index_shape(unit.lines), name=f"scatter_{name}_line", reset_less=True)
        self.live = Signal(unit.lanes, name=f"scatter_{name}_live", reset_less=True)
        self.kept = Signal(unit.lanes, name=f"scatter_{name}_kept", reset_less=True)
        self.importance = [
            Signal(unit.importance_bits, name=f"scatter_{name}_importance{lane}", reset_less=True)
            for lane in range(unit.lanes)
        ]


def _shift(value: Value, distance: Value, bits: range) -> Value:
    """`value` shifted right by the part of `distance` that is in its `bits`."""
    for bit in bits:
        value = Mux(distance[bit], value >> (1 << bit), value)
    return value


def _place(slot: Value, line: Value, lines: int) -> Value:
    """The address of a slot's id line."""
    return Cat(line[: ceil_log2(lines)], slot)


def _set(m: Module, registers: Sequence[Signal], index: Value, value: ValueLike) -> None:
    """registers[index] := value."""
    for number, register in enumerate(registers):
        with m.If(one_hot(index, len(registers))[number]):
            m.d.sync += register.eq(value)
