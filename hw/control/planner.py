"""What to fetch and when: blocks of queries, keys and values into their rings, ahead of the rows that need them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.arrival_ledger import ArrivalLedger
from spatten.hw.control.bid_arbiter import BidArbiter
from spatten.hw.control.group_emitter import GroupEmitter
from spatten.hw.control.group_issuer import GroupIssuer
from spatten.hw.control.job_slots import row_layout, slot_layout
from spatten.hw.control.key_walker import KeyWalker
from spatten.hw.control.plan_layouts import (
    again_segment,
    kept_ids,
    members_request,
)
from spatten.hw.control.query_walker import QueryWalker
from spatten.hw.control.refetch import Refetch
from spatten.hw.control.value_walker import ValueWalker
from spatten.hw.datapath.progressive import row_header
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE, row_group
from spatten.hw.memory.block_table import BlockTable, entry_shape, granted_block
from spatten.spec.config import Config
from spatten.spec.constants import BLOCKS, KEPT_SLOTS
from spatten.spec.row_format import SECTORS_MAX, key_ring_sectors, lsb_sectors, query_ring_sectors, value_ring_sectors

__all__ = ["Planner", "again_segment", "kept_ids", "members_request"]


class Planner(wiring.Component):
    """Turns jobs into row groups for the fetch unit, in the order in which their data are needed.

    Queries, keys and values each have a *walker*, which follows the jobs head by head, takes space in its ring for the
    next block as soon as there is some, and hands the block to its *issuer*, which asks for it group by group. Of the
    issuers that have a block the one whose head comes first asks: queries count as half a head before keys, values as
    one and a half heads after them. So keys of the next heads, and of the next job, arrive while a head waits for its
    values.

    Two kinds of requests go before these. Under local pruning each row has a value block of its own, made when the
    row's probabilities are known; `i_kept` brings the ids. And the keys of a flat row are fetched again, into the part
    of the key buffer behind the ring, for one row at a time: they are used as they come, so four groups of space are
    enough, and no ring can block them.

    Blocks of the key and query rings are used in order. A job's rows may finish out of order only in generation; so
    only value blocks may be used in another order than that of their allocation.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, the jobs in flight, and how many have been started, modulo twice the slots; job n has slot
        n mod slots, and its record stands until all of its rows have left
    live_write : in, `enable`, `slot`, `row`, `ids`: a row of a job's live list, before the job counts as started
    i_members : stream of `members_request`: rows of a bitmap or a saved state for the query ring; o_members : stream of
        the block's entry and base
    i_kept : stream of `kept_ids`; o_kept : stream of entries, the value block of each pruned row, in order
    i_again : stream of `row_header`, a flat row; o_again : stream of `again_segment`, when its keys have begun to come
    again_read, again_done : in, a group of that row's keys has been read; all of its keys have
    again_arrived : out, how many groups of that row's keys have arrived
    o_query, o_key : streams of entry and base of the next block; o_value : stream of entries
    o_allocate, i_block, o_free : arrays of streams to and from the query, key and value ring
    uses : in, array of `valid` and `entry`: a query, key or value block has been used once
    arrived_query, arrived_key, arrived_value : out, for each block how many of its row groups are there
    value_bases : out, where each value block begins in its ring
    o : stream of `row_group`, to the fetch unit; completed : in, its count of completed row groups
    chunk : out, `valid`, `entry`, `ids`: the token ids of a query block
    sectors : out, array of five: sectors asked for in this cycle, by class

    Source: SpAtten (HPCA 2021) section IV-B; docs/architecture.md has the order and why it keeps channels busy.
    """

    def __init__(self, *, config: Config, sequence_bits: int = 9) -> None:
        self.config = config
        self.sequence_bits = sequence_bits
        lanes = config.topk_lanes
        self.jobs = config.jobs_in_flight
        self.slot = slot_layout(config)
        self.slot_bits = max(1, ceil_log2(self.jobs))
        self.ring_sectors = (query_ring_sectors(config), key_ring_sectors(config), value_ring_sectors(config))
        self.place_bits = (max(*self.ring_sectors, self.ring_sectors[KEY] + lsb_sectors(config)) - 1).bit_length()
        self.id_bits = max(1, ceil_log2(config.tokens_max))
        self.live_rows = -(-config.tokens_max // lanes)
        self.groups_max = self.live_rows
        ids = data.ArrayLayout(unsigned(self.id_bits), lanes)
        entry = entry_shape(BLOCKS)
        event = data.StructLayout({"valid": 1, "entry": entry})
        grants = [granted_block(sectors=sectors, entries=BLOCKS) for sectors in self.ring_sectors]
        largest = max(self.ring_sectors)
        group = row_group(rows=lanes, id_bits=self.id_bits, sector_bits=config.sector_bits, place_bits=self.place_bits)
        live_write = data.StructLayout(
            {"enable": 1, "slot": unsigned(self.slot_bits), "row": range(max(2, self.live_rows)), "ids": ids}
        )
        groups = range(self.groups_max + 1)
        self.group_sectors = range(SECTORS_MAX * lanes + 1)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(self.slot, self.jobs)),
                "started": In(range(2 * self.jobs)),
                "live_write": In(live_write),
                "i_members": In(stream.Signature(members_request(config))),
                "o_members": Out(stream.Signature(grants[QUERY])),
                "i_kept": In(stream.Signature(kept_ids(config))),
                "o_kept": Out(stream.Signature(entry)),
                "i_again": In(stream.Signature(row_header(KEPT_SLOTS, row_layout(config)))),
                "o_again": Out(stream.Signature(again_segment(config))),
                "again_read": In(1),
                "again_done": In(1),
                "again_arrived": Out(groups),
                "o_query": Out(stream.Signature(grants[QUERY])),
                "o_key": Out(stream.Signature(grants[KEY])),
                "o_value": Out(stream.Signature(entry)),
                "o_allocate": Out(stream.Signature(range(largest + 1))).array(3),
                "i_block": In(stream.Signature(range(largest))).array(3),
                "o_free": Out(stream.Signature(range(largest + 1))).array(3),
                "uses": In(event).array(3),
                "arrived_query": Out(data.ArrayLayout(range(2), BLOCKS)),
                "arrived_key": Out(data.ArrayLayout(groups, BLOCKS)),
                "arrived_value": Out(data.ArrayLayout(groups, BLOCKS)),
                "value_bases": Out(data.ArrayLayout(range(self.ring_sectors[VALUE]), BLOCKS)),
                "o": Out(stream.Signature(group)),
                "completed": In(sequence_bits),
                "chunk": Out(data.StructLayout({"valid": 1, "entry": entry, "ids": ids})),
                "sectors": Out(data.ArrayLayout(self.group_sectors, 5)),
            }
        )

    # -- The circuit --------------------------------------------------------------------------------------------------

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        uses_max = 2 * config.tokens_max
        tables = []
        for ring, name in enumerate(("query", "key", "value")):
            table = BlockTable(
                sectors=self.ring_sectors[ring],
                entries=BLOCKS,
                uses_max=uses_max if ring == VALUE else 1,
                groups_max=1 if ring == QUERY else self.groups_max,
            )
            m.submodules[f"{name}_blocks"] = table
            m.d.comb += [
                self.o_allocate[ring].valid.eq(table.o_allocate.valid),
                self.o_allocate[ring].payload.eq(table.o_allocate.payload),
                table.o_allocate.ready.eq(self.o_allocate[ring].ready),
                table.i_block.valid.eq(self.i_block[ring].valid),
                table.i_block.payload.eq(self.i_block[ring].payload),
                self.i_block[ring].ready.eq(table.i_block.ready),
                self.o_free[ring].valid.eq(table.o_free.valid),
                self.o_free[ring].payload.eq(table.o_free.payload),
                table.o_free.ready.eq(self.o_free[ring].ready),
                table.uses.eq(self.uses[ring]),
            ]
            tables.append(table)
        m.d.comb += [
            self.arrived_query.eq(tables[QUERY].arrived),
            self.arrived_key.eq(tables[KEY].arrived),
            self.arrived_value.eq(tables[VALUE].arrived),
            self.value_bases.eq(tables[VALUE].bases),
        ]
        issuers = []
        for ring, name in enumerate(("query", "key", "value")):
            m.submodules[f"{name}_issuer"] = issuer = GroupIssuer(config=config, ring=ring)
            issuers.append(issuer)
        kept_taken = issuers[VALUE].kept_taken
        m.d.comb += [
            issuers[VALUE].kept_valid.eq(self.i_kept.valid),
            issuers[VALUE].kept_count.eq(self.i_kept.payload.count),
        ]
        m.submodules.query_walker = queries = QueryWalker(config=config)
        m.submodules.key_walker = keys = KeyWalker(config=config)
        m.submodules.value_walker = values = ValueWalker(config=config)
        for table, walker, issuer in zip(tables, (queries, keys, values), issuers, strict=True):
            m.d.comb += [walker.slots.eq(self.slots), walker.started.eq(self.started)]
            wiring.connect(m, walker.o_request, table.i)
            wiring.connect(m, table.o, walker.i_grant)
            wiring.connect(m, walker.o, issuer.i)
        wiring.connect(m, wiring.flipped(self.i_members), queries.i_members)
        wiring.connect(m, queries.o_members, wiring.flipped(self.o_members))
        wiring.connect(m, queries.o_query, wiring.flipped(self.o_query))
        wiring.connect(m, keys.o_key, wiring.flipped(self.o_key))
        wiring.connect(m, values.o_value, wiring.flipped(self.o_value))
        wiring.connect(m, values.o_kept, wiring.flipped(self.o_kept))
        m.d.comb += [
            values.kept_valid.eq(self.i_kept.valid),
            values.kept.eq(self.i_kept.payload),
            values.kept_taken.eq(kept_taken),
            self.i_kept.ready.eq(kept_taken),
        ]
        m.submodules.arbiter = arbiter = BidArbiter(config=config)
        m.submodules.emitter = emitter = GroupEmitter(config=config)
        m.submodules.ledger = ledger = ArrivalLedger(config=config, sequence_bits=self.sequence_bits)
        m.submodules.refetch = refetch = Refetch(config=config)
        wiring.connect(m, wiring.flipped(self.i_again), refetch.i)
        wiring.connect(m, refetch.o, wiring.flipped(self.o_again))
        for ring, issuer in enumerate(issuers):
            m.d.comb += [arbiter.bids[ring].eq(issuer.bid), issuer.wins.eq(arbiter.wins[ring])]
            m.d.comb += tables[ring].arrives.eq(ledger.arrives[ring])
        m.d.comb += [
            refetch.slots.eq(self.slots),
            refetch.read.eq(self.again_read),
            refetch.done.eq(self.again_done),
            refetch.arrives.eq(ledger.refetch_arrives),
            refetch.wins.eq(arbiter.refetch_wins),
            arbiter.refetch_bid.eq(refetch.bid),
            self.again_arrived.eq(refetch.arrived),
            arbiter.takes.eq(emitter.takes),
            emitter.live_write.eq(self.live_write),
            emitter.valid.eq(arbiter.valid),
            emitter.request.eq(arbiter.request),
            emitter.kept.eq(self.i_kept.payload.ids),
            ledger.completed.eq(self.completed),
            self.chunk.eq(ledger.chunk),
            self.sectors.eq(ledger.sectors),
        ]
        wiring.connect(m, emitter.o, ledger.i)
        wiring.connect(m, ledger.o, wiring.flipped(self.o))
        return m
