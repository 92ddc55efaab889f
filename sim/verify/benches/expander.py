"""Testbench of hw/lib/expander.py; tests/hw/lib/test_expander.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from amaranth.lib import data
from cocotb.handle import HierarchyObject

from spatten.golden.expander import expand, packed_rows
from spatten.hw.lib.expander import mask_line
from spatten.hw.lib.zero_eliminator import masked_row
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
LANES: int = PARAMETERS["lanes"]
WIDTH: int = PARAMETERS["width"]
SEEDS: list[int] = PARAMETERS["seeds"]
LATENCY = 3


class Packets:
    """What goes in and what must come out, over several packets."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.masks: list[dict[str, int]] = []
        self.lines: list[dict[str, Any]] = []
        self.row_of_line: list[int] = []
        """How many rows are taken up to each line, itself included."""

    def add(self, source: np.random.Generator, mask: np.ndarray) -> None:
        """One packet of mask lines [n, lanes]. The final row carries garbage where it has no elements."""
        elements = source.integers(0, 1 << WIDTH, np.count_nonzero(mask))
        rows = packed_rows(elements, LANES)
        filled = source.integers(0, 1 << WIDTH, rows.shape).reshape(-1)
        filled[: len(elements)] = elements
        wanted = expand(elements, mask)
        before = len(self.rows)
        used = -(-np.cumsum(mask.sum(axis=1)) // LANES) if len(rows) else np.zeros(len(mask), np.int64)
        self.row_of_line += [before + int(row) for row in used]
        self.rows += [[int(value) for value in row] for row in filled.reshape(rows.shape)]
        for n, (bits, line) in enumerate(zip(mask, wanted, strict=True)):
            number = sum(1 << int(lane) for lane in np.flatnonzero(bits))
            self.masks.append({"mask": number, "last": int(n == len(mask) - 1)})
            self.lines.append({"lanes": line.tolist(), "mask": number})


def make_packets(seed: int) -> Packets:
    """Every mask at every fill, for few lanes; all densities, empty and full lines, packets that end at every fill."""
    source = np.random.default_rng(seed)
    packets = Packets()
    every = np.arange(min(1 << LANES, 64))[:, None] >> np.arange(LANES) & 1 == 1
    for _ in range(3):
        packets.add(source, source.permutation(every))
    for fill in range(LANES + 1):
        packets.add(source, np.arange(LANES)[None, :] >= LANES - fill)
        packets.add(source, np.concatenate([np.arange(LANES)[None, :] < fill, np.ones((2, LANES), bool)]))
    packets.add(source, np.zeros((2, LANES), bool))
    packets.add(source, np.ones((2 * LANES, LANES), bool))
    for density in (0.05, 0.3, 0.5, 0.7, 0.95):
        packets.add(source, source.random((int(source.integers(1, 40)), LANES)) < density)
    return packets


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, StreamDriver, StreamMonitor]:
    bench = Bench(dut, seed=seed)
    rows = StreamDriver(bench, "i_rows", data.ArrayLayout(WIDTH, LANES), idle=idle)
    masks = StreamDriver(bench, "i_masks", mask_line(LANES), idle=idle)
    sink = StreamMonitor(bench, "o", masked_row(WIDTH, LANES), stall=stall, patient=patient)
    return bench, rows, masks, sink


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def lines_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, rows, masks, sink = make_bench(dut, seed, idle, stall)
    packets = make_packets(seed)
    await bench.reset()
    rows.send(packets.rows)
    masks.send(packets.masks)
    sink.expect(packets.lines)
    await bench.drain()
    assert rows.count == len(packets.rows), "not every row was taken, or one too many"
    assert masks.count == sink.count == len(packets.lines)
    if not idle:
        bubbles = [cycle for cycle in sink.starved if sink.cycles[0] < cycle < sink.cycles[-1]]
        assert not bubbles, f"no line in cycles {bubbles} although the sources never paused, seed {seed}"
    if not idle and not stall:
        first = masks.cycles[0]
        assert masks.cycles == list(range(first, first + len(packets.masks)))
        assert sink.cycles == [cycle + LATENCY for cycle in masks.cycles]
        # A row is taken with the first line that needs it, never ahead.
        for number, cycle in enumerate(rows.cycles):
            line = next(n for n, taken in enumerate(packets.row_of_line) if taken > number)
            assert cycle == sink.cycles[line] - 2
        record("latency", sink.cycles[0] - first, unit="cycles")
        record("cycles_per_line", (sink.cycles[-1] - sink.cycles[0]) / (sink.count - 1), unit="cycles")


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, rows, masks, sink = make_bench(dut, seed, patient=True)
    packets = make_packets(seed)
    await bench.reset()
    rows.send(packets.rows)
    masks.send(packets.masks)
    sink.expect(packets.lines)
    await bench.drain(limit=100)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def stalled_expander_takes_three_lines(dut: HierarchyObject, seed: int) -> None:
    bench, rows, masks, sink = make_bench(dut, seed)
    packets = make_packets(seed)
    await bench.reset()
    sink.stop()
    rows.send(packets.rows)
    masks.send(packets.masks)
    await bench.step(20)
    assert masks.count == LATENCY
    sink.start()
    sink.expect(packets.lines)
    await bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_forgets_the_packet(dut: HierarchyObject, seed: int) -> None:
    bench, rows, masks, sink = make_bench(dut, seed, stall=0.5)
    packets = make_packets(seed)
    for taken in range(12):
        await bench.reset()
        rows.send(packets.rows)
        masks.send(packets.masks)
        sink.expect(packets.lines)
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(8)
        assert sink.count == 0
        rows.send(packets.rows[:40])
        masks.send(packets.masks[:20])
        sink.expect(packets.lines[:20])
        await bench.drain()
