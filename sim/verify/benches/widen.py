"""Testbench of hw/datapath/widen.py; tests/hw/datapath/test_widen.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.quick_select import candidate_beat
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
LANES: int = PARAMETERS["lanes"]
WIDE: int = PARAMETERS["wide"]
SEEDS: list[int] = PARAMETERS["seeds"]
WIDTH, ROW_MAX, HEADER = 5, 50, 3


def make_rows(source: np.random.Generator, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Beats of random rows, and their wide beats; behind a row's end are values that were there before."""
    narrow, wide = [], []
    held = [0] * WIDE
    for number in range(count):
        # The first row fills every lane.
        length = WIDE if number == 0 else int(source.integers(1, ROW_MAX + 1))
        values = source.integers(0, 1 << WIDTH, length).tolist()
        row = {"k": int(source.integers(ROW_MAX + 1)), "header": int(source.integers(1 << HEADER))}
        for start in range(0, length, LANES):
            some = values[start : start + LANES]
            last = start + LANES >= length
            lanes = some + source.integers(0, 1 << WIDTH, LANES - len(some)).tolist()
            narrow.append({**row, "values": lanes, "count": len(some), "last": int(last)})
            place = start % WIDE
            held[place : place + LANES] = lanes
            if last or place + LANES == WIDE:
                wide.append({**row, "values": list(held), "count": place + len(some), "last": int(last)})
    return narrow, wide


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_are_the_same(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", candidate_beat(WIDTH, LANES, ROW_MAX, HEADER), idle=idle)
    sink = StreamMonitor(bench, "o", candidate_beat(WIDTH, WIDE, ROW_MAX, HEADER), stall=stall)
    narrow, wide = make_rows(np.random.default_rng(seed), 80)
    await bench.reset()
    source.send(narrow)
    sink.expect(wide)
    await bench.drain()
    assert (source.count, sink.count) == (len(narrow), len(wide))
    if not idle and not stall:
        first = source.cycles[0]
        assert source.cycles == list(range(first, first + len(narrow))), "a beat per cycle"
        assert sink.cycles[-1] == source.cycles[-1] + 1


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", candidate_beat(WIDTH, LANES, ROW_MAX, HEADER))
    sink = StreamMonitor(bench, "o", candidate_beat(WIDTH, WIDE, ROW_MAX, HEADER), patient=True)
    narrow, wide = make_rows(np.random.default_rng(seed), 20)
    await bench.reset()
    source.send(narrow)
    sink.expect(wide)
    await bench.drain(limit=100)
