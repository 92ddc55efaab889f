"""Testbench of hw/datapath/progressive.py, alone and joined with hw/datapath/softmax.py;
tests/hw/datapath/test_progressive.py runs it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden import IntArray
from spatten.golden.progressive import msb_scores, recompute_excess, recomputed_scores
from spatten.golden.softmax import exponentials, is_flat, normalise
from spatten.hw.datapath.progressive import Kind, Progressive, pass_beat, row_header
from spatten.hw.datapath.softmax import decision, prob_beat, scaled_scores
from spatten.hw.lib.logic import index_shape
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import LSB_BITS, PAPER, SUM_FRACTION

PARAMETERS = parameters()
CONFIG = PAPER.replace(
    qk_multipliers=16,
    pv_multipliers=16,
    operand_bits=PARAMETERS["operand_bits"],
    head_dim_max=PARAMETERS["head_dim"],
    prob_bits=PARAMETERS["prob_bits"],
)
"""The golden model's configuration: arrays play no part here, but few multipliers allow every head dimension."""
LANES: int = PARAMETERS["lanes"]
ROW_MAX: int = PARAMETERS["row_max"]
SLOTS: int = PARAMETERS["slots"]
HEADER: int = PARAMETERS["header"]
ROWS: int = PARAMETERS["rows"]
JOINED: bool = PARAMETERS["joined"]
"""Whether the circuit has softmax, whose decisions come back; else the bench decides."""
SEEDS: list[int] = PARAMETERS["seeds"]
SCORE_BITS = CONFIG.score_bits
BEATS = -(-ROW_MAX // LANES)
ROW = row_header(SLOTS, HEADER)
LIMITS = {"all": 0, "none": 0xFFFF}
"""Flatness limits below every sum of exponentials and above all of them."""


@dataclass
class Row:
    """One query with its keys: the scores of each pass, and what golden makes of them."""

    header: int
    kind: Kind
    passes: dict[Kind, IntArray]
    """The scores that the Q x K array has for each kind of pass."""
    final: IntArray
    """The scores with all bits of K."""
    mantissa: int
    shifts: dict[Kind, int]
    limit: int
    flat: bool
    probs: IntArray

    @property
    def second(self) -> Kind:
        """The pass that follows if the row is flat."""
        return Kind.SECOND if self.kind is Kind.FIRST else Kind.SINGLE


def make_row(source: np.random.Generator, flat: str, kinds: tuple[Kind, ...], length: int | None = None) -> Row:
    """A random row; every fifth has extreme operands, whose scores are the largest there are."""
    kind = kinds[source.integers(len(kinds))]
    bits = CONFIG.operand_bits
    widths = [
        width + LSB_BITS
        for width in CONFIG.plane_bits
        if (width + LSB_BITS <= bits) == (kind is not Kind.FIRST_UNSTASHED)
    ]
    key_bits = int(source.choice(widths))
    length = int(source.integers(1, ROW_MAX + 1) if length is None else length)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    key_low, key_high = -(1 << (key_bits - 1)), (1 << (key_bits - 1)) - 1
    dim = CONFIG.head_dim_max
    query = source.integers(low, high + 1, (1, dim))
    key = source.integers(key_low, key_high + 1, (length, dim))
    if source.random() < 0.2:
        query[:] = source.choice([low, high])
        key[:] = source.choice([key_low, key_high, -1], (length, 1))
    mantissa = int(source.integers(1 << 15, 1 << 16))
    first = msb_scores(query, key)[0]
    excess = recompute_excess(CONFIG, key_bits)
    final = recomputed_scores(CONFIG, first[None], query, key, key_bits)[0]
    # The shift makes the largest difference of exponents about 1/8 to 16: rows are flat or steep.
    spread = max(1, int(np.ptp(final)) << excess)
    shift = int(np.clip(spread.bit_length() + 15 - source.integers(-3, 5), 4 + LSB_BITS, 63))
    shifts = {Kind.FIRST: shift - LSB_BITS, Kind.FIRST_UNSTASHED: shift - LSB_BITS, Kind.SECOND: shift}
    # A SINGLE pass has the final scores, which are in units of 2**excess.
    shifts[Kind.SINGLE] = shift - excess
    total = exponentials(first, mantissa, shift - LSB_BITS).total
    # A limit at the sum itself, or a little beside it, makes some rows flat and others not.
    beside = int(total >> (SUM_FRACTION - 5)) + int(source.choice([-9, -1, 0, 1, 9]))
    limit = LIMITS.get(flat, int(np.clip(beside, 0, 0xFFFF)))
    exps = exponentials(first, mantissa, shift - LSB_BITS)
    needs_lsb = kind in (Kind.FIRST, Kind.FIRST_UNSTASHED) and bool(is_flat(exps.total, limit))
    if needs_lsb or kind is Kind.SINGLE:
        exps = exponentials(final, mantissa, shift - excess)
    return Row(
        header=int(source.integers(0, 1 << HEADER)),
        kind=kind,
        passes={
            Kind.SINGLE: final,
            Kind.FIRST: first,
            Kind.FIRST_UNSTASHED: first,
            Kind.SECOND: final - (first << LSB_BITS),
        },
        final=final,
        mantissa=mantissa,
        shifts=shifts,
        limit=limit,
        flat=needs_lsb,
        probs=normalise(CONFIG, exps),
    )


class Collector(StreamMonitor):
    """Takes rows in any order; the reader of `received` checks them."""

    def sample(self, cycle: int) -> None:
        if self._is_ready and self._bit(self._valid, "valid", cycle):
            self._expected.append(self._bits(cycle, self.count))
        super().sample(cycle)

    def received_from(self, first: int) -> list[Any]:
        """The rows taken since the last reset, from number `first` on."""
        return [self.payload.unpack(bits) for bits in self._received[first:]]


class Array:
    """The Q x K array and its sequencer: gives slots to first passes, and computes flat rows again.

    Without softmax it also decides, in order, some cycles after a row has left.
    """

    def __init__(
        self, dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        self.random = np.random.default_rng(seed)
        self.source = StreamDriver(self.bench, "i", pass_beat(LANES, SCORE_BITS, SLOTS, HEADER), idle=idle)
        shape = prob_beat(LANES, CONFIG.prob_bits, ROW) if JOINED else scaled_scores(LANES, SCORE_BITS, ROW)
        self.sink = StreamMonitor(self.bench, "o", shape, stall=stall, patient=patient)
        self.again = Collector(self.bench, "o_again", ROW, stall=stall, patient=patient)
        self.free = Collector(self.bench, "o_free", index_shape(SLOTS), stall=stall, patient=patient)
        self.decisions = None if JOINED else StreamDriver(self.bench, "i_decision", decision(ROW), idle=idle)
        self.bench.agents.append(self)
        self.clear()

    def clear(self) -> None:
        self.waiting: deque[Row] = deque()
        self.seconds: deque[tuple[Row, int]] = deque()
        self.owner: dict[int, Row] = {}
        self.undecided: deque[tuple[int, Row, int]] = deque()
        self.asked: deque[tuple[Row, int]] = deque()
        self.owed: set[int] = set()
        self.queued = 0
        self.leaves = 0
        self.taken_again = self.taken_free = 0
        self.newest: Row | None = None
        self.late = 0
        self.stashed: dict[int, list[list[int]]] = {}

    @property
    def is_done(self) -> bool:
        return not (self.waiting or self.seconds or self.owner or self.undecided or self.asked)

    # -- Sending ------------------------------------------------------------------------------------------------------

    def send(self, row: Row, kind: Kind, slot: int) -> None:
        """One pass of a row, and what must come out for it."""
        scores = row.passes[kind]
        shared = {"mantissa": row.mantissa, "shift": row.shifts[kind], "flat_limit": row.limit}
        header = {"kind": int(kind), "stash_slot": slot, "header": row.header}
        first_pass = kind in (Kind.FIRST, Kind.FIRST_UNSTASHED)
        lanes_stashed = self.stashed.setdefault(slot, [])
        if kind is Kind.FIRST:
            lanes_stashed.clear()
        beats, wanted = [], []
        for index, first in enumerate(range(0, len(scores), LANES)):
            here = scores[first : first + LANES].tolist()
            count, last = len(here), int(first + LANES >= len(scores))
            here += self.random.integers(-1 << (SCORE_BITS - 1), 1 << (SCORE_BITS - 1), LANES - count).tolist()
            if kind is Kind.FIRST:
                lanes_stashed.append(here)
            beats.append(
                {
                    "scores": here,
                    "count": count,
                    "last": last,
                    "kind": int(kind),
                    "slot": slot,
                    "header": row.header,
                    **shared,
                }
            )
            if not JOINED:
                if kind is Kind.SECOND:
                    here = [
                        wrapped((stashed << LSB_BITS) + score)
                        for stashed, score in zip(lanes_stashed[index], here, strict=True)
                    ]
                    assert here[:count] == row.final[first : first + LANES].tolist()
                wanted.append(
                    {
                        "scores": here,
                        "count": count,
                        "last": last,
                        "progressive": int(first_pass),
                        "header": header,
                        **shared,
                    }
                )
            elif not (first_pass and row.flat):
                probs = row.probs[first : first + LANES].tolist() + [0] * (LANES - count)
                wanted.append({"probs": probs, "count": count, "last": last, "header": header})
        self.source.send(beats)
        self.sink.expect(wanted)
        self.queued += len(beats)
        self.leaves += len(wanted)
        if first_pass:
            (self.asked if JOINED else self.undecided).append((row, slot) if JOINED else (self.leaves, row, slot))  # type: ignore[arg-type]
        if kind is Kind.SECOND:
            self.owed.add(slot)

    def drive(self) -> None:
        """Keep a row ahead of the circuit: a second pass, or the next row if it finds a slot."""
        while self.queued - self.source.count < 2:
            free = [slot for slot in range(SLOTS) if slot not in self.owner]
            may_start = bool(self.waiting) and (bool(free) or self.waiting[0].kind is Kind.SINGLE)
            if self.seconds and not (may_start and self.random.random() < 0.5):
                row, slot = self.seconds.popleft()
                self.late += row is not self.newest
                self.send(row, row.second, slot)
                if row.second is Kind.SINGLE:
                    # Whoever sends it has read all that was stashed.
                    del self.owner[slot]
            elif may_start:
                self.newest = row = self.waiting.popleft()
                slot = int(self.random.integers(SLOTS) if row.kind is Kind.SINGLE else self.random.choice(free))
                if row.kind is not Kind.SINGLE:
                    self.owner[slot] = row
                self.send(row, row.kind, slot)
            else:
                break

    # -- Following ----------------------------------------------------------------------------------------------------

    def sample(self, cycle: int) -> None:
        where = f"cycle {cycle}, seed {self.bench.seed}"
        while self.undecided and self.sink.count >= self.undecided[0][0]:
            _, row, slot = self.undecided.popleft()
            assert self.decisions is not None
            header = {"kind": int(row.kind), "stash_slot": slot, "header": row.header}
            self.decisions.send([{"flat": int(row.flat), "header": header}])
            self.asked.append((row, slot))
        for got in self.again.received_from(self.taken_again):
            self.taken_again += 1
            self.pass_decided()
            assert self.asked, f"o_again came for nobody, {where}"
            row, slot = self.asked.popleft()
            assert row.flat, f"o_again came for a row that is not flat, {where}"
            assert got == {"kind": int(row.second), "stash_slot": slot, "header": row.header}, (
                f"o_again is {got}, {where}"
            )
            self.seconds.append((row, slot))
        self.pass_decided()
        for slot in self.free.received_from(self.taken_free):
            self.taken_free += 1
            assert slot in self.owed, f"o_free has {slot}, which is not free, {where}"
            self.owed.remove(slot)
            del self.owner[slot]

    def pass_decided(self) -> None:
        """Rows that are not flat make no event but a free slot, which may come at any time from now."""
        while self.asked and not self.asked[0][0].flat:
            _, slot = self.asked.popleft()
            self.owed.add(slot)

    async def run(self, rows: list[Row]) -> None:
        """Send rows and wait until all are final."""
        self.waiting.extend(rows)
        await self.bench.until(lambda: self.is_done, what="end", limit=len(rows) * (8 * BEATS + 200))
        await self.bench.drain(limit=20 * BEATS + 500)
        assert not self.owed
        flat = sum(row.flat for row in rows)
        assert self.again.count == flat
        assert self.free.count == sum(
            row.kind is Kind.FIRST or (row.kind is Kind.FIRST_UNSTASHED and not row.flat) for row in rows
        )
        assert self.source.count == self.queued


def wrapped(value: int) -> int:
    """`value` as a signed score, whose range dead lanes may exceed."""
    return (value + (1 << (SCORE_BITS - 1))) % (1 << SCORE_BITS) - (1 << (SCORE_BITS - 1))


EXCEEDS = [width for width in CONFIG.plane_bits if width + LSB_BITS > CONFIG.operand_bits]
"""Widths of MSB planes that exceed an operand with their LSBs; none where operands have 16 bits."""
KINDS = {"mixed": (Kind.SINGLE, Kind.FIRST, Kind.FIRST, Kind.FIRST), "first": (Kind.FIRST,)}
if EXCEEDS:
    KINDS = {**KINDS, "mixed": (*KINDS["mixed"], Kind.FIRST_UNSTASHED), "unstashed": (Kind.FIRST_UNSTASHED,)}


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    array = Array(dut, seed, idle, stall)
    source = np.random.default_rng(seed)
    rows = [make_row(source, "mixed", KINDS["mixed"]) for _ in range(ROWS)]
    assert 0.1 < np.mean([row.flat for row in rows if row.kind is not Kind.SINGLE]) < 0.9, "flat rows and others"
    assert {row.kind for row in rows} == set(KINDS["mixed"])
    await array.bench.reset()
    await array.run(rows)
    assert array.late > 0, "some second passes come after other rows"


@cocotb.test
@cocotb.parametrize(flat=["all", "none"], kinds=list(KINDS))
async def all_or_no_rows_are_flat(dut: HierarchyObject, flat: str, kinds: str) -> None:
    array = Array(dut, SEEDS[0])
    source = np.random.default_rng(SEEDS[0])
    rows = [make_row(source, flat, KINDS[kinds]) for _ in range(20)]
    await array.bench.reset()
    await array.run(rows)
    assert array.again.count == (sum(row.kind is not Kind.SINGLE for row in rows) if flat == "all" else 0)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    array = Array(dut, seed, patient=True)
    source = np.random.default_rng(seed)
    await array.bench.reset()
    await array.run([make_row(source, "mixed", KINDS["mixed"]) for _ in range(20)])


@cocotb.test(skip=JOINED)
@cocotb.parametrize(stall=[0.0, 0.5])
async def every_kind_takes_a_cycle_per_beat(dut: HierarchyObject, stall: float) -> None:
    """So do a second pass right behind its first one, and the first pass of the slot's next row right behind that."""
    array = Array(dut, SEEDS[0], stall=stall)
    array.bench.agents.remove(array)
    source = np.random.default_rng(SEEDS[0])
    await array.bench.reset()
    seconds: list[tuple[int, int]] = []
    for length in [1, LANES, ROW_MAX] * 3 + [int(source.integers(1, ROW_MAX + 1)) for _ in range(20)]:
        slot = int(source.integers(SLOTS))
        row = make_row(source, "all", KINDS["first"], length)
        array.send(row, Kind.FIRST, slot)
        if source.random() < 0.3:
            array.send(make_row(source, "none", (Kind.SINGLE,), length), Kind.SINGLE, slot)
        array.send(row, Kind.SECOND, slot)
        seconds.append((array.queued - 1, slot))
    await array.bench.until(lambda: array.sink.count == array.leaves, what="last beat", limit=100 * BEATS + 1000)
    bubbles = [cycle for cycle in array.sink.starved if array.sink.cycles[0] < cycle < array.sink.cycles[-1]]
    assert not bubbles, f"no beat in cycles {bubbles} although the source never paused"
    if not stall:
        first = array.source.cycles[0]
        assert array.source.cycles == list(range(first, first + array.queued)), "i.ready fell"
        assert array.sink.cycles[0] - first == Progressive.delay
        record("latency", array.sink.cycles[0] - first, unit="cycles")
        record("cycles_per_beat", (array.source.cycles[-1] - first) / (array.queued - 1))
        await array.bench.step(4)
        assert array.free.received == [slot for _, slot in seconds]
        assert array.free.cycles == [array.source.cycles[beat] + 2 for beat, _ in seconds]


@cocotb.test(skip=JOINED)
async def decisions_take_a_cycle_each(dut: HierarchyObject) -> None:
    array = Array(dut, SEEDS[0])
    array.bench.agents.remove(array)
    source = np.random.default_rng(SEEDS[0])
    await array.bench.reset()
    assert array.decisions is not None
    again, free = [], []
    for _ in range(80):
        kind = Kind.FIRST if source.random() < 0.6 else Kind.FIRST_UNSTASHED
        slot, header, flat = (int(source.integers(n)) for n in (SLOTS, 1 << HEADER, 2))
        array.decisions.send([{"flat": flat, "header": {"kind": int(kind), "stash_slot": slot, "header": header}}])
        if flat:
            second = Kind.SECOND if kind is Kind.FIRST else Kind.SINGLE
            again.append({"kind": int(second), "stash_slot": slot, "header": header})
        else:
            free.append(slot)
    await array.bench.step(100)
    cycles = array.decisions.cycles
    assert cycles == list(range(cycles[0], cycles[0] + 80)), "i_decision.ready fell"
    assert array.again.received == again
    assert set(array.again.cycles) <= set(cycles), "a flat row is announced in the cycle of its decision"
    assert array.free.received == free
    assert {cycle - 2 for cycle in array.free.cycles} <= set(cycles) - set(array.again.cycles)


@cocotb.test(skip=JOINED or SLOTS == 1)
@cocotb.parametrize(behind=[0, 1, 2], kind=[Kind.FIRST, Kind.FIRST_UNSTASHED])
async def a_pass_and_a_decision_free_slots_together(dut: HierarchyObject, behind: int, kind: Kind) -> None:
    array = Array(dut, SEEDS[0])
    array.bench.agents.remove(array)
    source = np.random.default_rng(SEEDS[0])
    await array.bench.reset()
    assert array.decisions is not None
    low, high = 0, SLOTS - 1
    row = make_row(source, "all", KINDS["first"], 1)
    single = make_row(source, "none", (Kind.SINGLE,), 1)
    array.send(row, Kind.FIRST, low)
    # In every fourth cycle a pass frees a slot, and a decision another one, in the same cycle or a little later.
    flat_rows = [1] * (1 + behind) + [0, 1, 1, 1] * 8
    array.decisions.send(
        [{"flat": flat, "header": {"kind": int(kind), "stash_slot": high, "header": 0}} for flat in flat_rows]
    )
    for _ in range(8):
        array.send(row, Kind.SECOND, low)
        for _ in range(3):
            array.send(single, Kind.SINGLE, high)
    await array.bench.step(60)
    assert array.free.received == [low, high] * 8
    first = array.source.cycles[1] + 2
    assert array.free.cycles == [first + 4 * n + late for n in range(8) for late in (0, max(1, behind))]


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_the_rows_inside(dut: HierarchyObject, seed: int) -> None:
    array = Array(dut, seed, stall=0.3)
    source = np.random.default_rng(seed)
    rows = [make_row(source, "mixed", KINDS["mixed"]) for _ in range(12)]
    await array.bench.reset()
    for cycles in [*range(0, 8), *(int(n) for n in source.integers(8, 12 * BEATS + 100, 8))]:
        array.waiting.extend(rows)
        await array.bench.step(cycles)
        await array.bench.reset(1)
        await array.bench.step(2 * BEATS + 40)
        assert array.sink.count == array.again.count == array.free.count == 0
        await array.run(rows[:3])
        await array.bench.reset(1)
