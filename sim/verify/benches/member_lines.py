"""Testbench of hw/control/job/member_lines.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job.member_lines import MemberLines
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.job import Flag
from spatten.spec.row_format import SECTOR_BITS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
MEMBERS = MemberLines(config=CONFIG)
TOKENS = CONFIG.tokens_max
LANES = CONFIG.topk_lanes
ANY_JOB = Anything(MEMBERS.job.shape())


class Members(Twin):
    """Jobs with any of their bitmaps, whose lines are computed token by token."""

    goals = {
        "no bitmap": 10,
        "members": 10,
        "pinned": 10,
        "both": 10,
        "padding": 20,
        "lines of padding": 5,
        "all tokens": 5,
        "request stalled": 20,
        "line stalled": 50,
    }

    def reset(self) -> None:
        self.steps: list[tuple[StartStep, int]] = []
        self.over = True
        self.job: dict[str, Any] | None = None

    def _new_job(self) -> None:
        source = self.source
        job = self.job = ANY_JOB(source)
        job["keys"] = source.choice([TOKENS, source.randint(1, TOKENS)])
        job["valid_length"] = source.choice([job["keys"], source.randint(1, job["keys"])])
        self.sectors = [source.getrandbits(CONFIG.sector_bits) for _ in range(2)]
        self.bitmaps = [source.getrandbits(BANKS * SECTOR_BITS) for _ in range(2)]
        wanted = [job["flags"] >> flag & 1 for flag in (Flag.HAS_KV, Flag.PINNED)]
        self.steps = [(StartStep.SHAPE, 0)]
        for which, is_wanted in enumerate(wanted):
            if is_wanted:
                self.steps += [(StartStep.ASK, which), (StartStep.ROW, which)]
        self.steps += [(StartStep.GATHER, 0), (StartStep.LINES, 0), (StartStep.GATHERED, 0), (StartStep.START, 0)]
        self.lines = []
        for first in range(0, job["keys"], LANES):
            line = {"live": 0, "pinned": 0}
            for lane, token in enumerate(range(first, first + LANES)):
                has_kv, pinned = (bitmap >> token & 1 for bitmap in self.bitmaps)
                is_live = token < job["valid_length"] and (not wanted[0] or has_kv)
                line["live"] |= int(is_live) << lane
                line["pinned"] |= int(wanted[1] and pinned) << lane
            self.lines.append(line)
        self.lines_left = len(self.lines)
        self.saw(["no bitmap", "members", "pinned", "both"][wanted[0] + 2 * wanted[1]])
        self.saw("padding", job["valid_length"] < job["keys"])
        self.saw("lines of padding", job["valid_length"] <= job["keys"] - 2 * LANES)
        self.saw("all tokens", job["valid_length"] == TOKENS)

    def inputs(self) -> Values:
        source = self.source
        if self.over:
            if not self.steps:
                self._new_job()
            self.step, self.which = self.steps.pop(0)
            self.left = list(self.lines) if self.step == StartStep.LINES else []
        self.ready = source.random() < 0.6
        self.row_valid = self.step == StartStep.ROW and source.random() < 0.4
        given: dict[str, Any] = {
            "step": self.step.value,
            "job": self.job,
            "o_rows": {"ready": self.ready},
            "o": {"ready": self.ready},
            "i_rows": {"valid": self.row_valid},
        }
        if self.step in (StartStep.ASK, StartStep.ROW):
            given["wants_pinned"] = self.which
            given["has_kv_sector"], given["pinned_sector"] = self.sectors
        if self.row_valid:
            given["i_rows"]["payload"] = self.bitmaps[self.which]
        return given

    def outputs(self) -> Values:
        assert self.job is not None
        asks, sends = self.step == StartStep.ASK, bool(self.left)
        wanted: dict[str, Any] = {
            "o_rows": {"valid": asks},
            "o": {"valid": sends},
        }
        if self.step != StartStep.SHAPE:
            wanted["lines"] = self.lines_left
        if self.row_valid:
            wanted["i_rows"] = {"ready": 1}
        if asks:
            sectors = -(-self.job["keys"] // SECTOR_BITS)
            wanted["o_rows"]["payload"] = {"sector": self.sectors[self.which], "sectors": sectors, "rows": 1}
        if sends:
            wanted["o"]["payload"] = self.left[0]
        return wanted

    def clock(self) -> None:
        self.saw("request stalled", self.step == StartStep.ASK and not self.ready)
        self.saw("line stalled", self.left and not self.ready)
        if self.left and self.ready:
            self.left.pop(0)
            self.lines_left -= 1
        self.over = {
            StartStep.ASK: self.ready,
            StartStep.ROW: self.row_valid,
            StartStep.LINES: not self.left and self.source.random() < 0.3,
        }.get(self.step, self.source.random() < 0.7 or self.step == StartStep.SHAPE)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def lines_say_who_is_a_member(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, MEMBERS, Members, seed=seed, cycles=PARAMETERS["cycles"])
