"""Begins and ends jobs: finds the live tokens and heads, prepares the job, chooses which of them stay, reports."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BANKS, plane_table
from spatten.hw.control.head_ageing import HeadAgeing
from spatten.hw.control.head_port import HeadPort
from spatten.hw.control.job_layouts import job_layout, report_layout
from spatten.hw.control.job_slots import slot_event, slot_layout, step_bits
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
from spatten.spec.job import Flag, Mode
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
        count = range(config.tokens_max * config.heads_max + 1)
        self._total = [Signal(count, name=f"rows_total{n}", reset_less=True) for n in range(self.jobs)]
        self._gathered = [Signal(name=f"gathered{n}") for n in range(self.jobs)]
        self._known = [Signal(name=f"known{n}") for n in range(self.jobs)]
        tokens = range(config.tokens_max + 1)
        self._pinned = [Signal(tokens, name=f"pinned{n}", reset_less=True) for n in range(self.jobs)]
        self._context_busy = Signal(config.contexts)
        self._kept_heads = [
            Signal(config.heads_max, name=f"kept_heads{n}", init=(1 << config.heads_max) - 1)
            for n in range(config.contexts)
        ]
        self._begins = Signal()
        """A job takes its slot."""
        self._ends = Signal()
        """A job gives its slot up."""
        self._storing = Signal()
        """The head importance of a state has been read, but the state has not been saved yet."""
        self._aging = Signal()
        """The head importance for the job that began last is still being cleared, loaded or aged."""
        started_slot, context = self._start(m)
        self._count_rows(m, started_slot, context)
        self._finish(m)
        return m

    # -- The start ----------------------------------------------------------------------------------------------------

    def _start(self, m: Module) -> tuple[Signal, Value]:
        """The slot of the job that starts, and its context."""
        config = self.config
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        given_job = self.i_job.payload
        # Fields that are computed with come from a register, since reading the queue's memory takes a third of a cycle.
        job = Signal.like(given_job, name="job", reset_less=True)
        job_valid = Signal()
        m.d.sync += [job.eq(given_job), job_valid.eq(self.i_job.valid & ~self.i_job.ready)]
        flags = job.flags
        slot = Signal(self.slot_bits)
        next_slot = Signal(range(2 * self.jobs))
        used = Signal(range(self.jobs + 1))
        m.d.comb += slot.eq(next_slot[: self.slot_bits] if self.jobs > 1 else 0)
        m.d.sync += used.eq(used + self._begins - self._ends)
        m.d.comb += self.busy.eq(used.any() | self.i_job.valid)

        # In the first cycle the sizes that follow from the formats are computed, in the second their sums.
        sizes: dict[str, Signal] = {}
        sectors: dict[str, Signal] = {}
        for name, bits, rows in (
            ("query", job.query_bits, job.queries),
            ("key", job.key_bits, job.kv_rows),
            ("lsb", Const(0, 3), job.kv_rows),
            ("value", job.value_bits, job.kv_rows),
        ):
            plane = plane_table(m, dim=job.head_dim, bits=bits, name=f"{name}_plane")
            sizes[name] = Signal(step_bits(config), name=f"{name}_plane_sectors", reset_less=True)
            sectors[name] = Signal(4, name=f"{name}_row_sectors", reset_less=True)
            m.d.sync += [sizes[name].eq(product(rows, plane.sectors)), sectors[name].eq(plane.sectors)]
        before_queries = Signal(config.sector_bits, reset_less=True)
        query_plane = plane_table(m, dim=job.head_dim, bits=job.query_bits, name="origin_plane")
        m.d.sync += before_queries.eq(product(job.query_offset, query_plane.sectors))
        everything = flags[Flag.CLEAR] | flags[Flag.RESTART]
        generates = Signal()
        m.d.comb += generates.eq(equals(job.mode, Mode.GENERATION))
        live_heads = Signal(config.heads_max, reset_less=True)
        kept_heads = select(self._kept_heads, job.context) | everything.replicate(config.heads_max)
        m.d.sync += live_heads.eq(kept_heads & job.head_mask)
        dense = Signal(reset_less=True)
        rest = Signal(range(config.tokens_max + 1), reset_less=True)
        m.d.sync += [
            dense.eq(everything & ~flags[Flag.HAS_KV] & (~generates | (job.query_offset < job.valid_length))),
            rest.eq(Mux(job.valid_length > job.query_offset, job.valid_length - job.query_offset, 0)),
        ]
        order = Signal(8)
        # How many heads are live; a cycle behind `live_heads`.
        heads_count = Signal(range(config.heads_max + 1), reset_less=True)
        m.d.sync += heads_count.eq(count_ones(list(live_heads)))

        def step(name: str) -> Value:
            """Sectors from one group of heads to the next: a group's, rounded up to whole channels, and a row more."""
            channels = config.channels
            bits = ceil_log2(channels)
            whole = Cat(Const(0, bits), (sizes[name] + (channels - 1)) >> bits)
            return whole + sectors[name]

        def record(**values: Any) -> None:
            for n in range(self.jobs):
                with m.If(equals(slot, n)):
                    m.d.sync += [self.slots[n][name].eq(value) for name, value in values.items()]

        has_kv = Signal(config.tokens_max, reset_less=True)
        pinned = Signal(config.tokens_max, reset_less=True)
        line = Signal(range(config.tokens_max // lanes + 1), reset_less=True)
        lines = Signal(range(config.tokens_max // lanes + 1))
        live_row = Signal(range(config.tokens_max // lanes + 1), reset_less=True)
        before = Signal(range(config.tokens_max + 1), reset_less=True)
        within = Signal(range(config.tokens_max + 1), reset_less=True)
        wants_pinned = Signal()
        loads = Signal()
        asks = Signal()
        own_rows = Signal(self.o_rows.payload.shape())
        m.d.comb += [
            lines.eq((job.keys + (lanes - 1)) >> lane_bits),
            own_rows.sectors.eq((job.keys + (SECTOR_BITS - 1)) >> ceil_log2(SECTOR_BITS)),
            own_rows.sector.eq(Mux(wants_pinned, given_job.pinned, given_job.has_kv)),
            own_rows.rows.eq(1),
            self.o_rows.valid.eq(Mux(loads, self.load_rows.valid, asks)),
            Value.cast(self.o_rows.payload).eq(Mux(loads, Value.cast(self.load_rows.payload), Value.cast(own_rows))),
            self.load_rows.ready.eq(loads & self.o_rows.ready),
            self.o_load.valid.eq(loads),
            self.o_load.payload.context.eq(job.context),
            self.o_load.payload.sector.eq(given_job.state),
            self.o_gather.payload.context.eq(job.context),
            self.o_gather.payload.slot.eq(slot),
            self.o_gather.payload.clear.eq(flags[Flag.CLEAR]),
            self.o_gather.payload.restart.eq(flags[Flag.RESTART]),
            self.o_gather.payload.age_shift.eq(job.age_shift),
            self.o_gather.payload.lines.eq(lines),
            self.o_gather.payload.generates.eq(generates),
            self.o_gather.payload.own.eq(job.query_offset),
            self.i_live.ready.eq(1),
        ]
        # How many tokens of the sequence are in this line and in those behind it.
        unlisted = Signal(range(config.tokens_max + 1), reset_less=True)
        whole_line = unlisted[lane_bits:].any()
        valid_lanes = Cat(*(whole_line | (unlisted[:lane_bits] > n) for n in range(lanes - 1)), whole_line)
        m.d.comb += [
            self.o_lines.payload.live.eq(Mux(flags[Flag.HAS_KV], has_kv[:lanes], -1) & valid_lanes),
            self.o_lines.payload.pinned.eq(Mux(flags[Flag.PINNED], pinned[:lanes], 0)),
        ]

        # The live list goes into the planner's memory as it comes, and the place of the query rows in it is found.
        given = self.i_live.payload
        end = Signal(range(2 * config.tokens_max + 1), reset_less=True)
        m.d.sync += end.eq(job.query_offset + job.queries)
        m.d.comb += [
            self.live_write.enable.eq(self.i_live.valid),
            self.live_write.slot.eq(slot),
            self.live_write.row.eq(live_row),
            self.live_write.ids.eq(given.ids),
        ]
        # Each line's ids before the first query row, and its ids of query rows, are marked, and counted a cycle later.
        listed, comes, ends = Signal(), Signal(), Signal()
        ids_before, ids_within = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
        here = [n < given.count for n in range(lanes)]
        m.d.sync += [
            comes.eq(self.i_live.valid),
            ends.eq(self.i_live.valid & given.last),
            ids_before.eq(Cat(h & (given.ids[n] < job.query_offset) for n, h in enumerate(here))),
            ids_within.eq(
                Cat(h & (given.ids[n] >= job.query_offset) & (given.ids[n] < end) for n, h in enumerate(here))
            ),
        ]
        with m.If(self._begins):
            m.d.sync += listed.eq(0)
        with m.Elif(ends):
            m.d.sync += listed.eq(1)
        with m.If(self.i_live.valid):
            m.d.sync += live_row.eq(live_row + 1)
        with m.If(comes):
            m.d.sync += [
                before.eq(before + count_ones(list(ids_before))),
                within.eq(within + count_ones(list(ids_within))),
            ]

        # The score scales of the live heads are written, one per cycle: each before row control reads it.
        scales_left = Signal(config.heads_max)
        scale_head = Signal(max(1, ceil_log2(config.heads_max)))
        scale = Signal(job.scales[0].shape(), name="scale_now")
        m.d.comb += [
            scale_head.eq(first_set(scales_left)),
            Value.cast(scale).eq(
                select([Value.cast(given_job.scales[h]) for h in range(config.heads_max)], scale_head)
            ),
            self.scale.enable.eq(scales_left.any()),
            self.scale.slot.eq(slot),
            self.scale.head.eq(scale_head),
            self.scale.mantissa.eq(scale.mantissa),
            self.scale.shift.eq(scale.shift),
        ]
        m.d.sync += scales_left.eq(scales_left & (scales_left - 1))

        live, pinned_live = self.i_gathered.payload.live, self.i_gathered.payload.pinned
        dense_rows = Mux(rest < job.queries, rest, job.queries)
        starts = Signal()
        empty = Signal()
        reach = Mux(equals(job.mode, Mode.CAUSAL), before + within, live)
        dense_reach = Mux(equals(job.mode, Mode.CAUSAL), job.query_offset + dense_rows, job.valid_length)
        known_rows = Signal(range(config.tokens_max + 1), reset_less=True)
        with m.If(starts):
            m.d.sync += self.started.eq(Mux(self.started == 2 * self.jobs - 1, 0, self.started + 1))
        m.d.comb += self.nothing_live.eq(empty)
        context_free = ~select([self._context_busy[n] for n in range(config.contexts)], job.context)
        with m.FSM(name="start") as fsm:
            # Head importance is aged for one job at a time; if jobs are short that takes longer than all else.
            with m.State("IDLE"), m.If(job_valid & (used != self.jobs) & context_free & ~self._aging):
                m.next = "SHAPE"
                with m.If(flags[Flag.LOAD_STATE]):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += loads.eq(1)
                with m.If(self.o_load.ready):
                    self._keep_heads(m, job.context, self.i_loaded.kept)
                    m.next = "LOADED"
            with m.State("LOADED"):
                # `live_heads` is a cycle behind the kept heads.
                m.next = "SHAPE"
            with m.State("SHAPE"):
                m.d.comb += self._begins.eq(1)
                m.d.sync += [scales_left.eq(live_heads), wants_pinned.eq(0), unlisted.eq(job.valid_length)]
                m.d.sync += [line.eq(0), live_row.eq(0), before.eq(0), within.eq(0), known_rows.eq(dense_rows)]
                m.d.sync += [self._context_busy.bit_select(job.context, 1).eq(1)]
                names = [name for name in self.slot.members if name in job_layout(config).members]
                record(
                    **{name: given_job[name] for name in names},
                    live_heads=live_heads,
                    live=job.valid_length,
                    first_rank=job.query_offset,
                    rows=dense_rows,
                    reach=dense_reach,
                    dense=dense,
                    query_origin=given_job.query - before_queries,
                    query_step=step("query"),
                    key_step=step("key"),
                    lsb_step=step("lsb"),
                    value_step=step("value"),
                    order=order,
                )
                m.next = "GATHER"
                with m.If(flags[Flag.HAS_KV]):
                    m.next = "ASK"
                with m.Elif(flags[Flag.PINNED]):
                    m.d.sync += wants_pinned.eq(1)
                    m.next = "ASK"
                with m.If(~live_heads.any() | (dense & ~dense_rows.any())):
                    m.next = "EMPTY"
                with m.Elif(dense):
                    m.d.comb += starts.eq(1)
            with m.State("ASK"):
                m.d.comb += asks.eq(1)
                with m.If(self.o_rows.ready):
                    m.next = "ROW"
            with m.State("ROW"), m.If(self.i_rows.valid):
                m.d.comb += self.i_rows.ready.eq(1)
                m.next = "GATHER"
                with m.If(wants_pinned):
                    m.d.sync += pinned.eq(self.i_rows.payload)
                with m.Else():
                    m.d.sync += has_kv.eq(self.i_rows.payload)
                    with m.If(flags[Flag.PINNED]):
                        m.d.sync += wants_pinned.eq(1)
                        m.next = "ASK"
            with m.State("GATHER"):
                m.d.comb += self.o_gather.valid.eq(1)
                with m.If(self.o_gather.ready):
                    m.next = "LINES"
            with m.State("LINES"):
                m.d.comb += self.o_lines.valid.eq(line != lines)
                with m.If(self.o_lines.valid & self.o_lines.ready):
                    m.d.sync += [line.eq(line + 1), has_kv.eq(has_kv >> lanes), pinned.eq(pinned >> lanes)]
                    m.d.sync += unlisted.eq(Mux(whole_line, unlisted - lanes, 0))
                with m.If(self.i_gathered.valid & listed & ~scales_left.any()):
                    m.next = "GATHERED"
            with m.State("GATHERED"):
                m.d.comb += self.i_gathered.ready.eq(1)
                for n in range(self.jobs):
                    with m.If(equals(slot, n)):
                        m.d.sync += self._pinned[n].eq(pinned_live)
                with m.If(~dense):
                    record(live=live, first_rank=before, rows=within, reach=reach)
                    m.d.sync += known_rows.eq(within)
                m.next = "START"
                with m.If(~live.any() | (~dense & ~within.any())):
                    m.next = "EMPTY"
            with m.State("START"):
                m.d.comb += [self.i_job.ready.eq(1), starts.eq(~dense)]
                for n in range(self.jobs):
                    with m.If(equals(slot, n)):
                        m.d.sync += [self._gathered[n].eq(1), self._known[n].eq(1)]
                m.d.sync += next_slot.eq(Mux(next_slot == 2 * self.jobs - 1, 0, next_slot + 1))
                m.next = "IDLE"
            with m.State("EMPTY"):
                # Nothing more happens until the machine is reset.
                m.d.comb += empty.eq(1)
            shaped = Signal()
            begun = Signal()
            m.d.sync += [shaped.eq(fsm.ongoing("SHAPE") | fsm.ongoing("GATHERED")), begun.eq(self._begins)]
        with m.If(begun):
            m.d.sync += order.eq(order + heads_count)
        # The descriptor, and with it `heads_count`, stays until the job has started.
        rows_total = Signal(range(config.tokens_max * config.heads_max + 1))
        m.d.comb += rows_total.eq(product(known_rows, heads_count))
        with m.If(shaped):
            for n in range(self.jobs):
                with m.If(equals(slot, n)):
                    m.d.sync += self._total[n].eq(rows_total)
        m.submodules.ageing = ageing = self._ageing = HeadAgeing(config=config)
        m.d.comb += [
            ageing.begins.eq(fsm.ongoing("SHAPE")),
            ageing.job.eq(job),
            ageing.loaded.eq(self.i_loaded),
            self._aging.eq(ageing.busy),
        ]
        return slot, job.context

    def _keep_heads(self, m: Module, context: Value, heads: Value) -> None:
        """Sets which of a context's heads are kept; in the same cycle another job may set those of another context."""
        for n, register in enumerate(self._kept_heads):
            with m.If(equals(context, n)):
                m.d.sync += register.eq(heads)

    # -- Rows on their way --------------------------------------------------------------------------------------------

    def _count_rows(self, m: Module, slot: Signal, context: Value) -> None:
        m.submodules.rows = rows = self._rows = RowCounts(config=self.config)
        m.d.comb += [
            rows.begins.eq(self._begins),
            rows.slot.eq(slot),
            rows.context.eq(context),
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
        stores = job.flags[Flag.STORE_STATE]
        with m.If(scattered):
            m.d.sync += ended.eq(Mux(ended == 2 * self.jobs - 1, 0, ended + 1))
            note(chosen, 1)
            note(self._gathered, 0)
            self._keep_heads(m, job.context, select(kept_heads, slot))
            with m.If(~stores):
                m.d.sync += self._context_busy.bit_select(job.context, 1).eq(0)
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
        with m.FSM(name="report"):
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
                    m.d.sync += self._context_busy.bit_select(job.context, 1).eq(0)
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
