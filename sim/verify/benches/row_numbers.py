"""Testbench of hw/control/row/row_numbers.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.row_numbers import RowNumbers
from spatten.sim.verify.benches.row_models import Queue
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
QUERIES: int = PARAMETERS["queries"]
COMPONENT = RowNumbers(config=CONFIG, queries=QUERIES)
ANY_IDS = Anything(COMPONENT.chunk.shape().members["ids"])


class Numbers(Twin):
    """Ids of blocks come at random; blocks whose ids are there are looked up, and some of their queries asked for."""

    goals = {
        "asked": 200,
        "again": 50,
        "below the offset": 20,
        "looked up for long": 20,
        "full": 10,
        "back to back": 50,
    }

    def reset(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.wanted: list[int] | None = None
        self.looks_up = False
        self.queue = Queue(QUERIES + 2, latency=4)
        self.rate = 0.5
        self.asked_before = False

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.03:
            self.rate = source.choice([0.05, 0.5, 0.9])
        was_looking = self.looks_up
        if was_looking:
            # The same block, until its queries are asked for.
            self.looks_up = source.random() < 0.5
        elif self.ids and source.random() < 0.2:
            self.looks_up = True
            self.entry = source.choice(list(self.ids))
        self.saw("looked up for long", was_looking and self.looks_up)
        may_ask = self.wanted is not None and not self.looks_up and len(self.queue) < QUERIES + 2
        again = int(source.random() < 0.3)
        self.asked: dict[str, Any] = {"valid": 0}
        if may_ask and source.random() < 0.8:
            self.asked = {
                "valid": 1,
                "place": source.randrange(CONFIG.topk_lanes),
                "offset": source.randrange(CONFIG.tokens_max),
                "again": again,
                "row": source.randrange(CONFIG.tokens_max),
            }
        self.chunk: dict[str, Any] = {"valid": 0}
        entry = source.randrange(CONFIG.blocks)
        if source.random() < 0.4 and not (self.looks_up and entry == self.entry):
            self.chunk = {"valid": 1, "entry": entry, "ids": ANY_IDS(source)}
        self.takes = source.random() < self.rate
        looks = {"looks_up": 1, "entry": self.entry} if self.looks_up else {"looks_up": 0}
        return {"chunk": self.chunk, **looks, "asked": self.asked, "o": {"ready": self.takes}}

    def outputs(self) -> Values:
        return {"o": {"valid": 1, "payload": self.queue.first} if self.queue.valid else {"valid": 0}}

    def clock(self) -> None:
        number = None
        if self.asked["valid"]:
            assert self.wanted is not None
            token = self.wanted[self.asked["place"]]
            self.saw("below the offset", not self.asked["again"] and token < self.asked["offset"])
            number = self.asked["row"] if self.asked["again"] else (token - self.asked["offset"]) % CONFIG.tokens_max
            self.saw("asked")
            self.saw("again", self.asked["again"])
            self.saw("back to back", self.asked_before)
        self.saw("full", len(self.queue) == QUERIES + 2)
        self.asked_before = bool(self.asked["valid"])
        self.queue.clock(pushes=number is not None, entry=number, pops=self.queue.valid and self.takes)
        if self.looks_up:
            self.wanted = self.ids[self.entry]
        if self.chunk["valid"]:
            self.ids[self.chunk["entry"]] = self.chunk["ids"]


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def numbers_follow_queries(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Numbers, seed=seed, cycles=PARAMETERS["cycles"])
