"""Testbench of hw/lib/zero_eliminator.py; tests/hw/lib/test_zero_eliminator.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data
from cocotb.handle import HierarchyObject

from spatten.golden.zero_eliminator import eliminate_zeros
from spatten.hw.emit.payload import Payload
from spatten.hw.lib.zero_eliminator import compacted_row, masked_row
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
LANES: int = PARAMETERS["lanes"]
STAGES: int = PARAMETERS["stages"]
SEEDS: list[int] = PARAMETERS["seeds"]
HEADER: int | None = PARAMETERS["header"]
SHAPE: ShapeLike = (
    data.StructLayout(PARAMETERS["shape"]) if isinstance(PARAMETERS["shape"], dict) else PARAMETERS["shape"]
)
Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def make_rows(seed: int) -> Rows:
    """Every mask of up to 8 lanes, else the extreme ones and random ones of every density; and what must come out."""
    source = np.random.default_rng(seed)
    if LANES <= 8:
        masks = np.arange(1 << LANES)[:, None] >> np.arange(LANES) & 1 == 1
    else:
        one = np.eye(LANES, dtype=bool)
        alternating = np.arange(LANES) % 2 == 0
        density = np.linspace(0.05, 0.95, 60)[:, None]
        masks = np.concatenate([one, ~one, [alternating, ~alternating], source.random((60, LANES)) < density])
    masks = np.concatenate([masks, np.zeros((2, LANES), bool), np.ones((2, LANES), bool)])
    source.shuffle(masks)
    # Dead lanes carry data too: only the mask may tell them from live ones.
    lanes = source.integers(0, 1 << Shape.cast(SHAPE).width, masks.shape)
    compacted, counts = eliminate_zeros(lanes, masks)
    assert len(np.unique(counts)) > LANES // 2, "the rows hardly differ"
    element = Payload(SHAPE)
    headers = [{} if HEADER is None else {"header": int(source.integers(1 << HEADER))} for _ in masks]
    sent = [
        {
            "lanes": [element.unpack(int(bits)) for bits in row],
            "mask": sum(1 << int(n) for n in np.flatnonzero(mask)),
            **header,
        }
        for row, mask, header in zip(lanes, masks, headers, strict=True)
    ]
    wanted = [
        {"lanes": [element.unpack(int(bits)) for bits in row], "count": int(count), **header}
        for row, count, header in zip(compacted, counts, headers, strict=True)
    ]
    return sent, wanted


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, StreamMonitor]:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", masked_row(SHAPE, LANES, HEADER), idle=idle)
    sink = StreamMonitor(bench, "o", compacted_row(SHAPE, LANES, HEADER), stall=stall, patient=patient)
    return bench, source, sink


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def rows_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, idle, stall)
    sent, wanted = make_rows(seed)
    await bench.reset()
    source.send(sent)
    sink.expect(wanted)
    await bench.drain()
    assert source.count == sink.count == len(sent)
    if not idle:
        # A row every cycle that the sink is ready, from the first row on: back-pressure leaves no bubbles behind.
        bubbles = [cycle for cycle in sink.starved if sink.cycles[0] < cycle < sink.cycles[-1]]
        assert not bubbles, f"no row in cycles {bubbles} although the source never paused, seed {seed}"
    if not idle and not stall:
        first = source.cycles[0]
        assert source.cycles == list(range(first, first + len(sent))), "i.ready fell without back-pressure"
        assert sink.cycles[0] - first == STAGES, f"latency is {sink.cycles[0] - first}, not {STAGES}"
        assert sink.cycles[-1] - first == len(sent) - 1 + STAGES
        record("latency", sink.cycles[0] - first, unit="cycles")
        record("cycles_per_row", (sink.cycles[-1] - sink.cycles[0]) / (len(sent) - 1), unit="cycles")


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, patient=True)
    sent, wanted = make_rows(seed)
    await bench.reset()
    source.send(sent)
    sink.expect(wanted)
    await bench.drain(limit=100)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def stalled_pipeline_fills_up(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed)
    sent, wanted = make_rows(seed)
    await bench.reset()
    sink.stop()
    source.send(sent)
    await bench.step(STAGES + 10)
    assert source.count == STAGES, f"a stalled pipeline of {STAGES} stages took {source.count} rows"
    sink.start()
    sink.expect(wanted)
    await bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_the_rows_inside(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink = make_bench(dut, seed, stall=0.5)
    sent, wanted = make_rows(seed)
    await bench.reset()
    for taken in range(2 * STAGES + 2):
        source.send(sent)
        sink.expect(wanted)
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(2 * STAGES + 4)
        assert sink.count == 0
        # The monitor expects nothing yet, so a row left over would have failed; now the first new one must be right.
        source.send(sent[:5])
        sink.expect(wanted[:5])
        await bench.drain()
        await bench.reset(1)
