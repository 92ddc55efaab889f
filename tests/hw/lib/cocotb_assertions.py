"""Neighbours that break the stream rules, and ones that do not; tests/hw/lib/test_assertions.py runs them."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench

SCENARIO: str = parameters()["scenario"]


@cocotb.test
async def scenario(dut: HierarchyObject) -> None:
    bench = Bench(dut, seed=1)
    valid, payload, ready = bench.signal("i__valid"), bench.signal("i__payload"), bench.signal("o__ready")
    valid.value, payload.value, ready.value = 0, 0, 0
    await bench.reset()
    valid.value = 1
    # Two fit, the third is stalled.
    for number in (5, 6, 7, 7):
        payload.value = number
        await bench.step()
    match SCENARIO:
        case "valid falls":
            valid.value = 0
        case "payload changes":
            payload.value = 3
        case "reset":
            bench.signal("rst").value = 1
            valid.value, payload.value = 0, 1
            await bench.step()
            bench.signal("rst").value = 0
        case "taken":
            ready.value = 1
            await bench.step(2)
            valid.value, payload.value = 0, 1
    await bench.step(3)


@cocotb.test
async def another(dut: HierarchyObject) -> None:
    """One that would pass by itself."""
