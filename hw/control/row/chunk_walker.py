"""Walks the jobs head by head and chunk by chunk: which query rows come next."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import block_table, by_bits, plane_table
from spatten.hw.control.job_layouts import flag_of, score_scale
from spatten.hw.control.job_slots import by_slot, head_place, row_layout, slot_layout
from spatten.hw.control.row.row_layouts import row_chunk
from spatten.hw.control.row.score_scales import excess_bits
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import equals, first_set, following
from spatten.hw.lib.unstalled import unstalled
from spatten.spec.config import LSB_BITS, Config, Feature
from spatten.spec.job import Flag, KeyFetch, Mode

__all__ = ["ChunkWalker"]

_JOB_FIELDS = (
    "mode",
    "fetch",
    "head_dim",
    "query_bits",
    "key_bits",
    "value_bits",
    "query_offset",
    "flat_limit",
    "live_heads",
    "live",
    "first_rank",
    "rows",
)
"""What the walk needs of a job's record, as far as the record has it, besides two of its flags."""


class ChunkWalker(wiring.Component):
    """Follows the jobs in the order of their start, each job's live heads, and the live query rows of each head.

    A chunk has the rows of one head up to the next multiple of `topk_lanes` ranks, or up to the last: those that one
    query block holds. Two heads that share the block rows of keys or values (`spec.row_format.RowFormat.heads`) share
    a block if both are live: the chunks of the first begin it, those of the second end it.

    The unit of a score depends on the codes that it is made of, so a head's scale is shifted: by `LSB_BITS` less where
    codes are the MSB planes of a progressive job, and by as many bits less as a joined code has more than an operand.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, as of `hw.control.planner.Planner`
    read : `unstalled` stream of `head_place`, out: the head whose scale is needed
    scale : in, `score_scale`, the one that was asked for, in the cycle after
    o : stream of `row_chunk`; `ready` is set only while `valid` is

    Only jobs of generation are progressive, so a chunk whose row may have to be computed again has one row, which sees
    all live keys. `hw.front.registers` refuses other jobs.

    It assumes that a job which counts as started has a live head and a live query row. Assertions check this and
    `o.ready` in simulation.

    Latency: 4 cycles from the one in which `started` counts a job to its first chunk. Throughput: a chunk per cycle
    within a head. The first chunk of a further head comes 3 cycles after the last of the head before, that of a further
    job 5 cycles.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self._prunes = config.has(Feature.PRUNE_VALUES)
        self.jobs = config.jobs_in_flight
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), self.jobs)),
                "started": In(range(2 * self.jobs)),
                "read": Out(unstalled(head_place(config))),
                "scale": In(score_scale()),
                "o": Out(stream.Signature(row_chunk(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        row = row_layout(config).members
        self._taken = Signal(range(2 * self.jobs))
        slot = Signal(row["slot"])
        m.d.comb += slot.eq(self._taken[: len(slot)] if self.jobs > 1 else 0)
        self._job = job = self._job_in(m, slot)

        # The heads that are still to be walked, the first of which is walked now, and what its scores are.
        self._heads = Signal(config.heads_max, reset_less=True)
        self._is_last = Signal(reset_less=True)
        """No head is left behind the one that is walked: a cycle behind the heads."""
        m.d.sync += self._is_last.eq(~(self._heads & (self._heads - 1)).any())
        self._lowest_head = Signal(row["head"])
        self._head = Signal(row["head"], reset_less=True)
        m.d.comb += self._lowest_head.eq(first_set(self._heads))
        self._scale = Signal(score_scale(), reset_less=True)
        m.d.comb += [self.read.payload.slot.eq(slot), self.read.payload.head.eq(self._lowest_head)]

        # The first row of the chunk, and the rows of the head from there on.
        self._rank = Signal(range(2 * config.tokens_max), reset_less=True)
        self._rows_left = Signal(range(config.tokens_max + 1), reset_less=True)
        self._last_chunk = Signal()

        # Registers of the job's format.
        self._joined = job.fetch == KeyFetch.JOINED
        self._is_progressive = Signal(reset_less=True)
        self._fits_operand = Signal(reset_less=True)
        self._begins_keys, self._begins_values = Signal(), Signal()

        m.d.comb += self.o.payload.slot.eq(slot)
        self._chunk(m)
        self._keys(m)
        self._blocks(m)
        self._walk(m)
        if asserts(platform):
            m.d.sync += [
                Assert(ResetSignal() | ~self.o.ready | self.o.valid, "a chunk is taken that is not offered\n"),
                Assert(
                    ResetSignal() | ~self.o.valid | (self._heads.any() & self.o.payload.rows.any()),
                    "a job has no live head or no live query row\n",
                ),
            ]
        return m

    def _job_in(self, m: Module, slot: Value) -> Any:
        """Of the record of the job in `slot` what the walk needs, in a register."""
        config, record = self.config, slot_layout(self.config).members
        members = {name: record[name] for name in _JOB_FIELDS if name in record}
        flags = {"accumulate": Flag.ACCUMULATE, **optional(self._prunes, prune_values=Flag.PRUNE_VALUES)}
        job = Signal(data.StructLayout({**members, **dict.fromkeys(flags, 1)}), name="job", reset_less=True)
        records = [
            Cat(*(record[name] for name in members), *(flag_of(config, record.flags, flag) for flag in flags.values()))
            for record in (self.slots[n] for n in range(self.jobs))
        ]
        m.d.sync += Value.cast(job).eq(by_slot(records, slot))
        return job

    def _chunk(self, m: Module) -> None:
        """Says which rows the chunk has, and what goes with them."""
        config, job, chunk = self.config, self._job, self.o.payload
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        count = Signal(range(lanes + 1))
        room = Signal(range(lanes + 1))
        m.d.comb += [
            room.eq(lanes - self._rank[:lane_bits] if lane_bits else 1),
            count.eq(Mux(self._rows_left < room, self._rows_left, room)),
            self._last_chunk.eq(self._rows_left <= room),
            chunk.head.eq(self._head),
            chunk.rows.eq(count),
            chunk.dim.eq(job.head_dim),
            chunk.query_bits.eq(job.query_bits),
            chunk.offset.eq(job.query_offset),
            chunk.accumulate.eq(job.accumulate),
            *([chunk.prune.eq(job.prune_values)] if self._prunes else []),
            *([chunk.flat_limit.eq(job.flat_limit)] if self._recomputes else []),
        ]
        with m.If(self.o.ready):
            m.d.sync += [
                self._begins_keys.eq(0),
                self._begins_values.eq(0),
                self._rank.eq(self._rank + count),
                self._rows_left.eq(self._rows_left - count),
            ]

    def _keys(self, m: Module) -> None:
        """Says which keys the chunk's rows have, and how their scores are scaled."""
        job, chunk = self._job, self.o.payload
        is_causal = equals(job.mode, Mode.CAUSAL)
        m.d.comb += [
            chunk.keys.eq(Mux(is_causal, self._rank + 1, job.live)),
            chunk.causal.eq(is_causal),
            chunk.key_bits.eq(job.key_bits),
            chunk.joined.eq(self._joined),
        ]
        if self._recomputes:
            first = Mux(self._fits_operand, Kind.FIRST, Kind.FIRST_UNSTASHED)
            m.d.comb += [
                chunk.stashes.eq(self._is_progressive),
                chunk.kind.eq(Mux(self._is_progressive, first, Kind.SINGLE)),
            ]
        m.d.comb += chunk.scale.eq(self._scale)

    def _blocks(self, m: Module) -> None:
        """Says which blocks the chunk shares with others."""
        config, job, chunk = self.config, self._job, self.o.payload
        queries = plane_table(m, self.config, dim=job.head_dim, bits=job.query_bits, name="query_format")
        keys = block_table(m, config, dim=job.head_dim, bits=job.key_bits, joined=self._joined, name="key_format")
        values = block_table(m, config, dim=job.head_dim, bits=job.value_bits, joined=Const(0, 1), name="value_format")
        paired = Signal(data.StructLayout({"query": 1, "key": 1, "value": 1}), reset_less=True)
        m.d.sync += [
            paired.query.eq(queries.paired),
            paired.key.eq(keys.paired),
            paired.value.eq(values.paired),
        ]
        # Whether the odd head of the pair that this one is in comes after this one.
        is_odd = self._head[0]
        has_partner = Mux(is_odd, 0, self._heads.bit_select(Cat(Const(1, 1), self._head[1:]), 1))
        self._keys_stay = paired.key & has_partner
        self._values_stay = paired.value & has_partner
        m.d.comb += [
            chunk.query_odd_head.eq(paired.query & is_odd),
            chunk.key_odd_head.eq(paired.key & is_odd),
            chunk.begins_keys.eq(self._begins_keys),
            chunk.begins_values.eq(self._begins_values),
            chunk.ends_keys.eq(self._last_chunk & ~self._keys_stay),
        ]

    def _walk(self, m: Module) -> None:
        """The states: the job's record is there in LOAD, its format in HEAD, the head's scale in SCALE."""
        config, job = self.config, self._job
        with m.FSM(name="walker"):
            with m.State("IDLE"), m.If(self._taken != self.started):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [
                    self._heads.eq(job.live_heads),
                    self._begins_keys.eq(1),
                    self._begins_values.eq(1),
                ]
                if self._recomputes:
                    m.d.sync += [
                        self._is_progressive.eq(equals(job.fetch, KeyFetch.PROGRESSIVE)),
                        self._fits_operand.eq(
                            by_bits(config, job.key_bits, lambda bits: int(bits + LSB_BITS <= config.operand_bits))
                        ),
                    ]
                m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += self.read.valid.eq(1)
                m.d.sync += [
                    self._head.eq(self._lowest_head),
                    self._rank.eq(job.first_rank),
                    self._rows_left.eq(job.rows),
                ]
                m.next = "SCALE"
            with m.State("SCALE"):
                excess = Mux(self._joined, excess_bits(config, job.key_bits), 0)
                less = Mux(self._is_progressive, LSB_BITS, excess) if self._recomputes else excess
                m.d.sync += [
                    self._scale.mantissa.eq(self.scale.mantissa),
                    self._scale.shift.eq(self.scale.shift - less),
                ]
                m.next = "CHUNK"
            with m.State("CHUNK"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready & self._last_chunk):
                    self._end_head(m)

    def _end_head(self, m: Module) -> None:
        """Goes on to the next head, or to the next job."""
        m.d.sync += [
            self._heads.eq(self._heads & (self._heads - 1)),
            self._begins_keys.eq(~self._keys_stay),
            self._begins_values.eq(~self._values_stay),
        ]
        m.next = "HEAD"
        with m.If(self._is_last):
            m.d.sync += self._taken.eq(following(self._taken, 2 * self.jobs))
            m.next = "IDLE"
