"""What to fetch and when: blocks of queries, keys and values into their rings, ahead of the rows that need them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Assert, Module, ResetSignal, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.arrival_ledger import ArrivalLedger
from spatten.hw.control.plan.bid_arbiter import BidArbiter
from spatten.hw.control.plan.group_emitter import GroupEmitter
from spatten.hw.control.plan.group_issuer import GroupIssuer
from spatten.hw.control.plan.key_walker import KeyWalker
from spatten.hw.control.plan.plan_layouts import (
    SectorClass,
    again_row,
    block_event,
    fetched_group,
    flat_row,
    groups_max,
    id_shape,
    kept_ids,
    live_read,
    live_write,
    members_request,
    query_chunk,
    ring_grant,
    ring_sectors,
    sectors_shape,
    uses_max,
)
from spatten.hw.control.plan.query_walker import QueryWalker
from spatten.hw.control.plan.refetch import Refetch
from spatten.hw.control.plan.value_walker import ValueWalker
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.pipeline import register
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.hw.memory.block_table import BlockTable, entry_shape
from spatten.spec.config import Config, Feature

__all__ = ["Planner"]

_RINGS = {"query": QUERY, "key": KEY, "value": VALUE}


class Planner(wiring.Component):
    """Turns jobs into row groups for the fetch unit, in the order in which their data are needed.

    Queries, keys and values each have a *walker*, which follows the jobs head by head, takes space in its ring for the
    next block as soon as there is some, and hands the block to its *issuer*, which asks for it group by group. Of the
    issuers that have a block the one whose head comes first asks: queries count as half a head before keys, values as
    one and a half heads after them. So keys of the next heads, and of the next job, arrive while a head waits for its
    values.

    Two kinds of requests go before these. Under local pruning each row has a value block of its own, made when the
    row's probabilities are known; `i_kept` brings the ids. And the keys of a flat row are fetched again, their LSBs or
    all of their bits, into the refetch area behind the key ring (`hw.control`), for one row at a time: they are used as
    they come, so a few groups of space are enough (four of the widest block rows), and no ring can block them.

    Blocks of the key and query rings are used in order. A job's rows may finish out of order only in generation; so
    only value blocks may be used in another order than that of their allocation.

    **No deadlock.** Neither rings nor flat rows can wait for each other in a circle, whoever is late for however long:

    - What has been asked for arrives: a bid stands only for rows that have a place already, so the fetch unit completes
      every group without a reader's help. And every bid wins in the end, since few can go before it: bids of flat rows
      and of pruned rows are as many as the rows in flight have groups, all others go in the order of their heads.
    - A ring waits only for its own readers. It grants blocks in the order of heads, and row control sends rows to the
      readers only when all of their blocks have their space; so of the oldest head whose rows have not all gone to the
      readers every block is the next one of its ring, or granted. Before it are only blocks of rows that have gone,
      whose data arrive, and which are used and given up without any further space. So the next block finds its space.
    - Under local pruning rows go to the readers without values. Each then needs one block more, of the value ring; but
      no block of a later job's head is taken before these, so before it are only blocks of rows that have all they
      need.
    - A flat row needs no space of any ring for its keys, and its groups go as fast as its own are read. It may be late,
      but what waits for it, the space of its values and its job's slot, is not needed for its end. Nor does it wait for
      a stash slot, since each row that may be flat has one; a first pass that waits for a stash slot is overtaken in
      row control by second passes, which free one. Of the rows before it in the readers' queues, which both readers
      get in the same order, every block is there or comes.
    - At most `STASH_SLOTS` rows have a stash slot, so no more are flat at a time. `Refetch` has a queue for all of
      them: no decision of softmax ever waits.
    - Members, the bitmaps and saved states that a job begins with, need space of the query ring before their job
      starts. Before them are only queries of jobs that have started, which end without the one that has not.

    So where one ring is not read, or gets no space, the others go on until they are full, or no row is left that can go
    to the readers; and when it is read again all ends. The testbench of the planner starves each in turn.

    It is joined of components, each in a file of its own in hw/control/plan, with streams and structs of
    `hw.control.plan.plan_layouts` between them:

                 QueryWalker -> GroupIssuer --+
                   KeyWalker -> GroupIssuer --+-> BidArbiter -> GroupEmitter -> ArrivalLedger -> fetch unit
    i_kept -->   ValueWalker -> GroupIssuer --+                                    |   |
    i_flat -->   Refetch ---------------------+                                    |   |
    again_read, again_done --^   |                                                 |   +-> back to Refetch: arrivals
                                 +--> o_again, again_arrived                       |
               BlockTables <-> the walkers, the rings                              +-----> BlockTables

    Each walker has a `BlockWalker`, which goes from head to head; those of keys and values have a `BlockPlan`, which
    says what a block takes; that of values has a `PrunedWalker` besides, for the blocks of pruned rows.

    What only a feature needs (`spec.config.Feature`) is not there without it: `live_read`, `live_ids`, `i_kept` and
    `o_pruned` without local pruning, `i_flat`, `o_again`, `again_read`, `again_done` and `again_arrived` without
    progressive recompute.

    Parameters
    ----------
    config : Config
    sequence_bits : int
        Width of the fetch unit's count of row groups.

    Ports
    -----
    slots, started : in, the jobs in flight, and how many have been started, modulo twice the slots; job n has slot
        n mod slots, and its record stands until all of its rows have left
    live_write : in, `live_write`: a row of a job's live list, before the job counts as started
    live_read : in, `live_read`: local pruning reads a row, but not while one is written; live_ids : out, its ids, in
        the next cycle and until the next read
    i_members : stream of `members_request`: rows of a bitmap or a saved state for the query ring; o_members : stream of
        `ring_grant`, the block for them
    i_kept : stream of `kept_ids`; o_pruned : stream of entries, the value block of each pruned row, in order
    o_query, o_key : streams of `ring_grant`, the next block; o_value : stream of entries. Whoever takes these, or those
        of `o_members` and `o_pruned`, stays ready until a block comes: issuers take it in the same cycle
    i_flat : stream of `flat_row`, from `Progressive.o_again`; o_again : stream of `again_row`, to row control, when its
        keys have begun to come
    again_read, again_done : in, as of `hw.control.key_reader.KeyReader`: a group of that row's keys has been read; all
        of its keys have
    again_arrived : out, how many groups of that row's keys have arrived
    o_allocate, i_block, o_free : arrays of streams to and from the query, key and value ring
    uses : in, array of `block_event`: a query, key or value block has been used once
    arrived_query, arrived_key, arrived_value : out, for each block how many of its row groups are there
    value_bases : out, where each value block begins in its ring
    o : stream of `fetched_group`, to the fetch unit; completed : in, its count of completed row groups
    chunk : out, `query_chunk`: the token ids of a query block
    sectors : out, array by `SectorClass`: sectors asked for in this cycle

    Source: SpAtten (HPCA 2021) section IV-B; docs/architecture.md has the order and why it keeps channels busy.
    """

    def __init__(self, *, config: Config, sequence_bits: int = 9) -> None:
        self.config = config
        self.sequence_bits = sequence_bits
        self.ring_sectors = ring_sectors(config)
        self.id_bits = id_shape(config).width
        self.live_rows = groups_max(config)
        jobs = config.jobs_in_flight
        entry = entry_shape(config.blocks)
        largest = max(self.ring_sectors)
        groups = range(groups_max(config) + 1)
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self._prunes = config.has(Feature.PRUNE_VALUES)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), jobs)),
                "started": In(range(2 * jobs)),
                "live_write": In(live_write(config)),
                **optional(
                    self._prunes, live_read=In(live_read(config)), live_ids=Out(live_write(config)["ids"].shape)
                ),
                "i_members": In(stream.Signature(members_request(config))),
                "o_members": Out(stream.Signature(ring_grant(config, QUERY))),
                **optional(
                    self._prunes, i_kept=In(stream.Signature(kept_ids(config))), o_pruned=Out(stream.Signature(entry))
                ),
                **optional(
                    self._recomputes,
                    i_flat=In(stream.Signature(flat_row(config))),
                    o_again=Out(stream.Signature(again_row(config))),
                    again_read=In(1),
                    again_done=In(1),
                    again_arrived=Out(groups),
                ),
                "o_query": Out(stream.Signature(ring_grant(config, QUERY))),
                "o_key": Out(stream.Signature(ring_grant(config, KEY))),
                "o_value": Out(stream.Signature(entry)),
                "o_allocate": Out(stream.Signature(range(largest + 1))).array(len(_RINGS)),
                "i_block": In(stream.Signature(range(largest))).array(len(_RINGS)),
                "o_free": Out(stream.Signature(range(largest + 1))).array(len(_RINGS)),
                "uses": In(block_event(config)).array(len(_RINGS)),
                "arrived_query": Out(data.ArrayLayout(range(2), config.blocks)),
                "arrived_key": Out(data.ArrayLayout(groups, config.blocks)),
                "arrived_value": Out(data.ArrayLayout(groups, config.blocks)),
                "value_bases": Out(data.ArrayLayout(range(self.ring_sectors[VALUE]), config.blocks)),
                "o": Out(stream.Signature(fetched_group(config))),
                "completed": In(sequence_bits),
                "chunk": Out(query_chunk(config)),
                "sectors": Out(data.ArrayLayout(sectors_shape(config), len(SectorClass))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        tables = self._block_tables(m)
        m.submodules.arbiter = arbiter = BidArbiter(config=config)
        m.submodules.emitter = emitter = GroupEmitter(config=config)
        m.submodules.ledger = ledger = ArrivalLedger(config=config, sequence_bits=self.sequence_bits)
        issuers = []
        for name, ring in _RINGS.items():
            m.submodules[f"{name}_issuer"] = issuer = GroupIssuer(config=config, ring=ring)
            issuers.append(issuer)
            m.d.comb += [
                arbiter.bids[ring].eq(issuer.bid),
                issuer.wins.eq(arbiter.wins[ring]),
            ]
            _pass_on(m, ledger.arrives[ring], tables[ring].arrives, f"{name}_arrives")
        self._walkers(m, tables, issuers)
        if asserts(platform):
            for table, issuer in zip(tables, issuers, strict=True):
                self._check_frees(m, table, issuer)
        if self._recomputes:
            m.submodules.refetch = refetch = Refetch(config=config)
            wiring.connect(m, wiring.flipped(self.i_flat), refetch.i)
            wiring.connect(m, refetch.o, wiring.flipped(self.o_again))
        wiring.connect(m, emitter.o, ledger.i)
        wiring.connect(m, ledger.o, wiring.flipped(self.o))
        if self._recomputes:
            m.d.comb += [
                refetch.slots.eq(self.slots),
                refetch.read.eq(register(m, self.again_read, "again_was_read", is_reset=True)),
                refetch.done.eq(register(m, self.again_done, "again_was_done", is_reset=True)),
                refetch.arrives.eq(register(m, ledger.refetch_arrives, "refetch_arrived", is_reset=True)),
                self.again_arrived.eq(refetch.arrived),
                arbiter.refetch_bid.eq(refetch.bid),
                refetch.wins.eq(arbiter.refetch_wins),
            ]
        m.d.comb += [
            arbiter.takes.eq(emitter.takes),
            emitter.valid.eq(arbiter.valid),
            emitter.request.eq(arbiter.request),
            emitter.live_write.eq(self.live_write),
        ]
        if self._prunes:
            m.d.comb += [
                emitter.live_read.eq(self.live_read),
                self.live_ids.eq(emitter.live_ids),
                emitter.kept.eq(self.i_kept.payload.ids),
            ]
        m.d.comb += [
            ledger.completed.eq(self.completed),
            self.chunk.eq(ledger.chunk),
            self.sectors.eq(ledger.sectors),
        ]
        return m

    def _block_tables(self, m: Module) -> list[BlockTable]:
        """The table of each ring's blocks, joined with the ring and with those who use its blocks."""
        tables = []
        for name, ring in _RINGS.items():
            table = BlockTable(
                sectors=self.ring_sectors[ring],
                entries=self.config.blocks,
                uses_max=uses_max(self.config, ring),
                groups_max=1 if ring == QUERY else groups_max(self.config),
            )
            m.submodules[f"{name}_blocks"] = table
            m.d.comb += [
                *_joined(table.o_allocate, self.o_allocate[ring]),
                *_joined(self.i_block[ring], table.i_block),
                *_joined(table.o_free, self.o_free[ring]),
            ]
            _pass_on(m, self.uses[ring], table.uses, f"{name}_used")
            tables.append(table)
        m.d.comb += [
            self.arrived_query.eq(tables[QUERY].arrived),
            self.arrived_key.eq(tables[KEY].arrived),
            self.arrived_value.eq(tables[VALUE].arrived),
            self.value_bases.eq(tables[VALUE].bases),
        ]
        return tables

    def _walkers(self, m: Module, tables: list[BlockTable], issuers: list[GroupIssuer]) -> None:
        """The walkers, joined with the tables that give them blocks and with the issuers that they give these to."""
        m.submodules.query_walker = queries = QueryWalker(config=self.config)
        m.submodules.key_walker = keys = KeyWalker(config=self.config)
        m.submodules.value_walker = values = ValueWalker(config=self.config)
        walkers: list[Any] = [queries, keys, values]
        for table, walker, issuer in zip(tables, walkers, issuers, strict=True):
            m.d.comb += [walker.slots.eq(self.slots), walker.started.eq(self.started)]
            wiring.connect(m, walker.o_request, table.i)
            wiring.connect(m, table.o, walker.i_grant)
            wiring.connect(m, walker.o, issuer.i)
        wiring.connect(m, wiring.flipped(self.i_members), queries.i_members)
        wiring.connect(m, queries.o_members, wiring.flipped(self.o_members))
        wiring.connect(m, queries.o_query, wiring.flipped(self.o_query))
        wiring.connect(m, keys.o_key, wiring.flipped(self.o_key))
        wiring.connect(m, values.o_value, wiring.flipped(self.o_value))
        if not self._prunes:
            return
        wiring.connect(m, values.o_pruned, wiring.flipped(self.o_pruned))
        # Kept ids make a block first; the issuer of values takes them, group by group, when that has its space.
        kept, kept_taken = self.i_kept, issuers[VALUE].kept_taken
        m.d.comb += [
            values.kept_valid.eq(kept.valid),
            values.kept.eq(kept.payload),
            values.kept_taken.eq(kept_taken),
            issuers[VALUE].kept_valid.eq(kept.valid),
            issuers[VALUE].kept_count.eq(kept.payload.count),
            kept.ready.eq(kept_taken),
        ]

    def _check_frees(self, m: Module, table: BlockTable, issuer: GroupIssuer) -> None:
        """Asserts that a block's space returns only when all row groups of the block have arrived."""
        lanes = self.config.topk_lanes
        groups = Array(Signal(range(groups_max(self.config) + 1), reset_less=True) for _ in range(self.config.blocks))
        oldest = Signal(entry_shape(self.config.blocks))
        block = issuer.i.payload
        with m.If(issuer.i.valid & issuer.i.ready):
            m.d.sync += groups[block.entry].eq((block.count + (lanes - 1)) // lanes)
        frees = table.o_free.valid & table.o_free.ready
        m.d.sync += [
            oldest.eq(oldest + frees),
            Assert(
                ResetSignal() | ~frees | (table.arrived[oldest] == groups[oldest]),
                "space of a block returns before all of its row groups have arrived\n",
            ),
        ]


def _pass_on(m: Module, event: Any, sink: Any, name: str) -> None:
    """An event of a block to its table, a cycle later."""
    m.d.comb += [
        sink.valid.eq(register(m, event.valid, f"{name}_valid", is_reset=True)),
        sink.entry.eq(register(m, event.entry, f"{name}_entry")),
    ]


def _joined(source: Any, sink: Any) -> list[Any]:
    """A stream to another one, whose payload may be of another width."""
    return [sink.valid.eq(source.valid), sink.payload.eq(source.payload), source.ready.eq(sink.ready)]
