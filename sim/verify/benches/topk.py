"""Testbench of hw/datapath/topk.py; tests/hw/datapath/test_topk.py runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden import IntArray
from spatten.golden.topk import keep_mask
from spatten.hw.datapath.quick_select import ROWS_INSIDE, candidate_beat, first_digit
from spatten.hw.datapath.topk import kept_beat
from spatten.sim.verify.benches.topk_rows import KINDS, beats_of, every_row, row_beats
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
PASSES_MAX: int = PARAMETERS["passes_max"]
FILTER_STAGES: int = PARAMETERS["filter_stages"]
HEADER: int | None = PARAMETERS["header"]
SEEDS: list[int] = PARAMETERS["seeds"]
BINS = first_digit(WIDTH, PARAMETERS["digit_bits"])
ROWS: int = PARAMETERS["rows"]
"""Rows of each kind."""
MEASURES: bool = PARAMETERS["measures"]
OUTPUT = kept_beat(WIDTH, LANES, HEADER)
LIMIT = 500 + 2 * PASSES_MAX * (-(-N_MAX // LANES) + 12)


@dataclass
class Row:
    values: IntArray
    k: int
    header: int = 0

    def sent(self) -> list[dict[str, Any]]:
        return row_beats(self.values, self.k, LANES, WIDTH, **self._header())

    def wanted(self) -> list[dict[str, Any]]:
        beats, live = beats_of(self.values, LANES, WIDTH)
        keep = keep_mask(self.values, min(self.k, len(self.values)))
        masks = np.pad(keep, (0, beats.size - len(keep))).reshape(beats.shape)
        return [
            {
                "values": beat.tolist(),
                "mask": sum(1 << int(lane) for lane in np.flatnonzero(mask)),
                "count": count,
                "last": int(n == len(live) - 1),
                **self._header(),
            }
            for n, (beat, mask, count) in enumerate(zip(beats, masks, live, strict=True))
        ]

    def _header(self) -> dict[str, int]:
        return {} if HEADER is None else {"header": self.header}


def make_rows(seed: int) -> list[Row]:
    """Every kind of row, at the extreme lengths and random ones, and every extreme k, also above n."""
    return every_row(Row, seed, count=ROWS, n_max=N_MAX, lanes=LANES, width=WIDTH, bins=BINS, header_bits=HEADER or 1)


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, StreamMonitor]:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", candidate_beat(WIDTH, LANES, N_MAX, HEADER), idle=idle)
    sink = StreamMonitor(bench, "o", OUTPUT, stall=stall, patient=patient)
    return bench, source, sink


def send(source: StreamDriver, sink: StreamMonitor, rows: list[Row]) -> None:
    for row in rows:
        source.send(row.sent())
        sink.expect(row.wanted())


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, idle, stall)
    rows = make_rows(seed)
    await bench.reset()
    send(source, sink, rows)
    await bench.drain(limit=LIMIT)
    assert source.count == sum(len(row.sent()) for row in rows)
    assert sink.count == sum(len(row.wanted()) for row in rows)


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def row_leaves_without_bubbles(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    await bench.reset()
    for row in make_rows(seed):
        first = sink.count
        send(source, sink, [row])
        await bench.drain(limit=LIMIT, tail=4)
        beats = len(row.sent())
        assert sink.cycles[-1] - sink.cycles[first] == beats - 1
        if PASSES_MAX == 1:
            assert sink.cycles[first] - source.cycles[-1] == beats + 6 + FILTER_STAGES


@cocotb.test(skip=MEASURES or PASSES_MAX > 1 or N_MAX < 4 * LANES)
@cocotb.parametrize(seed=SEEDS)
async def full_rate_is_sustained(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    generator = np.random.default_rng(seed)
    await bench.reset()
    rows = [Row(KINDS["uniform"](generator, N_MAX - 1, WIDTH), N_MAX // 2) for _ in range(6)]
    send(source, sink, rows)
    await bench.drain(limit=LIMIT)
    beats = sum(len(row.sent()) for row in rows)
    assert source.cycles[-1] - source.cycles[0] + 1 == beats


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, patient=True)
    await bench.reset()
    send(source, sink, make_rows(seed)[:15])
    await bench.drain(limit=LIMIT)


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def stalled_output_holds_rows_inside(dut: HierarchyObject, seed: int) -> None:
    """Of the longest rows as many enter as there is room for, and all come out."""
    bench, source, sink = make_bench(dut, seed)
    generator = np.random.default_rng(seed)
    await bench.reset()
    sink.stop()
    rows = [Row(KINDS["uniform"](generator, N_MAX, WIDTH), (N_MAX + 1) // 2) for _ in range(2 * ROWS_INSIDE)]
    send(source, sink, rows)
    await bench.step(ROWS_INSIDE * LIMIT)
    assert 2 <= source.count // len(rows[0].sent()) <= ROWS_INSIDE + 1
    sink.start()
    await bench.drain(limit=LIMIT)


@cocotb.test(skip=MEASURES)
@cocotb.parametrize(seed=SEEDS)
async def reset_in_any_state(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, stall=0.5)
    rows = make_rows(seed)
    generator = np.random.default_rng(seed)
    await bench.reset()
    first = np.cumsum([len(row.sent()) for row in rows])
    for cycles in [*range(0, 40, 4), *generator.integers(40, 40 + LIMIT // 4, 4).tolist()]:
        # Send no more rows than can enter.
        send(source, sink, rows[: 1 + int(np.searchsorted(first, cycles))])
        await bench.step(cycles)
        await bench.reset(1)
        await bench.step(20)
        # The monitor expects nothing yet, so a beat left over would have failed; now the first new one must be right.
        send(source, sink, rows[:2])
        await bench.drain(limit=LIMIT, tail=2)
        await bench.reset(1)


@cocotb.test(skip=not MEASURES)
async def measure(dut: HierarchyObject) -> None:
    """Cycles from a row's last beat in to its first and last beat out, and per row where rows follow each other."""
    bench, source, sink = make_bench(dut, SEEDS[0])
    generator = np.random.default_rng(SEEDS[0])
    await bench.reset()
    for n in [each for each in (64, 98, 256, 512, 1024) if each <= N_MAX]:
        for name in ("uniform", "softmax-like", "importance-like"):
            first = sink.count
            rows = [Row(KINDS[name](generator, n, WIDTH), n // 2) for _ in range(20)]
            details = {"n": n, "k": n // 2, "lanes": LANES, "width": WIDTH, "distribution": name}
            send(source, sink, rows)
            await bench.drain(limit=LIMIT)
            lasts = np.cumsum([len(row.wanted()) for row in rows]) + first - 1
            rate = (sink.cycles[lasts[-1]] - sink.cycles[lasts[0]]) / (len(rows) - 1)
            record("cycles_per_row", rate, unit="cycles", **details)
            if n == 1024 and LANES == 16:
                assert rate <= 128
            first = sink.count
            send(source, sink, rows[:1])
            await bench.drain(limit=LIMIT)
            record("latency", sink.cycles[first] - source.cycles[-1], unit="cycles", **details)
            record("latency_of_last", sink.cycles[-1] - source.cycles[-1], unit="cycles", **details)
