"""Testbench of hw/datapath/softmax.py; tests/hw/datapath/test_softmax.py runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden.softmax import DIFFERENCE_POINT, EXPONENT_FRACTION, exponentials, is_flat, normalise
from spatten.hw.datapath.softmax import decision, prob_beat, scaled_scores
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import PAPER, SUM_FRACTION

PARAMETERS = parameters()
LANES: int = PARAMETERS["lanes"]
SCORE_BITS: int = PARAMETERS["score_bits"]
PROB_BITS: int = PARAMETERS["prob_bits"]
ROW_MAX: int = PARAMETERS["row_max"]
HEADER: int = PARAMETERS["header"]
DELAY: int = PARAMETERS["delay"]
DECISION_DELAY: int = PARAMETERS["decision_delay"]
DECISION_PLACES: int = PARAMETERS["decision_places"]
DECIDES: bool = PARAMETERS["decides"]
"""Whether rows may be progressive; without it none is flat, and only tests of other rows run."""
OUTPUT_PLACES: int = PARAMETERS["output_places"]
CAPACITY: int = PARAMETERS["capacity"]
BEATS = -(-ROW_MAX // LANES)
ROWS: int = PARAMETERS["rows"]
SEEDS: list[int] = PARAMETERS["seeds"]
CONFIG = PAPER.replace(prob_bits=PROB_BITS)
TOP = 1 << (SCORE_BITS - 2)
"""The largest magnitude of a score: two scores of a row differ by less than twice this."""
FLAT, STEEP = 1, 0xFFFF
"""Flatness limits that the sum of every row exceeds, and that no sum does."""


@dataclass
class Row:
    """One row and what must become of it."""

    beats: list[dict[str, Any]]
    probs: list[dict[str, Any]]
    decision: dict[str, Any] | None


class RowMaker:
    """Random rows; every one has its own scale, limit and header, and random scores in its dead lanes."""

    def __init__(self, seed: int) -> None:
        self.source = np.random.default_rng(seed)

    def row(
        self,
        scores: np.ndarray | list[int],
        *,
        mantissa: int | None = None,
        shift: int | None = None,
        limit: int | None = None,
        progressive: bool | None = None,
    ) -> Row:
        source = self.source
        scores = np.asarray(scores, np.int64)
        mantissa = int(source.integers(1 << 15, 1 << 16)) if mantissa is None else mantissa
        shift = int(source.integers(0, 64)) if shift is None else shift
        exps = exponentials(scores, mantissa, shift)
        if limit is None:
            # The limit is the sum itself, or beside it: flat, just not flat, and exactly at the limit where it can be.
            at = int(exps.total) >> (SUM_FRACTION - 5)
            limit = int(np.clip(at + source.choice([-40, -1, 0, 0, 1, 40]), 0, 0xFFFF))
        progressive = bool(source.random() < 0.5) if progressive is None else progressive
        progressive = progressive and DECIDES
        flat = bool(is_flat(exps.total, limit))
        header = int.from_bytes(source.bytes(-(-HEADER // 8)), "little") % (1 << HEADER)
        probs = normalise(CONFIG, exps).tolist()
        beats, wanted = [], []
        for first in range(0, len(scores), LANES):
            here = scores[first : first + LANES].tolist()
            dead = LANES - len(here)
            shared = {"count": len(here), "last": int(first + LANES >= len(scores)), "header": header}
            beats.append(
                {
                    "scores": here + source.integers(-TOP, TOP, dead).tolist(),
                    "mantissa": mantissa,
                    "shift": shift,
                    **({"flat_limit": limit, "progressive": int(progressive)} if DECIDES else {}),
                    **shared,
                }
            )
            wanted.append({"probs": probs[first : first + LANES] + [0] * dead, **shared})
        verdict = {"flat": int(flat), "header": header} if progressive else None
        return Row(beats, [] if progressive and flat else wanted, verdict)

    def length(self) -> int:
        """Often one beat or less, often whole beats, often the most there can be."""
        kind = self.source.integers(4)
        if kind == 0:
            return int(self.source.integers(1, LANES + 1))
        if kind == 1:
            return min(ROW_MAX, LANES * int(self.source.integers(1, ROW_MAX // LANES + 2)))
        return int(self.source.integers(1, ROW_MAX + 1)) if kind == 2 else ROW_MAX

    def scores(self, length: int) -> np.ndarray:
        """Random scores of the whole range."""
        return self.source.integers(-TOP, TOP, length)

    def steps(self, length: int, reach: float) -> Row:
        """Scores that lie up to `reach` powers of two below the highest: what a softmax is about."""
        mantissa, shift = int(self.source.integers(1 << 15, 1 << 16)), int(self.source.integers(14, SCORE_BITS + 15))
        below = self.source.random(length) * self.source.choice([reach, reach / 10, reach / 100])
        difference = np.minimum(np.rint(below * 2.0**shift / mantissa), 2 * TOP - 1).astype(np.int64)
        self.source.shuffle(difference)
        highest = int(self.source.integers(-TOP + difference.max(), TOP)) if difference.max() < 2 * TOP - 1 else TOP - 1
        return self.row(highest - difference, mantissa=mantissa, shift=shift)

    def near_tie(self) -> Row:
        """Two keys whose difference times the mantissa lies next to half a unit of the exponent that is made of it."""
        shift = int(self.source.integers(20, DIFFERENCE_POINT + 1))
        difference = int(self.source.integers(1, min(2 * TOP, 1 << shift - 13)))
        normalised = difference << DIFFERENCE_POINT - shift
        mantissas = self.source.integers(1 << 15, 1 << 16, 1 << 12)
        unit = 1 << DIFFERENCE_POINT - EXPONENT_FRACTION
        beside = np.abs(normalised * mantissas % unit - unit // 2)
        scores = self.source.permutation([TOP - 1, TOP - 1 - difference])
        return self.row(scores, mantissa=int(mantissas[beside.argmin()]), shift=shift)

    def wide(self, length: int) -> Row:
        """Scores of any magnitude, at any shift: most saturate or vanish."""
        magnitude = 2.0 ** self.source.uniform(0, SCORE_BITS - 2, length)
        return self.row(np.clip(np.rint(magnitude * self.source.choice([-1, 1], length)), -TOP, TOP - 1))

    def corners(self) -> list[tuple[Any, dict[str, Any]]]:
        """Every shift at both ends of the mantissa, extreme and equal scores, sums at powers of two, exact ties."""
        rows: list[tuple[Any, dict[str, Any]]] = []
        for shift in range(64):
            near = [-(1 << max(0, min(SCORE_BITS - 2, shift - less))) for less in (15, 12)]
            mantissa = 1 << 15 if shift % 2 else 0xFFFF
            rows.append(([0, -1, -2, -3, *near][-ROW_MAX:], {"mantissa": mantissa, "shift": shift}))
        for length in sorted({1, 2, LANES, min(ROW_MAX, LANES + 1), ROW_MAX, 1 << (ROW_MAX.bit_length() - 1)}):
            rows += [([TOP - 1] * length, {"shift": 20}), ([-TOP] * length, {})]
            ends = np.where(self.source.random(length) < 0.5, -TOP, TOP - 1)
            rows += [(ends, {"shift": shift}) for shift in (0, SCORE_BITS - 2, SCORE_BITS + 14, 63)]
            # The maximum first, and last.
            high = min(999, TOP - 1)
            rows += [([0] * at + [high] + [0] * (length - at - 1), {"shift": 26}) for at in {0, length - 1}]
            # Exactly as flat as the limit, and one unit of it more or less.
            rows += [
                ([7] * length, {"shift": 20, "limit": min(0xFFFF, 32 * length + more), "progressive": True})
                for more in (-1, 0, 1)
            ]
            # One key and others at 2**-k of it: the roundings of addend and probability at their ties.
            unit = min(8, SCORE_BITS - 8)
            rows += [([0] + [-k << unit] * (length - 1), {"mantissa": 1 << 15, "shift": 15 + unit}) for k in range(33)]
        return rows

    def mixed(self, count: int) -> list[Row]:
        """Half corners, half random rows."""
        corners = self.corners()
        chosen = self.source.permutation(len(corners))[: count // 2]
        rows = [self.row(corners[n][0], **corners[n][1]) for n in chosen]
        while len(rows) < count:
            rows.append(self.steps(self.length(), self.source.choice([1.0, 12.0, 35.0])))
            rows.append(self.wide(self.length()))
        return [rows[n] for n in self.source.permutation(len(rows))]


class Softmaxed:
    """The bench, its streams, and the rows that go through them."""

    def __init__(
        self, dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        self.source = StreamDriver(
            self.bench, "i", scaled_scores(LANES, SCORE_BITS, HEADER, decides=DECIDES), idle=idle
        )
        self.sink = StreamMonitor(self.bench, "o", prob_beat(LANES, PROB_BITS, HEADER), stall=stall, patient=patient)
        if DECIDES:
            self.decisions = StreamMonitor(self.bench, "o_decision", decision(HEADER), stall=stall, patient=patient)

    def send(self, rows: list[Row]) -> None:
        for row in rows:
            self.source.send(row.beats)
            self.sink.expect(row.probs)
            if row.decision:
                self.decisions.expect([row.decision])

    async def check(self, rows: list[Row]) -> None:
        """Send rows, and wait until all that must come of them has."""
        self.send(rows)
        await self.bench.drain(limit=6 * BEATS + 10 * DELAY)
        assert self.source.count == sum(len(row.beats) for row in rows)
        assert self.sink.count == self.sink.expected
        if DECIDES:
            assert self.decisions.count == self.decisions.expected


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    unit = Softmaxed(dut, seed, idle, stall)
    rows = RowMaker(seed).mixed(ROWS)
    values = {prob for row in rows for beat in row.probs for prob in beat["probs"]}
    assert len(values) > min(ROWS // 5, 1 << (PROB_BITS - 3)), "the probabilities hardly differ"
    verdicts = [row.decision["flat"] for row in rows if row.decision]
    assert not verdicts if not DECIDES else 0.2 < np.mean(verdicts) < 0.8, "flat rows and others"
    await unit.bench.reset()
    await unit.check(rows)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def exponents_are_rounded_exactly(dut: HierarchyObject, seed: int) -> None:
    """Where two keys are alike, the last bit of an exponent shows in the probabilities: in longer rows it is lost."""
    unit = Softmaxed(dut, seed)
    maker = RowMaker(seed)
    rows = [maker.near_tie() for _ in range(20 * ROWS)] if ROW_MAX > 1 else []
    await unit.bench.reset()
    await unit.check(rows)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    unit = Softmaxed(dut, seed, patient=True)
    await unit.bench.reset()
    await unit.check(RowMaker(seed).mixed(20))


@cocotb.test
@cocotb.parametrize(beats=sorted({1, 2, BEATS}), progressive=[False, True] if DECIDES else [False])
async def latency_is_two_passes_and_a_constant(dut: HierarchyObject, beats: int, progressive: bool) -> None:
    unit = Softmaxed(dut, SEEDS[0])
    maker = RowMaker(SEEDS[0])
    await unit.bench.reset()
    for length in sorted({(beats - 1) * LANES + 1, min(beats * LANES, ROW_MAX)}):
        await unit.check([maker.row(maker.scores(length), limit=STEEP, progressive=progressive)])
        latency = unit.sink.cycles[0] - unit.source.cycles[0]
        assert latency == 2 * beats + DELAY, f"latency is {latency} for {beats} beats"
        assert unit.sink.cycles == [unit.sink.cycles[0] + beat for beat in range(beats)]
        record("latency", latency, beats=beats, unit="cycles")
        if progressive:
            decided = unit.decisions.cycles[0] - unit.source.cycles[0]
            assert decided == 2 * beats + DECISION_DELAY, f"the decision takes {decided} for {beats} beats"
            record("decision latency", decided, beats=beats, unit="cycles")
        await unit.bench.reset()


ONE, ALL = 1, ROW_MAX
PATTERNS = {
    "one_key": [ONE] * (4 * BEATS + 2 * DELAY),
    "one_beat": [LANES] * (4 * BEATS + 2 * DELAY),
    "longest": [ALL] * (DELAY // BEATS + 5),
    # Rows that pile up behind a long one, and a long one behind them.
    "long_and_short": ([ALL] + [ONE] * (2 * BEATS + DELAY)) * 3,
    "two_long_then_short": ([ALL] * 2 + [LANES] * (BEATS // 2 + 1)) * (DELAY // BEATS + 3),
    "growing": [*range(1, ROW_MAX + 1, max(1, ROW_MAX // 10))] * 2,
}
"""Rows by their lengths: enough of each to fill all queues."""


@cocotb.test
@cocotb.parametrize(pattern=[*PATTERNS, "random"], flat=["none", "some"] if DECIDES else ["none"])
async def full_rate_whatever_the_lengths(dut: HierarchyObject, pattern: str, flat: str) -> None:
    seed = SEEDS[0]
    unit = Softmaxed(dut, seed)
    maker = RowMaker(seed)
    lengths = PATTERNS[pattern] if pattern != "random" else [maker.length() for _ in range(12 + DELAY)]
    share = {"none": 0.0, "some": 0.3}[flat]
    rows = []
    for length in lengths:
        is_flat = maker.source.random() < share
        progressive = flat == "some"
        rows.append(maker.row(maker.scores(length), limit=FLAT if is_flat else STEEP, progressive=progressive))
    await unit.bench.reset()
    await unit.check(rows)
    first = unit.source.cycles[0]
    assert unit.source.cycles == list(range(first, first + unit.source.count)), "i.ready fell"
    if flat == "none" and len(set(lengths)) == 1:
        at = unit.sink.cycles[0]
        assert unit.sink.cycles == list(range(at, at + unit.sink.count)), "a bubble between rows of one length"
        assert at - first == 2 * len(rows[0].beats) + DELAY
        record("cycles_per_beat", (unit.sink.cycles[-1] - at) / (unit.sink.count - 1), pattern=pattern)


@cocotb.test(skip=not DECIDES)
async def flat_rows_pass_a_stalled_output(dut: HierarchyObject) -> None:
    """Flat rows need no room at `o`; the first row that needs room where there is none waits, and all behind it."""
    unit = Softmaxed(dut, SEEDS[0])
    maker = RowMaker(SEEDS[0])
    await unit.bench.reset()
    unit.sink.stop()
    unit.send([maker.row([0], limit=STEEP, progressive=False) for _ in range(OUTPUT_PLACES)])
    flat = [maker.row(maker.scores(LANES), limit=FLAT, progressive=True) for _ in range(CAPACITY)]
    unit.send(flat)
    await unit.bench.until(lambda: unit.decisions.count == len(flat), what="decision", limit=3 * CAPACITY)
    unit.send([maker.row([0], limit=STEEP, progressive=False) for _ in range(2)])
    unit.send(flat)
    unit.sink.start()
    await unit.bench.drain()


@cocotb.test(skip=not DECIDES)
async def only_progressive_rows_wait_for_decisions(dut: HierarchyObject) -> None:
    """While `o_decision` is stalled, a progressive row that finds their queue full waits; rows ahead of it pass."""
    unit = Softmaxed(dut, SEEDS[0])
    maker = RowMaker(SEEDS[0])
    await unit.bench.reset()
    unit.decisions.stop()
    unit.send([maker.row([0], limit=STEEP, progressive=True) for _ in range(DECISION_PLACES)])
    unit.send([maker.row(maker.scores(maker.length()), progressive=False) for _ in range(12)])
    passing = unit.sink.expected
    unit.send([maker.row([0], limit=STEEP, progressive=True)])
    unit.send([maker.row([0], progressive=False)])
    await unit.bench.until(lambda: unit.sink.count == passing, what="other rows", limit=24 * BEATS + 1000)
    await unit.bench.step(4 * DELAY)
    assert unit.sink.count == passing, "a row passed a stalled o_decision"
    unit.decisions.start()
    await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(longer=[0, 1])
async def a_stalled_unit_holds_what_it_says(dut: HierarchyObject, longer: int) -> None:
    """Whether the stall is of even or odd length, which shows what changes every other cycle."""
    unit = Softmaxed(dut, SEEDS[0])
    maker = RowMaker(SEEDS[0])
    rows = [maker.row(maker.scores(LANES), limit=STEEP, progressive=False) for _ in range(2 * CAPACITY)]
    await unit.bench.reset()
    unit.sink.stop()
    unit.send(rows)
    await unit.bench.step(2 * CAPACITY + longer)
    assert unit.source.count == CAPACITY, f"a stalled unit took {unit.source.count} beats"
    unit.sink.start()
    await unit.bench.drain()


@cocotb.test
async def queues_hold_any_number_of_rows_at_full_rate(dut: HierarchyObject) -> None:
    """A stall leaves more rows in the queues the longer it is; that many stay there while rows enter and leave."""
    unit = Softmaxed(dut, SEEDS[0])
    maker = RowMaker(SEEDS[0])
    await unit.bench.reset()
    for cycles in range(2 * DELAY):
        count = 2 * DELAY + int(maker.source.integers(DELAY))
        unit.send([maker.row(maker.scores(LANES), limit=STEEP, progressive=True) for _ in range(count)])
        await unit.bench.step(2 * DELAY)
        unit.sink.stop()
        await unit.bench.step(cycles)
        unit.sink.start()
        await unit.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_the_rows_inside(dut: HierarchyObject, seed: int) -> None:
    unit = Softmaxed(dut, seed, stall=0.3)
    maker = RowMaker(seed)
    rows = maker.mixed(16)
    await unit.bench.reset()
    for cycles in [*range(0, 6), *(int(n) for n in maker.source.integers(6, 2 * (BEATS + DELAY), 8))]:
        rows = [rows[n] for n in maker.source.permutation(len(rows))]
        unit.send(rows)
        await unit.bench.step(cycles)
        await unit.bench.reset(1)
        await unit.bench.step(DELAY + 2 * BEATS)
        # The monitors expect nothing yet, so a row left over would have failed; now the first new ones must be right.
        assert unit.sink.count == 0
        assert not DECIDES or unit.decisions.count == 0
        await unit.check(rows[:3])
        await unit.bench.reset(1)
