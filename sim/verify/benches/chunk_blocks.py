"""Testbench of hw/control/row/chunk_blocks.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.chunk_blocks import ChunkBlocks
from spatten.sim.verify.benches.row_models import Queue
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = ChunkBlocks(config=CONFIG)
RINGS = ("query", "key", "value")
ANY_BLOCK = {name: Anything(getattr(COMPONENT, f"i_{name}").payload.shape()) for name in RINGS}


class Blocks(Twin):
    """Heads of 1 to 4 chunks, some of which go on with the block of the head before, and some of which are pruned."""

    goals = {
        "back to back": 100,
        "waits for query": 50,
        "waits for key": 30,
        "waits for value": 30,
        "stays": 100,
        "pruned": 50,
        "all full": 5,
    }

    def reset(self) -> None:
        self.queues = {name: Queue(CONFIG.blocks) for name in RINGS}
        self.offers: dict[str, Any] = dict.fromkeys(RINGS)
        self.chunks: deque[dict[str, bool]] = deque()
        self.has = {"key": False, "value": False}
        self.held: dict[str, Any] = {}
        self.took = False
        self.pace = dict.fromkeys(RINGS, 0.5)
        self.rate = 0.5

    def _make_head(self) -> None:
        """Adds the chunks of a head, which has a block of its own if the head before left none."""
        prunes = self.source.random() < 0.3
        begins = {name: not has or self.source.random() < 0.6 for name, has in self.has.items()}
        for number in range(self.source.randint(1, 4)):
            is_first = number == 0
            self.chunks.append(
                {
                    "begins_keys": is_first and begins["key"],
                    "begins_values": is_first and begins["value"],
                    "prunes": prunes,
                }
            )
        self.has = {"key": True, "value": not prunes}

    def inputs(self) -> Values:
        if self.source.random() < 0.03:
            # Fewer blocks of keys and values are needed than of queries.
            self.pace = {name: self.source.choice([0.02, 0.1, 0.9]) for name in RINGS}
            self.pace["query"] = self.source.choice([0.1, 0.6, 0.9])
            self.rate = self.source.choice([0, 0.3, 1, 1])
        for name in RINGS:
            if self.offers[name] is None and self.source.random() < self.pace[name]:
                self.offers[name] = ANY_BLOCK[name](self.source)
        if not self.chunks:
            self._make_head()
        self.chunk = self.chunks[0]
        self.needs = ["query"]
        self.needs += ["key"] * self.chunk["begins_keys"]
        self.needs += ["value"] * (self.chunk["begins_values"] and not self.chunk["prunes"])
        self.wanted = self.source.random() < 0.9
        self.are_there = self.wanted and all(self.queues[name].valid for name in self.needs)
        self.takes = self.are_there and self.source.random() < self.rate
        offers = {
            f"i_{name}": {"valid": 0} if offer is None else {"valid": 1, "payload": offer}
            for name, offer in self.offers.items()
        }
        return {**offers, **self.chunk, "wanted": self.wanted, "takes": self.takes}

    def outputs(self) -> Values:
        shown: dict[str, Any] = {f"i_{name}": {"ready": self.queues[name].ready} for name in RINGS}
        shown["are_there"] = self.are_there
        if self.are_there:
            self.now = {name: self.queues[name].first if name in self.needs else self.held.get(name) for name in RINGS}
            shown |= {name: block for name, block in self.now.items() if not (name == "value" and self.chunk["prunes"])}
        return shown

    def clock(self) -> None:
        missing = [name for name in self.needs if not self.queues[name].valid]
        for name in RINGS:
            self.saw(f"waits for {name}", missing == [name] and self.wanted)
        self.saw("back to back", self.takes and self.took)
        self.saw("stays", self.takes and "key" not in self.needs)
        self.saw("pruned", self.takes and self.chunk["prunes"])
        self.saw("all full", not any(queue.ready for queue in self.queues.values()))
        if self.takes:
            self.held.update(self.now)
            self.chunks.popleft()
        for name, queue in self.queues.items():
            offer = self.offers[name]
            pushes = offer is not None and queue.ready
            queue.clock(pushes=pushes, entry=offer, pops=self.takes and name in self.needs)
            if pushes:
                self.offers[name] = None
        self.took = self.takes


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def chunks_get_their_blocks(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Blocks, seed=seed, cycles=PARAMETERS["cycles"])
