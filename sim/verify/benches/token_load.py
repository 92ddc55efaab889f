"""Testbench of hw/control/saved/token_load.py; tests/hw/control/test_state.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.hw.control.saved.token_load import TokenLoad
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.saved_states import commands, lines_of, make_context, rows_of, token_requests
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
LOAD = TokenLoad(config=CONFIG)
STATES = 3


def shape_of(port: str) -> Any:
    return getattr(LOAD, port).payload.shape()


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=PARAMETERS["seeds"])
async def lines_are_those_of_the_golden_image(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = np.random.default_rng(seed)
    states = StreamDriver(bench, "i", shape_of("i"), idle=idle)
    requests = StreamMonitor(bench, "o_request", shape_of("o_request"), stall=stall)
    rows = StreamDriver(bench, "i_rows", shape_of("i_rows"), idle=idle)
    out = StreamMonitor(bench, "o_access", shape_of("o_access"), stall=stall)
    await bench.reset()
    # All states are queued, but each is to be taken only when its lines are written.
    ends = []
    for command in commands(CONFIG, source, STATES):
        context = make_context(CONFIG, source)
        wanted = token_requests(CONFIG)
        requests.expect(request | {"sector": command["sector"] + request["sector"]} for request in wanted)
        rows.send(rows_of(context, wanted, source))
        out.expect(
            {"context": command["context"], "line": n, "write": 1, "state": line}
            for n, line in enumerate(lines_of(context))
        )
        states.send([command])
        ends.append(out.expected)
    await bench.drain()
    assert states.count == STATES
    for cycle, end in zip(states.cycles, ends, strict=True):
        assert out.cycles[end - 1] < cycle, "a state is taken before its last line is written"
        assert end == ends[-1] or cycle < out.cycles[end], "a state is taken when the next one has begun"
