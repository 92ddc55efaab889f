"""Testbench of hw/datapath/rank_memory.py; tests/hw/datapath/test_token_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.rank_memory import RankMemory
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
SIZES: dict[str, int] = PARAMETERS["sizes"]
MEMORY = RankMemory(**SIZES)
TOKENS, SLOTS = SIZES["tokens"], SIZES["slots"]
P, T = SIZES["prob_lanes"], SIZES["lanes"]
WRITE_LATENCY = 4
"""Cycles from a beat's transfer to the write of its sums."""
JOB_LIMIT = (1 << SIZES["importance_bits"]) - 1
"""Most that a job adds to a token, and most that it begins with."""


class Slot:
    """A slot's tokens, and what is done with them: free, fills, adds, drains."""

    def __init__(self) -> None:
        self.phase = "free"
        self.sums: list[int] = []
        self.pinned: list[bool] = []
        self.added: list[int] = []
        self.rows_left: list[int] = []
        self.beats_left = 0
        self.quiet = 0
        """Cycles since the last beat."""


class Jobs(Twin):
    """Jobs in all slots: one is filled and one drained at a time, while beats are added to any of the others."""

    goals = {
        "filled": 100,
        "drained": 100,
        "same words as the beat before": 50,
        "same words as two beats before": 20,
        "same words as three beats before": 20,
        "beat cut short": 50,
        "slots in turns": 20,
        "all at once": 20 if SLOTS > 2 else 0,
        "top of the range": 20,
    }

    def reset(self) -> None:
        self.slots = [Slot() for _ in range(SLOTS)]
        self.row_slot: int | None = None
        """The slot of the row of probabilities that is under way, and the beats that are left of it."""
        self.row_beats = 0
        self.beat_number = 0
        self.shown: list[dict[str, int] | None] | None = None
        self.recent: list[tuple[int, int] | None] = [None] * 3
        """Slot and number of the beats of the last cycles."""
        self.last_slot: int | None = None

    def _in(self, phase: str) -> int | None:
        return next((n for n, slot in enumerate(self.slots) if slot.phase == phase), None)

    def inputs(self) -> Values:
        source = self.source
        free = [n for n, slot in enumerate(self.slots) if slot.phase == "free"]
        if self._in("fills") is None and free and source.random() < 0.3:
            slot = self.slots[source.choice(free)] = Slot()
            slot.phase = "fills"
            rows = source.choice([1, source.randint(1, TOKENS // T)])
            slot.rows_left = list(range(rows))
            slot.sums, slot.pinned, slot.added = [0] * (rows * T), [False] * (rows * T), [0] * (rows * T)
            slot.beats_left = source.choice([2, 8, 30])
        done = [n for n, slot in enumerate(self.slots) if slot.phase == "adds" and slot.quiet > WRITE_LATENCY]
        done = [n for n in done if n != self.row_slot and not self.slots[n].beats_left]
        if self._in("drains") is None and done and source.random() < 0.3:
            slot = self.slots[source.choice(done)]
            slot.phase = "drains"
            slot.rows_left = list(range(len(slot.sums) // T))
            source.shuffle(slot.rows_left)
        self.fills, self.drains = self._in("fills"), self._in("drains")
        given: dict[str, Any] = {"fills": 0, "drains": 0, "write_enable": 0, "read_enable": 0}
        self.write = self.read = None
        if self.fills is not None:
            given["fills"] = 1 << self.fills
            if self.slots[self.fills].rows_left and source.random() < 0.8:
                self.write = self.slots[self.fills].rows_left[0]
                self.words = [
                    {
                        "sum": source.choice([source.randrange(JOB_LIMIT + 1), JOB_LIMIT]),
                        "pinned": source.random() < 0.3,
                    }
                    for _ in range(T)
                ]
                given |= {"write_enable": 1, "write_row": self.write, "write_words": self.words}
        if self.drains is not None:
            given["drains"] = 1 << self.drains
            if self.slots[self.drains].rows_left and source.random() < 0.7:
                self.read = self.slots[self.drains].rows_left[0]
                given |= {"read_enable": 1, "read_row": self.read}
        self.beat = self._beat()
        return given | {"i": {"valid": self.beat is not None, "payload": self.beat}}

    def _beat(self) -> dict[str, Any] | None:
        """The next beat of the row under way, or the first of another row; lanes behind `count` hold anything."""
        source = self.source
        if self.row_slot is None:
            adding = [n for n, slot in enumerate(self.slots) if slot.phase == "adds" and slot.beats_left]
            if not adding:
                return None
            # Often the same slot again, so that its words are still on their way.
            self.row_slot = source.choice(adding)
            if self.last_slot in adding and source.random() < 0.6:
                self.row_slot = self.last_slot
            assert self.row_slot is not None
            ranks = len(self.slots[self.row_slot].sums)
            self.row_beats = source.choice([1, 1, 2, -(-ranks // P)])
            self.row_beats = min(self.row_beats, -(-ranks // P))
            self.beat_number = 0
        if source.random() < 0.15:
            return None
        slot = self.slots[self.row_slot]
        first = self.beat_number * P
        most = min(P, len(slot.sums) - first)
        count = most if source.random() < 0.5 else source.randint(0, most)
        probs = []
        for rank in range(first, first + count):
            room = min((1 << SIZES["prob_bits"]) - 1, JOB_LIMIT - slot.added[rank])
            probs.append(source.choice([room, source.randint(0, room)]))
        last = self.beat_number == self.row_beats - 1
        return {"probs": probs + [None] * (P - count), "count": count, "last": last, "slot": self.row_slot}

    def outputs(self) -> Values:
        return {"i": {"ready": 1}, "read_words": self.shown if self.drains is not None else None}

    def clock(self) -> None:
        self._fill_and_drain()
        for slot in self.slots:
            slot.quiet += 1
        place = None
        if self.beat is not None and self.row_slot is not None:
            slot = self.slots[self.row_slot]
            first = self.beat_number * P
            for rank, prob in enumerate(self.beat["probs"][: self.beat["count"]], start=first):
                slot.sums[rank] += prob
                slot.added[rank] += prob
            slot.quiet = 0
            slot.beats_left = max(0, slot.beats_left - 1)
            place = self.row_slot, self.beat_number
            recent = [*self.recent]
            if place in recent:
                distance = len(recent) - max(n for n, other in enumerate(recent) if other == place)
                self.saw(f"same words as {('the beat', 'two beats', 'three beats')[distance - 1]} before")
            self.saw("beat cut short", self.beat["count"] < P)
            self.saw("slots in turns", self.last_slot not in (None, self.row_slot))
            self.last_slot = self.row_slot
            self.beat_number += 1
            if self.beat["last"]:
                self.row_slot = None
        self.recent = [*self.recent[1:], place]

    def _fill_and_drain(self) -> None:
        self.saw("filled", self.write is not None)
        self.saw("all at once", self.write is not None and self.read is not None and self.beat is not None)
        if self.fills is not None:
            slot = self.slots[self.fills]
            if self.write is not None:
                slot.rows_left.pop(0)
                for lane, word in enumerate(self.words):
                    slot.sums[self.write * T + lane] = word["sum"]
                    slot.pinned[self.write * T + lane] = bool(word["pinned"])
            elif not slot.rows_left:
                slot.phase = "adds"
        if self.drains is not None:
            slot = self.slots[self.drains]
            if self.read is not None:
                slot.rows_left.pop(0)
                ranks = range(self.read * T, (self.read + 1) * T)
                self.shown = [{"sum": slot.sums[rank], "pinned": slot.pinned[rank]} for rank in ranks]
                self.saw("drained")
                self.saw("top of the range", any(slot.sums[rank] > JOB_LIMIT for rank in ranks))
            elif not slot.rows_left and self.source.random() < 0.5:
                slot.phase = "free"
                self.shown = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def sums_are_exact(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, MEMORY, Jobs, seed=seed, cycles=PARAMETERS["cycles"])
