"""Testbench of hw/control/query_reader.py; tests/hw/control/test_query_reader.py runs it.

The query ring holds rows of packed codes as spec/row_format.py lays them out; the queries must be these codes.
"""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden.converter import block_rows
from spatten.hw.control.query_reader import QUERIES, QueryReader
from spatten.sim.verify.benches.query_windows import any_segment
from spatten.sim.verify.benches.row_models import Queue
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.row_format import BANKS, CODE_BITS, row_format

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
READER = QueryReader(config=CONFIG)
RING_DELAY = 2
"""Cycles from a read to its window."""


class Segment:
    """A segment, what is asked for in its cycles, the windows that answer, and its queries and row numbers."""

    def __init__(self, twin: Queries) -> None:
        source = twin.source
        while True:
            self.segment, self.steps = any_segment(source)
            slot = self.segment["stash_slot"]
            # A query that comes again has been stashed, and by another segment than the one right before.
            if not self.segment["again"] or (slot in twin.stashed and twin.stashed[slot][0] < twin.number - 1):
                break
        segment = self.segment
        segment["entry"] = source.choice([entry for entry in range(CONFIG.blocks) if entry not in twin.entries])
        self.ids = [source.randrange(CONFIG.tokens_max) for _ in range(CONFIG.topk_lanes)]
        self.windows: list[dict[str, Any]] = []
        if segment["again"]:
            self.queries = [twin.stashed.pop(slot)[1]]
            self.numbers = [segment["row"]]
            return
        for step in self.steps:
            if "used" in step:
                step["used"]["entry"] = segment["entry"]
        self.numbers = [(token - segment["offset"]) % CONFIG.tokens_max for token in self.ids[: segment["rows"]]]
        row = row_format(
            head_dim=HEAD_DIMS[segment["dim"]], slice_width=CONFIG.slice_width, bits=CODE_BITS[segment["bits"]]
        )
        half = 1 << row.bits - 1
        shape = (row.heads, segment["rows"], row.head_dim)
        codes = np.random.default_rng(source.getrandbits(32)).integers(-half, half, shape)
        sectors = block_rows(row, codes)
        nothing = [None] * (CONFIG.head_dim_max - row.head_dim)
        self.queries = [[*query.tolist(), *nothing] for query in codes[segment["odd_head"]]]
        for number, step in enumerate(self.steps):
            place, beat = divmod(number, row.beats)
            part = row.parts[segment["odd_head"], beat]
            request = step["o_read"]["payload"]
            first = request["sector"] % BANKS
            words: list[int | None] = [None] * BANKS
            for n in range(part.sectors):
                words[(first + n) % BANKS] = int.from_bytes(sectors[place, part.start + n].tobytes(), "little")
            self.windows.append({"words": [words], "first": first, "header": request["header"]})
        if segment["stashes"]:
            twin.stashed[slot] = (twin.number, self.queries[0])


class Queries(Twin):
    """Segments at random; the array takes queries, and the key reader row numbers, in phases of different paces."""

    goals = {
        "segment": 100,
        "again": 10,
        "several beats": 50,
        "block is late": 30,
        "no room": 50,
        "query is taken before its row's number": 10,
        "full speed": 50,
    }

    def reset(self) -> None:
        self.number = 0
        """Segments that have been made."""
        self.stashed: dict[int, tuple[int, list[Any]]] = {}
        """By slot the query that is stashed last, and the number of its segment."""
        self.entries: set[int] = set()
        self.made: Segment | None = None
        self.offer: Segment | None = None
        self.now: Segment | None = None
        self.waits = False
        self.step = 0
        self.answers: list[dict[str, Any] | None] = [None] * RING_DELAY
        self.queries = Queue(2 * QUERIES, latency=6)
        self.numbers = Queue(2 * QUERIES, latency=4)
        self.ahead = 0
        """Queries that have been taken, less row numbers."""
        self.went = False
        self.pace = {"queries": 0.5, "numbers": 0.5}

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.03:
            self.pace = {"queries": source.choice([0.1, 0.5, 1]), "numbers": source.choice([0.2, 1])}
        # The ids of a block come at least a cycle before its segment.
        self.offer, self.made = self.offer or self.made, None if self.offer is None else self.made
        chunk: dict[str, Any] = {"valid": 0}
        if self.made is None and source.random() < 0.5:
            self.entries = {part.segment["entry"] for part in (self.now, self.offer) if part is not None}
            self.made = Segment(self)
            self.number += 1
            chunk = {"valid": 1, "entry": self.made.segment["entry"], "ids": self.made.ids}
        self.arrived = [int(source.random() < 0.7) for _ in range(CONFIG.blocks)]
        self.takes_query = source.random() < self.pace["queries"] and self.ahead < 2
        self.takes_number = source.random() < self.pace["numbers"]
        answer = self.answers[0]
        return {
            "i": {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer.segment},
            "arrived": self.arrived,
            "chunk": chunk,
            "i_window": {"valid": 0} if answer is None else {"valid": 1, "payload": answer},
            "o": {"ready": self.takes_query},
            "o_row": {"ready": self.takes_number},
        }

    def outputs(self) -> Values:
        now = self.now
        has_room = len(self.queries) < QUERIES
        self.goes = now is not None and not self.waits and has_room
        self.saw("no room", now is not None and not self.waits and not has_room)
        wanted: dict[str, Any] = {
            "i": {"ready": now is None},
            "o_read": {"valid": 0},
            "used": {"valid": 0},
            "o": {"valid": 0},
            "o_row": {"valid": 0},
        }
        if self.queries.valid:
            wanted["o"] = {"valid": 1, "payload": {"operands": self.queries.first}}
        if self.numbers.valid:
            wanted["o_row"] = {"valid": 1, "payload": self.numbers.first}
        if self.goes and now is not None:
            wanted |= {name: value for name, value in now.steps[self.step].items() if name in wanted}
        return wanted

    def clock(self) -> None:
        now = self.now
        query = number = answer = None
        self.saw("full speed", self.goes and self.went)
        self.went = self.goes
        if now is None:
            if self.offer is not None:
                self.now, self.offer, self.waits, self.step = self.offer, None, True, 0
                self.saw("segment")
                self.saw("again", self.now.segment["again"])
                self.saw("several beats", len(self.now.steps) > self.now.segment["rows"])
        elif self.waits:
            self.waits = not (now.segment["again"] or self.arrived[now.segment["entry"]])
            self.saw("block is late", self.waits)
        elif self.goes:
            if not now.segment["again"]:
                answer = now.windows[self.step]
            asked = now.steps[self.step].get("asked")
            if asked:
                query, number = now.queries[asked["place"]], now.numbers[asked["place"]]
            self.step += 1
            if self.step == len(now.steps):
                self.now = None
        self.answers = [*self.answers[1:], answer]
        takes_query = self.queries.valid and self.takes_query
        takes_number = self.numbers.valid and self.takes_number
        self.ahead += takes_query - takes_number
        self.saw("query is taken before its row's number", takes_query and self.ahead > 0)
        self.queries.clock(pushes=query is not None, entry=query, pops=takes_query)
        self.numbers.clock(pushes=number is not None, entry=number, pops=takes_number)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def queries_are_the_codes_of_their_rows(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, READER, Queries, seed=seed, cycles=PARAMETERS["cycles"])
