"""Testbench of hw/control/row_control.py; tests/hw/control/test_row_control.py runs it.

The chunks of each job, in which order, and which blocks they share, follow from the job and from the formats of its
planes; the bench gives each chunk its blocks, frees stash slots, and sends some of their rows again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.plan_layouts import again_row
from spatten.hw.control.row_control import RowControl
from spatten.hw.datapath.progressive import Kind
from spatten.sim.verify.benches.again_segments import wanted_segment
from spatten.sim.verify.benches.chunk_walker import ChunkWalk
from spatten.sim.verify.benches.row_models import Buffer, Job, Jobs, Queue
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Anything, Twin, Values, compare
from spatten.spec.config import Config
from spatten.spec.constants import STASH_SLOTS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
CONTROL = RowControl(config=CONFIG)
RINGS = ("query", "key", "value")
ANY_BLOCK = {ring: Anything(getattr(CONTROL, f"i_{ring}").payload.shape()) for ring in RINGS}
ANY_AGAIN = Anything(again_row(CONFIG))
AGAIN_DELAY = 3
"""Cycles from a row that comes again to its segment; one more if the walk reads a scale when the row would."""


class Control(Twin):
    """Jobs at random, many of them progressive; blocks come, and segments leave, in phases of different paces."""

    goals = {
        "chunk": 150,
        "segments back to back": 20,
        "a block is late": 100,
        "no stash slot": 10,
        "stashed": 20,
        "freed": 10,
        "again": 10,
        "again before a chunk": 5,
        "again waits for its scale": 1,
        "shares keys": 10,
        "pruned": 10,
        "no room": 100,
    }

    def reset(self) -> None:
        self.jobs = Jobs(CONFIG, self.source, progressive=0.4)
        self.in_slot: dict[int, Job] = {}
        self.walk = ChunkWalk()
        self.scales: deque[dict[str, int]] = deque()
        self.offers: dict[str, Any] = dict.fromkeys(RINGS)
        self.blocks = {ring: Queue(CONFIG.blocks) for ring in RINGS}
        self.last_block: dict[str, Any] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        """By stash slot the row that has it: the segment it comes from, and whether it has come again."""
        self.flat: dict[str, Any] | None = None
        self.again: dict[str, Any] | None = None
        self.again_age = 0
        self.out = {"query": Buffer(), "key": Buffer()}
        self.went = False
        self.pace = {"blocks": 0.5, "out": 0.8, "decisions": 0.1}

    # -- What comes in --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        slot, job = self.jobs.start()
        self.in_slot[slot] = job
        self.walk.start(slot, job)
        self.scales.extend({"enable": 1, "slot": slot, "head": head, **job.scales[head]} for head in job.heads)

    def _may_start(self) -> bool:
        """Whether there is a slot: that of a job is free when none of its rows is stashed any more."""
        slot = self.jobs.started % CONFIG.jobs_in_flight
        is_stashed = any(row["chunk"]["slot"] == slot for row in self.rows.values())
        return self.walk.under_way < CONFIG.jobs_in_flight and not self.scales and not is_stashed

    def _decide(self) -> int:
        """Rows are found flat, and sent again, or not; the slots that are freed, a bit for each."""
        freed = 0
        for slot, row in list(self.rows.items()):
            if self.source.random() >= self.pace["decisions"] or row["state"] == "comes again":
                continue
            if row["state"] == "first" and self.flat is None and self.source.random() < 0.5:
                self.flat = ANY_AGAIN(self.source)
                kind = Kind.SINGLE if row["chunk"]["kind"] is Kind.FIRST_UNSTASHED else Kind.SECOND
                self.flat["row"] |= {"kind": kind, "stash_slot": slot}
                self.flat["row"]["header"] |= {name: row["chunk"][name] for name in ("slot", "head")}
                row["state"] = "comes again"
            else:
                freed |= 1 << slot
                self.saw("freed")
        return freed

    def inputs(self) -> Values:
        source = self.source
        if source.random() < 0.03:
            self.pace = {
                "blocks": source.choice([0.02, 0.1, 1]),
                "out": source.choice([0.1, 0.8, 1]),
                "decisions": source.choice([0, 0.02, 0.2]),
            }
        if self._may_start() and source.random() < 0.3:
            self._start()
        for ring in RINGS:
            if self.offers[ring] is None and source.random() < self.pace["blocks"]:
                self.offers[ring] = ANY_BLOCK[ring](source)
        self.taken = set(self.rows)
        self.freed = self._decide()
        self.takes = {name: source.random() < self.pace["out"] for name in self.out}
        offers = {f"i_{ring}": offer for ring, offer in self.offers.items()} | {"i_again": self.flat}
        return {
            "slots": self.jobs.records,
            "started": self.jobs.count,
            "scale": self.scales.popleft() if self.scales else self.jobs.other_scale(),
            **{port: {"valid": 0} if row is None else {"valid": 1, "payload": row} for port, row in offers.items()},
            "freed": self.freed,
            **{f"o_{name}": {"ready": takes} for name, takes in self.takes.items()},
        }

    # -- What goes out --------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Finds out what goes in this cycle: a row that comes again, a chunk, or nothing."""
        chunk = self.walk.chunk
        self.segment: dict[str, Any] | None = None
        self.needs: list[str] = []
        self.chunk_goes = self.again_goes = False
        has_room = all(buffer.ready for buffer in self.out.values())
        comes_again = self.again is not None and self.again_age >= AGAIN_DELAY
        self.saw("no room", chunk is not None and not has_room)
        if not has_room:
            return
        if comes_again and self.again is not None:
            self.saw("again before a chunk", chunk is not None)
            self.again_goes, self.segment = True, self.again
            return
        if chunk is None:
            return
        free = set(range(STASH_SLOTS)) - self.taken
        self.needs = ["query"]
        self.needs += ["key"] * chunk["begins_keys"]
        self.needs += ["value"] * (chunk["begins_values"] and not chunk["prune"])
        are_there = all(self.blocks[ring].valid for ring in self.needs)
        self.saw("a block is late", not are_there)
        self.saw("no stash slot", are_there and chunk["stashes"] and not free)
        if are_there and (free or not chunk["stashes"]):
            self.chunk_goes = True
            self.slot = min(free, default=None)
            self.segment = self._segment_of(chunk)

    def _segment_of(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """The segment of a chunk; the slot means nothing if it is not stashed, the value block if it is pruned."""
        for ring in self.needs:
            self.last_block[ring] = self.blocks[ring].first
        slot = self.slot if chunk["stashes"] else None
        row = {name: chunk[name] for name in ("slot", "head", "accumulate", "prune")}
        shared = {name: chunk[name] for name in ("rows", "dim")}
        return {
            "query": {
                **self.last_block["query"],
                **shared,
                "bits": chunk["query_bits"],
                "odd_head": chunk["query_odd_head"],
                "stashes": chunk["stashes"],
                "again": 0,
                "stash_slot": slot,
                "offset": chunk["offset"],
            },
            "key": {
                "row": {**row, "values": None if chunk["prune"] else self.last_block["value"]},
                "kind": chunk["kind"],
                "stash_slot": slot,
                **self.last_block["key"],
                "linear": 0,
                "ends_block": chunk["ends_keys"],
                **shared,
                "keys": chunk["keys"],
                "causal": chunk["causal"],
                "bits": chunk["key_bits"],
                "joined": chunk["joined"],
                "odd_head": chunk["key_odd_head"],
                "lsb": 0,
                "mantissa": chunk["scale"]["mantissa"],
                "shift": chunk["scale"]["shift"],
                "flat_limit": chunk["flat_limit"],
            },
        }

    def outputs(self) -> Values:
        self._choose()
        shown = {
            f"o_{name}": {"valid": 1, "payload": buffer.first} if buffer.valid else {"valid": 0}
            for name, buffer in self.out.items()
        }
        ready = {f"i_{ring}": {"ready": queue.ready} for ring, queue in self.blocks.items()}
        return {**shown, **ready, "i_again": {"ready": self.again is None}}

    def clock(self) -> None:
        chunk = self.walk.chunk
        goes = self.chunk_goes or self.again_goes
        self.saw("segments back to back", goes and self.went)
        self.went = goes
        for slot in range(STASH_SLOTS):
            if self.freed >> slot & 1:
                del self.rows[slot]
        if self.chunk_goes and chunk is not None:
            self.saw("chunk")
            self.saw("pruned", chunk["prune"])
            self.saw("shares keys", not chunk["begins_keys"] and chunk["head"] % 2)
            if chunk["stashes"] and self.slot is not None:
                self.saw("stashed")
                self.rows[self.slot] = {"chunk": chunk, "state": "first"}
        for name, buffer in self.out.items():
            part = self.segment[name] if self.segment is not None else None
            buffer.clock(pushes=goes, entry=part, pops=buffer.valid and self.takes[name])
        for ring, queue in self.blocks.items():
            enters = self.offers[ring] is not None and queue.ready
            queue.clock(pushes=enters, entry=self.offers[ring], pops=self.chunk_goes and ring in self.needs)
            if enters:
                self.offers[ring] = None
        self._step_again()
        self.walk.clock(takes=self.chunk_goes)

    def _step_again(self) -> None:
        waits = self.again is not None and self.again_age == 1 and self.walk.reads_scale
        self.saw("again waits for its scale", waits)
        self.again_age += not waits
        if self.again_goes and self.again is not None:
            self.saw("again")
            self.rows[self.again["key"]["stash_slot"]]["state"] = "came again"
            self.again = None
        elif self.again is None and self.flat is not None:
            job = self.in_slot[self.flat["row"]["header"]["slot"]]
            self.again, self.again_age, self.flat = wanted_segment(job, self.flat), 1, None


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def segments_come_in_order(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, CONTROL, Control, seed=seed, cycles=PARAMETERS["cycles"])
