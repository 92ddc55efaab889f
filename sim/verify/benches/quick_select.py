"""Testbench of hw/datapath/quick_select.py; tests/hw/datapath/test_quick_select.py runs it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden import IntArray
from spatten.golden.quick_select import passes, select
from spatten.hw.datapath.quick_select import ROWS_INSIDE, candidate_beat, first_digit, selection
from spatten.sim.verify.benches.topk_rows import KINDS, every_row, row_beats
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, PulseCounter, StreamDriver, StreamMonitor

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
DIGIT_BITS: int = PARAMETERS["digit_bits"]
PASSES_MAX: int = PARAMETERS["passes_max"]
COMPACTION: int = PARAMETERS["compaction"]
HEADER: int | None = PARAMETERS["header"]
SEEDS: list[int] = PARAMETERS["seeds"]
ROWS: int = PARAMETERS["rows"]
"""Rows of each kind."""
CHECKS: bool = PARAMETERS["checks"]
"""Whether to run all tests but the measurement."""
LENGTHS: list[int] = PARAMETERS["lengths"]
"""Lengths of rows to measure; none: no measurement."""
SHARES: list[int] = PARAMETERS["shares"]
"""Of n values measured, n / share are kept."""
MEASURED_ROWS: int = PARAMETERS["measured_rows"]
"""Rows of each kind, length and share; twice as many where they are short."""
BINS = first_digit(WIDTH, DIGIT_BITS)


@dataclass
class Row:
    values: IntArray
    k: int
    header: int = 0

    def beats(self) -> list[dict[str, Any]]:
        header = {} if HEADER is None else {"header": self.header}
        return row_beats(self.values, self.k, LANES, WIDTH, **header)

    def wanted(self) -> dict[str, int]:
        threshold, equals = select(self.values, self.k)
        return {"threshold": threshold, "equals": equals, **({} if HEADER is None else {"header": self.header})}

    def latency(self) -> tuple[int, int]:
        """Least and most cycles from the last beat to the result, as the docstring of QuickSelect says."""
        least, most, _ = self._passes()
        return least, most

    def period(self) -> int:
        """Most cycles until the result of a next row of the same latency."""
        _, most, in_vain = self._passes()
        return max(-(-len(self.values) // LANES), most + (COMPACTION - 1 if in_vain else 0))

    def _passes(self) -> tuple[int, int, bool]:
        """Least and most cycles, and whether the last pass compacted values that no other pass read."""
        threshold, _ = select(self.values, self.k)
        floor, free = max(each for each in BINS if each[0] <= threshold)
        inside = self.values[(self.values >= floor) & (self.values < floor + (1 << free))]
        beats = -(-len(self.values) // LANES)
        cycles = slack = 0
        while True:
            cycles += beats + 6 if cycles == 0 else beats + 5
            free = max(free - DIGIT_BITS, 0)
            if free == 0 or (len(inside) and inside.min() == inside.max()):
                return cycles - slack, cycles, free > 0 and beats > 1
            if beats > 1:
                beats = max(1, -(-len(inside) // LANES))
                if beats + 5 < 5 + COMPACTION:
                    cycles += COMPACTION - beats
                    slack += 1
            inside = inside[inside >> free == threshold >> free]


def bound(n: int) -> int:
    beats = -(-n // LANES)
    return beats + 6 + (PASSES_MAX - 1) * max(beats + 5, 5 + COMPACTION)


def make_rows(seed: int) -> list[Row]:
    """Every kind of row, at the extreme lengths and random ones, and every extreme k."""
    return every_row(Row, seed, count=ROWS, n_max=N_MAX, lanes=LANES, width=WIDTH, bins=BINS, header_bits=HEADER or 1)


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, StreamMonitor]:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", candidate_beat(WIDTH, LANES, N_MAX, HEADER), idle=idle)
    sink = StreamMonitor(bench, "o", selection(WIDTH, N_MAX, HEADER), stall=stall, patient=patient)
    return bench, source, sink


def send(source: StreamDriver, sink: StreamMonitor, rows: list[Row]) -> None:
    for row in rows:
        source.send(row.beats())
        sink.expect([row.wanted()])


@cocotb.test(skip=not CHECKS)
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.7], seed=SEEDS)
async def rows_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, idle, stall)
    counter = PulseCounter(bench, "pass_done")
    rows = make_rows(seed)
    await bench.reset()
    send(source, sink, rows)
    await bench.drain(limit=2 * bound(N_MAX) + 500)
    assert sink.count == len(rows)
    assert counter.count == sum(passes(row.values, row.k, width=WIDTH, digit_bits=DIGIT_BITS) for row in rows)
    assert source.count == sum(len(row.beats()) for row in rows)


@cocotb.test(skip=not CHECKS)
@cocotb.parametrize(seed=SEEDS)
async def latency_is_as_stated(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    await bench.reset()
    seen = set()
    for row in make_rows(seed):
        send(source, sink, [row])
        await bench.drain(limit=2 * bound(N_MAX) + 500, tail=COMPACTION)
        latency = sink.cycles[-1] - source.cycles[-1]
        least, most = row.latency()
        what = f"n = {len(row.values)}, k = {row.k}, {row.values[:8]}..., seed {seed}"
        assert least <= latency <= most <= bound(len(row.values)), f"{latency} is not {least} to {most}: {what}"
        seen.add(latency)
    assert len(seen) > (3 if N_MAX > 4 else 1), "the latencies hardly differ"


@cocotb.test(skip=not CHECKS or WIDTH > 4 or N_MAX < 4)
async def every_small_row(dut: HierarchyObject) -> None:
    """Every multiset of 4 values (3 where they have 4 bits) is there in some order, with every k."""
    bench, source, sink = make_bench(dut, SEEDS[0])
    generator = np.random.default_rng(SEEDS[0])
    rows = [
        Row(generator.permutation(np.array(values)), k)
        for values in itertools.combinations_with_replacement(range(1 << WIDTH), 4 if WIDTH < 4 else 3)
        for k in range(1, len(values) + 1)
    ]
    await bench.reset()
    send(source, sink, rows)
    await bench.drain()


@cocotb.test(skip=not CHECKS)
@cocotb.parametrize(seed=SEEDS)
async def rows_follow_each_other_as_stated(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    generator = np.random.default_rng(seed)
    await bench.reset()
    count = 12
    for n in sorted({1, LANES, min(3 * LANES + 1, N_MAX), N_MAX}):
        rows = [Row(KINDS["uniform"](generator, n, WIDTH), (n + 1) // 2) for _ in range(count)]
        beats = -(-n // LANES)
        first = sink.count
        send(source, sink, rows)
        await bench.drain(limit=2 * bound(N_MAX) + 500)
        took = sink.cycles[-1] - sink.cycles[first]
        if PASSES_MAX == 1:
            periods = -(-(count - 1) // ROWS_INSIDE)
            most = max((count - 1) * beats, periods * (2 * beats + 7))
        else:
            most = sum(row.period() for row in rows[:-1]) + rows[-1].latency()[1] - rows[0].latency()[0]
        assert took <= most, f"{count} rows of {n} took {took} cycles, not at most {most}, seed {seed}"
        if PASSES_MAX == 1 and beats >= 4:
            assert took == (count - 1) * beats, "the input was not taken at full rate"


@cocotb.test(skip=not CHECKS)
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, patient=True)
    rows = make_rows(seed)[:20]
    await bench.reset()
    send(source, sink, rows)
    await bench.drain(limit=2 * bound(N_MAX) + 500)


@cocotb.test(skip=not CHECKS)
@cocotb.parametrize(seed=SEEDS)
async def stalled_output_holds_rows_inside(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    generator = np.random.default_rng(seed)
    await bench.reset()
    sink.stop()
    rows = [Row(KINDS["uniform"](generator, 1, WIDTH), 1, n % (1 << (HEADER or 1))) for n in range(3 * ROWS_INSIDE)]
    send(source, sink, rows)
    await bench.step(ROWS_INSIDE * (bound(1) + 10))
    assert source.count == ROWS_INSIDE, f"{source.count} rows went in with none going out"
    sink.start()
    await bench.drain()


@cocotb.test(skip=not CHECKS)
@cocotb.parametrize(seed=SEEDS)
async def reset_in_any_state(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, stall=0.5)
    rows = make_rows(seed)
    generator = np.random.default_rng(seed)
    await bench.reset()
    first = np.cumsum([len(row.beats()) for row in rows])
    for cycles in [*range(24), *generator.integers(24, 25 + 3 * bound(N_MAX), 6).tolist()]:
        # Send no more rows than can enter.
        send(source, sink, rows[: 1 + int(np.searchsorted(first, cycles))])
        await bench.step(cycles)
        await bench.reset(1)
        await bench.step(20)
        # The monitor expects nothing yet, so a row left over would have failed; now the first new one must be right.
        send(source, sink, rows[:2])
        await bench.drain(limit=2 * bound(N_MAX) + 500, tail=2)
        await bench.reset(1)


@cocotb.test(skip=not LENGTHS)
async def measure(dut: HierarchyObject) -> None:
    """Latency by length, k and kind of rows sent alone; and the cycles per row of rows that follow each other."""
    bench, source, sink = make_bench(dut, SEEDS[0])
    generator = np.random.default_rng(SEEDS[0])
    await bench.reset()
    for n in LENGTHS:
        for name, make in KINDS.items():
            for k in (n // share for share in SHARES):
                latencies = []
                for _ in range(MEASURED_ROWS if n > 98 else 2 * MEASURED_ROWS):
                    row = Row(make(generator, n, WIDTH), k)
                    send(source, sink, [row])
                    await bench.drain(limit=2 * bound(N_MAX) + 500, tail=COMPACTION)
                    latencies.append(sink.cycles[-1] - source.cycles[-1])
                    least, most = row.latency()
                    assert least <= latencies[-1] <= most, f"{name}: {latencies[-1]} is not {least} to {most}"
                assert max(latencies) <= bound(n)
                record(
                    "topk",
                    float(np.mean(latencies)),
                    unit="cycles",
                    n=n,
                    k=k,
                    lanes=LANES,
                    width=WIDTH,
                    distribution=name,
                    mean=float(np.mean(latencies)),
                    p99=float(np.percentile(latencies, 99)),
                    max=max(latencies),
                    bound=bound(n),
                )
                cocotb.log.info("n %d k %d %s: mean %.1f max %d", n, k, name, np.mean(latencies), max(latencies))
        for name in ("uniform", "softmax-like", "importance-like"):
            first = sink.count
            send(source, sink, [Row(KINDS[name](generator, n, WIDTH), n // 2) for _ in range(20)])
            await bench.drain(limit=2 * bound(N_MAX) + 500)
            rate = (sink.cycles[-1] - sink.cycles[first]) / 19
            record("cycles_per_row", rate, unit="cycles", n=n, k=n // 2, lanes=LANES, width=WIDTH, distribution=name)
            if n == 1024 and LANES == 16:
                assert rate <= 128
