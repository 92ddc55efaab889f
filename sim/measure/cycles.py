"""Cycle model of the whole machine, beat by beat: what every benchmark should take, in seconds instead of hours.

It moves counts, not data: sectors, lines, beats and rows, through the same queues, rings and latencies as the circuit,
one `step` a cycle. Sizes come from `spec.config`, latencies from `Latencies`, DRAM behaviour from a `MemoryModel`.

    result = predict(PAPER, [summarization(heads=HEADS, head_dim=HEAD_DIM, length=128, bits=8)])
    result.cycles

The way of the data (SpAtten Fig. 8; docs/architecture.md): job -> gather (live list) -> row groups of requests ->
channel queues -> DRAM -> crossbar -> ring buffers -> Q x K -> softmax -> [top-k -> V requests] -> prob x V -> output
writes, and at a job's end top-k and scatter of importance.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from spatten.golden import IntArray
from spatten.golden.memory import OUTPUT_BITS, Plane
from spatten.sim.measure.benchmarks import (
    BERT_CYCLES,
    CASCADE_BANDWIDTH,
    CAUSAL_SHARE,
    FLAT_SHARE,
    GENERATION_BANDWIDTH,
    GPT2_CONTEXT,
    GPT2_LIVE,
    HEAD_DIM,
    HEADS,
    QUEUED_SHARE,
)
from spatten.spec.config import LSB_BITS, PAPER, SECTOR_BYTES, Config
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.job import Mode
from spatten.spec.row_format import (
    heads_per_row,
    key_ring_sectors,
    query_ring_sectors,
    row_format,
    row_sectors,
    value_ring_sectors,
)


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Fixed latencies in cycles at the size of `paper`: of units as measured (docs/units.md), of control assumed."""

    start: int = 8
    """Doorbell to the first id line: queue, checks, context switch. Assumed."""
    gather: int = 14
    """Id line to live ids: context memory, zero eliminator, packer."""
    count: int = 2
    """Id line to live ids where all are live: they are counted, not gathered. Assumed."""
    request: int = 11
    """Live ids to the first request: addresses, hit masks, the channel's queue."""
    axi: int = 3
    """Request to AXI and back, registers on both ways. Assumed."""
    deliver: int = 3
    """Sector from a channel to its bank."""
    complete: int = 6
    """Last sector of a line to the line's being readable: the minimum over all channels."""
    score: int = 23
    """Line read to score: row control (5, assumed), ring 2, converter 2, Q x K 11, progressive 3."""
    maximum: int = 4
    """Last score of a row to its maximum."""
    exponential: int = 17
    """Score read again to its exponential, summed, and the decision."""
    normalise: int = 9
    """Sum to reciprocal to probability."""
    value: int = 15
    """Probability to accumulator: ring 2, converter 2, prob x V 10, row control (1, assumed)."""
    output: int = 8
    """Last accumulation of a row to its first write request: packer 4, write queue (4, assumed)."""
    finish: int = 6
    """Last write response to the interrupt. Assumed."""
    filter: int = 10
    """Threshold to the first kept index: filter, zero eliminator, packer."""


@dataclass(frozen=True, kw_only=True)
class Queues:
    """Depths of the machine's queues."""

    channel_groups: int = 16
    """Row groups waiting in each channel's request queue."""
    outstanding: int = PAPER.outstanding
    """Requests in flight per channel."""
    voq: int = 4
    """Sectors in each of a channel's return queues, one per bank column."""
    score_slack: int = 32
    """Beats that the score and exponential queues hold beyond the longest row."""
    prob_beats: int = 256
    """Beats of probabilities that may wait for V."""
    write_queue: int = 16
    """Sectors waiting in each channel's write queue."""
    stash_slots: int = STASH_SLOTS
    """Rows whose scores wait for their LSBs."""


class MemoryModel:
    """Ideal channels: a read is answered after `latency` cycles, then a sector per `sector_beats` cycles follows.

    Reads and writes of a channel share its data wires. A write is acknowledged by the memory controller, as soon as it
    has the data.
    """

    def __init__(self, channels: int, *, latency: int = 40, write_latency: int = 8, sector_beats: int = 1) -> None:
        self.latency = latency
        self.write_latency = write_latency
        self.sector_beats = sector_beats
        self.free = [0] * channels

    def serve(self, channel: int, now: int) -> None:
        """Let a sector pass; `free` is the cycle in which the channel can pass the next one."""
        self.free[channel] = now + self.sector_beats


@dataclass(frozen=True, kw_only=True)
class JobWork:
    """One job: an attention layer, as the datapath sees it."""

    mode: Mode
    heads: int
    head_dim: int
    tokens: IntArray
    """[n] live token ids, ascending."""
    rows: IntArray
    """[r] keys that each query row sees, in the order of the rows."""
    query_ids: IntArray
    """[r] query rows, numbered from the query offset."""
    kv_rows: int
    query_bits: int
    key_bits: int
    """Bits of the plane that the first pass reads."""
    value_bits: int
    joined: bool = False
    keep_values: int | None = None
    flat: tuple[bool, ...] = ()
    """Generation, progressive: heads that are computed again with their LSBs."""
    prune: bool = False
    context: int = 0


def summarization(
    *, heads: int, head_dim: int, length: int, bits: int, causal: bool = False, **more: object
) -> JobWork:
    """A dense prompt of `length` tokens."""
    ids = np.arange(length)
    rows = ids + 1 if causal else np.full(length, length)
    return JobWork(
        mode=Mode.CAUSAL if causal else Mode.SUMMARIZATION,
        heads=heads,
        head_dim=head_dim,
        tokens=ids,
        rows=rows,
        query_ids=ids,
        kv_rows=length,
        query_bits=bits,
        key_bits=bits,
        value_bits=bits,
        **more,  # type: ignore[arg-type]
    )


def generation(
    *, heads: int, head_dim: int, tokens: IntArray, kv_rows: int, key_bits: int, value_bits: int, **more: object
) -> JobWork:
    """One generated token that attends to `tokens`."""
    return JobWork(
        mode=Mode.GENERATION,
        heads=heads,
        head_dim=head_dim,
        tokens=tokens,
        rows=np.array([len(tokens)]),
        query_ids=np.array([0]),
        kv_rows=kv_rows,
        query_bits=12,
        key_bits=key_bits,
        value_bits=value_bits,
        **more,  # type: ignore[arg-type]
    )


@dataclass
class JobResult:
    """When a job did what, in cycles from the first doorbell."""

    doorbell: int = 0
    started: int = 0
    finished: int = 0
    """The cycle of the interrupt."""
    rows: int = 0
    macs: int = 0
    """Useful multiplications, in both arrays."""
    fetched_bytes: int = 0
    written_bytes: int = 0


@dataclass
class Prediction:
    """What a run of jobs took."""

    cycles: int
    jobs: list[JobResult]
    score_beats: int
    """Cycles in which the Q x K array took a line."""
    value_beats: int
    """Cycles in which the prob x V array took a line."""
    config: Config = field(repr=False)

    @property
    def mac_utilization(self) -> float:
        """Useful multiplications / (multipliers x cycles)."""
        multipliers = self.config.qk_multipliers + self.config.pv_multipliers
        return sum(job.macs for job in self.jobs) / (multipliers * self.cycles)

    @property
    def bandwidth_fraction(self) -> float:
        """Bytes fetched and written / what the channels could move."""
        moved = sum(job.fetched_bytes + job.written_bytes for job in self.jobs)
        return moved / (self.config.channels * SECTOR_BYTES * self.cycles)

    def steady(self, first: int, last: int) -> Prediction:
        """Jobs first .. last-1 of a queue, from the end of the job before to the end of the last one."""
        start = self.jobs[first - 1].finished if first else 0
        return Prediction(self.jobs[last - 1].finished - start, self.jobs[first:last], 0, 0, self.config)


class _Ring:
    """Space of a ring buffer, in sectors of one lane."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.used = 0
        self.next = 0
        self.blocks: deque[list[int]] = deque()

    def fits(self, sectors: int) -> bool:
        return self.used + sectors <= self.sectors

    def allocate(self, sectors: int) -> tuple[int, list[int]]:
        """First sector, and the handle that `release` takes."""
        base = self.next
        self.next = (self.next + sectors) % self.sectors
        self.used += sectors
        handle = [sectors, 0]
        self.blocks.append(handle)
        return base, handle

    def release(self, handle: list[int]) -> None:
        """Blocks may end in any order; space returns in the order in which it was given."""
        handle[1] = 1
        while self.blocks and self.blocks[0][1]:
            self.used -= self.blocks.popleft()[0]


_QUERY, _KEY, _VALUE = range(3)
_Key = tuple[int, int, int]
"""Names a block: job, ring, number."""


@dataclass(eq=False)
class _Pass:
    """Requests of one plane for a list of ids, in groups of rows."""

    sector: int
    """Global sector of id 0."""
    pitch: int
    """Sectors between the rows of consecutive ids."""
    sectors: int
    """Sectors fetched of each row."""
    ids: list[int]
    place: int = 0
    """The sector of the block row at which they begin."""
    position: int = 0
    sequences: list[int] = field(default_factory=list)
    """The number of each group of rows, by which its arrival is known."""


@dataclass(eq=False)
class _Block:
    """Rows of a plane, or of planes that are read together, on their way to a ring and in it."""

    order: float
    """Blocks are requested in this order as far as they are ready and their ring has room."""
    key: _Key
    ready: int
    """Cycle from which the ids are known."""
    stride: int
    """Sectors of a block row."""
    passes: list[_Pass]
    uses: int
    """Query rows that have yet to read the block; after the last its room is free."""
    base: int = 0
    handle: list[int] = field(default_factory=list)

    def rows(self) -> int:
        return len(self.passes[0].ids)

    def has(self, rank: int, group: int, arrived: int) -> bool:
        """Whether everything up to row `rank` has arrived."""
        index = rank // group
        return all(len(p.sequences) > index and p.sequences[index] < arrived for p in self.passes)


@dataclass(eq=False)
class _Row:
    """A query row of a head on its way through the datapath."""

    job: int
    head: int
    keys: int
    beats: int
    query: _Key
    query_rank: int
    key: _Key
    value: _Key
    flat: bool
    values: int
    """V rows it needs."""
    progressive: bool = False
    keys_per_read: int = 1
    values_per_read: int = 1
    parts: int = 1
    """Reads of one key or value row: 2 where the head dimension is twice the slice width."""
    reads: int = 0
    exponentials: int = 0
    maximum_at: int = 0
    sum_at: int = 0
    normalised: int = 0
    value_reads: int = 0
    prob_times: deque[int] = field(default_factory=deque)


@dataclass(eq=False)
class _Job:
    """A job's progress."""

    work: JobWork
    result: JobResult
    value_plane: int = 0
    lsb_plane: int = 0
    probs_left: int = 0
    rows_left: int = 0
    writes_left: int = 0
    last_prob: int = 0
    last_write: int = 0
    scatter_end: int | None = None


def selection_cycles(n: int) -> int:
    """Quick-select's mean latency after its last beat at 16 lanes (docs/units.md)."""
    return 8 + n // 10


class _Machine:
    """All queues of the machine; `run` steps them until the jobs are done."""

    def __init__(self, config: Config, memory: MemoryModel, lat: Latencies, queues: Queues, seed: int) -> None:
        self.config, self.memory, self.lat, self.queues = config, memory, lat, queues
        self.random = np.random.default_rng(seed)
        self.now = 0
        channels = config.channels
        self.group = max(config.topk_lanes, channels)
        self.score_room = -(-config.tokens_max // config.softmax_lanes) + queues.score_slack
        self.rings = [
            _Ring(query_ring_sectors(config)),
            _Ring(key_ring_sectors(config)),
            _Ring(value_ring_sectors(config)),
        ]
        self.lanes = [1, config.slices, config.slices]
        # Fetch
        self.plans: list[list[_Block]] = [[], [], []]
        self.issuing: list[deque[_Block]] = [deque(), deque(), deque()]
        self.blocks: dict[_Key, _Block] = {}
        self.channel_groups: list[deque[tuple[int, int, deque[int]]]] = [deque() for _ in range(channels)]
        self.flight: list[deque[tuple[int, int, int]]] = [deque() for _ in range(channels)]
        self.returned: list[list[deque[tuple[int, int]]]] = [[deque() for _ in range(4)] for _ in range(channels)]
        self.in_return = 0
        self.in_fetch = 0
        self.remaining: list[int] = []
        self.completed = 0
        self.arrivals: deque[tuple[int, int]] = deque()
        self.arrived = 0
        self.writes: list[deque[_Job]] = [deque() for _ in range(channels)]
        self.in_writes = 0
        self.next_plane = 0
        # Datapath
        self.rows: deque[_Row] = deque()
        self.again: list[_Row] = []
        self.scoring: _Row | None = None
        self.scores: deque[tuple[int, _Row, bool]] = deque()
        self.scores_held = 0
        self.maxed: deque[_Row] = deque()
        self.exps_held = 0
        self.summed: deque[_Row] = deque()
        self.probs_held = 0
        self.select_free = 0
        self.value_rows: deque[_Row] = deque()
        self.outputs: deque[tuple[int, _Row]] = deque()
        self.score_beats = 0
        self.value_beats = 0
        self.stashed_rows = 0
        # Jobs
        self.jobs: list[_Job] = []
        self.waiting_jobs: deque[int] = deque()
        self.active: list[_Job] = []
        self.contexts: set[int] = set()
        self.gather_free = 0
        self.tail_free = 0
        self.heads = 0

    # -- Jobs ---------------------------------------------------------------------------------------------------------

    def run(self, works: Sequence[JobWork], doorbells: Sequence[int]) -> Prediction:
        """Run all jobs; `doorbells` are the cycles in which they are submitted."""
        self.jobs = [_Job(work, JobResult(doorbell=at)) for work, at in zip(works, doorbells, strict=True)]
        self.waiting_jobs = deque(range(len(works)))
        while self.waiting_jobs or self.active:
            self._start()
            if self.in_writes or self.in_fetch or self.arrivals or any(self.issuing) or any(self.plans):
                self._request()
                self._transfer()
            self._score()
            self._softmax()
            self._multiply()
            self._finish()
            self.now += 1
        results = [job.result for job in self.jobs]
        return Prediction(max(r.finished for r in results), results, self.score_beats, self.value_beats, self.config)

    def _start(self) -> None:
        while self.waiting_jobs and len(self.active) < self.config.jobs_in_flight:
            job = self.jobs[self.waiting_jobs[0]]
            if job.result.doorbell > self.now or job.work.context in self.contexts:
                return
            self.active.append(job)
            self.contexts.add(job.work.context)
            start = max(self.now + self.lat.start, self.gather_free)
            self.gather_free = start + -(-job.work.kv_rows // self.config.topk_lanes)
            job.result.started = self.now
            all_live = len(job.work.tokens) == job.work.kv_rows
            delay = self.lat.count if all_live else self.lat.gather
            self._plan(self.waiting_jobs.popleft(), job, start + delay)

    def _plane(self, work: JobWork, bits: int, rows: int) -> tuple[int, int]:
        """First sector of a new plane, and the sectors from one group of heads to the next (golden/memory.py)."""
        plane = Plane(
            channels=self.config.channels,
            base=self.next_plane,
            rows=rows,
            heads=work.heads,
            head_dim=work.head_dim,
            bits=bits,
        )
        self.next_plane += plane.sectors
        return plane.base, plane.group_stride

    def _plan(self, number: int, job: _Job, ready: int) -> None:
        """Lay out a job's planes and queue its blocks and rows in the order in which they are needed."""
        work, config = job.work, self.config
        dim, rows = work.head_dim, len(work.rows)
        generates = work.mode is Mode.GENERATION
        keys = [int(i) for i in work.tokens[: int(work.rows.max())]]
        key_plane, key_step = self._plane(work, work.key_bits, work.kv_rows)
        job.lsb_plane, lsb_step = self._plane(work, LSB_BITS, work.kv_rows)
        job.value_plane, value_step = self._plane(work, work.value_bits, work.kv_rows)
        query_plane, query_step = self._plane(work, work.query_bits, 1 if generates else int(work.query_ids.max()) + 1)
        form = row_format(head_dim=dim, slice_width=config.slice_width, bits=work.key_bits, joined=work.joined)
        value_form = row_format(head_dim=dim, slice_width=config.slice_width, bits=work.value_bits)
        most = min(max(1, config.slice_width // dim), config.softmax_lanes // config.slices)
        key_sectors, key_share = row_sectors(dim, work.key_bits), heads_per_row(dim, work.key_bits)
        lsb_sectors, lsb_share = row_sectors(dim, LSB_BITS), heads_per_row(dim, LSB_BITS)
        value_sectors, value_share = row_sectors(dim, work.value_bits), heads_per_row(dim, work.value_bits)
        query_sectors, query_share = row_sectors(dim, work.query_bits), heads_per_row(dim, work.query_bits)
        job.probs_left = job.rows_left = work.heads * rows
        job.writes_left = work.heads * rows * (dim * OUTPUT_BITS // (8 * SECTOR_BYTES))

        if generates:
            groups = list(range(-(-work.heads // query_share)))
            one = _Pass(query_plane, query_step, query_sectors, groups)
            self._add(_Block(self.heads - 0.5, (number, _QUERY, 0), ready, query_sectors, [one], work.heads))
        for head in range(work.heads):
            order, self.heads = self.heads, self.heads + 1
            if head % form.heads == 0:
                passes = []
                for fetch in form.fetches:
                    plane, step, sectors, share = (
                        (key_plane, key_step, key_sectors, key_share)
                        if fetch.plane == "msb"
                        else (job.lsb_plane, lsb_step, lsb_sectors, lsb_share)
                    )
                    first = plane + (head + min(fetch.heads)) // share * step + fetch.first
                    passes.append(_Pass(first, sectors, fetch.sectors, keys, fetch.place))
                uses = min(form.heads, work.heads - head) * rows
                self._add(_Block(order, (number, _KEY, head // form.heads), ready, form.stride, passes, uses))
            if work.keep_values is None and head % value_share == 0:
                first = job.value_plane + head // value_share * value_step
                one = _Pass(first, value_sectors, value_sectors, keys)
                uses = min(value_share, work.heads - head) * rows
                self._add(_Block(order + 1.5, (number, _VALUE, head // value_share), ready, value_sectors, [one], uses))
            for row, seen in enumerate(work.rows):
                chunk = head * rows + row // self.group * self.group
                if not generates and row % self.group == 0:
                    some = [int(i) for i in work.query_ids[row : row + self.group]]
                    one = _Pass(query_plane + head // query_share * query_step, query_sectors, query_sectors, some)
                    self._add(_Block(order - 0.5, (number, _QUERY, chunk), ready, query_sectors, [one], len(some)))
                self.rows.append(
                    _Row(
                        job=number,
                        head=head,
                        keys=int(seen),
                        beats=-(-int(seen) // config.softmax_lanes),
                        query=(number, _QUERY, 0 if generates else chunk),
                        query_rank=head // query_share if generates else row % self.group,
                        key=(number, _KEY, head // form.heads),
                        value=(number, _VALUE, head // value_share if work.keep_values is None else -1 - head),
                        flat=bool(work.flat) and work.flat[head],
                        progressive=bool(work.flat),
                        keys_per_read=config.slices * form.rows_per_read(most, 4),
                        values_per_read=config.slices * value_form.rows_per_read(most, 4),
                        parts=form.beats,
                        values=int(seen) if work.keep_values is None else min(work.keep_values, int(seen)),
                    )
                )
        seen = int(work.rows.sum())
        values = seen if work.keep_values is None else min(work.keep_values, seen)
        job.result.rows = work.heads * rows
        job.result.macs = work.heads * dim * (seen + values)

    def _add(self, block: _Block) -> None:
        plans = self.plans[block.key[1]]
        plans.append(block)
        if len(plans) > 1 and plans[-2].order > block.order:
            plans.sort(key=lambda plan: plan.order)

    def _finish(self) -> None:
        for job in list(self.active):
            if job.probs_left == 0 and job.scatter_end is None:
                # The last probability is in: final top-k if asked for, then the scatter, one id line per cycle.
                start = max(self.now, self.tail_free)
                if job.work.prune:
                    count = len(job.work.tokens)
                    start += -(-count // self.config.topk_lanes) + selection_cycles(count) + self.lat.filter
                job.scatter_end = start + -(-job.work.kv_rows // self.config.topk_lanes)
                self.tail_free = job.scatter_end
            if job.scatter_end is not None and job.scatter_end == self.now:
                self.contexts.discard(job.work.context)
            if job.writes_left == 0 and job.scatter_end is not None and job.scatter_end <= self.now:
                end = max(job.last_write + self.memory.write_latency, job.scatter_end) + self.lat.finish
                job.result.finished = end
                self.active.remove(job)

    # -- Fetch --------------------------------------------------------------------------------------------------------

    def _request(self) -> None:
        """Turn one group of rows into requests, of the first block in order that has room, if there is one."""
        best: _Block | None = None
        for ring in (_QUERY, _KEY, _VALUE):
            issuing, plans = self.issuing[ring], self.plans[ring]
            while plans and len(issuing) < 2 and plans[0].ready <= self.now:
                block = plans[0]
                sectors = -(-block.rows() // self.lanes[ring]) * block.stride
                if not self.rings[ring].fits(sectors):
                    break
                plans.pop(0)
                block.base, block.handle = self.rings[ring].allocate(sectors)
                self.blocks[block.key] = block
                issuing.append(block)
            if issuing and (best is None or issuing[0].order < best.order):
                best = issuing[0]
        if best is None or any(len(groups) >= self.queues.channel_groups for groups in self.channel_groups):
            return
        one = next(p for p in best.passes if p.position < len(p.ids))
        channels, lanes = self.config.channels, self.lanes[best.key[1]]
        sequence = len(self.remaining)
        ids = one.ids[one.position : one.position + self.group]
        hits: dict[int, deque[int]] = {}
        for rank, token in enumerate(ids, one.position):
            sector = one.sector + token * one.pitch
            ring_sector = best.base + rank // lanes * best.stride + one.place
            lane = rank % lanes * 4
            for j in range(one.sectors):
                hits.setdefault((sector + j) % channels, deque()).append(lane + ((ring_sector + j) & 3))
        issue = self.now + self.lat.request
        for channel, ports in hits.items():
            self.channel_groups[channel].append((issue, sequence, ports))
        count = len(ids) * one.sectors
        self.remaining.append(count)
        self.in_fetch += count
        self.jobs[best.key[0]].result.fetched_bytes += count * SECTOR_BYTES
        one.sequences.append(sequence)
        one.position += len(ids)
        if all(p.position == len(p.ids) for p in best.passes):
            self.issuing[best.key[1]].popleft()

    def _transfer(self) -> None:
        """One cycle of every channel: a write or a read request, an answer, and the crossbar to the banks."""
        now, voq = self.now, self.queues.voq
        for channel in range(self.config.channels):
            if self.memory.free[channel] <= now:
                if self.writes[channel]:
                    job = self.writes[channel].popleft()
                    self.memory.serve(channel, now)
                    self.in_writes -= 1
                    job.writes_left -= 1
                    job.last_write = now
                    job.result.written_bytes += SECTOR_BYTES
                else:
                    groups = self.channel_groups[channel]
                    if groups and groups[0][0] <= now and len(self.flight[channel]) < self.queues.outstanding:
                        _, sequence, ports = groups[0]
                        self.memory.serve(channel, now)
                        answer = self.memory.free[channel] - 1 + self.memory.latency + self.lat.axi
                        self.flight[channel].append((answer, sequence, ports.popleft()))
                        if not ports:
                            groups.popleft()
            flight = self.flight[channel]
            if flight and flight[0][0] <= now:
                _, sequence, port = flight[0]
                queue = self.returned[channel][port & 3]
                if len(queue) < voq:
                    flight.popleft()
                    queue.append((sequence, port))
                    self.in_return += 1
        if self.in_return:
            self._deliver()
        while self.arrivals and self.arrivals[0][0] <= now:
            self.arrived = self.arrivals.popleft()[1]

    def _deliver(self) -> None:
        channels = self.config.channels
        taken = set()
        before = self.completed
        for turn in range(channels):
            for queue in self.returned[(turn + self.now) % channels]:
                if queue and queue[0][1] not in taken:
                    sequence, port = queue.popleft()
                    taken.add(port)
                    self.in_return -= 1
                    self.in_fetch -= 1
                    self.remaining[sequence] -= 1
        while self.completed < len(self.remaining) and self.remaining[self.completed] == 0:
            self.completed += 1
        if self.completed > before:
            self.arrivals.append((self.now + self.lat.deliver + self.lat.complete, self.completed))

    # -- Datapath -----------------------------------------------------------------------------------------------------

    def _has(self, key: _Key, rank: int) -> bool:
        block = self.blocks.get(key)
        return block is not None and block.has(rank, self.group, self.arrived)

    def _used(self, key: _Key) -> None:
        block = self.blocks[key]
        block.uses -= 1
        if block.uses == 0:
            self.rings[key[1]].release(block.handle)
            del self.blocks[key]

    def _score(self) -> None:
        """One line of keys into the Q x K array."""
        lanes = self.config.softmax_lanes
        row = self.scoring
        if row is None:
            for candidate in self.again:
                if self._has(candidate.key, candidate.keys - 1):
                    row = candidate
                    self.again.remove(candidate)
                    break
            else:
                if not self.rows:
                    return
                row = self.rows[0]
                if row.progressive and self.stashed_rows >= self.queues.stash_slots:
                    return
                if not self._has(row.query, row.query_rank):
                    return
                self.rows.popleft()
                self.stashed_rows += row.progressive
            self.scoring = row
        done = min((row.reads // row.parts + 1) * row.keys_per_read, row.keys)
        if self.scores_held >= self.score_room or not self._has(row.key, done - 1):
            return
        row.reads += 1
        self.score_beats += 1
        last = row.reads % row.parts == 0 and done == row.keys
        if row.reads % row.parts == 0 and (last or done % lanes == 0):
            self.scores_held += 1
            self.scores.append((self.now + self.lat.score, row, last))
        if last:
            self._used(row.key)
            if row.query[2] >= 0:
                self._used(row.query)
            self.scoring = None

    def _softmax(self) -> None:
        now, lat = self.now, self.lat
        while self.scores and self.scores[0][0] <= now:
            _, row, last = self.scores.popleft()
            if last:
                row.maximum_at = now + lat.maximum
                self.maxed.append(row)
        if self.maxed and self.maxed[0].maximum_at <= now and self.exps_held < self.score_room:
            row = self.maxed[0]
            row.exponentials += 1
            self.scores_held -= 1
            self.exps_held += 1
            if row.exponentials == row.beats:
                self.maxed.popleft()
                row.sum_at = now + lat.exponential
                self.summed.append(row)
        if self.summed and self.summed[0].sum_at <= now:
            row = self.summed[0]
            if row.flat:
                self.summed.popleft()
                self.exps_held -= row.beats
                self._recompute(row)
            elif self.probs_held < self.queues.prob_beats:
                row.normalised += 1
                self.exps_held -= 1
                self.probs_held += 1
                row.prob_times.append(now + lat.normalise)
                if row.normalised == 1 and self.jobs[row.job].work.keep_values is None:
                    self.value_rows.append(row)
                if row.normalised == row.beats:
                    self.summed.popleft()
                    self.stashed_rows -= row.progressive
                    self._normalised(row)

    def _recompute(self, row: _Row) -> None:
        """A flat row asks for the LSBs of its keys, and is computed again."""
        job = self.jobs[row.job]
        work = job.work
        ids = [int(i) for i in work.tokens]
        share, sectors = heads_per_row(work.head_dim, LSB_BITS), row_sectors(work.head_dim, LSB_BITS)
        plane = Plane(
            channels=self.config.channels,
            base=job.lsb_plane,
            rows=work.kv_rows,
            heads=work.heads,
            head_dim=work.head_dim,
            bits=LSB_BITS,
        )
        first = int(plane.row_address(row.head // share, 0))
        key = (row.job, _KEY, -1 - row.head)
        self._add(_Block(-1.0, key, self.now + self.lat.request, sectors, [_Pass(first, sectors, sectors, ids)], 1))
        again = _Row(
            job=row.job,
            head=row.head,
            keys=row.keys,
            beats=row.beats,
            query=(row.job, _QUERY, -1),
            query_rank=0,
            key=key,
            value=row.value,
            flat=False,
            values=row.values,
            progressive=True,
            parts=row.parts,
            keys_per_read=row.keys_per_read,
            values_per_read=row.values_per_read,
        )
        self.again.append(again)

    def _normalised(self, row: _Row) -> None:
        """All probabilities of a row are on their way: local top-k, importance."""
        job = self.jobs[row.job]
        work = job.work
        job.probs_left -= 1
        if work.keep_values is None:
            return
        start = max(row.prob_times[-1], self.select_free)
        chosen = start + selection_cycles(row.keys)
        self.select_free = max(chosen, start + -(-row.keys // self.config.topk_lanes))
        ready = chosen + self.lat.filter
        kept = np.sort(self.random.choice(row.keys, row.values, replace=False))
        share, sectors = heads_per_row(work.head_dim, work.value_bits), row_sectors(work.head_dim, work.value_bits)
        plane = Plane(
            channels=self.config.channels,
            base=job.value_plane,
            rows=work.kv_rows,
            heads=work.heads,
            head_dim=work.head_dim,
            bits=work.value_bits,
        )
        first = int(plane.row_address(row.head // share, 0))
        ids = [int(i) for i in work.tokens[kept]]
        self._add(_Block(-2.0, row.value, ready, sectors, [_Pass(first, sectors, sectors, ids)], 1))
        self.probs_held -= row.beats
        row.beats = -(-row.values // self.config.softmax_lanes)
        self.probs_held += row.beats
        row.prob_times = deque([ready] * row.beats)
        self.value_rows.append(row)

    def _multiply(self) -> None:
        """One line of V into the prob x V array."""
        lanes = self.config.softmax_lanes
        if self.value_rows and self.in_writes < self.queues.write_queue * self.config.channels:
            row = self.value_rows[0]
            if row.prob_times and row.prob_times[0] <= self.now:
                done = min((row.value_reads // row.parts + 1) * row.values_per_read, row.values)
                if self._has(row.value, done - 1):
                    row.value_reads += 1
                    self.value_beats += 1
                    last = row.value_reads % row.parts == 0 and done == row.values
                    if row.value_reads % row.parts == 0 and (last or done % lanes == 0):
                        row.prob_times.popleft()
                        self.probs_held -= 1
                    if last:
                        self.value_rows.popleft()
                        self._used(row.value)
                        self.outputs.append((self.now + self.lat.value + self.lat.output, row))
        while self.outputs and self.outputs[0][0] <= self.now:
            _, row = self.outputs.popleft()
            job = self.jobs[row.job]
            sectors = job.work.head_dim * OUTPUT_BITS // (8 * SECTOR_BYTES)
            job.rows_left -= 1
            position = (job.rows_left * job.work.heads + row.head) * sectors
            for j in range(sectors):
                self.writes[(position + j) % self.config.channels].append(job)
            self.in_writes += sectors


def predict(
    config: Config,
    works: Sequence[JobWork],
    *,
    doorbells: Sequence[int] | None = None,
    memory: MemoryModel | None = None,
    latencies: Latencies | None = None,
    queues: Queues | None = None,
    seed: int = 1,
) -> Prediction:
    """Run jobs through the model; by default all are submitted in cycle 0 and wait for each other in the queue."""
    machine = _Machine(
        config,
        MemoryModel(config.channels, sector_beats=config.sector_beats()) if memory is None else memory,
        Latencies() if latencies is None else latencies,
        Queues(outstanding=config.outstanding) if queues is None else queues,
        seed,
    )
    return machine.run(works, [0] * len(works) if doorbells is None else doorbells)


# -- The figures that the machine must reach --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Target:
    """A benchmark figure: what must be reached, and the model's prediction."""

    name: str
    limit: float
    predicted: float
    unit: str
    at_most: bool
    """Whether `limit` is an upper bound."""

    @property
    def reached(self) -> bool:
        return self.predicted <= self.limit if self.at_most else self.predicted >= self.limit


def targets(config: Config = PAPER, lengths: Sequence[int] = tuple(BERT_CYCLES)) -> Iterator[Target]:
    """Predict every figure of the benchmark."""
    for length in lengths:
        layer = summarization(heads=HEADS, head_dim=HEAD_DIM, length=length, bits=8)
        alone = predict(config, [layer])
        limit = BERT_CYCLES[length]
        yield Target(
            name=f"BERT-base layer, L = {length}, alone",
            limit=limit,
            predicted=alone.cycles,
            unit="cycles",
            at_most=True,
        )
        if length in QUEUED_SHARE:
            count = 6 if length == 384 else 12
            queue = predict(config, [dataclasses.replace(layer, context=n % 4) for n in range(count)])
            used = queue.steady(2, count - 2).mac_utilization
            yield Target(
                name=f"BERT-base layer, L = {length}, queued",
                limit=QUEUED_SHARE[length],
                predicted=used,
                unit="of all multipliers",
                at_most=False,
            )
    if 384 in lengths:
        full = predict(config, [summarization(heads=HEADS, head_dim=HEAD_DIM, length=384, bits=8)]).cycles
        causal = predict(
            config, [summarization(heads=HEADS, head_dim=HEAD_DIM, length=384, bits=8, causal=True)]
        ).cycles
        yield Target(
            name="causal prompt, L = 384, of the full square",
            limit=CAUSAL_SHARE,
            predicted=causal / full,
            unit="",
            at_most=True,
        )
    tokens = np.arange(GPT2_CONTEXT)
    dense = generation(heads=HEADS, head_dim=HEAD_DIM, tokens=tokens, kv_rows=GPT2_CONTEXT, key_bits=8, value_bits=8)
    alone = predict(config, [dense])
    yield Target(
        name="GPT-2-small layer, 993 keys, dense 8-bit, alone",
        limit=GENERATION_BANDWIDTH["alone"],
        predicted=alone.bandwidth_fraction,
        unit="of 512 GB/s",
        at_most=False,
    )
    queue = predict(config, [dataclasses.replace(dense, context=n % 4) for n in range(10)])
    yield Target(
        name="GPT-2-small layer, 993 keys, dense 8-bit, queued",
        limit=GENERATION_BANDWIDTH["queued"],
        predicted=queue.steady(2, 8).bandwidth_fraction,
        unit="of 512 GB/s",
        at_most=False,
    )
    works = cascade_works(contexts=4, steps=2)
    pruned = predict(config, works)
    yield Target(
        name="GPT-2-small, cascade pruning, V keep 0.25, K 6+4, 4 jobs in flight",
        limit=CASCADE_BANDWIDTH,
        predicted=pruned.steady(4, len(works) - 4).bandwidth_fraction,
        unit="of 512 GB/s",
        at_most=False,
    )


def cascade_works(*, contexts: int, steps: int, flat: float = FLAT_SHARE, seed: int = 1) -> list[JobWork]:
    """GPT-2-small generating with cascade pruning, in `contexts` sequences by turns: 12 layers a step.

    Survivors are random; a share `flat` of the rows needs its LSBs (the paper, section III-D: 5.9 %).
    """
    source = np.random.default_rng(seed)
    works = []
    for _ in range(steps):
        live = [np.arange(GPT2_CONTEXT)] * contexts
        for keep in GPT2_LIVE:
            for context in range(contexts):
                live[context] = np.sort(source.choice(live[context], keep, replace=False))
                works.append(
                    generation(
                        heads=HEADS,
                        head_dim=HEAD_DIM,
                        tokens=live[context],
                        kv_rows=GPT2_CONTEXT,
                        key_bits=6,
                        value_bits=8,
                        keep_values=-(-keep // 4),
                        flat=tuple(source.random(HEADS) < flat),
                        prune=True,
                        context=context,
                    )
                )
    return works
