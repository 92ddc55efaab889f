"""Testbench of hw/datapath/token_importance.py; tests/hw/datapath/test_token_importance.py runs it."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden import BoolArray, GoldenError, IntArray
from spatten.golden.attention import Bitmaps, Live
from spatten.golden.cascade import Context
from spatten.golden.expander import packed_rows
from spatten.golden.token_importance import Scattered, gather, scatter
from spatten.hw.datapath.token_importance import Layouts
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import SCALE_MANTISSA_BITS, Config
from spatten.spec.job import Job, JobError, Mode, ScoreScale

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SLOTS: int = PARAMETERS["slots"]
SEEDS: list[int] = PARAMETERS["seeds"]
JOBS: int = PARAMETERS["jobs"]
TOKENS, P, T = CONFIG.tokens_max, CONFIG.softmax_lanes, CONFIG.topk_lanes
LINES = TOKENS // T
IMPORTANCE_BITS = CONFIG.token_importance_bits
LIMIT = (1 << IMPORTANCE_BITS) - 1
LAYOUTS = Layouts(
    tokens=TOKENS,
    prob_bits=CONFIG.prob_bits,
    importance_bits=IMPORTANCE_BITS,
    prob_lanes=P,
    lanes=T,
    contexts=CONFIG.contexts,
    slots=SLOTS,
)
LIVE_LATENCY: int = PARAMETERS["live_latency"]
"""Cycles from the member line that completes a row to the row on `o_live`."""
GATHER_LATENCY: int = PARAMETERS["gather_latency"]
"""Cycles from a gather's command to its report, less its lines."""
SCATTER_LATENCY = 11
"""Cycles from a scatter's command to its report, less its lines."""
CANDIDATES_LATENCY = 6
"""Cycles from a scatter's command to its first candidates."""
SCORE_SCALES = (ScoreScale(mantissa=1 << SCALE_MANTISSA_BITS - 1, shift=16),)


def bits(mask: BoolArray) -> int:
    return sum(1 << int(lane) for lane in np.flatnonzero(mask))


def lines_of(mask: BoolArray) -> list[int]:
    """A bitmap by token id as one number per id line."""
    return [bits(line) for line in mask.reshape(LINES, T)]


def state_lines(context: Context) -> list[dict[str, Any]]:
    kept = lines_of(context.kept_tokens)
    importance = context.token_importance.reshape(LINES, T)
    return [{"importance": importance[n].tolist(), "kept": kept[n]} for n in range(LINES)]


@dataclass
class Traffic:
    """One job: what goes in, what must come out."""

    slot: int
    context: int
    command: dict[str, int]
    members: list[dict[str, int]]
    rows: list[list[dict[str, Any]]]
    """Beats of each row of probabilities."""
    prune: bool
    live: Live
    scattered: Scattered
    state: list[dict[str, Any]]
    """The context afterwards."""

    @property
    def live_rows(self) -> list[dict[str, Any]]:
        return counted_rows("ids", self.live.tokens)

    @property
    def candidates(self) -> list[dict[str, Any]]:
        return counted_rows("keys", self.scattered.keys) if self.prune else []

    @property
    def kept(self) -> list[int]:
        return [bits(row != 0) for row in packed_rows(self.scattered.kept.astype(np.int64), T)] if self.prune else []

    @property
    def gathered(self) -> dict[str, int]:
        pinned = int(self.live.pinned[self.live.tokens].sum())
        return {"slot": self.slot, "live": len(self.live.tokens), "pinned": pinned}

    @property
    def report(self) -> dict[str, int]:
        return {"slot": self.slot, "saturated": self.scattered.saturated}


def counted_rows(name: str, values: IntArray) -> list[dict[str, Any]]:
    rows = packed_rows(values, T).tolist()
    counts = [min(T, len(values) - n * T) for n in range(len(rows))]
    return [{name: row, "count": counts[n], "last": int(n == len(rows) - 1)} for n, row in enumerate(rows)]


def make_job(
    source: np.random.Generator, state: Context, context: int, slot: int, first: bool, **choices: Any
) -> Traffic:
    """A random job on `state`, which is left as the job leaves it. `choices` fixes fields."""
    while True:
        keys = int(source.integers(1, TOKENS + 1)) if source.random() < 0.6 else TOKENS
        generates = bool(source.random() < 0.4)
        queries = 1 if generates else int(source.integers(1, keys + 1))
        fields: dict[str, Any] = {
            "mode": Mode.GENERATION if generates else Mode.SUMMARIZATION,
            "keys": keys,
            "queries": queries,
            "query_offset": int(source.integers(0, keys - queries + 1)) if generates else 0,
            "valid_length": int(source.integers(1, keys + 1)) if source.random() < 0.3 else None,
            "keep_tokens": int(source.integers(1, keys + 1)) if source.random() < 0.7 else None,
            "clear": first or bool(source.random() < 0.1),
            "restart": bool(source.random() < 0.3),
            "age_shift": int(source.choice([0, 0, 0, 1, 2, 5, 17, 31])),
        }
        fields |= {name: value for name, value in choices.items() if name in fields}
        job = Job(head_dim=16, heads=1, query_bits=8, key_bits=8, value_bits=8, score_scales=SCORE_SCALES, **fields)
        density = choices.get("density", source.choice([0.1, 0.5, 0.9, 1.0]))
        bitmaps = Bitmaps(
            has_kv=source.random(keys) < density,
            pinned=source.random(keys) < source.choice([0.0, 0.2, 0.7]),
            heads=np.ones(1, np.bool_),
        )
        attempt = copy.deepcopy(state)
        try:
            live = gather(job, attempt, bitmaps)
        except (GoldenError, JobError):
            continue  # no token is live, or the fields do not fit together
        break
    count = len(live.tokens)
    row_count = choices.get("row_count", int(source.choice([1, 2, 3, 8])))
    prob = source.integers(0, CONFIG.prob_one + 1, (1, row_count, count))
    prob[source.random(prob.shape) < 0.2] = CONFIG.prob_one
    lengths = source.integers(1, count + 1, row_count)
    lengths[source.random(row_count) < 0.5] = count
    prob[0, np.arange(count) >= lengths[:, None]] = 0
    scattered = scatter(attempt, live, prob, job.keep_tokens)
    state.__dict__.update(attempt.__dict__)

    valid = keys if job.valid_length is None else job.valid_length
    has_kv, pinned = np.zeros(TOKENS, np.bool_), np.zeros(TOKENS, np.bool_)
    has_kv[:valid], pinned[:keys] = bitmaps.has_kv[:valid], bitmaps.pinned
    line_count = choices.get("lines", int(source.choice([-(-keys // T), LINES])))
    command = {
        "context": context,
        "slot": slot,
        "clear": int(job.clear),
        "restart": int(job.restart),
        "age_shift": job.age_shift,
        "lines": line_count,
        "generates": int(generates),
        "generating_token": job.query_offset if generates else int(source.integers(0, TOKENS)),
    }
    members = [
        {"live": live_bits, "pinned": pinned_bits}
        for live_bits, pinned_bits in zip(lines_of(has_kv), lines_of(pinned), strict=True)
    ]
    rows = [beats(source, prob[0, n, : lengths[n]], slot) for n in range(row_count)]
    return Traffic(
        slot=slot,
        context=context,
        command=command,
        members=members[:line_count],
        rows=rows,
        prune=job.keep_tokens is not None,
        live=live,
        scattered=scattered,
        state=state_lines(state),
    )


def beats(source: np.random.Generator, prob: IntArray, slot: int) -> list[dict[str, Any]]:
    """A row of probabilities as beats; what lies beyond the last one's count is garbage."""
    padded = source.integers(0, CONFIG.prob_one + 1, -(-len(prob) // P) * P)
    padded[: len(prob)] = prob
    return [
        {
            "probs": padded[first : first + P].tolist(),
            "count": min(P, len(prob) - first),
            "last": int(first + P >= len(prob)),
            "slot": slot,
        }
        for first in range(0, len(prob), P)
    ]


class Unit:
    """The unit with everything around it; `run` plays the controller and the top-k engine."""

    def __init__(
        self, dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        self.choose = self.bench.random("controller")
        self.gather = StreamDriver(self.bench, "i_gather", LAYOUTS.gather, idle=idle)
        self.members = StreamDriver(self.bench, "i_members", LAYOUTS.members, idle=idle)
        self.probs = StreamDriver(self.bench, "i_probs", LAYOUTS.probs, idle=idle)
        self.scatter = StreamDriver(self.bench, "i_scatter", LAYOUTS.scatter, idle=idle)
        self.kept = StreamDriver(self.bench, "i_kept", LAYOUTS.kept, idle=idle)
        self.access = StreamDriver(self.bench, "i_access", LAYOUTS.access, idle=idle)

        def monitor(name: str, shape: Any) -> StreamMonitor:
            return StreamMonitor(self.bench, name, shape, stall=stall, patient=patient)

        self.live = monitor("o_live", LAYOUTS.live)
        self.gathered = monitor("o_gathered", LAYOUTS.gathered)
        self.candidates = monitor("o_candidates", LAYOUTS.candidates)
        self.scattered = monitor("o_scattered", LAYOUTS.scattered)
        self.answers = monitor("o_access", LAYOUTS.state)

    def restore(self, context: int, state: Context) -> None:
        empty = {"context": context, "write": 1}
        self.access.send([{**empty, "line": n, "state": line} for n, line in enumerate(state_lines(state))])

    def save(self, context: int, lines: list[dict[str, Any]]) -> None:
        """Read all lines of a context; they must be `lines`."""
        nothing = {"importance": [0] * T, "kept": 0}
        order = self.choose.sample(range(LINES), LINES)
        self.access.send([{"context": context, "write": 0, "line": n, "state": nothing} for n in order])
        self.answers.expect([lines[n] for n in order])

    def begin(self, jobs: list[Traffic]) -> None:
        """Queue the gathers, and everything that is known beforehand."""
        for job in jobs:
            self.gather.send([job.command])
            self.members.send(job.members)
            self.live.expect(job.live_rows)
            self.gathered.expect([job.gathered])
            self.candidates.expect(job.candidates)
            self.scattered.expect([job.report])

    async def run(self, jobs: list[Traffic], *, stop: int | None = None) -> None:
        """Play the jobs, each as far as the others let it: the rows of all gathered jobs come mixed.

        `stop`: leave after so many cycles, in the middle.
        """
        first = self.scattered.count
        gathered, offered = self.gathered.count, self.candidates.count
        self.begin(jobs)
        rows_left = [list(job.rows) for job in jobs]
        beats_queued = self.probs.count
        beats_end: dict[int, int] = {}
        scatters = answered = 0
        offered_end = np.cumsum([len(job.candidates) for job in jobs]) + offered
        cycles, quiet, progress = 0, 0, None
        while self.scattered.count < first + len(jobs):
            active = [n for n in range(self.gathered.count - gathered) if rows_left[n]]
            if active and beats_queued - self.probs.count <= 2 * P:
                number = self.choose.choice(active)
                row = rows_left[number].pop(0)
                self.probs.send(row)
                beats_queued += len(row)
                if not rows_left[number]:
                    beats_end[number] = beats_queued
            while scatters in beats_end and self.probs.count >= beats_end[scatters]:
                self.scatter.send([{"slot": jobs[scatters].slot, "prune": int(jobs[scatters].prune)}])
                scatters += 1
            while answered < len(jobs) and self.candidates.count >= offered_end[answered]:
                self.kept.send(jobs[answered].kept)
                answered += 1
            await self.bench.step()
            cycles += 1
            if cycles == stop:
                return
            now = (self.members.count, self.probs.count, self.candidates.count, self.scattered.count, self.live.count)
            quiet, progress = (quiet + 1 if now == progress else 0), now
            assert quiet < 400, f"nothing moves: {now}, seed {self.bench.seed}"


def restored_state(source: np.random.Generator) -> Context:
    """A context in the middle of a sequence; some of its scores are about to saturate."""
    state = Context(CONFIG)
    near = LIMIT - source.integers(0, 3 * CONFIG.prob_one, TOKENS)
    state.token_importance = np.where(source.random(TOKENS) < 0.5, near, source.integers(0, LIMIT + 1, TOKENS))
    state.kept_tokens = source.random(TOKENS) < 0.7
    return state


def make_jobs(source: np.random.Generator, states: list[Context], count: int, cleared: set[int]) -> list[Traffic]:
    """Random jobs on the contexts; a context that is not among `cleared` begins with a clear."""
    jobs = []
    # Restored scores are about to saturate: let them do so in the first job already.
    saturates: dict[str, Any] = {"clear": False, "restart": True, "age_shift": 0, "keys": TOKENS, "valid_length": None}
    saturates |= {"density": 1.0, "row_count": 8}
    choices = dict.fromkeys(cleared, saturates)
    for n in range(count):
        context = int(source.integers(0, CONFIG.contexts)) if n or not choices else min(choices)
        slot = n % SLOTS if source.random() < 0.7 else int(source.integers(0, SLOTS))
        chosen = choices.pop(context, {})
        jobs.append(make_job(source, states[context], context, slot, context not in cleared, **chosen))
        cleared.add(context)
    return jobs


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def jobs_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    unit = Unit(dut, seed, idle, stall)
    source = np.random.default_rng([seed, int(idle > 0), int(stall > 0)])
    await unit.bench.reset()
    states = [Context(CONFIG) for _ in range(CONFIG.contexts)]
    restored = range(0, CONFIG.contexts, 2)
    for context in restored:
        states[context] = restored_state(source)
        unit.restore(context, states[context])
    await unit.bench.until(lambda: unit.access.count == LINES * len(restored), what="restore")
    for context in restored:
        unit.save(context, state_lines(states[context]))
    await unit.bench.drain()
    used = set(restored)
    jobs = make_jobs(source, states, JOBS, used)
    assert any(job.scattered.saturated for job in jobs), "nothing saturated"
    assert any(job.prune and not job.scattered.kept.all() for job in jobs), "nobody was pruned"
    await unit.run(jobs)
    for context in sorted(used):
        unit.save(context, state_lines(states[context]))
    await unit.bench.drain()
    assert unit.members.count == sum(len(job.members) for job in jobs)
    assert unit.kept.count == sum(len(job.kept) for job in jobs)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    unit = Unit(dut, seed, patient=True)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    states = [Context(CONFIG) for _ in range(CONFIG.contexts)]
    used: set[int] = set()
    jobs = make_jobs(source, states, 6, used)
    await unit.run(jobs)
    for context in sorted(used):
        unit.save(context, state_lines(states[context]))
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(most=[1, 2], seed=SEEDS)
async def rows_of_one_beat_follow_each_other(dut: HierarchyObject, most: int, seed: int) -> None:
    """Rows of one beat, or of one or two, of one slot and of several, at every distance: the adder's forwarding."""
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    count = min(SLOTS, CONFIG.contexts)
    states = [Context(CONFIG) for _ in range(count)]
    # All of them prune, so that the candidates show every word.
    choices = {"keys": min(TOKENS, most * P), "row_count": 60, "clear": True, "density": 1.0, "keep_tokens": 1}
    jobs = [make_job(source, states[n], n, n, True, **choices) for n in range(count)]
    unit.begin(jobs)
    await unit.bench.until(lambda: unit.gathered.count == count, what="gather")
    queues = [list(job.rows) for job in jobs]
    order: list[dict[str, Any]] = []
    while any(queues):
        queue = queues[unit.choose.choice([n for n in range(count) if queues[n]])]
        for _ in range(min(len(queue), unit.choose.randint(1, 6))):
            order.extend(queue.pop(0))
    unit.probs.send(order)
    await unit.bench.until(lambda: unit.probs.count == len(order), what="probabilities", limit=len(order) + 4)
    taken = unit.probs.cycles
    assert taken == list(range(taken[0], taken[0] + len(order))), "the accumulator did not take a beat per cycle"
    for job in jobs:
        unit.scatter.send([{"slot": job.slot, "prune": int(job.prune)}])
        unit.kept.send(job.kept)
    await unit.bench.until(lambda: unit.scattered.count == count, what="scatter")
    for n, job in enumerate(jobs):
        unit.save(n, job.state)
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(prune=[False, True], seed=SEEDS)
async def latency_and_throughput(dut: HierarchyObject, prune: bool, seed: int) -> None:
    """The docstring's formulas, with the accumulator at full rate on another slot all the while if there is one."""
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    state, other = restored_state(source), Context(CONFIG)
    unit.restore(0, state)
    await unit.bench.until(lambda: unit.access.count == LINES, what="restore")
    beside = CONFIG.contexts > 1 and SLOTS > 1
    if beside:
        neighbour = make_job(source, other, 1, 1, True, keys=TOKENS, valid_length=None, row_count=60)
        unit.gather.send([neighbour.command])
        unit.members.send(neighbour.members)
        unit.live.expect(neighbour.live_rows)
        unit.gathered.expect([neighbour.gathered])
        await unit.bench.until(lambda: unit.gathered.count == 1, what="gather")
        await unit.bench.step(4)
        unit.probs.send([beat for row in neighbour.rows for beat in row])
    keep = {"keep_tokens": TOKENS // 2 if prune else None}
    # The first job leaves some lines alone.
    half = max(1, LINES // 2)
    for late, choices in (
        (False, {"age_shift": 0, "clear": False, "keys": half * T, "lines": half}),
        (False, {"age_shift": 2, "clear": False}),
        (True, {"age_shift": 0, "clear": True}),
    ):
        job = make_job(source, state, 0, 0, False, **{"keys": TOKENS, **choices}, restart=True, row_count=0, **keep)
        counts = unit.live.count, unit.gathered.count, unit.candidates.count, unit.scattered.count
        members = unit.members.count
        unit.gather.send([job.command])
        unit.members.send(job.members)
        unit.live.expect(job.live_rows)
        unit.gathered.expect([job.gathered])
        unit.candidates.expect(job.candidates)
        await unit.bench.until(lambda gathered=counts[1]: unit.gathered.count > gathered, what="gather")
        taken = unit.members.cycles[members:]
        lines = len(job.members)
        assert taken == list(range(taken[0], taken[0] + lines)), "the gather paused between lines"
        # A row leaves with the line that brings one more than it holds, the last with the last line, or a cycle later
        # where that line also completes the row before.
        through = np.cumsum([sum(1 for token in job.live.tokens if token // T == n) for n in range(lines)])
        completing = [taken[int(np.argmax(through > (n + 1) * T))] for n in range(len(job.live_rows) - 1)]
        extra = int(bool(completing) and completing[-1] == taken[-1])
        wanted = [*(cycle + LIVE_LATENCY for cycle in completing), taken[-1] + LIVE_LATENCY + extra]
        await unit.bench.step(4)
        assert unit.live.cycles[counts[0] :] == wanted
        command = unit.gather.cycles[-1]
        assert unit.gathered.cycles[-1] - command == lines + GATHER_LATENCY + extra
        record("latency", unit.live.cycles[-1] - taken[-1], unit="cycles", of="live list")
        record("lines_gathered_per_cycle", lines / (taken[-1] - taken[0] + 1))
        record("cycles_per_gather", unit.gathered.cycles[-1] - command, unit="cycles", lines=lines)
        answers = unit.kept.count
        unit.scatter.send([{"slot": 0, "prune": int(prune)}])
        unit.scattered.expect([job.report])
        if late:
            rows = len(job.candidates)
            await unit.bench.until(lambda end=counts[2] + rows: unit.candidates.count == end, what="candidates")
            await unit.bench.step(9)
        unit.kept.send(job.kept)
        await unit.bench.until(lambda scattered=counts[3]: unit.scattered.count > scattered, what="scatter")
        command, report = unit.scatter.cycles[-1], unit.scattered.cycles[-1]
        offered = unit.candidates.cycles[counts[2] :]
        rows = len(job.candidates)
        assert offered == list(range(command + CANDIDATES_LATENCY, command + CANDIDATES_LATENCY + rows))
        lines = LINES if choices["age_shift"] or choices["clear"] else len(job.members)
        if not late or not prune:
            assert report - command == lines + SCATTER_LATENCY + (rows + 2 if prune else 0)
        if prune:
            before_live = int(job.live.tokens[0]) // T
            assert report - unit.kept.cycles[answers] == lines + 5 - before_live
            assert late or unit.kept.cycles[answers] == offered[-1] + 3 + before_live
        record("cycles_per_scatter", unit.scattered.cycles[-1] - command, unit="cycles", lines=lines, rows=rows)
    if beside:
        assert unit.probs.cycles == list(range(unit.probs.cycles[0], unit.probs.cycles[0] + unit.probs.count))
        record("cycles_per_beat", (unit.probs.cycles[-1] - unit.probs.cycles[0]) / (unit.probs.count - 1))
    unit.save(0, job.state)
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def host_waits_for_a_job(dut: HierarchyObject, seed: int) -> None:
    """Access to a context that has a job waits for the job's end; access to another context does not."""
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    states = [restored_state(source) for _ in range(CONFIG.contexts)]
    for context, state in enumerate(states):
        unit.restore(context, state)
    await unit.bench.until(lambda: unit.access.count == LINES * len(states), what="restore")
    job = make_job(source, states[0], 0, 0, False, row_count=1, keep_tokens=None)
    unit.begin([job])
    await unit.bench.until(lambda: unit.gathered.count == 1, what="gather")
    if len(states) > 1:
        unit.save(1, state_lines(states[1]))
        await unit.bench.until(lambda: unit.answers.count == LINES, what="answers")
        reads = unit.access.cycles[-LINES:]
        assert unit.answers.cycles == [cycle + 2 for cycle in reads]
    before = unit.answers.count
    unit.save(0, job.state)
    unit.probs.send(job.rows[0])
    await unit.bench.until(lambda: unit.probs.count == len(job.rows[0]), what="beats")
    await unit.bench.step(30)
    assert unit.answers.count == before, "the host read a context in the middle of a job"
    unit.scatter.send([{"slot": 0, "prune": 0}])
    await unit.bench.drain()
    assert unit.answers.cycles[before] > unit.scattered.cycles[0]


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def lines_beyond_the_job(dut: HierarchyObject, seed: int) -> None:
    """A job of one line: no token beyond that is kept; importance there stays, or is cleared or aged."""
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    beginnings = ({"clear": False, "age_shift": 0}, {"clear": True, "age_shift": 0}, {"clear": False, "age_shift": 1})
    for context, changes in itertools.product(range(CONFIG.contexts), beginnings):
        state = restored_state(source)
        unit.restore(context, state)
        done = unit.access.count + LINES
        await unit.bench.until(lambda done=done: unit.access.count == done, what="restore")
        one_line = make_job(source, state, context, 0, False, restart=True, keys=T, lines=1, row_count=1, **changes)
        await unit.run([one_line])
        # The next layer's command comes with the first of these reads, which go first.
        unit.save(context, state_lines(state))
        more = make_job(source, state, context, SLOTS - 1, False, keys=TOKENS, clear=False, restart=False, density=1.0)
        await unit.run([more])
        unit.save(context, state_lines(state))
        await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def host_writes_beside_a_scatter(dut: HierarchyObject, seed: int) -> None:
    if CONFIG.contexts == 1:
        return
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    states = [restored_state(source) for _ in range(2)]
    unit.restore(0, states[0])
    job = make_job(source, states[0], 0, 0, False, keys=TOKENS, row_count=1, keep_tokens=None, clear=True)
    await unit.bench.until(lambda: unit.access.count == LINES, what="restore")
    unit.begin([job])
    await unit.bench.until(lambda: unit.gathered.count == 1, what="gather")
    unit.probs.send(job.rows[0])
    await unit.bench.until(lambda: unit.probs.count == len(job.rows[0]), what="probabilities")
    unit.scatter.send([{"slot": 0, "prune": 0}])
    await unit.bench.step(SCATTER_LATENCY - 2)
    unit.restore(1, states[1])
    await unit.bench.until(lambda: unit.scattered.count == 1, what="scatter")
    unit.save(1, state_lines(states[1]))
    unit.save(0, job.state)
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_gather_waits_for_what_is_restored(dut: HierarchyObject, seed: int) -> None:
    """The last line of a restore waits for a scatter of another context, while a job of the restored context comes."""
    if CONFIG.contexts == 1 or SLOTS == 1:
        return
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    choices = {"keys": TOKENS, "valid_length": None, "density": 1.0, "clear": False, "restart": False}
    for delay in range(SCATTER_LATENCY + 2):
        await unit.bench.reset()
        states = [restored_state(source) for _ in range(2)]
        for context, state in enumerate(states):
            unit.restore(context, state)
        await unit.bench.until(lambda: unit.access.count == 2 * LINES, what="restore")
        first = make_job(source, states[0], 0, 0, False, keys=TOKENS, row_count=1, keep_tokens=None, clear=True)
        unit.begin([first])
        await unit.bench.until(lambda: unit.gathered.count == 1, what="gather")
        unit.probs.send(first.rows[0])
        sent = len(first.rows[0])
        await unit.bench.until(lambda sent=sent: unit.probs.count == sent, what="probabilities")
        unit.scatter.send([{"slot": 0, "prune": 0}])
        await unit.bench.step(delay)
        states[1] = restored_state(source)
        unit.restore(1, states[1])
        await unit.bench.until(lambda: unit.access.count == 3 * LINES - 1, what="restore but for a line")
        second = make_job(source, states[1], 1, 1, False, row_count=1, **choices)
        unit.begin([second])
        await unit.bench.until(lambda: unit.gathered.count == 2 and unit.scattered.count == 1, what="both")
        unit.probs.send(second.rows[0])
        sent += len(second.rows[0])
        await unit.bench.until(lambda sent=sent: unit.probs.count == sent, what="probabilities")
        unit.scatter.send([{"slot": 1, "prune": int(second.prune)}])
        unit.kept.send(second.kept)
        await unit.bench.until(lambda: unit.scattered.count == 2, what="scatter")
        unit.save(1, second.state)
        unit.save(0, first.state)
        await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def nobody_live(dut: HierarchyObject, seed: int) -> None:
    """A layer that shares no token with the kept ones: one empty row, no candidates, and a context that only aged."""
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    state = restored_state(source)
    unit.restore(0, state)
    await unit.bench.until(lambda: unit.access.count == LINES, what="restore")
    command = {"context": 0, "slot": 0, "clear": 0, "restart": 0, "age_shift": 3, "generates": 0, "generating_token": 0}
    unit.gather.send([command | {"lines": LINES}])
    pinned = source.random(TOKENS) < 0.5
    members = zip(lines_of(~state.kept_tokens), lines_of(pinned), strict=True)
    unit.members.send([{"live": live, "pinned": pinned} for live, pinned in members])
    unit.live.expect([{"ids": [0] * T, "count": 0, "last": 1}])
    unit.gathered.expect([{"slot": 0, "live": 0, "pinned": 0}])
    unit.scattered.expect([{"slot": 0, "saturated": 0}])
    await unit.bench.until(lambda: unit.gathered.count == 1, what="gather")
    unit.scatter.send([{"slot": 0, "prune": 1}])
    await unit.bench.until(lambda: unit.scattered.count == 1, what="scatter")
    state.age(3)
    state.kept_tokens[:] = False
    unit.save(0, state_lines(state))
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_stalled_live_list_loses_nothing(dut: HierarchyObject, seed: int) -> None:
    unit = Unit(dut, seed)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    state = restored_state(source)
    job = make_job(source, state, 0, 0, True, keys=TOKENS, restart=True, row_count=0, density=1.0, valid_length=None)
    unit.live.stop()
    unit.begin([job])
    await unit.bench.step(2 * LINES + 60)
    assert LINES < 32 or 4 < unit.members.count < LINES, "the gather did not pause, or too early"
    unit.live.start()
    await unit.bench.until(lambda: unit.gathered.count == 1, what="gather")
    unit.scatter.send([{"slot": 0, "prune": int(job.prune)}])
    unit.kept.send(job.kept)
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_in_any_state(dut: HierarchyObject, seed: int) -> None:
    unit = Unit(dut, seed, stall=0.3)
    source = np.random.default_rng(seed)
    await unit.bench.reset()
    for _ in range(PARAMETERS["resets"]):
        states = [Context(CONFIG) for _ in range(CONFIG.contexts)]
        await unit.run(make_jobs(source, states, 4, set()), stop=int(source.integers(1, 150)))
        await unit.bench.reset(1)
        await unit.bench.step(20)
        assert not any(monitor.count for monitor in (unit.live, unit.gathered, unit.candidates, unit.scattered))
        used: set[int] = set()
        states = [Context(CONFIG) for _ in range(CONFIG.contexts)]
        await unit.run(make_jobs(source, states, 2, used))
        for context in sorted(used):
            unit.save(context, state_lines(states[context]))
        await unit.bench.drain()
        await unit.bench.reset(1)
