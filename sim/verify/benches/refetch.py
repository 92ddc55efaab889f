"""Testbench of hw/control/plan/refetch.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.refetch import Refetch
from spatten.hw.datapath.progressive import Kind
from spatten.sim.verify.benches.planner_jobs import (
    JobFeed,
    Queue,
    Record,
    flat_requests,
    flat_room,
    live_heads,
)
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.row_format import key_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
REFETCH = Refetch(config=CONFIG)
JOBS = CONFIG.jobs_in_flight
LANES = CONFIG.topk_lanes
ANY_ROW = Anything(REFETCH.i.payload.shape())


class Rows(Twin):
    """Flat rows of jobs; their groups win, arrive and are read late by chance.

    `requests` has all bids of the row that is worked on, `begins_in` the cycles until the first may stand.
    """

    goals = {"rows": 60, "jobs": 10, "no room": 30, "lost": 30, "several rows wait": 20, "offered early": 5}
    goals |= {"wrapped": 5, "LSBs": 5, "both planes": 5, "queue full": 1, "late offer": 5}

    def reset(self) -> None:
        self.feed = JobFeed(self.source, CONFIG, rate=0.2, prunes=False)
        self.pace = 0.9
        """Share of the cycles in which a group arrives, or is read, if one can."""
        self.offered: dict[str, Any] | None = None
        self.queue = Queue(STASH_SLOTS)
        self.rows_left: dict[int, int] = {}
        """By job its rows that have not been read."""
        self.to_come: deque[int] = deque()
        """The jobs of rows that are still to come."""
        self.row: dict[str, Any] | None = None
        self.requests: deque[dict[str, Any]] = deque()
        self.idle()

    def idle(self) -> None:
        """Nothing is known of the next row."""
        self.row = None
        self.begins_in = 0
        self.issued = self.arrived = self.read = self.underway = 0
        """Groups of the row: asked for, there, read, and those asked for that are not there."""
        self.may_bid = self.is_offered = self.shows = self.reads = self.ends = False

    @property
    def runs(self) -> bool:
        """Bids may stand, or have all won."""
        return self.row is not None and not self.begins_in

    def job(self) -> Record:
        assert self.row is not None
        number = next(n for n in range(self.feed.ended, self.feed.count) if n % JOBS == self.row["header"]["slot"])
        return self.feed.record(number)

    def inputs(self) -> Values:
        source = self.source
        before = self.feed.count
        given: dict[str, Any] = self.feed.inputs()
        for number in range(before, self.feed.count):
            self.rows_left[number] = source.choice([1, 1, 1, 2, 12])
            self.to_come.extend([number] * self.rows_left[number])
        if self.offered is None and self.to_come and source.random() < 0.3:
            number = self.to_come.popleft()
            self.offered = ANY_ROW(source)
            self.offered["kind"] = source.choice([Kind.SINGLE, Kind.SECOND])
            self.offered["header"] |= {
                "slot": number % JOBS,
                "head": source.choice(live_heads(self.feed.record(number))),
            }
        if source.random() < 0.02:
            self.pace = source.choice([0.2, 0.9])
        self.bids = self.runs and bool(self.requests) and self.may_bid
        self.wins = self.bids and source.random() < 0.7
        self.arrives = self.underway > 0 and source.random() < self.pace
        # The row is read behind its offer, a group at the earliest in the cycle after its arrival.
        self.reading = self.reads and self.read < self.arrived and source.random() < self.pace
        self.done = self.reading and self.read + 1 == self.groups
        self.ready = source.random() < 0.4
        return {
            **given,
            "i": {"valid": self.offered is not None, "payload": self.offered},
            "o": {"ready": self.ready},
            "wins": self.wins,
            "arrives": self.arrives,
            "read": self.reading,
            "done": self.done,
        }

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {
            "i": {"ready": self.queue.is_ready},
            "o": {"valid": self.shows},
            "bid": {"valid": self.bids},
        }
        if self.bids:
            wanted["bid"]["request"] = self.requests[0]
        if self.runs:
            wanted["arrived"] = self.arrived
        if self.shows:
            row, job = self.row, self.job()
            assert row is not None
            room, sectors = flat_room(CONFIG, job, row["kind"])
            wanted["o"]["payload"] = {
                "row": row,
                "limit": key_ring_sectors(CONFIG) + room * sectors,
                "keys": job["live"],
            }
        return wanted

    def clock(self) -> None:
        takes_row = self.row is None and self.queue.first is not None
        self.saw("several rows wait", len(self.queue) > 1)
        self.saw("queue full", not self.queue.is_ready)
        self.saw("lost", self.bids and not self.wins)
        self.saw("late offer", self.shows and not self.ready)
        self.saw("no room", self.runs and self.requests and not self.bids and self.arrived == self.issued)
        if self.runs:
            self._row_clock()
        elif self.begins_in:
            self.begins_in -= 1
        elif takes_row:
            self._begin(self.queue.first)
        was_ready = self.queue.is_ready
        self.queue.clock(pops=takes_row, pushed=self.offered if was_ready else None)
        if was_ready:
            self.offered = None

    def _begin(self, row: dict[str, Any]) -> None:
        self.row = row
        self.begins_in = 4
        job = self.job()
        self.requests.extend(flat_requests(CONFIG, job, row["kind"], row["header"]["head"], slot=row["header"]["slot"]))
        self.groups = -(-job["live"] // LANES)
        self.room, _ = flat_room(CONFIG, job, row["kind"])
        self.may_bid = True
        self.saw("rows")
        self.saw("wrapped", self.groups > self.room)
        self.saw("LSBs" if row["kind"] == Kind.SECOND else "both planes")

    def _row_clock(self) -> None:
        # What was asked for or read in this cycle counts in the one after the next.
        has_room = self.issued - self.read < self.room
        is_enough = self.arrived == self.groups or self.arrived >= self.room // 2
        if self.shows and self.ready:
            self.shows, self.reads = False, True
        if is_enough and not self.is_offered:
            self.shows = self.is_offered = True
            self.saw("offered early", self.arrived < self.groups)
        if self.arrives:
            self.arrived += 1
            self.underway -= 1
        self.may_bid = has_room and not self.wins
        if self.wins and self.requests.popleft()["counts"]:
            self.issued += 1
            self.underway += 1
        self.read += self.reading
        if self.done:
            assert self.row is not None
            number = next(n for n in self.rows_left if n % JOBS == self.row["header"]["slot"] and n >= self.feed.ended)
            self.rows_left[number] -= 1
            self.idle()
            while self.feed.ended < self.feed.count and not self.rows_left[self.feed.ended]:
                self.saw("jobs")
                self.feed.end()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_keys_of_flat_rows_come_again(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, REFETCH, Rows, seed=seed, cycles=PARAMETERS["cycles"])
