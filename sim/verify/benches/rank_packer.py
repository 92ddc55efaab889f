"""Testbench of hw/datapath/tokens/rank_packer.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.rank_packer import LINE_REGISTERS, ROWS_WAITING, RankPacker
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
PACKER = RankPacker(layouts=LAYOUTS)
LANES = LAYOUTS.lanes
LANE_BITS = (LANES - 1).bit_length()
LATENCY = min(3, 1 + LANE_BITS) + 2 + (LANE_BITS + 1) // 2
"""Cycles from the line that completes a row to the row."""
QUEUE_LATENCY = 2
"""Cycles from a row to its valid on `o_live`."""
Row = dict[str, Any]


class Gathers(Twin):
    """Lines come while there is room; the live tokens of a gather are a list, cut into rows at its end."""

    goals = {
        "two rows with the last line": 10,
        "empty gather": 5,
        "full last row": 10,
        "ragged last row": 10,
        "no room": 50,
        "next to next": 100,
        "stalled": 200,
    }

    def reset(self) -> None:
        self.cycle = 0
        self.on_its_way: deque[Row | None] = deque([None] * LINE_REGISTERS, LINE_REGISTERS)
        """The lines in the registers before the component."""
        self.rows: dict[int, tuple[int, Row]] = {}
        """By the cycle in which it comes, a row and its number."""
        self.queue: deque[tuple[int, Row]] = deque()
        """Rows of the live list that wait, and from when on they can be taken."""
        self.has_room = False
        self.lines_left = 0
        self.usual = 0
        self.variety = 0.0
        self.tokens: list[Row] = []
        self.row_total = 0
        self.quiet = 0
        self.takes = 0.9

    def _line(self) -> Row:
        source = self.source
        live = source.getrandbits(LANES) if source.random() < self.variety else self.usual
        importance = [source.getrandbits(LAYOUTS.importance_bits) for _ in range(LANES)]
        number = LAYOUTS.lines - self.lines_left
        pinned = live & source.getrandbits(LANES)
        last = self.lines_left == 1
        return {"line": number, "last": last, "live": live, "pinned": pinned, "importance": importance}

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.03:
            self.takes = source.choice([0.02, 0.5, 0.95])
        self.ready = source.random() < self.takes
        is_quiet = not self.lines_left and self.quiet > LINE_REGISTERS + LATENCY + 1
        self.begins = is_quiet and source.random() < 0.3
        self.read: Row | None = None
        if self.lines_left and self.has_room and source.random() < 0.9:
            self.read = self._line()
            self.lines_left -= 1
        line = self.on_its_way[0]
        return {
            "begins": self.begins,
            "i": {"valid": line is not None, "payload": line},
            "o_live": {"ready": self.ready},
        }

    def _take(self, line: Row) -> None:
        """Cut the rows that this line completes: a row waits until a token more has come, or the last line."""
        for lane in range(LANES):
            if line["live"] >> lane & 1:
                token = {"id": line["line"] * LANES + lane, "sum": line["importance"][lane]}
                self.tokens.append(token | {"pinned": line["pinned"] >> lane & 1})
        rows: list[list[Row]] = []
        while len(self.tokens) > LANES:
            rows.append(self.tokens[:LANES])
            self.tokens = self.tokens[LANES:]
        if line["last"]:
            rows.append(self.tokens)
            self.saw("two rows with the last line", len(rows) == 2)
            self.saw("empty gather", not self.tokens)
            self.saw("full last row", len(self.tokens) == LANES)
            self.saw("ragged last row", 0 < len(self.tokens) < LANES)
        for number, tokens in enumerate(rows):
            padded = [*tokens, *[{"id": 0, "sum": 0, "pinned": 0}] * (LANES - len(tokens))]
            row = {
                "words": [{"sum": token["sum"], "pinned": token["pinned"]} for token in padded],
                "ids": [token["id"] for token in padded],
                "count": len(tokens),
                "last": line["last"] and number == len(rows) - 1,
            }
            self.rows[self.cycle + LATENCY + number] = (self.row_total, row)
            self.row_total += 1

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"row_valid": self.cycle in self.rows, "has_room": self.has_room}
        if self.cycle in self.rows:
            number, row = self.rows[self.cycle]
            wanted |= {"row_number": number, "row_words": row["words"], "row_last": row["last"]}
        is_there = bool(self.queue) and self.queue[0][0] <= self.cycle
        wanted["o_live"] = {"valid": is_there}
        if is_there:
            row = self.queue[0][1]
            wanted["o_live"]["payload"] = {name: row[name] for name in ("ids", "count", "last")}
        return wanted

    def clock(self) -> None:
        line = self.on_its_way[0]
        self.saw("next to next", line is not None and self.on_its_way[1] is not None)
        self.saw("no room", self.lines_left and not self.has_room)
        is_there = bool(self.queue) and self.queue[0][0] <= self.cycle
        self.saw("stalled", is_there and not self.ready)
        self.has_room = len(self.queue) <= ROWS_WAITING
        if is_there and self.ready:
            self.queue.popleft()
        if self.cycle in self.rows:
            self.queue.append((self.cycle + QUEUE_LATENCY, self.rows.pop(self.cycle)[1]))
        if line is not None:
            self._take(line)
        self.on_its_way.append(self.read)
        self.quiet = 0 if self.lines_left or self.read is not None else self.quiet + 1
        self.cycle += 1
        if self.begins:
            self.lines_left = self.source.randint(1, LAYOUTS.lines)
            self.usual = self.source.choice([0, (1 << LANES) - 1, (1 << LANES) - 1, 1])
            self.variety = self.source.choice([0, 0.2, 0.5, 1])
            self.tokens = []
            self.row_total = 0


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def live_tokens_are_packed(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, PACKER, Gathers, seed=seed, cycles=PARAMETERS["cycles"])
