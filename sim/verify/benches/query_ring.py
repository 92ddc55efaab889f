"""Testbench of hw/control/query_ring.py; tests/hw/control/test_query_ring.py runs it.

The reference is a list of the sectors that were written: a window shows those that its read asked for, whoever read.
"""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.query_ring import QueryRing
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.sim.verify.twin import Anything, Twin, TwinAgent, Values
from spatten.spec.config import Config
from spatten.spec.row_format import SECTOR_BITS, query_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
RING = QueryRing(config=CONFIG)
SECTORS = query_ring_sectors(CONFIG)
WINDOW_DELAY = RING.ring.delay
ANY_QUERY = Anything(RING.i_query.payload.header.shape())
ORIGIN = 5
"""Where the block begins that the windows are read of, so that it goes around the ring's end."""
SPACE = ("i_allocate", "o_block", "i_free")


def _places(read: dict[str, Any]) -> list[int]:
    """The sectors of the ring that a read asks for."""
    return [place % SECTORS for place in range(read["sector"], read["sector"] + read["sectors"])]


class Readers(Twin):
    """Both readers ask for windows at random; a read of the sector reader waits for a cycle without one of a query."""

    goals = {"query": 300, "row": 100, "row waits": 50, "wraps": 20, "used by both": 50, "used": 300}
    goals |= {"written beside a read": 100}

    def reset(self) -> None:
        self.age = 0
        self.words: list[int | None] = [None] * SECTORS
        self.fill = list(range(SECTORS))
        self.source.shuffle(self.fill)
        self.row: dict[str, int] | None = None
        self.used_row: int | None = None
        self.windows: list[dict[str, Any] | None] = [None] * WINDOW_DELAY
        self.asked: list[set[int]] = [set()] * (1 + WINDOW_DELAY)
        """Sectors that are read in this cycle, and whose windows have not come."""

    def _read(self) -> dict[str, int]:
        offset = self.source.randrange(SECTORS)
        sectors = min(self.source.randint(1, BANKS), SECTORS - offset)
        return {"sector": (ORIGIN + offset) % SECTORS, "sectors": sectors}

    def inputs(self) -> Values:
        source = self.source
        self.age += 1
        self.write = None
        is_full = not self.fill
        # The ring's space is allocated first.
        if self.fill and self.age > 20:
            self.write = (self.fill.pop(), source.getrandbits(SECTOR_BITS))
        self.query = {**self._read(), "header": ANY_QUERY(source)} if is_full and source.random() < 0.6 else None
        if self.row is None and is_full and source.random() < 0.5:
            self.row = self._read()
        asked = [read for read in (self.query, self.row) if read is not None]
        self.asked = [*self.asked[1:], {place for read in asked for place in _places(read)}]
        if is_full and source.random() < 0.5:
            # Nobody reads what is being written.
            others = set(range(SECTORS)).difference(*self.asked)
            self.write = (source.choice(sorted(others)), source.getrandbits(SECTOR_BITS)) if others else None
            self.saw("written beside a read", self.write is not None and asked)
        self.used_query = source.randrange(CONFIG.blocks) if source.random() < 0.4 else None
        if self.used_row is None and source.random() < 0.3:
            self.used_row = source.randrange(CONFIG.blocks)
        ports: list[dict[str, Any]] = [{"enable": 0} for _ in range(BANKS)]
        if self.write is not None:
            sector, word = self.write
            ports[sector % BANKS] = {"enable": 1, "address": sector // BANKS, "data": word}
        return {
            "write": [ports],
            "i_query": {"valid": self.query is not None, "payload": self.query},
            "i_rows": {"valid": self.row is not None, "payload": self.row},
            "query_used": {"valid": self.used_query is not None, "entry": self.used_query},
            "i_rows_used": {"valid": self.used_row is not None, "payload": self.used_row},
        }

    def outputs(self) -> Values:
        idle = {"valid": 0}
        wanted: dict[str, Any] = {"o_query": idle, "o_rows": idle}
        window = self.windows[0]
        if window is not None:
            wanted[window["port"]] = {"valid": 1, "payload": window["payload"]}
        entry = self.used_row if self.used_query is None else self.used_query
        wanted["used"] = {"valid": entry is not None, "entry": entry}
        wanted["i_rows"] = {"ready": self.query is None}
        wanted["i_rows_used"] = {"ready": self.used_query is None}
        return wanted

    def _window(self, port: str, read: dict[str, Any]) -> dict[str, Any]:
        words: list[int | None] = [None] * BANKS
        for place in _places(read):
            words[place % BANKS] = self.words[place]
        payload: dict[str, Any] = {"words": [words], "first": read["sector"] % BANKS}
        if port == "o_query":
            payload["header"] = read["header"]
        self.saw("wraps", read["sector"] + read["sectors"] > SECTORS)
        return {"port": port, "payload": payload}

    def clock(self) -> None:
        if self.write is not None:
            self.words[self.write[0]] = self.write[1]
        window = None
        if self.query is not None:
            window = self._window("o_query", self.query)
            self.saw("query")
            self.saw("row waits", self.row is not None)
        elif self.row is not None:
            window = self._window("o_rows", self.row)
            self.saw("row")
            self.row = None
        self.windows = [*self.windows[1:], window]
        self.saw("used by both", self.used_query is not None and self.used_row is not None)
        self.saw("used", self.used_query is not None or self.used_row is not None)
        if self.used_query is None:
            self.used_row = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def both_readers_get_their_windows(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    space = StreamDriver(bench, "i_allocate", RING.i_allocate.payload.shape())
    blocks = StreamMonitor(bench, "o_block", RING.o_block.payload.shape())
    freed = StreamDriver(bench, "i_free", RING.i_free.payload.shape())
    twin = Readers(bench.random("twin"))
    TwinAgent(bench, RING, twin, without=SPACE)
    for _ in range(2):
        await bench.reset()
        space.send([ORIGIN, SECTORS])
        blocks.expect([0, ORIGIN])
        await bench.step(6)
        freed.send([ORIGIN])
        await bench.step(PARAMETERS["cycles"])
        assert blocks.count == 2
    twin.check_goals()


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def space_is_that_of_the_ring(dut: HierarchyObject, seed: int) -> None:
    """Blocks begin where the one before ended, as soon as there is room, and no sooner."""
    bench = Bench(dut, seed=seed)
    source = bench.random("blocks")
    space = StreamDriver(bench, "i_allocate", RING.i_allocate.payload.shape(), idle=0.3)
    blocks = StreamMonitor(bench, "o_block", RING.o_block.payload.shape(), stall=0.3)
    freed = StreamDriver(bench, "i_free", RING.i_free.payload.shape(), idle=0.3)
    for name in ("i_query__valid", "i_rows__valid", "query_used", "i_rows_used__valid"):
        bench.signal(name).value = 0
    for bank in range(BANKS):
        bench.signal(f"write__0__{bank}__enable").value = 0
    await bench.reset()
    sizes = [source.choice([source.randint(1, SECTORS), source.randint(1, 6), SECTORS]) for _ in range(50)]
    space.send(sizes)
    blocks.expect([sum(sizes[:number]) % SECTORS for number in range(len(sizes))])
    given_up = 0
    while blocks.count < len(sizes):
        await bench.step(40)
        level = sum(sizes[given_up : blocks.count])
        assert level <= SECTORS, f"{level} sectors of {SECTORS} are given away"
        has_room = blocks.count < len(sizes) and level + sizes[blocks.count] <= SECTORS
        assert not has_room, f"block {blocks.count} has room beside {level} sectors, and does not come"
        freed.send([sizes[given_up]])
        given_up += 1
