"""Testbench of hw/control/plan/group_emitter.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.group_emitter import GroupEmitter
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
LANES = CONFIG.topk_lanes
ROWS = CONFIG.tokens_max // LANES
EMITTER = GroupEmitter(config=CONFIG)
ANY_REQUEST = Anything(EMITTER.request.shape())
ANY_IDS = Anything(EMITTER.live_write.ids.shape())
ANY_KEPT = Anything(EMITTER.kept.shape())
COPIED = ("count", "sector", "pitch", "sectors", "ring", "place", "stride")


class Groups(Twin):
    """The ids of a request are looked up when it comes; up to two groups are inside.

    One of these waits for its ids, which take a cycle; another one may wait for the fetch unit.
    """

    goals = {"dense": 50, "kept": 50, "live": 50, "skipped": 50, "full": 50, "row written again": 20, "other": 50}

    def reset(self) -> None:
        self.live: dict[tuple[int, int], list[int]] = {}
        self.other_ids: list[int] | None = None
        self.waits: dict[str, Any] | None = None
        self.leaving: deque[dict[str, Any]] = deque()

    def inputs(self) -> Values:
        source = self.source
        self.ready = source.random() < 0.6
        self.takes = self.waits is None or self.ready or not self.leaving
        given: dict[str, Any] = {"o": {"ready": self.ready}, "live_write": {"enable": 0}, "valid": 0}
        self.request: dict[str, Any] | None = None
        if self.takes and source.random() < 0.8:
            given |= {"valid": 1, "kept": ANY_KEPT(source)}
            given["request"] = self.request = self.random_request()
            self.kept = given["kept"]
        self.written = (source.randrange(CONFIG.jobs_in_flight), source.randrange(ROWS))
        is_read = self.request is not None and self.written == (self.request["slot"], self.request["row"])
        self.ids: list[int] | None = None
        if not is_read and source.random() < 0.3:
            self.ids = ANY_IDS(source)
            given["live_write"] = {"enable": 1, "slot": self.written[0], "row": self.written[1], "ids": self.ids}
        # Somebody else reads a row, but not while one is written.
        self.other: tuple[int, int] | None = None
        if self.ids is None and self.live and source.random() < 0.3:
            self.other = source.choice(list(self.live))
        given["live_read"] = {"enable": 0}
        if self.other is not None:
            given["live_read"] = {"enable": 1, "slot": self.other[0], "row": self.other[1]}
        return given

    def random_request(self) -> dict[str, Any]:
        request: dict[str, Any] = ANY_REQUEST(self.source)
        request["row"] %= ROWS
        request["count"] = self.source.randint(1, LANES - request["skip"])
        is_known = (request["slot"], request["row"]) in self.live
        request["dense"] = int(not is_known or self.source.random() < 0.3)
        request["kept"] = int(self.source.random() < 0.3)
        return request

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"takes": self.takes, "o": {"valid": bool(self.leaving)}}
        if self.leaving:
            wanted["o"]["payload"] = self.leaving[0]
        if self.other_ids is not None:
            wanted["live_ids"] = self.other_ids
        return wanted

    def group(self, request: dict[str, Any]) -> dict[str, Any]:
        first = request["skip"]
        if request["kept"]:
            ids = self.kept
        elif request["dense"]:
            ids = [request["row"] * LANES + lane for lane in range(first, LANES)]
        else:
            ids = self.live[request["slot"], request["row"]][first:]
        ids = ids[: request["count"]]
        return {
            "group": {**{name: request[name] for name in COPIED}, "ids": [*ids, *[None] * (LANES - len(ids))]},
            **{name: request[name] for name in ("entry", "sector_class", "counts")},
        }

    def clock(self) -> None:
        self.saw("full", not self.takes)
        if self.ready and self.leaving:
            self.leaving.popleft()
        if self.waits is not None and not self.leaving:
            self.leaving.append(self.waits)
            self.waits = None
        if self.request is not None:
            self.waits = self.group(self.request)
            self.saw("kept", self.request["kept"])
            self.saw("dense", self.request["dense"] and not self.request["kept"])
            self.saw("live", not self.request["dense"] and not self.request["kept"])
            self.saw("skipped", self.request["skip"] and not self.request["kept"])
        if self.other is not None:
            self.saw("other")
            self.other_ids = self.live[self.other]
        if self.ids is not None:
            self.saw("row written again", self.written in self.live)
            self.live[self.written] = self.ids


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def groups_have_the_ids_of_their_rows(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, EMITTER, Groups, seed=seed, cycles=PARAMETERS["cycles"])
