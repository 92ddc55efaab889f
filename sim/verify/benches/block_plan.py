"""Testbench of hw/control/plan/block_plan.py; tests/hw/control/test_planner_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.block_plan import BlockPlan
from spatten.hw.control.plan.plan_layouts import fetches_max
from spatten.hw.memory.address_generator import KEY
from spatten.sim.verify.benches.planner_jobs import block_format, format_code, plane_fetches, random_job
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.row_format import SECTORS_MAX, RowFormat, SectorRun

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
RING: int = PARAMETERS["ring"]
IS_KEY = RING == KEY
PLAN = BlockPlan(config=CONFIG, ring=RING)


class Plan(Twin):
    """Another job, head and number of rows in every cycle; a cycle later its fetches are listed."""

    goals = {"one head": 100, "two heads": 100, "one of two heads": 50, "no row": 5}
    if IS_KEY:
        goals |= {"three fetches": 20}

    def reset(self) -> None:
        self.wanted: dict[str, Any] = {}

    def inputs(self) -> Values:
        self.job = job = random_job(self.source, CONFIG)
        self.layout = block_format(CONFIG, job, RING)
        if self.source.random() < 0.5:
            self.layout = self.any_layout(self.layout)
        self.rows = self.source.randint(0, CONFIG.tokens_max)
        self.head = self.source.choice([head for head in range(CONFIG.heads_max) if job["live_heads"] >> head & 1])
        given = {
            "job": job,
            "block": format_code(self.layout),
            "head": self.head,
            "rows": self.rows,
        }
        return {**given, "live_heads": job["live_heads"]} if IS_KEY else given

    def any_layout(self, like: RowFormat) -> RowFormat:
        """A layout that no job has, since the circuit is told all that it needs of one."""
        source = self.source
        heads = source.randint(1, 2)
        runs = tuple(
            SectorRun(
                plane=source.choice(["msb", "lsb"]) if IS_KEY else "msb",
                heads=(0,) if heads == 1 else source.choice([(0,), (1,), (0, 1)]) if IS_KEY else (0, 1),
                first=source.randrange(8),
                sectors=source.randrange(16),
                place=source.randrange(8),
            )
            for _ in range(source.randint(1, fetches_max(RING)))
        )
        return RowFormat(like.head_dim, like.bits, like.joined, heads, source.randint(1, SECTORS_MAX), runs, {})

    def outputs(self) -> Values:
        return self.wanted

    def clock(self) -> None:
        layout = self.layout
        first = self.head - self.head % layout.heads
        served = {
            head for head in range(first, first + layout.heads) if not IS_KEY or self.job["live_heads"] >> head & 1
        }
        fetches: Any = plane_fetches(CONFIG, self.job, layout, head=self.head, wanted=served, ring=RING)
        self.saw("one head", layout.heads == 1)
        self.saw("two heads", len(served) == 2)
        self.saw("one of two heads", not IS_KEY or len(served) < layout.heads)
        self.saw("three fetches", len(fetches) == 3)
        self.saw("no row", self.rows == 0)
        self.wanted = {"size": -(-self.rows // CONFIG.slices) * layout.stride}
        if IS_KEY:
            self.wanted |= {"passes": len(fetches), "fetches": [*fetches, *[None] * (len(PLAN.fetches) - len(fetches))]}
        else:
            self.wanted |= {"fetches": [{**fetch, "other": None} for fetch in fetches]}  # values have one plane


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def it_says_what_a_block_takes(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, PLAN, Plan, seed=seed, cycles=PARAMETERS["cycles"])
