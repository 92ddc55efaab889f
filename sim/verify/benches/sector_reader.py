"""Testbench of hw/control/sector_reader.py; tests/hw/control/test_sector_reader.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config
from spatten.spec.row_format import query_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SEEDS: list[int] = PARAMETERS["seeds"]
READER = SectorReader(config=CONFIG)
SIZE = query_ring_sectors(CONFIG)
DELAY = 2
"""Cycles from the read of a window to the window, in the ring buffer."""


def shape_of(port: str) -> Any:
    return getattr(READER, port).payload.shape()


class Ring:
    """The query ring: blocks arrive some time after they were granted, windows come DELAY cycles after their read."""

    def __init__(self, bench: Bench, grants: StreamDriver, reads: StreamMonitor, rows: StreamMonitor) -> None:
        self._random = bench.random("ring")
        self._arrived = bench.signal("arrived")
        self._window = [bench.signal(name) for name in ("i_window__valid", "i_window__payload")]
        self._layout = Payload(READER.i_window.payload.shape())
        self._grants, self._reads, self._rows = grants, reads, rows
        self.blocks: list[dict[str, int]] = []
        self.wanted: list[dict[str, int]] = []
        self._on_its_way: deque[tuple[int, int]] = deque()
        self._arrivals: list[tuple[int, int]] = []
        self.there = 0
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._seen_grants = self._seen_reads = 0
        self._cycle = 0
        self.there = 0
        self._on_its_way.clear()
        self._arrivals.clear()

    def drive(self) -> None:
        for when, entry in self._arrivals:
            if when == self._cycle:
                self.there |= 1 << entry
        self._arrived.value = self.there
        comes = bool(self._on_its_way) and self._on_its_way[0][0] == self._cycle
        self._window[0].value = int(comes)
        if comes:
            self._window[1].value = self._on_its_way.popleft()[1]

    def sample(self, cycle: int) -> None:
        self._cycle = cycle + 1
        while self._seen_grants < self._grants.count:
            entry = self.blocks[self._seen_grants]["entry"]
            # What is left of an earlier block means nothing.
            self.there &= ~(1 << entry)
            self._arrivals.append((cycle + self._random.randint(1, 20), entry))
            self._seen_grants += 1
        while self._seen_reads < self._reads.count:
            read = self.wanted[self._seen_reads]
            entry = read["entry"]
            assert self.there >> entry & 1, f"block {entry} is read before it is there, cycle {cycle}"
            words = [self._random.getrandbits(256) for _ in range(BANKS)]
            first = read["sector"] % BANKS
            window = {"words": [words], "first": first, "header": 0}
            self._on_its_way.append((cycle + DELAY, self._layout.pack(window)))
            self._rows.expect([sum(words[(n + first) % BANKS] << 256 * n for n in range(BANKS))])
            self._seen_reads += 1


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_are_read_one_by_one(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = np.random.default_rng(seed)
    requests = StreamDriver(bench, "i", shape_of("i"), idle=idle)
    asks = StreamMonitor(bench, "o_request", shape_of("o_request"), stall=stall)
    grants = StreamDriver(bench, "i_block", shape_of("i_block"), idle=idle)
    reads = StreamMonitor(bench, "o_read", shape_of("o_read"), stall=stall)
    rows = StreamMonitor(bench, "o", shape_of("o"), stall=stall)
    used = StreamMonitor(bench, "used", shape_of("used"), stall=stall)
    ring = Ring(bench, grants, reads, rows)
    await bench.reset()
    total = 0
    for number in range(40):
        sectors = int(source.integers(1, BANKS + 1))
        most = min(CONFIG.topk_lanes, SIZE // sectors)
        count = most if number == 0 else int(source.integers(1, most + 1))
        request = {
            "sector": int(source.integers(1 << CONFIG.sector_bits)) if number else (1 << CONFIG.sector_bits) - 1,
            "sectors": sectors,
            "rows": count,
        }
        # Many blocks lie across the end of the ring.
        base = int(source.integers(SIZE)) if number % 2 else SIZE - int(source.integers(1, sectors * count + 1))
        block = {"entry": int(source.integers(CONFIG.blocks)), "base": base}
        ring.blocks.append(block)
        for row in range(count):
            place = (block["base"] + row * sectors) % SIZE
            reads.expect([{"sector": place, "sectors": sectors, "header": 0}])
            ring.wanted.append({"sector": place, "entry": block["entry"]})
        total += count
        requests.send([request])
        asks.expect([request])
        grants.send([block])
        used.expect([block["entry"]])
    await bench.until(lambda: used.count == 40, what="end of the last block", limit=40_000)
    await bench.drain()
    assert rows.count == reads.count == total
    assert asks.count == requests.count == 40
