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
    kind = (Kind.FIRST if fits else Kind.FIRST_UNSTASHED) if is_progressive else Kind.SINGLE
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
                "stashes": is_progressive,
                **notes,
            }
        )
    return list(heads.values())


class ChunkWalk:
    """The walk in time: the chunks of jobs that have been started, and when each is offered."""

    def __init__(self) -> None:
        self.now = 0
        self.under_way = 0
        """Jobs that have been started and have chunks left."""
        self._heads: deque[tuple[bool, list[dict[str, Any]]]] = deque()
        """Heads of these jobs: whether it is the last of its job, and its chunks."""
        self._offered_at: int | None = None

    def start(self, slot: int, job: Job) -> list[list[dict[str, Any]]]:
        """In this cycle a job counts as started; the chunks of its heads."""
        heads = chunks_of(slot, job)
        self._heads.extend((chunks is heads[-1], chunks) for chunks in heads)
        self.under_way += 1
        if self.under_way == 1:
            # Nothing else is walked: the job is seen in this cycle.
            self._offered_at = self.now + 4
        return heads

    @property
    def reads_scale(self) -> bool:
        """Whether the scale of the coming head is asked for in this cycle."""
        return self._offered_at is not None and self.now == self._offered_at - 2

    @property
    def head(self) -> dict[str, Any]:
        """The first chunk of the head that is walked."""
        return self._heads[0][1][0]

    @property
    def chunk(self) -> dict[str, Any] | None:
        """The chunk that is offered."""
        return self.head if self._offered_at is not None and self.now >= self._offered_at else None

    def clock(self, *, takes: bool) -> None:
        """Go to the next cycle; in this one the chunk is taken."""
        if takes:
            ends_job, chunks = self._heads[0]
            chunks.pop(0)
            if not chunks:
                self._heads.popleft()
                self._offered_at = self.now + 3
                if ends_job:
                    self.under_way -= 1
                    self._offered_at = self.now + 5 if self.under_way else None
        self.now += 1


class Walk(Twin):
    """Jobs at random, started as soon as there is a slot or later; the chunks of each head are known from its job."""

    goals = {
        "chunk": 300,
        "chunk right after another": 50,
        "job waits": 5,
        "ends no block": 20,
        "shares keys": 20,
        "several chunks": 30,
        "unstashed": 5,
        "stashed": 5,
    }

    def reset(self) -> None:
        self.jobs = Jobs(CONFIG, self.source)
        self.walk = ChunkWalk()
        self.in_slot: dict[int, Job] = {}
        self.scale: dict[str, int] = {}
        self.took = False

    def _start(self) -> None:
        slot, job = self.jobs.start()
        self.in_slot[slot] = job
        first = self.walk.start(slot, job)[0]
        self.saw("job waits", self.walk.under_way > 1)
        self.saw("several chunks", len(first) > 1)
        self.saw("unstashed", first[0]["kind"] == Kind.FIRST_UNSTASHED)
        self.saw("stashed", first[0]["kind"] == Kind.FIRST)

    def _stands(self, slot: int) -> bool:
        """Whether the record in a slot is one of a job under way."""
        return any((self.jobs.started - 1 - n) % CONFIG.jobs_in_flight == slot for n in range(self.walk.under_way))

    def inputs(self) -> Values:
        if self.walk.under_way < CONFIG.jobs_in_flight and self.source.random() < 0.2:
            self._start()
        self.chunk = self.walk.chunk
        self.takes = self.chunk is not None and self.source.random() < 0.7
        slots = [record if self._stands(slot) else {} for slot, record in enumerate(self.jobs.records)]
        # The scale is there in the cycle after it was asked for, and in no other.
        return {"slots": slots, "started": self.jobs.count, "scale": self.scale, "o": {"ready": self.takes}}

    def outputs(self) -> Values:
        read: Values = {"valid": 0}
        self.scale = {}
        if self.walk.reads_scale:
            slot, head = self.walk.head["slot"], self.walk.head["head"]
            read = {"valid": 1, "payload": {"slot": slot, "head": head}}
            self.scale = self.in_slot[slot].scales[head]
        return {"read": read, "o": {"valid": 0} if self.chunk is None else {"valid": 1, "payload": self.chunk}}

    def clock(self) -> None:
        self.saw("chunk right after another", self.takes and self.took)
        self.took = self.takes
        if self.takes and self.chunk is not None:
            self.saw("chunk")
            self.saw("ends no block", not self.chunk["ends_keys"])
            self.saw("shares keys", not self.chunk["begins_keys"] and self.chunk["head"] % 2)
        self.walk.clock(takes=self.takes)


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def chunks_come_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, WALKER, Walk, seed=seed, cycles=PARAMETERS["cycles"])
