"""Testbench of hw/control/plan/bid_arbiter.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.bid_arbiter import BidArbiter
from spatten.hw.control.plan.plan_layouts import ORDER_SPAN_MAX
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
ARBITER = BidArbiter(config=Config(**PARAMETERS["config"]))
ANY_REQUEST = Anything(ARBITER.request.shape())


class Choice(Twin):
    """Bids in a window of `ORDER_SPAN_MAX` orders around a growing number; which wins is looked up by sorting them."""

    goals = {"refetch": 50, "urgent value": 100, "query": 100, "key": 100, "value": 100, "equal orders": 50, "none": 20}

    def reset(self) -> None:
        self.base = self.source.randrange(256)
        self.next = self._stand()
        self.is_first = True

    def _stand(self) -> tuple[int, list[dict[str, Any]]]:
        """The bids of a cycle, and where their window begins."""
        self.base = (self.base + self.source.randrange(3)) % 256
        # The bids of queries and keys say nothing of urgency, that of a flat row nothing of its order.
        bids = [self._bid(valid=0.7, urgent=0.2) for _ in (QUERY, KEY, VALUE)]
        del bids[QUERY]["urgent"], bids[KEY]["urgent"]
        return self.base, bids

    def _bid(self, *, valid: float, urgent: float) -> dict[str, Any]:
        order = (self.base + self.source.choice([0, 1, 2, 3, 64, ORDER_SPAN_MAX])) % 256
        return {
            "valid": self.source.random() < valid,
            "order": order,
            "urgent": self.source.random() < urgent,
            "request": ANY_REQUEST(self.source),
        }

    def inputs(self) -> Values:
        self.first, self.bids = self.next
        self.next = self._stand()
        # In the first cycle nobody has given the orders a cycle before.
        for bid in self.bids if self.is_first else ():
            bid["valid"] = False
        self.is_first = False
        given = [dict(bid, next_order=coming["order"]) for bid, coming in zip(self.bids, self.next[1], strict=True)]
        for bid in given:
            del bid["order"]
        self.refetch = self._bid(valid=0.1, urgent=1)
        del self.refetch["order"]
        self.takes = self.source.random() < 0.8
        return {"bids": given, "refetch_bid": self.refetch, "takes": self.takes}

    def outputs(self) -> Values:
        standing = [ring for ring in (QUERY, KEY, VALUE) if self.bids[ring]["valid"]]
        first = min(standing, key=lambda ring: ((self.bids[ring]["order"] - self.first) % 256, -ring), default=None)
        is_urgent = bool(self.bids[VALUE]["valid"] and self.bids[VALUE]["urgent"])
        if is_urgent:
            first = VALUE
        winner = self.refetch if self.refetch["valid"] else None if first is None else self.bids[first]
        self.winner = "refetch" if winner is self.refetch else first
        self.saw("refetch", self.takes and self.winner == "refetch")
        self.saw("urgent value", self.takes and self.winner == VALUE and is_urgent)
        for ring, name in ((QUERY, "query"), (KEY, "key"), (VALUE, "value")):
            self.saw(name, self.takes and self.winner == ring and not is_urgent)
        self.saw("equal orders", len({self.bids[ring]["order"] for ring in standing}) < len(standing))
        self.saw("none", winner is None)
        wanted: dict[str, Any] = {
            "wins": [self.takes and self.winner == ring for ring in (QUERY, KEY, VALUE)],
            "refetch_wins": self.takes and self.winner == "refetch",
            "valid": self.takes and winner is not None,
        }
        if self.takes and winner is not None:
            wanted["request"] = winner["request"]
        return wanted

    def clock(self) -> None:
        pass


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_right_bid_wins(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, ARBITER, Choice, seed=seed, cycles=PARAMETERS["cycles"])
