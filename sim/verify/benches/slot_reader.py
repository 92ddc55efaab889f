"""Testbench of hw/datapath/tokens/slot_reader.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.tokens.slot_reader import SlotReader
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
LAYOUTS = layouts(config=Config(**PARAMETERS["config"]))
READER = SlotReader(layouts=LAYOUTS)
LANES = LAYOUTS.lanes
LIMIT = (1 << LAYOUTS.importance_bits) - 1
Words = list[dict[str, int]]


class Scatters(Twin):
    """Jobs one after the other; rows are in the memory, in its output, or in the row register."""

    goals = {
        "candidates taken": 100,
        "candidates stalled": 100,
        "rows with an answer": 100,
        "rows that wait for an answer": 100,
        "rows without pruning": 50,
        "saturated": 100,
        "just not saturated": 20,
        "no rows": 5,
    }

    def reset(self) -> None:
        self.phase = "idle"
        """idle, begins, offers or writes."""
        self.slot: list[Words] = []
        self.slot_number = self.last_count = self.answers_left = 0
        self.prunes = False
        self.to_read: list[int] = []
        self.output: int | None = None
        """The row in the memory's output; what it shows there may stay after the row has gone."""
        self.shown: Words | None = None
        self.register: int | None = None
        self.answer: int | None = None
        self.saturated: int | None = None
        self.wait = 0

    def _slot(self) -> list[Words]:
        """Rows of words, among which some have saturated, just or just not."""
        source = self.source
        sums = [LIMIT, LIMIT + 1, 2 * LIMIT + 1]
        return [
            [
                {
                    "sum": source.choice(sums) if source.random() < 0.3 else source.randrange(2 * LIMIT + 2),
                    "pinned": source.random() < 0.3,
                }
                for _ in range(LANES)
            ]
            for _ in range(source.randint(0, LAYOUTS.lines))
        ]

    def inputs(self) -> Values:
        source = self.source
        self.takes_candidates, self.takes_row = source.random() < 0.6, source.random() < 0.7
        is_reading = self.phase in ("offers", "writes")
        if self.answer is None and is_reading and self.answers_left and source.random() < 0.5:
            self.answer = source.getrandbits(LANES)
            self.answers_left -= 1
        is_last = self.register is not None and self.register == len(self.slot) - 1
        offered = self.phase == "offers" and is_last and self.takes_candidates
        begins = self.phase == "begins" or offered
        given: dict[str, Any] = {
            "begins": begins,
            "offers": self.phase == "offers",
            "writes": self.phase == "writes",
            "o_candidates": {"ready": self.takes_candidates},
            "o_rows": {"ready": self.takes_row},
            "i_kept": {"valid": self.answer is not None, "payload": self.answer},
            "read_words": self.shown,
        }
        if begins:
            given["rows"] = len(self.slot)
        if is_reading:
            given |= {"slot": self.slot_number, "prunes": self.prunes}
        if is_reading and self.slot:
            given["last_count"] = self.last_count
        return given

    def _places(self) -> tuple[bool, bool]:
        """Whether the row in the register leaves, and whether a row is read."""
        leaves = False
        if self.register is not None and self.phase == "offers":
            leaves = self.takes_candidates
        elif self.register is not None and self.phase == "writes":
            leaves = self.takes_row and (not self.prunes or self.answer is not None)
        moves = self.output is not None and (self.register is None or leaves)
        is_reading = self.phase in ("offers", "writes")
        return leaves, is_reading and bool(self.to_read) and (self.output is None or moves)

    def outputs(self) -> Values:
        leaves, reads = self._places()
        is_reading = self.phase in ("offers", "writes")
        offers = self.phase == "offers" and self.register is not None
        has_answer = is_reading and (not self.prunes or self.answer is not None)
        writes = self.phase == "writes" and self.register is not None and has_answer
        is_last = self.register is not None and self.register == len(self.slot) - 1
        wanted: dict[str, Any] = {
            "drains": 1 << self.slot_number if is_reading else 0,
            "read_enable": reads,
            "o_candidates": {"valid": offers},
            "o_rows": {"valid": writes},
            "i_kept": {"ready": self.phase == "writes" and leaves and self.prunes},
            "offered": offers and leaves and is_last,
            "saturates": self.saturated is not None,
        }
        # Before an answer has come, the reader is ready for it if its taker is ready for the row.
        if self.phase == "writes" and self.prunes and self.answer is None:
            wanted["i_kept"] = {"ready": self.register is not None and self.takes_row}
        if reads:
            wanted["read_row"] = self.to_read[0]
        if self.saturated is not None:
            wanted["saturated_count"] = self.saturated
        if self.register is not None:
            words = self.slot[self.register]
            importance = [min(word["sum"], LIMIT) for word in words]
            if offers:
                keys = [word["pinned"] << LAYOUTS.importance_bits | importance[n] for n, word in enumerate(words)]
                count = self.last_count if is_last else LANES
                wanted["o_candidates"]["payload"] = {"keys": keys, "count": count, "last": is_last}
            if writes:
                kept = self.answer if self.prunes else (1 << LANES) - 1
                assert kept is not None
                tokens = [{"importance": importance[n], "kept": kept >> n & 1} for n in range(LANES)]
                wanted["o_rows"]["payload"] = tokens
        return wanted

    def clock(self) -> None:
        leaves, reads = self._places()
        is_last = self.register is not None and self.register == len(self.slot) - 1
        self._count(leaves)
        self.saturated = None
        if leaves and self.phase == "writes":
            assert self.register is not None
            self.saturated = sum(word["sum"] > LIMIT for word in self.slot[self.register])
            self.answer = None
        if leaves:
            self.register = None
        if self.output is not None and self.register is None:
            self.register, self.output = self.output, None
        if reads:
            self.output = self.to_read.pop(0)
            self.shown = self.slot[self.output]
        if self.phase == "idle" and self.source.random() < 0.3:
            self.phase = "begins"
            self.slot = self._slot()
            self.slot_number = self.source.randrange(LAYOUTS.slots)
            self.last_count = self.source.randint(1, LANES)
            self.prunes = self.source.random() < 0.7
            self.answers_left = len(self.slot) if self.prunes else 0
            self.wait = 5
        elif self.phase == "begins":
            self.saw("no rows", not self.slot)
            self.phase = "offers" if self.prunes and self.slot else "writes"
            self.to_read = list(range(len(self.slot)))
        elif self.phase == "offers" and leaves and is_last:
            self.phase = "writes"
            self.to_read = list(range(len(self.slot)))
        elif self.phase == "writes" and not self.to_read and self.output is None and self.register is None:
            self.wait -= 1
            if not self.wait:
                self.phase, self.answer, self.shown = "idle", None, None

    def _count(self, leaves: bool) -> None:
        is_there = self.register is not None
        self.saw("candidates taken", self.phase == "offers" and leaves)
        self.saw("candidates stalled", self.phase == "offers" and is_there and not leaves)
        self.saw("rows with an answer", self.phase == "writes" and leaves and self.prunes)
        self.saw("rows that wait for an answer", self.phase == "writes" and is_there and not leaves and self.takes_row)
        self.saw("rows without pruning", self.phase == "writes" and leaves and not self.prunes)
        if self.register is not None and leaves:
            sums = [word["sum"] for word in self.slot[self.register]]
            self.saw("saturated", max(sums) > LIMIT)
            self.saw("just not saturated", LIMIT in sums)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_are_read_for_engine_and_lines(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, READER, Scatters, seed=seed, cycles=PARAMETERS["cycles"])
