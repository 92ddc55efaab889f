"""Walks the jobs head by head, and asks for a block at a time."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BLOCK, PLANE, block_table, plane_table
from spatten.hw.control.job_layouts import flag_of
from spatten.hw.control.job_slots import by_slot, head_shape, slot_layout, slot_shape
from spatten.hw.control.plan.block_plan import even_head, head_bit, odd_head
from spatten.hw.control.plan.plan_layouts import ORDER_BITS
from spatten.hw.lib.logic import first_set, following, product
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.spec.config import Config, Feature
from spatten.spec.job import Flag, KeyFetch

__all__ = ["BlockWalker"]


class BlockWalker(wiring.Component):
    """Follows the jobs in the order of their start, and each job's live heads, and says which block is wanted next.

    A block of keys or values has all rows of a head, or of two heads whose format pairs them. A head's queries are
    walked in chunks, blocks of up to `topk_lanes` rows that end where rows of the live list do. Under local pruning a
    job has no value blocks here: the walk only waits until its pruned rows have theirs, since no later job may take
    space before.

    Parameters
    ----------
    config : Config
    ring : int
        QUERY, KEY or VALUE.

    Ports
    -----
    slots, started : in, as of `hw.control.planner.Planner`
    slot, job : out, the walked job's slot and record (`slot_layout`)
    format : out, the format of its blocks: `PLANE` for queries, else `BLOCK`
    head, order : out, the block's head, and its number, counting the live heads of all jobs, modulo 256
    asks : out, a block is wanted; the outputs stand until the block is granted
    accepts : in, a request that is made in this cycle is taken
    granted : in, the wanted block has its space: the walk goes on

    Only for queries:

    rank, count : out, rank of the chunk's first row, and its rows
    sector : out, where the query row of token id 0 lies

    Only for keys and values:

    has_partner : out, the second head of the pair that `head` is in is still to be walked
    serves_two : in, the block serves both heads of the pair, and the walk goes on behind them

    Only for values, and only with local pruning:

    yields : in, a pruned row's block is asked for in this cycle, so this walk does not ask
    waits : out, `asks` was set in the cycle before, and was not accepted
    pruned_left : in, rows of the walked job under local pruning that have no block yet

    Throughput: a block in 4 cycles and those that its request and grant take; a further chunk of a head in 2. A job
    takes 2 cycles more.
    """

    def __init__(self, *, config: Config, ring: int) -> None:
        self.config = config
        self.ring = ring
        self.jobs = config.jobs_in_flight
        ports: dict[str, Any] = {
            "slots": In(data.ArrayLayout(slot_layout(config), self.jobs)),
            "started": In(range(2 * self.jobs)),
            "slot": Out(slot_shape(config)),
            "job": Out(slot_layout(config)),
            "format": Out(PLANE if ring == QUERY else BLOCK),
            "head": Out(head_shape(config)),
            "order": Out(ORDER_BITS),
            "asks": Out(1),
            "accepts": In(1),
            "granted": In(1),
        }
        if ring == QUERY:
            ports |= {
                "rank": Out(range(2 * config.tokens_max)),
                "count": Out(range(config.topk_lanes + 1)),
                "sector": Out(unsigned(config.sector_bits)),
            }
        else:
            ports |= {"has_partner": Out(1), "serves_two": In(1)}
        self._prunes = ring == VALUE and config.has(Feature.PRUNE_VALUES)
        if self._prunes:
            ports |= {"yields": In(1), "waits": Out(1), "pruned_left": In(range(config.heads_max + 1))}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        self._taken = Signal(range(2 * self.jobs))
        self._job = job = Signal(slot_layout(config), reset_less=True)
        self._format = Signal(self.format.shape(), reset_less=True)
        self._heads = Signal(config.heads_max, reset_less=True)
        self._head = Signal(head_shape(config), reset_less=True)
        self._order = Signal(ORDER_BITS, reset_less=True)
        self._is_last = Signal(reset_less=True)
        """No head is left behind the block: a cycle behind `head`."""
        m.d.sync += self._is_last.eq(~self._remaining().any())
        m.d.comb += [
            self.slot.eq(self._taken[: len(self.slot)] if self.jobs > 1 else 0),
            self.job.eq(job),
            self.format.eq(self._format),
            self.head.eq(self._head),
            self.order.eq(self._order),
        ]
        m.d.sync += Value.cast(job).eq(by_slot(self.slots, self.slot))
        if self.ring == QUERY:
            self._chunk(m)
        else:
            m.d.comb += self.has_partner.eq(head_bit(self._heads, odd_head(self._head)))
        self._walk(m)
        return m

    def _chunk(self, m: Module) -> None:
        """Makes the registers of a chunk, which ends where a row of the live list or the job's queries do."""
        config = self.config
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        self._rank = rank = Signal(self.rank.shape(), reset_less=True)
        self._rows_left = rows_left = Signal(range(config.tokens_max + 1), reset_less=True)
        self._sector = Signal(self.sector.shape(), reset_less=True)
        self._is_last_chunk = Signal(reset_less=True)
        """No row is left behind the chunk: a cycle behind `rank`."""
        m.d.sync += self._is_last_chunk.eq(rows_left == self.count)
        room = Signal(range(lanes + 1))
        m.d.comb += [
            room.eq(lanes - rank[:lane_bits] if lane_bits else 1),
            self.count.eq(Mux(rows_left < room, rows_left, room)),
            self.rank.eq(rank),
            self.sector.eq(self._sector),
        ]

    def _walk(self, m: Module) -> None:
        """The states: the job's record is there in LOAD, its format in HEAD, `head` in ADDRESS; in ASK all that is made
        of these, here and in `hw.control.plan.block_plan.BlockPlan`, a cycle later."""
        job = self._job
        job_format = self._job_format(m)
        with m.FSM(name="walker"):
            with m.State("IDLE"), m.If(self._taken != self.started):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [
                    self._format.eq(job_format),
                    self._heads.eq(job.live_heads),
                    self._order.eq(job.order),
                ]
                m.next = "HEAD"
                if self._prunes:
                    with m.If(flag_of(self.config, job.flags, Flag.PRUNE_VALUES)):
                        m.next = "PRUNED"
            with m.State("HEAD"):
                m.d.sync += self._head.eq(first_set(self._heads))
                if self.ring == QUERY:
                    m.d.sync += [self._rank.eq(job.first_rank), self._rows_left.eq(job.rows)]
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                if self.ring == QUERY:
                    row = Mux(self._format.paired, self._head >> 1, self._head)
                    m.d.sync += self._sector.eq(job.query_origin + product(job.query_step, row))
                m.next = "ASK"
            with m.State("ASK"):
                self._ask(m)
            with m.State("WAIT"), m.If(self.granted):
                if self.ring == QUERY:
                    m.d.sync += [
                        self._rank.eq(self._rank + self.count),
                        self._rows_left.eq(self._rows_left - self.count),
                    ]
                    m.next = "ASK"
                    with m.If(self._is_last_chunk):
                        self._end_heads(m)
                else:
                    self._end_heads(m)
            if self._prunes:
                with m.State("PRUNED"), m.If(~self.pruned_left.any()):
                    self._end_job(m)

    def _ask(self, m: Module) -> None:
        """In state ASK: asks until the request is taken."""
        if self._prunes:
            m.d.comb += self.asks.eq(~self.yields)
            m.d.sync += self.waits.eq(~self.yields & ~self.accepts)
            with m.If(self.accepts & ~self.yields):
                m.next = "WAIT"
        else:
            m.d.comb += self.asks.eq(1)
            with m.If(self.accepts):
                m.next = "WAIT"

    def _end_heads(self, m: Module) -> None:
        """Goes on to the next head, or to the next job."""
        order = self._order + 1 if self.ring == QUERY else self._order + 1 + self.serves_two
        m.d.sync += [self._heads.eq(self._remaining()), self._order.eq(order)]
        m.next = "HEAD"
        with m.If(self._is_last):
            self._end_job(m)

    def _end_job(self, m: Module) -> None:
        """Goes on to the next job."""
        m.d.sync += self._taken.eq(following(self._taken, 2 * self.jobs))
        m.next = "IDLE"

    def _remaining(self) -> Value:
        """The heads to be walked without those of the block."""
        heads, head = self._heads, self._head
        if self.ring == QUERY:
            return (heads & (heads - 1))[: len(heads)]
        single = (Const(1, len(heads)) << head)[: len(heads)]
        pair = (Const(3, len(heads)) << even_head(head))[: len(heads)]
        return (heads & ~Mux(self._format.paired, pair, single))[: len(heads)]

    def _job_format(self, m: Module) -> Any:
        """The format of the walked job's blocks, by its record."""
        job = self._job
        if self.ring == QUERY:
            return plane_table(m, self.config, dim=job.head_dim, bits=job.query_bits, name="job_format")
        bits, joined = (
            (job.key_bits, job.fetch == KeyFetch.JOINED) if self.ring == KEY else (job.value_bits, Const(0, 1))
        )
        return block_table(m, self.config, dim=job.head_dim, bits=bits, joined=joined, name="job_format")
