"""Testbench of StateStore in hw/control/state.py; tests/hw/control/test_state.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden.state import save, state_sectors
from spatten.hw.control.state import StateStore
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.saved_states import commands, heads_of, lines_of, make_context
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
STORE = StateStore(config=CONFIG)
LANES = CONFIG.topk_lanes
LINES = CONFIG.tokens_max // LANES
STATES = 3


def shape_of(port: str) -> Any:
    return getattr(STORE, port).payload.shape()


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def what_is_stored_is_the_golden_image(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    # Each test has other states.
    source = np.random.default_rng([seed, idle > 0, stall > 0])
    states = StreamDriver(bench, "i", shape_of("i"))
    asks = StreamMonitor(bench, "o_access", shape_of("o_access"), stall=stall)
    answers = StreamDriver(bench, "i_access", shape_of("i_access"), idle=idle)
    out = StreamMonitor(bench, "o", shape_of("o"), stall=stall)
    heads = bench.signal("heads")
    await bench.reset()
    for command in commands(CONFIG, source, STATES):
        context = make_context(CONFIG, source)
        heads.value = Payload(STORE.heads.shape()).pack(heads_of(context))
        zeros = {"importance": [0] * LANES, "kept": 0}
        asks.expect({"context": command["context"], "line": n, "write": 0, "state": zeros} for n in range(LINES))
        out.expect(
            {"sector": command["sector"] + n, "data": int.from_bytes(sector.tobytes(), "little")}
            for n, sector in enumerate(save(context))
        )
        states.send([command])
        answers.send(lines_of(context))
        before = states.count
        await bench.until(lambda before=before: states.count > before, what="end of a state", limit=20_000)
        assert out.count == out.expected, "a state is taken before its last sector has left"
    await bench.drain()
    assert out.count == STATES * state_sectors(CONFIG)
    assert asks.count == STATES * LINES
