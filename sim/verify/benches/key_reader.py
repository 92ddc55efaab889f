"""Testbench of hw/control/key_reader.py; tests/hw/control/test_key_reader.py runs it.

The windows of a segment follow from the format of its block rows; each is read in the first cycle in which its query,
its keys and a place for its scores are there.
"""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.key_reader import KeyReader
from spatten.sim.verify.benches.key_windows import any_segment
from spatten.sim.verify.benches.row_models import Buffer
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
PLACES: int = PARAMETERS["places"]
READER = KeyReader(config=CONFIG, places=PLACES)
GROUPS = -(-CONFIG.tokens_max // CONFIG.topk_lanes)


class Reads(Twin):
    """Segments at random; their queries and keys come, and their scores leave, in phases of different paces."""

    goals = {
        "segment": 40,
        "behind the ring": 15,
        "frees a slot": 3,
        "uses up a block": 5,
        "query is late": 50,
        "keys are late": 50,
        "no place": 30,
        "full speed": 200,
        "segment without a pause": 5,
    }

    def reset(self) -> None:
        self.offer: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
        self.buffer = Buffer()
        self.unmade: list[dict[str, Any]] = []
        self.window: dict[str, Any] | None = None
        self.number: int | None = None
        self.arrived = [0] * CONFIG.blocks
        self.behind = 0
        self.under_way = 0
        self.used: dict[str, Any] = {"valid": 0}
        self.went = False
        self.pace = {"query": 0.8, "keys": 0.8, "scores": 0.8}

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.04:
            self.pace = {
                "query": source.choice([0.2, 1]),
                "keys": source.choice([0.4, 1, 1]),
                "scores": source.choice([0.1, 1]),
            }
        if self.offer is None and source.random() < 0.6:
            self.offer = any_segment(source)
        if self.number is None and source.random() < self.pace["query"]:
            self.number = source.randrange(CONFIG.tokens_max)
        # Whether a window's keys are there is looked up a cycle before.
        self.before = (self.arrived, self.behind)
        self.arrived = [self._groups() for _ in range(CONFIG.blocks)]
        self.behind = self._groups()
        self.leaves = self.under_way > 0 and source.random() < self.pace["scores"]
        return {
            "i": {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer[0]["segment"]},
            "i_row": {"valid": 0} if self.number is None else {"valid": 1, "payload": self.number},
            "arrived": self.arrived,
            "again_arrived": self.behind,
            "left": self.leaves,
        }

    def _groups(self) -> int:
        """How many groups are there: often all."""
        return GROUPS if self.source.random() < self.pace["keys"] else self.source.randrange(GROUPS + 1)

    def outputs(self) -> Values:
        window, arrived = self.window, self.before
        self.goes = False
        wanted: dict[str, Any] = {
            "i": {"ready": self.buffer.ready},
            "used": self.used,
            **dict.fromkeys(("again_read", "again_done", "again_freed", "waits"), 0),
        }
        if window is not None:
            there = arrived[1] if window["linear"] else arrived[0][window["entry"]]
            has_keys = there > window["group"]
            has_place = self.under_way < PLACES or not window["fills"]
            self.goes = self.number is not None and has_keys and has_place
            wanted["waits"] = self.number is None or not has_keys
            self.saw("query is late", self.number is None and has_keys)
            self.saw("keys are late", self.number is not None and not has_keys)
            self.saw("no place", self.number is not None and has_keys and not has_place)
        wanted |= {"i_row": {"ready": 0}, "o_read": {"valid": self.goes}}
        if self.goes and window is not None:
            scores = window["request"]["header"]["scores"]
            scores = {**scores, "row": {**scores["row"], "number": self.number}}
            header = {**window["request"]["header"], "scores": scores}
            wanted["o_read"]["payload"] = {**window["request"], "header": header}
            wanted |= {
                "i_row": {"ready": window["ends_row"]},
                "again_read": window["again_read"],
                "again_done": window["again_done"],
                "again_freed": window["freed"],
            }
        return wanted

    def clock(self) -> None:
        window, begins = self.window, bool(self.unmade) and (self.window is None or self.goes)
        self.saw("full speed", self.goes and self.went)
        self.went = self.goes
        self.used = {"valid": 0}
        self.under_way -= self.leaves
        if self.goes and window is not None:
            self.under_way += bool(window["fills"])
            self.saw("frees a slot", window["freed"])
            self.saw("uses up a block", window["ends_block"])
            if window["ends_block"]:
                self.used = {"valid": 1, "entry": window["entry"]}
            if window["ends_row"]:
                self.number = None
            self.window = None
        if begins:
            self.window = self.unmade.pop(0)
        takes = not self.unmade and self.buffer.valid
        pushes = self.offer is not None and self.buffer.ready
        if takes:
            placed, windows = self.buffer.first
            self.unmade = list(windows)
            self.saw("segment")
            self.saw("segment without a pause", begins)
            self.saw("behind the ring", placed["segment"]["linear"])
        self.buffer.clock(pushes=pushes, entry=self.offer, pops=takes)
        if pushes:
            self.offer = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def windows_are_read_when_they_can_be(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, READER, Reads, seed=seed, cycles=PARAMETERS["cycles"])
