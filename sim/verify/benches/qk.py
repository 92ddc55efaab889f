"""Testbench of hw/datapath/qk.py; tests/hw/datapath/test_qk.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.golden import IntArray
from spatten.golden.qk import scores
from spatten.hw.datapath.qk import dim_code, key_beat, query_row, score_beat
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import HEAD_DIMS

PARAMETERS = parameters()
M: int = PARAMETERS["multipliers"]
P: int = PARAMETERS["lanes"]
S: int = PARAMETERS["slice_width"]
R = M // S
B: int = PARAMETERS["operand_bits"]
DIM_MAX: int = PARAMETERS["head_dim_max"]
DIMS = [dim for dim in HEAD_DIMS if PARAMETERS["head_dim_min"] <= dim <= DIM_MAX]
HEADER: int = PARAMETERS["header"]
DELAY: int = PARAMETERS["delay"]
PLACES: int = PARAMETERS["places"]
ROWS: int = PARAMETERS["rows"]
RESET_STEP: int = PARAMETERS["reset_step"]
SEEDS: list[int] = PARAMETERS["seeds"]
LOW, HIGH = -(1 << (B - 1)), (1 << (B - 1)) - 1


class Beats(NamedTuple):
    """What goes in and what must come out, beat by beat."""

    queries: list[dict[str, Any]]
    keys: list[dict[str, Any]]
    dead: list[list[int]]
    """Operands of each key beat that must not matter."""
    scores: list[dict[str, Any]]
    filled_by: list[int]
    """The key beat that completes each score beat."""


def most_keys(dim: int) -> int:
    """Keys of a beat, or of a group of beats, that the array can take."""
    return R * max(1, min(S // dim, P // R))


def make_beats(source: np.random.Generator, rows: list[tuple[IntArray, IntArray, int]]) -> Beats:
    """Beats of rows (query [d], keys [n, d], log2 of the keys per beat), operands that do not count at random."""
    beats = Beats([], [], [], [], [])
    for query, keys, group in rows:
        dim = len(query)
        operands = source.integers(LOW, HIGH + 1, DIM_MAX)
        operands[:dim] = query
        beats.queries.append({"operands": operands.tolist()})
        groups = [keys[first : first + (1 << group)] for first in range(0, len(keys), 1 << group)]
        done_after = []
        for n, chunk in enumerate(groups):
            for part in range(max(1, dim // S)):
                lanes = source.integers(LOW, HIGH + 1, M)
                live = np.zeros(M, bool)
                for rank, key in enumerate(chunk):
                    operands = key[part * S : (part + 1) * S]
                    first = rank % R * S + rank // R * dim
                    lanes[first : first + len(operands)] = operands
                    live[first : first + len(operands)] = True
                beats.keys.append(
                    {
                        "keys": lanes.tolist(),
                        "count": len(chunk),
                        "group": group,
                        "dim": dim_code(dim),
                        "last": int(n == len(groups) - 1 and (part + 1) * S >= dim),
                        "header": int.from_bytes(source.bytes(-(-HEADER // 8)), "little") % (1 << HEADER),
                    }
                )
                beats.dead.append(np.flatnonzero(~live).tolist())
            done_after.append(len(beats.keys) - 1)
        row = scores(query[None], keys)[0]
        for first in range(0, len(row), P):
            part_row = row[first : first + P].tolist()
            filled_by = done_after[(first + len(part_row) - 1) >> group]
            beats.filled_by.append(filled_by)
            beats.scores.append(
                {
                    "scores": part_row + [0] * (P - len(part_row)),
                    "count": len(part_row),
                    "last": int(first + P >= len(row)),
                    "header": beats.keys[filled_by]["header"],
                }
            )
    return beats


def random_row(source: np.random.Generator, dim: int, group: int, count: int) -> tuple[IntArray, IntArray, int]:
    """Full-range operands, of which some are at the ends of the range."""
    ends = source.random() / 2
    query, keys = (
        np.where(source.random(shape) < ends, source.choice([LOW, HIGH], shape), source.integers(LOW, HIGH + 1, shape))
        for shape in ((dim,), (count, dim))
    )
    return query, keys, group


def every_row(seed: int) -> Beats:
    """Every head dimension with every number of keys per beat and lengths around a beat's end; worst-case sums."""
    source = np.random.default_rng(seed)
    kinds = [(dim, group) for dim in DIMS for group in range(most_keys(dim).bit_length())]
    rows = []
    for dim, group in kinds:
        size = 1 << group
        lengths = {1, size, size + 1, max(1, P - 1), P, P + 1, 2 * P + size, *source.integers(1, 3 * P + 2, 2).tolist()}
        rows += [random_row(source, dim, group, length) for length in sorted(lengths)]
        for query, key in ((LOW, LOW), (LOW, HIGH), (HIGH, HIGH)):
            rows.append((np.full(dim, query), np.full((P + 1, dim), key), group))
    order = source.permutation(len(rows))[:ROWS]
    beats = make_beats(source, [rows[n] for n in order])
    values = {score for beat in beats.scores for score in beat["scores"]}
    assert len(values) > len(beats.scores) // 2, "the scores hardly differ"
    return beats


class KeyDriver(StreamDriver):
    """Shows operands that must not matter as X, where the simulator knows X."""

    def __init__(self, bench: Bench, idle: float) -> None:
        shape = key_beat(multipliers=M, lanes=P, operand_bits=B, header=HEADER)
        super().__init__(bench, "i_key", shape, idle=idle)
        self._first = next(field.offset for field in self.payload.fields if field.name == "keys[0]")
        self._dead: deque[list[int]] = deque()

    def send_beats(self, beats: Beats) -> None:
        self.send(beats.keys)
        self._dead.extend(beats.dead)

    def clear(self) -> None:
        super().clear()
        self._dead.clear()

    def drive(self) -> None:
        before = self._shown
        super().drive()
        if before is None and self._shown is not None:
            dead = self._dead.popleft()
            if self.bench.four_state and dead:
                bits = list(f"{self._shown:0{self.payload.width}b}"[::-1])
                for operand in dead:
                    low = self._first + operand * B
                    bits[low : low + B] = "X" * B
                self._payload.value = LogicArray("".join(reversed(bits)))


class Harness:
    """The array between a query driver, a key driver and a score monitor."""

    def __init__(
        self, dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        self.queries = StreamDriver(self.bench, "i_query", query_row(operand_bits=B, head_dim_max=DIM_MAX), idle=idle)
        self.keys = KeyDriver(self.bench, idle)
        score_bits = 2 * B + (DIM_MAX - 1).bit_length()
        self.sink = StreamMonitor(
            self.bench,
            "o",
            score_beat(lanes=P, score_bits=score_bits, header=HEADER),
            stall=stall,
            patient=patient,
        )

    async def reset(self) -> None:
        """Reset for one cycle, in which the streams go on as if there were no reset."""
        self.bench.dut.rst.value = 1
        await self.bench.step()
        await self.bench.reset(0)

    def start(self, beats: Beats) -> None:
        self.queries.send(beats.queries)
        self.keys.send_beats(beats)
        self.sink.expect(beats.scores)

    def check_counts(self, beats: Beats) -> None:
        assert self.queries.count == len(beats.queries)
        assert self.keys.count == len(beats.keys)
        assert self.sink.count == len(beats.scores)

    def check_full_rate(self, beats: Beats) -> None:
        """Check for a key beat in every cycle, and every score beat `DELAY` after the key beat that fills it."""
        first = self.keys.cycles[0]
        assert first == self.queries.cycles[0] + 1, "the first key waited for more than its query"
        assert self.keys.cycles == list(range(first, first + len(beats.keys))), "i_key.ready fell"
        waits = [at - self.keys.cycles[key] for at, key in zip(self.sink.cycles, beats.filled_by, strict=True)]
        assert set(waits) == {DELAY}, f"latencies are {sorted(set(waits))}, not {DELAY}"


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def scores_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    harness = Harness(dut, seed, idle, stall)
    beats = every_row(seed)
    await harness.bench.reset()
    harness.start(beats)
    await harness.bench.drain()
    harness.check_counts(beats)
    if not idle and not stall:
        harness.check_full_rate(beats)
        record("latency", DELAY, unit="cycles")
        record("cycles_per_beat", (harness.keys.cycles[-1] - harness.keys.cycles[0] + 1) / len(beats.keys))


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def one_row_per_cycle(dut: HierarchyObject, seed: int) -> None:
    """Rows of one beat each, one behind the other, of all head dimensions that fit one."""
    harness = Harness(dut, seed)
    source = np.random.default_rng(seed)
    rows = []
    for _ in range(3 * PLACES):
        dim = int(source.choice([dim for dim in DIMS if dim <= S]))
        group = int(source.integers(most_keys(dim).bit_length()))
        rows.append(random_row(source, dim, group, int(source.integers(1, (1 << group) + 1))))
    beats = make_beats(source, rows)
    await harness.bench.reset()
    harness.start(beats)
    await harness.bench.drain()
    harness.check_counts(beats)
    harness.check_full_rate(beats)
    assert len(beats.keys) == len(rows)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def back_pressure_leaves_no_bubbles(dut: HierarchyObject, seed: int) -> None:
    """Where each key beat fills a score beat, one leaves in every cycle in which the sink is ready."""
    dims = [dim for dim in DIMS if dim <= S and most_keys(dim) == P]
    harness = Harness(dut, seed, stall=0.5)
    source = np.random.default_rng(seed)
    if dims:
        rows = [(int(source.choice(dims)), (P - 1).bit_length(), int(source.integers(1, 5 * P))) for _ in range(30)]
    else:
        rows = [(min(S, DIM_MAX), 0, 1)] * 60
    beats = make_beats(source, [random_row(source, *row) for row in rows])
    assert len(beats.keys) == len(beats.scores)
    await harness.bench.reset()
    harness.start(beats)
    await harness.bench.drain()
    sink = harness.sink
    bubbles = [cycle for cycle in sink.starved if sink.cycles[0] < cycle < sink.cycles[-1]]
    assert not bubbles, f"no scores in cycles {bubbles} although keys never paused, seed {seed}"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    harness = Harness(dut, seed, patient=True)
    beats = every_row(seed)
    await harness.bench.reset()
    harness.start(beats)
    await harness.bench.drain(limit=100)
    harness.check_counts(beats)


@cocotb.test
async def stalled_array_fills_up(dut: HierarchyObject) -> None:
    """Without `o.ready` there is a place for each score beat that was let in, and nothing is lost."""
    harness = Harness(dut, SEEDS[0])
    source = np.random.default_rng(SEEDS[0])
    beats = make_beats(source, [random_row(source, DIMS[0], 0, 1) for _ in range(2 * PLACES)])
    await harness.bench.reset()
    harness.sink.stop()
    harness.start(beats)
    await harness.bench.step(PLACES + DELAY + 10)
    assert harness.keys.count == PLACES, f"{harness.keys.count} beats were let in, not {PLACES}"
    assert harness.queries.count == PLACES + 2, "two queries wait for their rows"
    harness.sink.start()
    await harness.bench.drain()
    harness.check_counts(beats)


@cocotb.test
async def queries_are_fetched_ahead(dut: HierarchyObject) -> None:
    """Two queries are taken without a key, and keys wait for their query but not longer."""
    harness = Harness(dut, SEEDS[0])
    source = np.random.default_rng(SEEDS[0])
    beats = make_beats(source, [random_row(source, dim, 0, 2) for dim in DIMS * 3])
    await harness.bench.reset()
    harness.queries.send(beats.queries)
    await harness.bench.step(10)
    assert harness.queries.count == 2
    assert harness.sink.count == 0
    await harness.reset()
    harness.keys.send_beats(beats)
    harness.sink.expect(beats.scores)
    await harness.bench.step(10)
    assert harness.keys.count == 0
    ends = [n for n, beat in enumerate(beats.keys) if beat["last"]]
    for query, first, end in zip(beats.queries, [0, *(end + 1 for end in ends)], ends, strict=False):
        harness.queries.send([query])
        await harness.bench.step(20)
        assert harness.keys.count == end + 1, "a row ran on without its query"
        assert harness.keys.cycles[first] == harness.queries.cycles[-1] + 1
    await harness.bench.drain()
    harness.check_counts(beats)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_the_rows_inside(dut: HierarchyObject, seed: int) -> None:
    harness = Harness(dut, seed, stall=0.5)
    source = np.random.default_rng(seed)
    await harness.bench.reset()
    for taken in range(1, DELAY + PLACES, RESET_STEP):
        # New rows every time, so that the reset meets every state of a row.
        rows = [random_row(source, int(source.choice(DIMS)), 0, int(source.integers(1, 2 * P + 2))) for _ in range(4)]
        harness.start(make_beats(source, rows))
        await harness.bench.step(taken)
        await harness.reset()
        await harness.bench.step(DELAY + 4)
        assert harness.sink.count == 0
        # The monitor expects nothing yet, so a row left over would have failed; now the first new one must be right.
        beats = make_beats(source, rows[:2])
        harness.start(beats)
        await harness.bench.drain()
        harness.check_counts(beats)
        await harness.reset()
