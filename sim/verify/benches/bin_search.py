"""Testbench of hw/datapath/select/bin_search.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.bin_search import BinSearch
from spatten.hw.datapath.select.select_layouts import lowest_free_bits
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
N_MAX: int = PARAMETERS["n_max"]
DIGIT_BITS: int = PARAMETERS["digit_bits"]
SEARCH = BinSearch(width=WIDTH, n_max=N_MAX, digit_bits=DIGIT_BITS)
HAS_ONE_PASS = SEARCH.passes_max == 1
MOST_FREE = max(lowest_free_bits(WIDTH, DIGIT_BITS)) + DIGIT_BITS


@dataclass
class Row:
    """A row in work: the wanted value, how many of its low bits the pass still finds free, and its rank."""

    value: int
    free: int
    rank: int

    @property
    def low(self) -> int:
        return max(self.free - DIGIT_BITS, 0)

    @property
    def bin(self) -> dict[str, int]:
        return {
            "value": self.value >> self.free << self.free,
            "known": (1 << WIDTH) - (1 << self.free),
            "low": self.low,
        }

    @property
    def digit(self) -> int:
        return (self.value >> self.low) % (1 << DIGIT_BITS)


def any_row(twin: Twin) -> Row:
    free = twin.source.randint(0, MOST_FREE)
    return Row(twin.source.getrandbits(WIDTH), free, twin.source.choice([0, N_MAX - 1, twin.source.randrange(N_MAX)]))


class ManyPasses(Twin):
    """The value is known from the start, so that every digit of it, and when it ends, can be foretold."""

    goals = {"finishes by its last digit": 50, "finishes as equals": 50, "narrows": 100, "three passes": 10, "soon": 20}

    def reset(self) -> None:
        self.now = 0
        self.row: Row | None = None
        self.idle = 1

    def inputs(self) -> Values:
        self.starts = self.row is None and self.idle == 0
        self.done = False
        ports: dict[str, Any] = {}
        if self.starts:
            self.row = any_row(self)
            self.passes = 1
            self.age = 0
            self.bin_at, self.rank_at = 2, 2
            self.done_at = self.source.choice([5, 6, self.source.randint(5, 20)])
            self.saw("soon", self.done_at == 5)
        elif self.row is not None:
            if self.age == 1 and self.passes == 1:
                ports |= {"first_bin": self.row.bin, "first_rank": self.row.rank}
            self.done = self.age == self.done_at
        if self.done:
            assert self.row is not None
            self.are_equal = self.source.random() < 0.3
            self.next_rank = self.source.randint(0, self.row.rank)
            ports |= {"digit": self.row.digit, "digit_rank": self.next_rank, "are_equal": self.are_equal}
            if self.are_equal:
                ports["equal_value"] = self.row.value
        return {"starts": self.starts, "done": self.done, **ports}

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"finishes": 0}
        if self.row is None:
            return wanted
        if self.age >= self.bin_at:
            wanted["bin"] = self.row.bin
        if self.age >= self.rank_at:
            wanted["rank"] = self.row.rank
        self.finishes = self.done and (self.row.low == 0 or self.are_equal)
        if self.finishes:
            rank = self.next_rank if self.row.low == 0 else self.row.rank
            wanted |= {"finishes": 1, "threshold": self.row.value, "last_rank": rank}
            self.saw("finishes by its last digit" if self.row.low == 0 else "finishes as equals")
        return wanted

    def clock(self) -> None:
        self.now += 1
        if self.row is None:
            self.idle -= 1
            return
        self.age += 1
        if self.done and self.finishes:
            self.saw("three passes", self.passes >= 3)
            self.row = None
            self.idle = self.source.choice([0, 1, 5])
        elif self.done:
            self.saw("narrows")
            self.row = Row(self.row.value, self.row.low, self.next_rank)
            self.passes += 1
            self.age = 0
            self.bin_at, self.rank_at = 1, 0
            self.done_at = self.source.choice([5, self.source.randint(5, 20)])


class OnePass(Twin):
    """Rows that overlap: each is known from its start, and its result comes when its last beat is counted."""

    goals = {"back to back": 50, "one beat": 50, "three rows": 20}

    def reset(self) -> None:
        self.now = 0
        self.free_at = 1
        self.rows: list[tuple[int, int, Row]] = []
        """Those that are inside: the cycle in which a row starts, its beats, and the row."""

    def inputs(self) -> Values:
        ports: dict[str, Any] = {"starts": 0, "done": 0}
        if self.now >= self.free_at and self.source.random() < 0.8:
            beats = self.source.choice([1, 1, 2, 5])
            self.saw("back to back", self.now == self.free_at and self.rows)
            self.saw("one beat", beats == 1)
            self.rows.append((self.now, beats, any_row(self)))
            self.free_at = self.now + beats
            ports["starts"] = 1
        self.result: Row | None = None
        for start, beats, row in self.rows:
            if self.now == start + 1:
                ports |= {"first_bin": row.bin, "first_rank": row.rank}
            if self.now == start + beats + 4:
                self.result = row
                self.digit_rank = self.source.randint(0, row.rank)
                ports |= {"done": 1, "digit": row.digit, "digit_rank": self.digit_rank}
        self.saw("three rows", len(self.rows) >= 3)
        return ports

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"finishes": self.result is not None}
        for start, beats, row in self.rows:
            if start + 2 <= self.now < start + 2 + beats:
                wanted["bin"] = row.bin
            if self.now == start + 3:
                wanted["rank"] = row.rank
        if self.result is not None:
            wanted |= {"threshold": self.result.value, "last_rank": self.digit_rank}
        return wanted

    def clock(self) -> None:
        self.now += 1
        self.rows = [each for each in self.rows if self.now <= each[0] + each[1] + 4]


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_bin_leads_to_the_value(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, SEARCH, OnePass if HAS_ONE_PASS else ManyPasses, seed=seed, cycles=PARAMETERS["cycles"])
