"""Testbench of StateLoad in hw/control/state.py; tests/hw/control/test_state.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.hw.control.state import StateLoad
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.saved_states import (
    commands,
    head_requests,
    heads_of,
    lines_of,
    make_context,
    rows_of,
    token_requests,
)
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
LOAD = StateLoad(config=CONFIG)
STATES = 3


def shape_of(port: str) -> Any:
    return getattr(LOAD, port).payload.shape()


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def what_is_loaded_was_the_golden_image(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = np.random.default_rng(seed)
    states = StreamDriver(bench, "i", shape_of("i"))
    requests = StreamMonitor(bench, "o_request", shape_of("o_request"), stall=stall)
    rows = StreamDriver(bench, "i_rows", shape_of("i_rows"), idle=idle)
    out = StreamMonitor(bench, "o_access", shape_of("o_access"), stall=stall)
    heads = bench.signal("heads")
    await bench.reset()
    for command in commands(CONFIG, source, STATES):
        context = make_context(CONFIG, source)
        wanted = [*head_requests(CONFIG), *token_requests(CONFIG)]
        requests.expect(request | {"sector": command["sector"] + request["sector"]} for request in wanted)
        rows.send(rows_of(context, wanted, source))
        out.expect(
            {"context": command["context"], "line": n, "write": 1, "state": line}
            for n, line in enumerate(lines_of(context))
        )
        states.send([command])
        before = states.count
        await bench.until(lambda before=before: states.count > before, what="end of a state", limit=20_000)
        assert out.count == out.expected, "a state is taken before its last line is written"
        assert int(heads.value) == Payload(LOAD.heads.shape()).pack(heads_of(context))
    await bench.drain()
