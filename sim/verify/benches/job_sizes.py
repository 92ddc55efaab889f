"""Testbench of hw/control/job/job_sizes.py; tests/hw/control/test_job_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.golden.memory import Plane
from spatten.hw.control.job.job_sizes import JobSizes
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.job import Flag, Mode
from spatten.spec.row_format import CODE_BITS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SIZES = JobSizes(config=CONFIG)
TOKENS = CONFIG.tokens_max
ANY_JOB = Anything(SIZES.job.shape())


def legal_job(source: Any) -> dict[str, Any]:
    """A descriptor whose sizes a job can have; the rest of it is random."""
    job: dict[str, Any] = ANY_JOB(source)
    bits = [code for code, width in enumerate(CODE_BITS) if width <= CONFIG.operand_bits]
    job |= {name: source.choice(bits) for name in ("query_bits", "key_bits", "value_bits")}
    job["head_dim"] = source.randrange(len(CONFIG.head_dims))
    job["mode"] = source.choice(list(Mode))
    job["keys"] = source.choice([TOKENS, source.randint(1, TOKENS)])
    job["kv_rows"] = source.randint(job["keys"], TOKENS)
    job["valid_length"] = source.randint(1, job["keys"])
    job["query_offset"] = source.randrange(TOKENS)
    job["queries"] = source.randint(1, TOKENS - job["query_offset"])
    if job["mode"] == Mode.GENERATION:
        job["queries"] = 1
    return job


def sizes_of(job: dict[str, Any]) -> dict[str, int]:
    """The sizes of a job, from the golden model's planes, and its rows counted one by one."""

    def plane(rows: int, bits: int) -> Plane:
        dim = HEAD_DIMS[job["head_dim"]]
        return Plane(channels=CONFIG.channels, base=0, rows=rows, heads=1, head_dim=dim, bits=bits)

    queries = plane(job["queries"], CODE_BITS[job["query_bits"]])
    end = job["valid_length"]
    clears, restarts, has_kv = (job["flags"] >> flag & 1 for flag in (Flag.CLEAR, Flag.RESTART, Flag.HAS_KV))
    new_token_is_valid = job["mode"] != Mode.GENERATION or job["query_offset"] in range(end)
    rows = [token for token in range(job["query_offset"], job["query_offset"] + job["queries"]) if token < end]
    return {
        "dense": (clears or restarts) and not has_kv and new_token_is_valid,
        "rows": len(rows),
        "reach": job["query_offset"] + len(rows) if job["mode"] == Mode.CAUSAL else end,
        "before_queries": job["query_offset"] * queries.row_sectors,
        "query_step": queries.group_stride,
        "key_step": plane(job["kv_rows"], CODE_BITS[job["key_bits"]]).group_stride,
        "lsb_step": plane(job["kv_rows"], LSB_BITS).group_stride,
        "value_step": plane(job["kv_rows"], CODE_BITS[job["value_bits"]]).group_stride,
    }


class Sizes(Twin):
    """Jobs that stand still for a while; their sizes are those of the golden model."""

    goals = {"dense": 50, "sparse": 50, "all queries valid": 50, "some": 50, "none": 50, "causal": 50, "new token": 20}

    def reset(self) -> None:
        self.stands = 0

    def inputs(self) -> Values:
        if self.source.random() < 0.5 and self.stands != 1:
            self.stands = 0
        if not self.stands:
            self.job = legal_job(self.source)
        return {"job": self.job}

    def outputs(self) -> Values:
        return {"sizes": sizes_of(self.job)} if self.stands else {}

    def clock(self) -> None:
        self.stands += 1
        if self.stands == 2:
            sizes = sizes_of(self.job)
            self.saw("dense" if sizes["dense"] else "sparse")
            missing = self.job["queries"] - sizes["rows"]
            self.saw("all queries valid" if not missing else "some" if sizes["rows"] else "none")
            self.saw("causal", self.job["mode"] == Mode.CAUSAL)
            self.saw("new token", self.job["mode"] == Mode.GENERATION and sizes["dense"])


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def sizes_are_those_of_the_golden_model(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, SIZES, Sizes, seed=seed, cycles=PARAMETERS["cycles"])
