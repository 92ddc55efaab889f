"""Testbench of hw/control/prob_router.py; tests/hw/control/test_routers.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.prob_router import ProbRouter
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
ROUTER = ProbRouter(config=CONFIG)
ANY_BEAT = Anything(ROUTER.i.payload.shape())


class Routes(Twin):
    """Where each beat goes, by its row's flags."""

    goals = {"all": 100, "pruned": 100, "stalled": 100, "counts": 50, "counts nothing": 50, "ends": 50}

    def reset(self) -> None:
        self.beat: dict[str, Any] | None = None

    def inputs(self) -> Values:
        if self.beat is None and self.source.random() < 0.8:
            self.beat = ANY_BEAT(self.source)
            self.beat["header"]["header"]["slot"] %= CONFIG.jobs_in_flight
        self.keeps = [self.source.randrange(CONFIG.tokens_max + 1) for _ in range(CONFIG.jobs_in_flight)]
        self.all_ready, self.topk_ready = self.source.random() < 0.7, self.source.random() < 0.7
        return {
            "i": {"valid": self.beat is not None, "payload": self.beat},
            "keep_values": self.keeps,
            "o_all": {"ready": self.all_ready},
            "o_topk": {"ready": self.topk_ready},
        }

    def outputs(self) -> Values:
        idle = {"valid": 0}
        if self.beat is None:
            return {"o_all": idle, "o_topk": idle, "o_importance": idle, "probs_done": idle}
        beat, row = self.beat, self.beat["header"]["header"]
        common = {"count": beat["count"], "last": beat["last"]}
        if row["prune"]:
            keep = self.keeps[row["slot"]]
            taker, is_ready = "o_topk", self.topk_ready
            sent = {**common, "values": beat["probs"], "k": keep, "header": row}
        else:
            taker, is_ready = "o_all", self.all_ready
            sent = {**common, "probs": beat["probs"], "row": row}
        self.is_taken = is_ready
        counted = {**common, "probs": beat["probs"], "slot": row["slot"]}
        if not row["accumulate"]:
            counted["count"] = 0
        return {
            "i": {"ready": is_ready},
            "o_all": idle,
            "o_topk": idle,
            taker: {"valid": 1, "payload": sent},
            "o_importance": {"valid": is_ready, "payload": counted if is_ready else {}},
            "probs_done": {"valid": is_ready and beat["last"], "slot": row["slot"]},
        }

    def clock(self) -> None:
        if self.beat is None:
            return
        row = self.beat["header"]["header"]
        self.saw("stalled", not self.is_taken)
        if self.is_taken:
            self.saw("pruned" if row["prune"] else "all")
            self.saw("counts" if row["accumulate"] else "counts nothing")
            self.saw("ends", self.beat["last"])
            self.beat = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def every_beat_goes_where_its_row_belongs(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, ROUTER, Routes, seed=seed, cycles=PARAMETERS["cycles"])
