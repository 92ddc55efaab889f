"""Testbench of hw/control/plan/arrival_ledger.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.arrival_ledger import ArrivalLedger
from spatten.hw.control.plan.plan_layouts import SectorClass
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.row_format import SECTORS_MAX

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SEQUENCE_BITS: int = PARAMETERS["sequence_bits"]
LEDGER = ArrivalLedger(config=CONFIG, sequence_bits=SEQUENCE_BITS)
ANY_GROUP = Anything(LEDGER.i.payload.shape())
UNDER_WAY_MAX = 1 << (SEQUENCE_BITS - 1)


class Ledger(Twin):
    """Groups come and leave by chance, and are completed by chance, some at once; each is told once and in order.

    A group is told from the second cycle after it left on, when it is counted and all before it have been told.
    """

    goals = {"told": 200, "not told": 50, "refetch": 30, "chunk": 30, "several at once": 50, "most under way": 20}
    goals |= {"late fetch unit": 50}

    def reset(self) -> None:
        self.cycle = 0
        self.pace = 0.3
        """Share of the cycles in which groups are completed."""
        self.offered: dict[str, Any] | None = None
        self.left = self.completed = self.told = 0
        """Counts of groups: that have left, that the fetch unit has completed, that have been told."""
        self.under_way: deque[tuple[int, dict[str, Any]]] = deque()

    def inputs(self) -> Values:
        source = self.source
        if self.offered is None and source.random() < 0.7:
            self.offered = ANY_GROUP(source)
            self.offered["group"] |= {
                "count": source.randint(1, CONFIG.topk_lanes),
                "sectors": source.randint(1, SECTORS_MAX),
            }
            self.offered["sector_class"] = source.choice(list(SectorClass))
        # What leaves in this cycle cannot be counted yet.
        if source.random() < 0.05:
            self.pace = source.choice([0, 0, 0.3, 0.6])
        steps = source.choice([1, 1, 2, UNDER_WAY_MAX]) if source.random() < self.pace else 0
        self.saw("several at once", min(self.left - self.completed, steps) > 1)
        self.completed = min(self.left, self.completed + steps)
        under_way = self.left - self.completed
        self.ready = under_way < UNDER_WAY_MAX and source.random() < 0.7
        self.saw("most under way", under_way == UNDER_WAY_MAX)
        self.saw("late fetch unit", self.offered is not None and not self.ready)
        return {
            "i": {"valid": self.offered is not None, "payload": self.offered},
            "o": {"ready": self.ready},
            "completed": self.completed % (1 << SEQUENCE_BITS),
        }

    def outputs(self) -> Values:
        group, tells = self.offered, self.tells()
        leaves = group is not None and self.ready
        wanted: dict[str, Any] = {
            "i": {"ready": self.ready},
            "o": {"valid": group is not None},
            "arrives": [{"valid": False} for _ in (QUERY, KEY, VALUE)],
            "refetch_arrives": False,
            "chunk": {"valid": leaves and group is not None and group["group"]["ring"] == QUERY},
            "sectors": [0] * len(SectorClass),
        }
        if group is not None:
            wanted["o"]["payload"] = group["group"]
            if leaves:
                wanted["sectors"][group["sector_class"]] = group["group"]["count"] * group["group"]["sectors"]
            if wanted["chunk"]["valid"]:
                wanted["chunk"] |= {"entry": group["entry"], "ids": group["group"]["ids"]}
        if tells is not None and tells["counts"]:
            if tells["group"]["ring"] == LINEAR:
                wanted["refetch_arrives"] = True
            else:
                wanted["arrives"][tells["group"]["ring"]] = {"valid": True, "entry": tells["entry"]}
        return wanted

    def tells(self) -> dict[str, Any] | None:
        """The group that is told in this cycle."""
        if self.told < self.completed and self.under_way and self.under_way[0][0] + 2 <= self.cycle:
            return self.under_way[0][1]
        return None

    def clock(self) -> None:
        group, tells = self.offered, self.tells()
        if tells is not None:
            self.under_way.popleft()
            self.told += 1
            self.saw("told", tells["counts"])
            self.saw("not told", not tells["counts"])
            self.saw("refetch", tells["counts"] and tells["group"]["ring"] == LINEAR)
        if group is not None and self.ready:
            self.under_way.append((self.cycle, group))
            self.left += 1
            self.saw("chunk", group["group"]["ring"] == QUERY)
            self.offered = None
        self.cycle += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def every_arrival_is_told(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, LEDGER, Ledger, seed=seed, cycles=PARAMETERS["cycles"])
