"""Fetches the keys of flat rows again, for one row at a time."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import PASSES_MAX
from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.plan_layouts import (
    SECTOR_CLASSES,
    again_row,
    flat_row,
    group_advance,
    group_bid,
    groups_max,
    live_row_shape,
    place_bits,
    plane_fetch,
    sectors_shape,
)
from spatten.hw.control.plan.refetch_plan import RefetchPlan
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import choose
from spatten.hw.memory.address_generator import KEY, LINEAR
from spatten.spec.config import Config
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.row_format import SECTORS_MAX, key_ring_sectors, lsb_sectors

__all__ = ["Refetch"]


class Refetch(wiring.Component):
    """Bids for the keys of flat rows, group by group, which go to the refetch area behind the key ring (`hw.control`).

    For each row the area is a small ring of as many row groups of keys as it has room for at the row's stride; the next
    group is asked for when the oldest has been read. So nothing but the readers can make a row wait, and none of the
    rings. The row is offered on `o` when all of its groups are there, or half as many as there is room for: then
    it is mostly read without a pause, since keys come faster than they are used; the key reader waits for those that
    come late. The next row begins when this one has been read.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots : in, as of `hw.control.planner.Planner`
    i : stream of `flat_row`, through a queue for as many as there are stash slots, of which each flat row has one
    o : stream of `again_row`, once for each row
    bid : out, `group_bid`; it stands until it wins; without `urgent` and `next_order`
    wins : in, the bid is taken; only while it is valid
    arrives : in, another group has arrived
    arrived : out, how many groups of this row have arrived; 0 again some cycles before the row is offered
    read, done : in, a group of this row has been read; all of them have

    Latency: 7 cycles from a row to its first bid; 2 from a group's arrival to the offer that it allows, and from `read`
    to the bid that it makes room for. Throughput: a bid every 2 cycles.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self.first_sector = key_ring_sectors(config)
        self.area_sectors = lsb_sectors(config)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "i": In(stream.Signature(flat_row(config))),
                "o": Out(stream.Signature(again_row(config))),
                "bid": Out(group_bid(config)),
                "wins": In(1),
                "arrives": In(1),
                "arrived": Out(range(groups_max(config) + 1)),
                "read": In(1),
                "done": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.plan = self._plan = plan = RefetchPlan(config=config)
        m.submodules.queue = self._queue = queue = Fifo(shape=flat_row(config), depth=STASH_SLOTS)
        wiring.connect(m, wiring.flipped(self.i), queue.i)
        groups = range(groups_max(config) + 1)
        row = Signal(flat_row(config), reset_less=True)
        self._row = row
        m.d.comb += [plan.slots.eq(self.slots), plan.row.eq(row)]

        # What is to be asked for next: the keys from this group on and those of this group, its live row, its place,
        # and the fetches that it still needs. How many groups have been asked for and read, of how many.
        self._keys_left = Signal(range(config.tokens_max + 1), reset_less=True)
        self._count = Signal(range(config.topk_lanes + 1))
        self._live_line = Signal(live_row_shape(config), reset_less=True)
        self._place = Signal(place_bits(config), reset_less=True)
        self._passes_left = Signal(PASSES_MAX, reset_less=True)
        self._last_pass = Signal()
        self._issued = Signal(groups, reset_less=True)
        self._read = Signal(groups, reset_less=True)
        self._total = Signal(groups, reset_less=True)
        # Of the row's stride: sectors from one group to the next, and how many groups there is room for, up to `limit`.
        self._advance = Signal(sectors_shape(config), reset_less=True)
        self._limit = Signal(range(self.first_sector + self.area_sectors + 1), reset_less=True)
        self._groups_room = Signal(range(self.area_sectors + 1), reset_less=True)
        self._has_room = Signal(reset_less=True)
        self._offered = Signal()
        with m.If(self.read):
            m.d.sync += self._read.eq(self._read + 1)
        # A cycle old, except that it is cleared by a bid that wins.
        m.d.sync += self._has_room.eq(self._issued - self._read < self._groups_room)

        self._bid(m)
        comes = Signal()
        self._offer(m, comes)
        self._walk(m, comes)
        with m.If(self.arrives):
            m.d.sync += self.arrived.eq(self.arrived + 1)
        if asserts(platform):
            self._check_use(m, comes)
        return m

    def _check_use(self, m: Module, comes: Signal) -> None:
        """Asserts that groups have places of their own, and arrive and are read in order."""
        checks = (
            (self._issued - self._read <= self._groups_room, "a group goes where one lies that has not been read"),
            (~self.wins | self.bid.valid, "a bid wins that does not stand"),
            (~self.arrives | (self.arrived < self._issued), "a group arrives that has not been asked for"),
            (~self.read | (self._read < self.arrived), "a group is read that has not arrived"),
            (
                ~self.done | (self._read + self.read == self._total),
                "a row ends before all of its groups have been read",
            ),
        )
        for holds, what in checks:
            m.d.sync += Assert(ResetSignal() | ~comes | holds, f"{what}\n")

    def _bid(self, m: Module) -> None:
        """Sets the request: the next of the fetches that are left of this group."""
        plan, request = self._plan, self.bid.request
        lanes = self.config.topk_lanes
        passes_left = self._passes_left
        fetch = Signal(plane_fetch(self.config))
        pick = Signal(range(PASSES_MAX))
        most, others = SECTOR_CLASSES[KEY]
        m.d.comb += [
            pick.eq(Mux(passes_left[0], 0, Mux(passes_left[1], 1, 2))),
            Value.cast(fetch).eq(choose([Value.cast(plan.fetches[n]) for n in range(PASSES_MAX)], pick)),
            self._last_pass.eq(~(passes_left & (passes_left - 1)).any()),
            self._count.eq(Mux(self._keys_left < lanes, self._keys_left, lanes)),
            request.slot.eq(self._row.header.slot),
            request.row.eq(self._live_line),
            request.count.eq(self._count),
            request.dense.eq(plan.job.dense),
            request.ring.eq(LINEAR),
            request.sector.eq(fetch.sector),
            request.pitch.eq(fetch.pitch),
            request.sectors.eq(fetch.sectors),
            request.place.eq(self._place + fetch.place),
            request.stride.eq(plan.stride),
            request.sector_class.eq(Mux(fetch.other, others.value, most.value)),
            request.counts.eq(self._last_pass),
        ]

    def _offer(self, m: Module, comes: Signal) -> None:
        """Offers the row that `comes` when enough of its keys are there to go on without a pause."""
        offers = Signal()
        segment = self.o.payload
        m.d.comb += [
            self.o.valid.eq(offers),
            segment.row.eq(self._row),
            segment.limit.eq(self._limit),
            segment.keys.eq(self._plan.job.live),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += offers.eq(0)
        begins = (self.arrived == self._total) | (self.arrived >= self._groups_room >> 1)
        with m.If(comes & begins & ~self._offered):
            m.d.sync += [offers.eq(1), self._offered.eq(1)]

    def _walk(self, m: Module, comes: Signal) -> None:
        """Walks the row's groups; `comes` while they are asked for and read.

        The job's record is there in LOAD, the format in ADDRESS, the fetches in BEGIN.
        """
        queue, plan = self._queue, self._plan
        with m.FSM(name="walker") as walker:
            m.d.comb += comes.eq(walker.ongoing("FETCH") | walker.ongoing("WAIT"))
            with m.State("IDLE"), m.If(queue.o.valid):
                m.d.comb += queue.o.ready.eq(1)
                m.d.sync += self._row.eq(queue.o.payload)
                m.next = "READ"
            with m.State("READ"):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                self._begin_row(m)
                m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [self._passes_left.eq(plan.needed), self._has_room.eq(1)]
                m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += self.bid.valid.eq(self._has_room)
                with m.If(self.wins):
                    m.d.sync += [
                        self._passes_left.eq(self._passes_left & (self._passes_left - 1)),
                        self._has_room.eq(0),
                    ]
                    with m.If(self._last_pass):
                        self._end_group(m)
                        with m.If(self._keys_left == self._count):
                            m.next = "WAIT"
            with m.State("WAIT"), m.If(self.done):
                m.next = "IDLE"
            m.d.comb += plan.loads.eq(walker.ongoing("LOAD"))

    def _begin_row(self, m: Module) -> None:
        """Sets the registers to a row's begin."""
        lanes = self.config.topk_lanes
        group_rows = group_advance(self.config, KEY)
        live = self._plan.job.live
        m.d.sync += [
            self._advance.eq(self._plan.stride * group_rows),
            self.arrived.eq(0),
            self._offered.eq(0),
            self._issued.eq(0),
            self._read.eq(0),
            self._total.eq((live + (lanes - 1)) >> ceil_log2(lanes)),
            self._keys_left.eq(live),
            self._live_line.eq(0),
            self._place.eq(self.first_sector),
        ]
        with m.Switch(self._plan.stride):
            for stride in range(1, SECTORS_MAX + 1):
                sectors = stride * group_rows
                room = self.area_sectors // sectors
                with m.Case(stride):
                    m.d.sync += [self._groups_room.eq(room), self._limit.eq(self.first_sector + room * sectors)]

    def _end_group(self, m: Module) -> None:
        """Goes on to the next group, whose place is the first one again behind the last one."""
        place_after = self._place + self._advance
        m.d.sync += [
            self._passes_left.eq(self._plan.needed),
            self._issued.eq(self._issued + 1),
            self._keys_left.eq(self._keys_left - self._count),
            self._live_line.eq(self._live_line + 1),
            self._place.eq(Mux(place_after == self._limit, self.first_sector, place_after)),
        ]
