"""Testbench of hw/control/job/job_records.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.job.job_records import JobRecords
from spatten.hw.control.job.job_steps import StartStep
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.job import Mode

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
RECORDS = JobRecords(config=CONFIG)
TOKENS, HEADS = CONFIG.tokens_max, CONFIG.heads_max
ANY_JOB = Anything(RECORDS.job.shape())
ANY_SIZES = Anything(RECORDS.sizes.shape())
RECORD = [*RECORDS.slots[0].shape().members]
SECTORS = 1 << CONFIG.sector_bits


class Records(Twin):
    """Jobs that start slot after slot, dense or not; a record is a dictionary."""

    goals = {"dense": 20, "causal": 20, "others": 20, "other in slot stands": 100, "orders wrap": 1}

    def reset(self) -> None:
        self.slot = -1
        self.order = self.rows = 0
        self.steps: list[StartStep] = []
        self.records: list[dict[str, Any]] = [{} for _ in range(CONFIG.jobs_in_flight)]
        self.totals: list[int | None] = [None] * CONFIG.jobs_in_flight
        self.pinned: list[int | None] = [None] * CONFIG.jobs_in_flight
        self.counted = False
        """The total of this job is written at the end of this cycle."""

    def _new_job(self) -> None:
        source = self.source
        self.slot = (self.slot + 1) % CONFIG.jobs_in_flight
        self.job = ANY_JOB(source)
        self.job["valid_length"] = source.randint(1, TOKENS)
        self.job["mode"] = source.choice(list(Mode))
        self.sizes = ANY_SIZES(source)
        self.sizes["rows"], self.sizes["reach"] = source.randint(1, TOKENS), source.randint(1, TOKENS)
        self.live_heads = source.randrange(1, 1 << HEADS)
        before = source.randrange(TOKENS)
        within = source.randint(0, TOKENS - before)
        live = source.choice([TOKENS, source.randint(before + within, TOKENS)])
        self.gathered = {"live": live, "pinned": source.randint(0, live)}
        self.before, self.within = before, within
        wait = [source.choice([StartStep.ASK, StartStep.ROW, StartStep.GATHER, StartStep.LINES])] * source.randint(1, 4)
        self.steps = [StartStep.IDLE] * source.randint(1, 2)
        self.steps += [StartStep.LOAD, StartStep.LOADED] if source.random() < 0.3 else []
        self.steps += [StartStep.SHAPE, *wait, StartStep.GATHERED, StartStep.START, StartStep.IDLE]

    def inputs(self) -> Values:
        if not self.steps:
            self._new_job()
        self.step = self.steps.pop(0)
        given: dict[str, Any] = {
            "step": self.step.value,
            "slot": self.slot,
            "job": self.job,
            "descriptor": self.job,
            "sizes": self.sizes,
            "live_heads": self.live_heads,
        }
        # Their number comes a cycle after the heads, and stays.
        if self.step != StartStep.SHAPE:
            given["head_count"] = self.live_heads.bit_count()
        if self.step == StartStep.GATHERED:
            given |= {"gathered": self.gathered, "before": self.before, "within": self.within}
        return given

    def outputs(self) -> Values:
        return {"slots": self.records, "totals": self.totals, "pinned": self.pinned}

    def clock(self) -> None:
        heads = self.live_heads.bit_count()
        job, sizes = self.job, self.sizes
        if self.counted:
            self.totals[self.slot] = self.rows * heads
            self.counted = False
        self.saw("other in slot stands", self.step == StartStep.GATHERED and self.records[self.slot - 1])
        if self.step == StartStep.SHAPE:
            self.records[self.slot] = {name: job[name] for name in RECORD if name in job} | {
                "live_heads": self.live_heads,
                "live": job["valid_length"],
                "first_rank": job["query_offset"],
                "rows": sizes["rows"],
                "reach": sizes["reach"],
                "dense": sizes["dense"],
                "query_origin": (job["query"] - sizes["before_queries"]) % SECTORS,
                **{name: sizes[name] for name in ("query_step", "key_step", "lsb_step", "value_step")},
                "order": self.order % 256,
            }
            self.saw("orders wrap", self.order < 256 <= self.order + heads)
            self.order += heads
            self.rows, self.counted = sizes["rows"], True
            self.saw("dense" if sizes["dense"] else "causal" if job["mode"] == Mode.CAUSAL else "others")
        elif self.step == StartStep.GATHERED:
            self.pinned[self.slot] = self.gathered["pinned"]
            self.counted = True
            if not sizes["dense"]:
                live, end = self.gathered["live"], self.before + self.within
                self.rows = self.within
                record = {"live": live, "first_rank": self.before, "rows": self.within}
                self.records[self.slot] |= {**record, "reach": end if job["mode"] == Mode.CAUSAL else live}


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def records_are_written(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, RECORDS, Records, seed=seed, cycles=PARAMETERS["cycles"])
