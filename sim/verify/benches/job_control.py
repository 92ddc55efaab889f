"""Testbench of hw/control/job_control.py; tests/hw/control/test_job_control.py runs it.

Simple models of the neighbours play random jobs (sim/verify/job_reference.py) with random stalls on every stream. What
leaves on streams is compared row by row, what other units read of jobs in every cycle in which they may.
"""

from __future__ import annotations

import operator
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.job_control import JobControl
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.job_reference import Entry, PlannedJob, PlannedRow, added, has, in_lines, jobs_of
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config
from spatten.spec.job import Flag, Mode
from spatten.spec.row_format import SECTOR_BITS

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
CONTROL = JobControl(config=CONFIG)
JOBS = CONFIG.jobs_in_flight
HEADS = range(CONFIG.heads_max)
LANES = CONFIG.topk_lanes


def payload_of(port: str) -> Payload:
    """Of a port that is no stream."""
    return Payload(getattr(CONTROL, port).shape())


class World:
    """The bench, its streams, the jobs, and how far they are."""

    def __init__(self, dut: HierarchyObject, *, seed: int, stall: float, count: int, ends_empty: bool) -> None:
        self.bench = Bench(dut, seed=seed)
        self.stall = stall
        self.jobs = jobs_of(CONFIG, self.bench.random(f"jobs {stall} {ends_empty}"), count, ends_empty=ends_empty)
        self.i = {
            name: StreamDriver(self.bench, name, getattr(CONTROL, name).payload.shape(), idle=stall)
            for name in (
                *("i_job", "i_rows", "load_rows", "i_live", "i_gathered"),
                *("i_candidates", "i_scattered", "i_access", "i_topk"),
            )
        }
        self.o = {
            name: kind(self.bench, name, getattr(CONTROL, name).payload.shape(), stall=stall)
            for name, kind in {
                **dict.fromkeys(("o_report", "o_rows", "o_load", "o_store", "o_gather", "o_lines"), StreamMonitor),
                **dict.fromkeys(("o_scatter", "o_kept"), StreamMonitor),
                "o_topk": LiveLanes,
            }.items()
        }
        self.heads = HeadMemory(self)
        self.rows = Rows(self)
        self.output = Output(self)
        self.records = Records(self)
        self.agents = [Starts(self), self.records, Tokens(self), Engine(self), self.heads, self.rows, self.output]
        self.bench.agents += self.agents

    @property
    def working(self) -> list[PlannedJob]:
        """The jobs that have work; only the last one may have none."""
        return [job for job in self.jobs if job.has_work]

    def bit(self, name: str) -> bool:
        value = str(self.bench.signal(name).value)
        assert value in ("0", "1"), f"{name} is {value}, cycle {self.bench.cycle}, seed {self.bench.seed}"
        return value == "1"

    def value(self, name: str) -> int:
        text = str(self.bench.signal(name).value)
        assert not text.strip("01"), f"{name} is {text}, cycle {self.bench.cycle}, seed {self.bench.seed}"
        return int(text, 2)

    def start(self) -> None:
        """Send the jobs, and expect what becomes of them; after the reset."""
        self.i["i_job"].send(job.descriptor for job in self.jobs)
        for agent in self.agents:
            agent.start()

    async def run(self) -> None:
        """Until all jobs are reported, and the one that has nothing to do is found out."""
        await self.bench.reset()
        self.start()
        reports = self.o["o_report"]
        await self.bench.until(lambda: reports.count == len(self.working), what="last report", limit=60_000)
        await self.bench.drain()
        if len(self.working) < len(self.jobs):
            await self.bench.until(lambda: self.bit("nothing_live"), what="error")
        assert self.bit("busy") == (len(self.working) < len(self.jobs))
        for agent in self.agents:
            agent.finish()


class Model:
    """A neighbour of the job control: an agent of the bench."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bench = world.bench
        self.random: random.Random = world.bench.random(type(self).__name__)
        self.setup()

    def setup(self) -> None:
        """Before the reset."""

    def start(self) -> None:
        """After it: expect what will come."""

    def clear(self) -> None:
        pass

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        pass

    def finish(self) -> None:
        """At the end, check that all has happened."""


class Starts(Model):
    """The state that is loaded and the bitmaps, both by way of the sector reader: its requests come in order."""

    def setup(self) -> None:
        self._heads = payload_of("i_loaded")
        self._signal = self.bench.signal("i_loaded")
        self._queue: deque[tuple[PlannedJob, list[dict[str, int]]]] = deque()
        self._answers: deque[tuple[int, int | None]] = deque()
        """By how many requests have come: a bitmap, or nothing."""
        self._load_end: int | None = None
        self._requests = 0
        self._wait = 0
        self._held = self.random.getrandbits(self._heads.width)

    def start(self) -> None:
        world = self.world
        world.o["o_load"].stop()
        for job in world.jobs:
            requests: list[dict[str, int]] = []
            descriptor = job.descriptor
            if job.loaded is not None:
                payload = world.i["load_rows"].payload
                requests = [payload.unpack(self.random.getrandbits(payload.width)) for _ in range(2)]
                world.o["o_rows"].expect(requests)
                self._queue.append((job, requests))
                self._requests += len(requests)
                context, sector = descriptor["context"], descriptor["state"]
                world.o["o_load"].expect([{"context": context, "sector": sector}])
            for flag, name in ((Flag.HAS_KV, "has_kv"), (Flag.PINNED, "pinned")):
                if flag in job.bitmaps and job.is_gathered:
                    sectors = -(-descriptor["keys"] // SECTOR_BITS)
                    world.o["o_rows"].expect([{"sector": descriptor[name], "sectors": sectors, "rows": 1}])
                    self._requests += 1
                    self._answers.append((self._requests, job.bitmaps[flag] % (1 << BANKS * SECTOR_BITS)))

    def drive(self) -> None:
        self._signal.value = self._held

    def sample(self, cycle: int) -> None:
        world = self.world
        while self._answers and world.o["o_rows"].count >= self._answers[0][0]:
            world.i["i_rows"].send([self._answers.popleft()[1]])
        load = world.o["o_load"]
        if self._load_end is None:
            if self._queue and world.bit("o_load__valid"):
                # While a state is being loaded, the heads that it will have are not there.
                self._held = self.random.getrandbits(self._heads.width)
                world.i["load_rows"].send(self._queue[0][1])
                self._load_end = load.count + 1
                self._wait = self.random.randint(2, 20)
        elif load.count == self._load_end:
            load.stop()
            self._load_end = None
        elif world.i["load_rows"].count == 2 * self._load_end:
            self._wait -= 1
            if self._wait == 0:
                job = self._queue.popleft()[0]
                self._held = self._heads.pack(job.loaded)
                load.start()


class Records(Model):
    """What other units read of a job: its record from its start to its last row, its live list and its scales."""

    def setup(self) -> None:
        self._record = Payload(CONTROL.slots[0].shape())
        self._payloads = {name: payload_of(name) for name in ("live_write", "scale")}
        self.started = 0

    def start(self) -> None:
        self._lists: deque[tuple[PlannedJob, int, list[int]]] = deque()
        self._scales: deque[tuple[PlannedJob, dict[str, Any]]] = deque()
        for job in self.world.jobs:
            if job.is_gathered:
                self._lists += [(job, row, ids) for row, ids in enumerate(in_lines(job.live, LANES))]
            scales = job.descriptor["scales"]
            self._scales += [(job, {"slot": job.slot, "head": head, **scales[head]}) for head in job.live_heads]

    def sample(self, cycle: int) -> None:
        world = self.world
        live, scale = self._written("live_write"), self._written("scale")
        if live is not None:
            job, row, ids = self._lists.popleft()
            seen = live["slot"], live["row"], live["ids"][: len(ids)]
            assert seen == (job.slot, row, ids), f"live row {seen} of job {job.number}, not {row}: {ids}, cycle {cycle}"
        if scale is not None:
            wanted = self._scales.popleft()[1]
            assert scale == wanted | {"enable": 1}, f"scale {scale}, not {wanted}, cycle {cycle}"
        new = (world.value("started") - self.started) % (2 * JOBS)
        assert new <= 1, f"{new} jobs were started at once, cycle {cycle}"
        self.started += new
        for job in world.jobs[world.rows.written_jobs : self.started]:
            if new and not job.dense and job.number == self.started - 1:
                assert not any(other is job for other, _, _ in self._lists), f"job {job.number} starts without its list"
                assert job not in [other for other, _ in self._scales], f"job {job.number} starts without its scales"
            if job.has_work:
                self._check(job, cycle)

    def _check(self, job: PlannedJob, cycle: int) -> None:
        """A job's record stands from its start until all of its rows have left."""
        width = self._record.width
        text = str(self.bench.signal("slots").value)[::-1]
        part = text[job.slot * width : (job.slot + 1) * width][::-1]
        assert not part.strip("01"), f"the record of job {job.number} is {part}, cycle {cycle}"
        seen = self._record.unpack(int(part, 2))
        wrong = {name: (seen[name], value) for name, value in job.record.items() if seen[name] != value}
        assert not wrong, f"job {job.number} has {wrong} in its record, cycle {cycle}, seed {self.bench.seed}"

    def _written(self, name: str) -> dict[str, Any] | None:
        """What is written in this cycle. What is there without its enable may be X."""
        payload = self._payloads[name]
        text = str(self.bench.signal(name).value)
        (enable,) = (field for field in payload.fields if field.name == "enable")
        bit = text[::-1][enable.offset]
        assert bit in "01", f"{name}.enable is {bit}"
        if bit == "0":
            return None
        assert not text.strip("01"), f"{name} is {text}"
        written: dict[str, Any] = payload.unpack(int(text, 2))
        return written

    def finish(self) -> None:
        assert not self._lists
        assert not self._scales


class Tokens(Model):
    """The token importance unit: gathers when it has a job's lines, scatters when it has the answers it asked for."""

    def setup(self) -> None:
        self._gathers: deque[tuple[int, PlannedJob]] = deque()
        """By how many lines have come: a job that is gathered."""
        self._commands = self._scatters = self._offered = 0
        self._kept = 0

    def start(self) -> None:
        world = self.world
        lines = 0
        for job in world.jobs:
            descriptor = job.descriptor
            if not job.is_gathered:
                continue
            lines += len(job.lines)
            self._gathers.append((lines, job))
            command = {
                "context": descriptor["context"],
                "slot": job.slot,
                "clear": has(descriptor, Flag.CLEAR),
                "restart": has(descriptor, Flag.RESTART),
                "age_shift": descriptor["age_shift"],
                "lines": len(job.lines),
                "generates": descriptor["mode"] == Mode.GENERATION,
                "generating_token": descriptor["query_offset"],
            }
            world.o["o_gather"].expect([command])
            world.o["o_lines"].expect(job.lines)
        for job in world.working:
            prunes = has(job.descriptor, Flag.PRUNE_TOKENS)
            world.o["o_scatter"].expect([{"slot": job.slot, "prune": prunes}])
            world.o["o_kept"].expect(marks_of(job.kept_ranks, len(job.live)) if prunes else [])

    def sample(self, cycle: int) -> None:
        world = self.world
        while self._commands < world.o["o_gather"].count:
            self._check_free(world.jobs[self._commands], cycle)
            self._commands += 1
        while self._gathers and world.o["o_lines"].count >= self._gathers[0][0]:
            job = self._gathers.popleft()[1]
            lines = in_lines(job.live, LANES)
            for number, line in enumerate(lines):
                ids = [*line, *(self.random.randrange(CONFIG.tokens_max) for _ in range(LANES - len(line)))]
                world.i["i_live"].send([{"ids": ids, "count": len(line), "last": number == len(lines) - 1}])
            world.i["i_gathered"].send([{"slot": job.slot, "live": len(job.live), "pinned": job.pinned}])
        scatters = world.o["o_scatter"].count
        if self._scatters < scatters:
            job = world.jobs[self._scatters]
            if self._offered == self._scatters:
                self._offered += 1
                assert world.rows.probs_left(job) == 0, f"job {job.number} is scattered too early, cycle {cycle}"
                if has(job.descriptor, Flag.PRUNE_TOKENS):
                    rows = in_lines(job.token_keys, LANES)
                    world.i["i_candidates"].send(beats_of(rows, "keys", self.random))
                    self._kept += len(rows)
            if world.o["o_kept"].count == self._kept:
                self._scatters += 1
                world.i["i_scattered"].send([{"slot": job.slot, "saturated": job.saturated_tokens}])

    def _check_free(self, job: PlannedJob, cycle: int) -> None:
        """A job that begins has a slot and a context that no earlier job needs."""
        world = self.world
        reported, scattered = world.o["o_report"].count, world.i["i_scattered"].count
        assert job.number < reported + JOBS, f"job {job.number} begins without a slot, cycle {cycle}"
        for other in world.jobs[: job.number]:
            if other.descriptor["context"] == job.descriptor["context"]:
                what = f"job {job.number} begins before job {other.number} has left the context, cycle {cycle}"
                assert other.number < scattered, what
                stores = sum(job.stored is not None for job in world.jobs[: other.number + 1])
                assert other.stored is None or world.o["o_store"].count >= stores, what


def marks_of(places: Sequence[int], count: int) -> list[int]:
    """The marks of a row of `count` candidates, beat by beat."""
    beats = [[place - first for place in places if first <= place < first + LANES] for first in range(0, count, LANES)]
    return [sum(1 << lane for lane in beat) for beat in beats]


def beats_of(rows: Sequence[Sequence[int]], name: str, source: random.Random) -> list[dict[str, Any]]:
    """Beats of a row, with anything in the lanes that are not live."""
    beats = []
    for number, row in enumerate(rows):
        values = [*row, *(source.randrange(2) for _ in range(LANES - len(row)))]
        beats.append({name: values, "count": len(row), "last": number == len(rows) - 1})
    return beats


class LiveLanes(StreamMonitor):
    """Looks only at those lanes of a beat that are live."""

    def _bits(self, cycle: int, row: int) -> int:
        beat = self.payload.unpack(super()._bits(cycle, row))
        beat["values"][beat["count"] :] = [0] * (LANES - beat["count"])
        return self.payload.pack(beat)


class Engine(Model):
    """The top-k engine: answers a row when it has all of it."""

    def setup(self) -> None:
        self._rows: deque[tuple[int, list[int]]] = deque()
        """By how many beats have come: the marks of a row."""

    def start(self) -> None:
        beats = 0
        for job in self.world.working:
            descriptor = job.descriptor
            rows = []
            if has(descriptor, Flag.PRUNE_TOKENS):
                rows.append((job.token_keys, max(descriptor["keep_tokens"], job.pinned), job.kept_ranks))
            if has(descriptor, Flag.PRUNE_HEADS):
                rows.append((job.head_keys, descriptor["keep_heads"], job.marked_heads))
            for keys, k, places in rows:
                lines = in_lines(keys, LANES)
                beats += len(lines)
                self._rows.append((beats, marks_of(places, len(keys))))
                for number, line in enumerate(lines):
                    beat = {"values": line + [0] * (LANES - len(line)), "count": len(line), "k": k}
                    self.world.o["o_topk"].expect([beat | {"last": number == len(lines) - 1}])

    def sample(self, cycle: int) -> None:
        world = self.world
        while self._rows and world.o["o_topk"].count >= self._rows[0][0]:
            marks = self._rows.popleft()[1]
            for number, mask in enumerate(marks):
                values = [self.random.randrange(2) for _ in range(LANES)]
                beat = {"values": values, "mask": mask, "count": LANES, "last": number == len(marks) - 1}
                world.i["i_topk"].send([beat])


class HeadMemory(Model):
    """The head importance: entries that are read, written, and added to by rows; a write clears the mark."""

    def setup(self) -> None:
        self._payload = Payload(CONTROL.o_access.payload.shape())
        self.entries: dict[tuple[int, int], Entry] = {}
        self._writes: deque[tuple[PlannedJob, int]] = deque()
        """Heads that are yet to be written, job by job."""
        self._ready = False

    def start(self) -> None:
        for job in self.world.working:
            if job.changes_heads:
                self._writes += [(job, head) for head in HEADS]

    def is_ready_for(self, job: PlannedJob) -> bool:
        """Whether the heads are as they are when the job has begun: its rows come later."""
        return not any(other.number <= job.number for other, _ in self._writes)

    def drive(self) -> None:
        self._ready = self.random.random() >= self.world.stall / 2
        self.bench.signal("o_access__ready").value = int(self._ready)

    def sample(self, cycle: int) -> None:
        world = self.world
        if not (world.bit("o_access__valid") and self._ready):
            return
        text = str(self.bench.signal("o_access__payload").value)
        for field in self._payload.fields:
            if field.name != "value":
                assert not text[::-1][field.offset : field.offset + field.width].strip("01")
        access = self._payload.unpack(int(text.replace("x", "0").replace("X", "0"), 2))
        place = access["slot"], access["head"]
        if not access["write"]:
            value, saturated = self.entries[place]
            world.i["i_access"].send([{"value": value, "saturated": saturated}])
            return
        assert not text.strip("01"), f"a head becomes {text}, cycle {cycle}"
        if not self._writes:
            # What becomes of the heads of a job that has no work does not matter.
            assert not world.jobs[-1].has_work
            return
        job, head = self._writes.popleft()
        wanted = job.descriptor["context"], head
        assert place == wanted, f"head {place} is written, not {wanted}, cycle {cycle}"
        value = job.begun[head][0]
        assert access["value"] == value, f"head {place} becomes {access['value']}, not {value}, cycle {cycle}"
        self.entries[place] = value, False

    def add(self, row: PlannedRow) -> None:
        """A row has been added."""
        place = self.world.jobs[row.job].descriptor["context"], row.head
        self.entries[place] = added(CONFIG, self.entries[place], row)

    def finish(self) -> None:
        assert not self._writes


class Rows(Model):
    """The datapath: rows come in order through three stages, each at a random pace."""

    def setup(self) -> None:
        self._events = {name: payload_of(name) for name in ("probs_done", "heads_done", "row_written", "recomputed")}

    def start(self) -> None:
        self._rows = [row for job in self.world.working for row in job.rows]
        self._probs = self._heads = self._written = 0
        """How many rows have passed each stage."""
        self._beat = 0
        """Whether the beats of the next row before its last one have left."""
        self.written_jobs = 0
        """Jobs all of whose rows have left."""
        self._ends = []
        total = 0
        for job in self.world.working:
            total += len(job.rows)
            self._ends.append(total)
        self._pace = 0.5

    def probs_left(self, job: PlannedJob) -> int:
        """Rows of the job and of those before it whose probabilities have not left softmax."""
        return max(0, self._ends[job.number] - self._probs)

    def _slot(self, row: PlannedRow) -> int:
        return self.world.jobs[row.job].slot

    def drive(self) -> None:
        world = self.world
        events: dict[str, int | None] = dict.fromkeys(self._events)
        saturated = 0
        if not hasattr(self, "_rows"):
            self._set(events, saturated)
            return
        if self.random.random() < 0.01:
            self._pace = self.random.choice([0.1, 0.5, 1.0])
        written, heads = self._written < self._probs, self._heads < self._probs
        if self._probs < len(self._rows) and self.random.random() < self._pace:
            row = self._rows[self._probs]
            # A job's rows come some time after its start, when its heads are what they are to begin with.
            if row.job < world.records.started and world.heads.is_ready_for(world.jobs[row.job]):
                events["probs_done"] = self._slot(row)
                if row.is_recomputed:
                    events["recomputed"] = self._slot(row)
                self._probs += 1
        if heads and self.random.random() < self._pace:
            row = self._rows[self._heads]
            events["heads_done"] = world.jobs[row.job].descriptor["context"]
            world.heads.add(row)
            self._heads += 1
        written_slot = None
        if written and self.random.random() < self._pace:
            row = self._rows[self._written]
            written_slot = self._slot(row)
            saturated = row.saturated[self._beat]
            self._beat = 1 - self._beat
            world.output.beats_in += 1
            if not self._beat:
                events["row_written"] = written_slot
                self._written += 1
        self._set(events, saturated, written_slot)

    def _set(self, events: dict[str, int | None], saturated: int, written_slot: int | None = None) -> None:
        for name, slot in events.items():
            number = self.random.randrange(JOBS) if slot is None else slot
            if name == "heads_done" and slot is None:
                number = self.random.randrange(CONFIG.contexts)
            if name == "row_written" and written_slot is not None:
                number = written_slot
            self.bench.signal(name).value = self._events[name].pack({"valid": slot is not None, "slot": number})
        self.bench.signal("saturated").value = saturated

    def sample(self, cycle: int) -> None:
        # A record must stand in the cycle in which the last row leaves, but no longer.
        while self.written_jobs < len(self._ends) and self._written >= self._ends[self.written_jobs]:
            self.written_jobs += 1

    def finish(self) -> None:
        assert self._written == self._heads == len(self._rows)


class Output(Model):
    """The output packer and the channels: beats leave as sectors, which memory acknowledges in each channel's order."""

    def setup(self) -> None:
        self._counts = {name: payload_of(name) for name in ("queued", "acknowledged")}
        self._store_heads = payload_of("store_heads")
        self.beats_in = self._beats_done = 0
        # Soon the counts of sectors pass the largest number that they can be.
        self._queued = [65536 - self.random.randint(1, 50) for _ in range(CONFIG.channels)]
        self._acknowledged = list(self._queued)
        self._needed: dict[int, list[int]] = {}
        """By job, the sectors of each channel that its output and its state have taken."""
        self._pace = 0.2
        """How likely a channel is to acknowledge in a cycle."""
        self._left = self._reported = self._stored = 0
        self._beats_of: list[int] = []

    def start(self) -> None:
        world = self.world
        self._stores = deque(job for job in world.working if job.stored is not None)
        self._storing: PlannedJob | None = None
        for job in world.working:
            self._beats_of.append(2 * len(job.rows) + sum(self._beats_of[-1:]))
            if job.stored is not None:
                world.o["o_store"].expect([{"context": job.descriptor["context"], "sector": job.descriptor["state"]}])
        world.o["o_store"].stop()
        world.o["o_report"].expect(job.report for job in world.working)

    def drive(self) -> None:
        source = self.random
        if source.random() < 0.005:
            self._pace = source.choice([0.01, 0.2, 1])
        self.bench.signal("beats_in").value = self.beats_in % 256
        if self._beats_done < self.beats_in and source.random() < 0.6:
            self._beats_done += 1
            self._queued[source.randrange(CONFIG.channels)] += 1
        for channel, queued in enumerate(self._queued):
            if self._acknowledged[channel] < queued and source.random() < self._pace:
                self._acknowledged[channel] = source.randint(self._acknowledged[channel], queued)
        self.bench.signal("beats_done").value = self._beats_done % 256
        self.bench.signal("queued").value = self._counts["queued"].pack([n % 65536 for n in self._queued])
        self.bench.signal("acknowledged").value = self._counts["acknowledged"].pack(
            [n % 65536 for n in self._acknowledged]
        )

    def sample(self, cycle: int) -> None:
        world = self.world
        for number, beats in enumerate(self._beats_of):
            if number not in self._needed and self._beats_done >= beats:
                self._needed[number] = list(self._queued)
        self._store(cycle)
        while self._reported < world.o["o_report"].count:
            needed = self._needed.get(self._reported)
            is_in_memory = needed is not None and all(map(operator.ge, self._acknowledged, needed))
            assert is_in_memory, f"job {self._reported} is reported before its output is in memory, cycle {cycle}"
            self._reported += 1

    def _store(self, cycle: int) -> None:
        world = self.world
        monitor = world.o["o_store"]
        if self._storing is not None and monitor.count == self._stored + 1:
            self._needed[self._storing.number] = list(self._queued)
            monitor.stop()
            self._storing = None
            return
        if self._storing is None:
            if self._stores and world.bit("o_store__valid"):
                self._storing = self._stores.popleft()
                self._stored = monitor.count
                self._left = self.random.randint(1, 10)
            return
        heads = world.value("store_heads")
        differences = self._store_heads.differences(heads, self._store_heads.pack(self._storing.stored))
        assert not differences, f"state of job {self._storing.number}: {differences[:4]}, cycle {cycle}"
        if self._left:
            self._left -= 1
            self._queued[self.random.randrange(CONFIG.channels)] += 1
        else:
            monitor.start()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4], ends_empty=[False, True], seed=PARAMETERS["seeds"])
async def jobs_begin_and_end(dut: HierarchyObject, stall: float, ends_empty: bool, seed: int) -> None:
    world = World(dut, seed=seed, stall=stall, count=PARAMETERS["jobs"], ends_empty=ends_empty)
    await world.run()
