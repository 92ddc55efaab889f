"""Scenarios with which tests/sim/verify/test_harness.py tests the harness itself."""

from __future__ import annotations

import os
import time

import cocotb
from amaranth.hdl import signed
from amaranth.lib import data
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
ROWS = 40
LAYOUT = data.StructLayout({"tag": 8, "lanes": data.ArrayLayout(signed(4), 3)})


async def pass_rows(dut: HierarchyObject, *, stall: float = 0.0, patient: bool = False) -> None:
    bench = Bench(dut, seed=PARAMETERS["seed"], max_cycles=PARAMETERS.get("max_cycles", 10_000))
    source = StreamDriver(bench, "i", LAYOUT)
    sink = StreamMonitor(bench, "o", LAYOUT, stall=stall, patient=patient)
    rows = [{"tag": row, "lanes": [row % 8, -(row % 7), row % 5]} for row in range(ROWS)]
    await bench.reset()
    source.send(rows)
    sink.expect(rows)
    await bench.drain(limit=50)
    assert sink.received == rows


@cocotb.test
async def scenario(dut: HierarchyObject) -> None:
    match PARAMETERS["scenario"]:
        case "pass":
            await pass_rows(dut)
        case "stall":
            await pass_rows(dut, stall=0.5)
        case "patient":
            await pass_rows(dut, patient=True)
        case "sleep":
            time.sleep(60)
        case "crash":
            os._exit(3)
        case "wait":
            bench = Bench(dut, seed=1)
            await bench.until(lambda: bench.cycle == 5, what="cycle 5", limit=5)
            await bench.until(lambda: bench.cycle == 5, what="cycle 5", limit=1)
            await bench.until(lambda: False, what="grant", limit=20)
        case "no such signal":
            StreamDriver(Bench(dut, seed=1), "k", LAYOUT)
        case "wrong shape":
            StreamDriver(Bench(dut, seed=1), "i", 7)
        case other:
            raise ValueError(f"unknown scenario {other!r}")
