"""What to fetch and when: blocks of queries, keys and values into their rings, ahead of the rows that need them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.arrival_ledger import ArrivalLedger
from spatten.hw.control.bid_arbiter import BidArbiter
from spatten.hw.control.format_tables import PASSES_MAX, block_table, plane_table
from spatten.hw.control.group_emitter import GroupEmitter
from spatten.hw.control.group_issuer import GroupIssuer
from spatten.hw.control.job_slots import by_slot, row_layout, slot_layout
from spatten.hw.control.key_walker import KeyWalker
from spatten.hw.control.plan_layouts import (
    SectorClass,
    again_segment,
    group_request,
    kept_ids,
    members_request,
    plane_fetch,
)
from spatten.hw.control.query_walker import QueryWalker
from spatten.hw.control.value_walker import ValueWalker
from spatten.hw.datapath.progressive import Kind, row_header
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import choose, product
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE, row_group
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
        again = self._again(m)
        for ring, issuer in enumerate(issuers):
            m.d.comb += [arbiter.bids[ring].eq(issuer.bid), issuer.wins.eq(arbiter.wins[ring])]
            m.d.comb += tables[ring].arrives.eq(ledger.arrives[ring])
        m.d.comb += [
            arbiter.refetch_bid.valid.eq(again["wants"]),
            arbiter.refetch_bid.request.eq(again["bid"]),
            again["wins"].eq(arbiter.refetch_wins),
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
        with m.If(ledger.refetch_arrives):
            m.d.sync += self.again_arrived.eq(self.again_arrived + 1)
        return m

    def _again(self, m: Module) -> dict[str, Any]:
        """Fetches the keys of flat rows, for one row at a time, into the part of the key buffer behind the ring."""
        config = self.config
        first_sector = self.ring_sectors[KEY]
        places = lsb_sectors(config)
        m.submodules.again = queue = Fifo(shape=self.i_again.payload.shape(), depth=8)
        wiring.connect(m, wiring.flipped(self.i_again), queue.i)
        row = Signal(self.i_again.payload.shape(), name="again_row", reset_less=True)
        job = Signal(self.slot, name="again_job", reset_less=True)
        m.d.sync += Value.cast(job).eq(by_slot(self.slots, row.header.slot))
        # Only the LSB plane is fetched, or both planes if the row's first scores were not kept.
        is_lsb = row.kind == Kind.SECOND
        entry = block_table(
            m,
            config,
            dim=job.head_dim,
            bits=Mux(is_lsb, 0, job.key_bits),
            joined=~is_lsb,
            name="again_block_entry",
        )
        form = Signal.like(entry, name="again_block", reset_less=True)
        pair = Signal(2, name="again_pair")
        head = row.header.head
        m.d.comb += pair.eq(Mux(form.paired, Mux(head[0], 2, 1), 1))
        layout = plane_fetch(self.config)
        msb_plane = plane_table(m, dim=job.head_dim, bits=job.key_bits, name="again_msb_plane")
        lsb_plane = plane_table(m, dim=job.head_dim, bits=Const(0, 3), name="again_lsb_plane")
        fetches = []
        needs = []
        for n in range(PASSES_MAX):
            one = form.fetch[n]
            fetch = Signal(layout, name=f"again_fetch{n}", reset_less=True)
            from_lsb = is_lsb | one.is_lsb
            plane = Mux(from_lsb, Value.cast(lsb_plane), Value.cast(msb_plane))
            group = Mux(plane[4], head >> 1, head)
            step = product(Mux(from_lsb, job.lsb_step, job.key_step), group)
            m.d.sync += [
                fetch.sector.eq(Mux(from_lsb, job.key_lsb, job.key) + step + one.first),
                fetch.pitch.eq(plane[:4]),
                fetch.sectors.eq(one.sectors),
                fetch.place.eq(one.place),
                fetch.other.eq(from_lsb),
            ]
            fetches.append(fetch)
            needs.append((n < form.passes) & (one.heads & pair).any())
        need = Signal(PASSES_MAX, name="again_need", reset_less=True)
        m.d.sync += need.eq(Cat(needs))

        advance = Signal(range(SECTORS_MAX * config.topk_lanes + 1), name="again_advance", reset_less=True)
        limit = Signal(range(first_sector + places + 1), name="again_limit", reset_less=True)
        groups_room = Signal(range(places + 1), name="again_groups_room", reset_less=True)
        fits = {}
        for stride in range(1, SECTORS_MAX + 1):
            group = stride * (config.topk_lanes // config.slices)
            fits[stride] = places // group
        left = Signal(range(config.tokens_max + 1), name="again_left", reset_less=True)
        live_row = Signal(range(max(2, self.live_rows)), name="again_live_row", reset_less=True)
        place = Signal(self.place_bits, name="again_place", reset_less=True)
        step_left = Signal(PASSES_MAX, name="again_steps", reset_less=True)
        issued = Signal(range(self.groups_max + 1), name="again_issued", reset_less=True)
        read = Signal(range(self.groups_max + 1), name="again_groups_read", reset_less=True)
        total = Signal(range(self.groups_max + 1), name="again_total", reset_less=True)
        room = Signal(name="again_room", reset_less=True)
        wins, fetching = Signal(name="again_wins"), Signal(name="again_fetches")
        bid = Signal(group_request(config), name="again_bid")
        lanes = config.topk_lanes
        count = Signal(range(lanes + 1), name="again_count")
        pick = Signal(range(PASSES_MAX), name="again_pick")
        last_pass = Signal(name="again_last_pass")
        chosen = Signal(layout, name="again_fetch_now")
        m.d.comb += [
            pick.eq(Mux(step_left[0], 0, Mux(step_left[1], 1, 2))),
            Value.cast(chosen).eq(choose([Value.cast(fetch) for fetch in fetches], pick)),
            last_pass.eq(~(step_left & (step_left - 1)).any()),
            count.eq(Mux(left < lanes, left, lanes)),
            bid.slot.eq(row.header.slot),
            bid.row.eq(live_row),
            bid.count.eq(count),
            bid.dense.eq(job.dense),
            bid.ring.eq(LINEAR),
            bid.sector.eq(chosen.sector),
            bid.pitch.eq(chosen.pitch),
            bid.sectors.eq(chosen.sectors),
            bid.place.eq(place + chosen.place),
            bid.stride.eq(form.stride),
            bid.sector_class.eq(Mux(chosen.other, SectorClass.LSB.value, SectorClass.KEY.value)),
            bid.counts.eq(last_pass),
        ]
        with m.If(self.again_read):
            m.d.sync += read.eq(read + 1)
        # `room` is a cycle old: one group is kept free.
        m.d.sync += room.eq(issued - read + 1 < groups_room)
        offers, offered = Signal(name="again_offers"), Signal(name="again_offered")
        segment = self.o_again.payload
        m.d.comb += [
            self.o_again.valid.eq(offers),
            segment.row.eq(row),
            segment.limit.eq(limit),
            segment.keys.eq(job.live),
        ]
        with m.If(self.o_again.valid & self.o_again.ready):
            m.d.sync += offers.eq(0)
        # A row begins when enough of its keys are there to go on without a pause: keys come faster than they are used.
        begins = (self.again_arrived == total) | (self.again_arrived >= groups_room >> 1)
        with m.If((fetching_or_waiting := Signal(name="again_comes")) & begins & ~offered):
            m.d.sync += [offers.eq(1), offered.eq(1)]
        with m.FSM(name="again_walker") as walker:
            m.d.comb += fetching_or_waiting.eq(walker.ongoing("FETCH") | walker.ongoing("WAIT"))
            with m.State("IDLE"), m.If(queue.o.valid):
                m.d.comb += queue.o.ready.eq(1)
                m.d.sync += row.eq(queue.o.payload)
                m.next = "READ"
            with m.State("READ"):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += form.eq(entry)
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.sync += [
                    advance.eq(form.stride * (config.topk_lanes // config.slices)),
                    self.again_arrived.eq(0),
                    offered.eq(0),
                    issued.eq(0),
                    read.eq(0),
                    total.eq((job.live + (lanes - 1)) >> ceil_log2(lanes)),
                    left.eq(job.live),
                    live_row.eq(0),
                    place.eq(first_sector),
                ]
                with m.Switch(form.stride):
                    for stride, groups in fits.items():
                        group = stride * (lanes // config.slices)
                        with m.Case(stride):
                            m.d.sync += [groups_room.eq(groups), limit.eq(first_sector + groups * group)]
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [step_left.eq(need), room.eq(1)]
                m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += fetching.eq(room)
                with m.If(wins):
                    m.d.sync += [step_left.eq(step_left & (step_left - 1)), room.eq(0)]
                    with m.If(last_pass):
                        m.d.sync += [
                            step_left.eq(need),
                            issued.eq(issued + 1),
                            left.eq(left - count),
                            live_row.eq(live_row + 1),
                            place.eq(Mux(place + advance == limit, first_sector, place + advance)),
                        ]
                        with m.If(left == count):
                            m.next = "WAIT"
            with m.State("WAIT"), m.If(self.again_done):
                m.next = "IDLE"
        return {"wants": fetching, "urgent": None, "order": None, "bid": bid, "wins": wins}
