"""Testbench of hw/control/row/again_segments.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.plan_layouts import again_row
from spatten.hw.control.row.again_segments import AgainSegments
from spatten.hw.datapath.progressive import Kind
from spatten.sim.verify.benches.row_models import LSB_CODE, Job, Jobs
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.row_format import CODE_BITS, key_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
COMPONENT = AgainSegments(config=CONFIG)
ANY_ROW = Anything(again_row(CONFIG))
NOTHING = dict.fromkeys(("entry", "base", "dim", "bits", "odd_head", "stashes", "offset"), 0)
"""What the segment of a chunk's queries has besides."""


def wanted_segment(job: Job, row: dict[str, Any]) -> dict[str, Any]:
    """The segment of a flat row of a job, an `again_row`."""
    stash_slot, kind, header = row["row"]["stash_slot"], row["row"]["kind"], row["row"]["header"]
    is_second_pass = kind == Kind.SECOND
    block = job.format(LSB_BITS) if is_second_pass else job.format(job.key_bits, joined=True)
    scale = job.scales[header["head"]]
    less = 0 if is_second_pass else job.excess()
    return {
        "query": {
            **NOTHING,
            "rows": 1,
            "again": 1,
            "stash_slot": stash_slot,
            "row": header["number"],
        },
        "key": {
            "row": header,
            "kind": kind,
            "stash_slot": stash_slot,
            "entry": 0,
            "base": key_ring_sectors(CONFIG),
            "linear": 1,
            "limit": row["limit"],
            "ends_block": 0,
            "rows": 1,
            "keys": row["keys"],
            "causal": 0,
            "dim": HEAD_DIMS.index(job.head_dim),
            "bits": LSB_CODE if is_second_pass else CODE_BITS.index(job.key_bits),
            "joined": not is_second_pass,
            "odd_head": block.heads == 2 and header["head"] % 2,
            "lsb": is_second_pass,
            "mantissa": scale["mantissa"],
            "shift": (scale["shift"] - less) % 64,
            "flat_limit": 0,
        },
    }


class Rows(Twin):
    """Flat rows of jobs at random; a job's slot gets another job between two rows."""

    goals = {
        "second pass": 50,
        "from scratch": 50,
        "excess": 20,
        "waits": 100,
        "waits for the scale": 50,
        "shares a block": 20,
    }

    def reset(self) -> None:
        self.jobs = Jobs(CONFIG, self.source)
        self.in_slot: dict[int, Job] = {}
        self.scale: dict[str, int] = {}
        self.offer: dict[str, Any] | None = None
        self.segment: dict[str, Any] | None = None
        self.age = 0

    def _make(self) -> None:
        """Makes a flat row, and what its segment must be."""
        slot = self.source.choice(list(self.in_slot))
        job = self.in_slot[slot]
        row = ANY_ROW(self.source)
        row["row"]["kind"] = self.source.choice([Kind.SECOND, Kind.SINGLE])
        row["row"]["header"] |= {"slot": slot, "head": self.source.choice(job.heads)}
        self.header = row["row"]["header"]
        self.offer, self.wanted = row, wanted_segment(job, row)
        is_second_pass = row["row"]["kind"] is Kind.SECOND
        self.saw("second pass", is_second_pass)
        self.saw("from scratch", not is_second_pass)
        self.saw("excess", not is_second_pass and job.excess())
        self.saw("shares a block", self.wanted["key"]["odd_head"])

    def inputs(self) -> Values:
        is_empty = self.segment is None and self.offer is None
        if is_empty and (not self.in_slot or self.source.random() < 0.2):
            slot, job = self.jobs.start()
            self.in_slot[slot] = job
        elif is_empty and self.source.random() < 0.4:
            self._make()
        self.valid = self.segment is not None and self.age >= 3
        self.asks = self.segment is not None and self.age == 1
        self.may_read, self.takes = self.source.random() < 0.5, self.source.random() < 0.5
        return {
            "slots": self.jobs.records,
            "read": {"ready": self.may_read},
            # The scale is there in the cycle after it was read, and in no other.
            "scale": self.scale,
            "i": {"valid": 0} if self.offer is None else {"valid": 1, "payload": self.offer},
            "o": {"ready": self.takes},
        }

    def outputs(self) -> Values:
        shown: dict[str, Any] = {"valid": 1, "payload": self.segment} if self.valid else {"valid": 0}
        read: dict[str, Any] = {"valid": 0}
        if self.asks:
            read = {"valid": 1, "payload": {"slot": self.header["slot"], "head": self.header["head"]}}
        return {"i": {"ready": self.segment is None}, "read": read, "o": shown}

    def clock(self) -> None:
        self.saw("waits", self.valid and not self.takes)
        self.saw("waits for the scale", self.asks and not self.may_read)
        reads = self.asks and self.may_read
        self.scale = self.in_slot[self.header["slot"]].scales[self.header["head"]] if reads else {}
        self.age += not self.asks or self.may_read
        if self.segment is None and self.offer is not None:
            self.segment, self.offer, self.age = self.wanted, None, 1
        elif self.valid and self.takes:
            self.segment = None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def flat_rows_become_segments(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COMPONENT, Rows, seed=seed, cycles=PARAMETERS["cycles"])
