"""Testbench of hw/control/row/beat_splitter.py; tests/hw/control/test_row_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.row.row_layouts import prob_beat
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.sim.verify.twin import Anything
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
NARROW, WIDE = CONFIG.softmax_lanes, CONFIG.topk_lanes
BEATS: int = PARAMETERS["beats"]


@cocotb.test()
@cocotb.parametrize(
    ("rates", ({"idle": 0.0, "stall": 0.0}, {"idle": 0.5, "stall": 0.3}, {"idle": 0.0, "stall": 0.6})),
    seed=PARAMETERS["seeds"],
)
async def wide_beats_are_split(dut: HierarchyObject, seed: int, rates: dict[str, float]) -> None:
    bench = Bench(dut, seed=seed)
    wide = StreamDriver(bench, "i", prob_beat(CONFIG, WIDE), idle=rates["idle"])
    narrow = StreamMonitor(bench, "o", prob_beat(CONFIG, NARROW), stall=rates["stall"])
    source = bench.random("beats")
    any_beat = Anything(prob_beat(CONFIG, WIDE))
    await bench.reset()
    for _ in range(2):
        wanted: list[dict[str, Any]] = []
        for _ in range(BEATS):
            is_last = source.random() < 0.4
            beat = any_beat(source) | {"count": source.randint(1, WIDE) if is_last else WIDE, "last": int(is_last)}
            wide.send([beat])
            starts = range(0, beat["count"], NARROW)
            wanted += [
                {
                    "probs": beat["probs"][start : start + NARROW],
                    "count": min(NARROW, beat["count"] - start),
                    "last": int(is_last and start == starts[-1]),
                }
                for start in starts
            ]
        narrow.expect(wanted)
        await bench.drain()
        if not rates["idle"] and not rates["stall"]:
            assert narrow.cycles[-1] - narrow.cycles[0] == len(wanted) - 1, "a beat in every cycle"
        await bench.reset()
