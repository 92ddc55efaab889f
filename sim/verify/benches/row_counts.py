"""Testbench of hw/control/job/row_counts.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.row_counts import RowCounts
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COUNTS = RowCounts(config=CONFIG)
JOBS, CONTEXTS = range(CONFIG.jobs_in_flight), range(CONFIG.contexts)
MOST = CONFIG.tokens_max * CONFIG.heads_max


class Counts(Twin):
    """Events are kept in lists by stage and slot, or context, and counted when they are looked at."""

    goals = {
        "all in one cycle": 5,
        "one of the slot that begins": 5,
        "saturated in the cycle before": 5,
        "high": 100,
        "many recomputed": 20,
        "many elements": 100,
    }

    def reset(self) -> None:
        self.begun: set[int] = set()
        self.begun_contexts: set[int] = set()
        self.events: Counter[tuple[str, int]] = Counter()
        """By stage and slot or context."""
        self.elements: Counter[int] = Counter()
        """By slot, without those of the last cycle."""
        self.late: tuple[int, int, int] | None = None
        """Slot and number of the elements of the last cycle, and whether they ended a row."""
        self.busy_slots = list(JOBS)
        self.begin_chance = 0.05

    def _event(self, chance: float, where: list[int]) -> dict[str, Any]:
        return {"valid": 1, "slot": self.source.choice(where)} if self.source.random() < chance else {"valid": 0}

    def inputs(self) -> Values:
        source = self.source
        # Most events are of one slot and context, so that their counters come far.
        if source.random() < 0.004:
            self.busy_slots = [source.choice(JOBS)]
            self.begin_chance = source.choice([0, 0, 0.05])
        slots = self.busy_slots if source.random() < 0.7 else list(JOBS)
        self.given = {
            "probs_done": self._event(0.7, slots),
            "row_written": self._event(0.7, slots),
            "recomputed": self._event(0.9, slots),
            "heads_done": self._event(0.7, list(CONTEXTS)),
        }
        # Elements saturate in beats of a row before the one that ends it, too.
        self.given["row_written"]["slot"] = source.choice(slots)
        self.saturated = source.choice([0, CONFIG.head_dim_max, source.randint(0, CONFIG.head_dim_max)])
        begins = source.random() < self.begin_chance or len(self.begun) < len(JOBS)
        self.begins = source.choice(JOBS) if begins else None
        self.context = source.choice(CONTEXTS)
        given: dict[str, Any] = {**self.given, "saturated": self.saturated, "begins": self.begins is not None}
        if self.begins is not None:
            given |= {"slot": self.begins, "context": self.context}
        return given

    def outputs(self) -> Values:
        def counts(stage: str, begun: set[int], places: range, bits: int) -> list[int | None]:
            return [self.events[stage, n] % (1 << bits) if n in begun else None for n in places]

        rows = MOST.bit_length()
        return {
            "probs": counts("probs_done", self.begun, JOBS, rows),
            "written": counts("row_written", self.begun, JOBS, rows),
            "recomputed_rows": counts("recomputed", self.begun, JOBS, 16),
            "added": counts("heads_done", self.begun_contexts, CONTEXTS, rows),
            "saturated_elements": [self.elements[n] if n in self.begun else None for n in JOBS],
        }

    def clock(self) -> None:
        events = {(stage, event["slot"]) for stage, event in self.given.items() if event["valid"]}
        self.events.update(event for event in events if event[0] != "row_written")
        self.saw("all in one cycle", len(events) == 4 and len({place for _, place in events}) == 1)
        places = {event["slot"] for event in self.given.values() if event["valid"]}
        self.saw("one of the slot that begins", self.begins in places)
        if self.late is not None:
            slot, elements, ends_row = self.late
            self.elements[slot] += elements
            self.events["row_written", slot] += ends_row
            self.saw("saturated in the cycle before", self.begins == slot)
        self.late = self.given["row_written"]["slot"], self.saturated, self.given["row_written"]["valid"]
        self.saw("high", max(self.events.values(), default=0) > MOST // 2)
        self.saw("many recomputed", max(self.events["recomputed", n] for n in JOBS) > 150)
        self.saw("many elements", max(self.elements.values(), default=0) > 1 << 11)
        if self.begins is not None:
            self.begun.add(self.begins)
            self.begun_contexts.add(self.context)
            for stage in ("probs_done", "row_written", "recomputed"):
                self.events[stage, self.begins] = 0
            self.events["heads_done", self.context] = 0
            self.elements[self.begins] = 0


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def rows_are_counted(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COUNTS, Counts, seed=seed, cycles=PARAMETERS["cycles"])
