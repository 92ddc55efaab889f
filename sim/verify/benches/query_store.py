"""Testbench of hw/control/row/query_store.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

import itertools
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.query_store import QueryStore
from spatten.hw.control.segments import beats_max
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.constants import STASH_SLOTS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = QueryStore(config=CONFIG)
ANY_BEAT = Anything(COMPONENT.i.payload.shape())
DELAY = 4
"""Cycles from asking for a stashed query to the query."""


class Queries(Twin):
    """Queries of any number of beats, and stashed ones in between, which leave when no other does."""

    goals = {"query": 100, "several beats": 50, "stashed": 50, "again": 50, "again right after another": 5}

    def reset(self) -> None:
        self.now = 0
        self.beats: list[list[int]] = []
        self.number = 1
        self.stashed: dict[int, list[Any]] = {}
        self.leaving: dict[int, int] = {}
        """The slot whose query leaves, by cycle."""

    def inputs(self) -> Values:
        source = self.source
        if not self.beats:
            self.number = source.randint(1, beats_max(CONFIG))
            self.stashes = int(source.random() < 0.5)
            busy = set(self.leaving.values())
            free = [slot for slot in range(STASH_SLOTS) if slot not in busy]
            self.slot = source.choice(free) if free else 0
            self.stashes &= bool(free)
        is_last = len(self.beats) == self.number - 1
        # A query whose slot is asked for at this moment must wait with its last beat.
        may_come = not is_last or (self.now not in self.leaving and not (self.stashes and self._is_leaving(self.slot)))
        self.beat: dict[str, Any] = {"valid": 0}
        if may_come and source.random() < 0.6:
            payload = ANY_BEAT(source)
            payload["header"] |= {
                "beat": len(self.beats),
                "last": is_last,
                "stashes": self.stashes,
                "stash_slot": self.slot,
            }
            self.beat = {"valid": 1, "payload": payload}
        ready = [slot for slot in self.stashed if not (self.beats and self.stashes and slot == self.slot)]
        self.asked: dict[str, Any] = {"valid": 0}
        if ready and source.random() < 0.3:
            self.asked = {"valid": 1, "stash_slot": source.choice(ready)}
        return {"i": self.beat, "stashed": self.asked}

    def _is_leaving(self, slot: int) -> bool:
        return slot in self.leaving.values()

    def outputs(self) -> Values:
        self.query: list[Any] | None = None
        if self.now in self.leaving:
            self.query = self.stashed[self.leaving[self.now]]
        elif self.beat["valid"] and self.beat["payload"]["header"]["last"]:
            operands = list(itertools.chain(*self.beats, self.beat["payload"]["operands"]))
            # Operands behind those of the query mean nothing.
            self.query = operands + [None] * (CONFIG.head_dim_max - len(operands))
        if self.query is None:
            return {"o": {"valid": 0}}
        return {"o": {"valid": 1, "payload": {"operands": self.query}}}

    def clock(self) -> None:
        self.saw("again", self.now in self.leaving)
        self.saw("again right after another", self.now in self.leaving and self.now - 1 in self.leaving)
        self.leaving.pop(self.now - 1, None)
        if self.beat["valid"]:
            header = self.beat["payload"]["header"]
            self.beats.append(self.beat["payload"]["operands"])
            if header["last"]:
                self.saw("query")
                self.saw("several beats", len(self.beats) > 1)
                self.beats = []
                if header["stashes"]:
                    self.saw("stashed")
                    assert self.query is not None
                    self.stashed[header["stash_slot"]] = self.query
        if self.asked["valid"]:
            self.leaving[self.now + DELAY] = self.asked["stash_slot"]
        self.now += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def queries_are_joined_and_kept(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Queries, seed=seed, cycles=PARAMETERS["cycles"])
