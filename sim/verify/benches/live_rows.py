"""Testbench of hw/control/job/live_rows.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job.live_rows import LiveRows
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
ROWS = LiveRows(config=CONFIG)
TOKENS = CONFIG.tokens_max
LANES = CONFIG.topk_lanes
ANY_JOB = Anything(ROWS.job.shape())


class Rows(Twin):
    """Live lists of random tokens, which come row by row with pauses; the query rows are a range that is intersected
    with the list when all of the list is there."""

    goals = {
        "some before, within and behind": 20,
        "none within": 10,
        "full list": 5,
        "one token": 5,
        "last row is full": 10,
        "no live token": 3,
        "rows without a pause": 50,
    }

    def reset(self) -> None:
        self.rows: list[list[int]] = []
        self.came = -1
        """Cycles since the last row of the list, as soon as it has come; -1 before."""
        self.wait = 0
        self.step = StartStep.IDLE

    def _new_job(self) -> None:
        source = self.source
        self.step = StartStep.SHAPE
        self.slot = source.randrange(CONFIG.jobs_in_flight)
        self.job = ANY_JOB(source)
        offset = self.job["query_offset"] = source.randrange(TOKENS)
        queries = self.job["queries"] = source.randint(1, TOKENS - offset)
        share = source.choice([0.1, 0.5, 0.9, 1])
        tokens = [n for n in range(TOKENS) if source.random() < share]
        if source.random() < 0.15:
            tokens = [source.randrange(TOKENS)]
        if source.random() < 0.05:
            tokens = []
        # A list without tokens is one row without any.
        self.rows = [tokens[first : first + LANES] for first in range(0, len(tokens) or 1, LANES)]
        self.before = sum(token < offset for token in tokens)
        self.within = len({*tokens} & {*range(offset, offset + queries)})
        self.number, self.came = 0, -1
        self.wait = source.choice([0, 0, 3])
        self.saw("some before, within and behind", 0 < self.before < self.before + self.within < len(tokens))
        self.saw("none within", not self.within)
        self.saw("full list", len(tokens) == TOKENS)
        self.saw("one token", len(tokens) == 1)
        self.saw("no live token", not tokens)
        self.saw("last row is full", len(self.rows[-1]) == LANES)

    def inputs(self) -> Values:
        source = self.source
        if not self.rows and (self.came < 0 or self.came > 2) and source.random() < 0.5:
            self._new_job()
        elif self.step == StartStep.SHAPE:
            self.step = StartStep.LINES
        elif not self.rows and self.came > 2:
            self.step = source.choice([step for step in StartStep if step != StartStep.SHAPE])
        if self.came < 0 and not self.rows:
            return {"step": StartStep.IDLE.value, "i": {"valid": 0}}
        self.row = None
        if self.step == StartStep.LINES and self.rows:
            self.saw("rows without a pause", self.number and not self.wait)
            if self.wait:
                self.wait -= 1
            else:
                self.row = self.rows[0]
                self.wait = source.choice([0, 0, 0, 1, 4])
        given: dict[str, Any] = {"step": self.step.value, "slot": self.slot, "job": self.job}
        if self.row is None:
            return given | {"i": {"valid": 0}}
        ids = [*self.row, *[None] * (LANES - len(self.row))]
        payload = {"ids": ids, "count": len(self.row), "last": len(self.rows) == 1}
        return given | {"i": {"valid": 1, "payload": payload}}

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"i": {"ready": 1}, "live_write": {"enable": 0}}
        if self.came < 0 and not self.rows:
            return wanted
        if self.row is not None:
            ids = [*self.row, *[None] * (LANES - len(self.row))]
            wanted["live_write"] = {"enable": 1, "slot": self.slot, "row": self.number, "ids": ids}
        if self.step != StartStep.SHAPE:
            wanted["complete"] = self.came >= 1
        if self.came >= 1:
            wanted |= {"before": self.before, "within": self.within}
        return wanted

    def clock(self) -> None:
        if self.came >= 0:
            self.came += 1
        if self.rows and self.row is not None:
            self.rows.pop(0)
            self.number += 1
            if not self.rows:
                self.came = 0


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def live_rows_are_written_and_counted(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, ROWS, Rows, seed=seed, cycles=PARAMETERS["cycles"])
