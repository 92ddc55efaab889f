"""Testbench of hw/control/row/chunk_walker.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.chunk_walker import ChunkWalker
from spatten.hw.datapath.progressive import Kind
from spatten.sim.verify.benches.row_models import Job, Jobs
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.job import KeyFetch, Mode
from spatten.spec.row_format import CODE_BITS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
WALKER = ChunkWalker(config=CONFIG)


def chunks_of(slot: int, job: Job) -> list[list[dict[str, Any]]]:
    """What is wanted of each head of a job: its chunks."""
    is_progressive = job.fetch is KeyFetch.PROGRESSIVE
    fits = job.key_bits + LSB_BITS <= CONFIG.operand_bits
    kind = (Kind.FIRST if fits else Kind.FIRST_UNKEPT) if is_progressive else Kind.SINGLE
    less = {KeyFetch.STATIC: 0, KeyFetch.JOINED: job.excess(), KeyFetch.PROGRESSIVE: LSB_BITS}[job.fetch]
    heads: dict[int, list[dict[str, Any]]] = {head: [] for head in job.heads}
    for head, ranks, notes in job.chunks():
        is_causal = job.mode is Mode.CAUSAL
        scale = job.scales[head]
        heads[head].append(
            {
                "slot": slot,
                "head": head,
                "accumulate": job.accumulates,
                "prune": job.prunes,
                "rows": len(ranks),
                "dim": HEAD_DIMS.index(job.head_dim),
                "query_bits": CODE_BITS.index(job.query_bits),
                "offset": job.record["query_offset"],
                "kind": kind,
                "scale": {"mantissa": scale["mantissa"], "shift": (scale["shift"] - less) % 64},
                "flat_limit": job.record["flat_limit"],
                "keys": ranks.start + 1 if is_causal else job.live,
                "causal": is_causal,
                "key_bits": CODE_BITS.index(job.key_bits),
                "joined": job.fetch is KeyFetch.JOINED,
                "keeps": is_progressive,
                **notes,
            }
        )
    return list(heads.values())


class Walk(Twin):
    """Jobs at random, started as soon as there is a slot or later; the chunks of each head are known from its job."""

    goals = {
        "chunk": 300,
        "chunk right after another": 50,
        "head": 200,
        "job waits": 5,
        "shares keys": 20,
        "shares values": 20,
        "several chunks": 30,
        "unkept": 5,
        "kept": 5,
    }

    def reset(self) -> None:
        self.jobs = Jobs(CONFIG, self.source)
        self.heads: deque[tuple[bool, list[dict[str, Any]]]] = deque()
        """Heads of the jobs that have been started: whether it is the last of its job, and its chunks."""
        self.under_way = 0
        self.scales: deque[dict[str, int]] = deque()
        self.offered_at: int | None = None
        self.now = 0
        self.took = False

    def _start(self) -> None:
        slot, job = self.jobs.start()
        heads = chunks_of(slot, job)
        self.heads.extend((chunks is heads[-1], chunks) for chunks in heads)
        self.under_way += 1
        self.saw("job waits", self.under_way > 1)
        self.saw("several chunks", len(heads[0]) > 1)
        self.saw("unkept", heads[0][0]["kind"] == Kind.FIRST_UNKEPT)
        self.saw("kept", heads[0][0]["kind"] == Kind.FIRST)
        # The scale of the first head comes in the cycle in which the job counts as started.
        self.scales.extend({"enable": 1, "slot": slot, "head": head, **job.scales[head]} for head in job.heads)
        if self.under_way == 1:
            # Nothing else is walked: the job is seen in this cycle.
            self.offered_at = self.now + 4

    def inputs(self) -> Values:
        can_start = self.under_way < CONFIG.jobs_in_flight and not self.scales
        if can_start and self.source.random() < 0.2:
            self._start()
        self.valid = self.offered_at is not None and self.now >= self.offered_at
        self.takes = self.valid and self.source.random() < 0.7
        scale = self.scales.popleft() if self.scales else {"enable": 0}
        slots = [record if self._stands(slot) else {} for slot, record in enumerate(self.jobs.records)]
        return {"slots": slots, "started": self.jobs.count, "scale": scale, "o": {"ready": self.takes}}

    def _stands(self, slot: int) -> bool:
        """Whether the record in a slot is one of a job under way."""
        return any((self.jobs.started - 1 - n) % CONFIG.jobs_in_flight == slot for n in range(self.under_way))

    def outputs(self) -> Values:
        if not self.valid:
            return {"o": {"valid": 0}}
        return {"o": {"valid": 1, "payload": self.heads[0][1][0]}}

    def clock(self) -> None:
        self.saw("chunk right after another", self.takes and self.took)
        self.took = self.takes
        if self.takes:
            is_last, chunks = self.heads[0]
            chunk = chunks.pop(0)
            self.saw("chunk")
            self.saw("shares keys", len(chunks) == 0 and not chunk["ends_keys"])
            self.saw("shares values", not chunk["begins_values"] and not chunk["begins_keys"] and chunk["head"] % 2)
            if not chunks:
                self.saw("head")
                self.heads.popleft()
                self.offered_at = self.now + 3
                if is_last:
                    self.under_way -= 1
                    self.offered_at = self.now + 5 if self.under_way else None
        self.now += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def chunks_come_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, Walk, seed=seed, cycles=PARAMETERS["cycles"])
