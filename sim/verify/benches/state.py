"""Testbench of hw/control/state.py; tests/hw/control/test_state.py runs it, as StateStore or StateLoad."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden.cascade import Context
from spatten.golden.state import save
from spatten.hw.control.state import StateLoad, StateStore, head_sectors, kept_sectors, state_sectors, token_sectors
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import SECTOR_BYTES, Config

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
LOADS: bool = PARAMETERS["loads"]
SEEDS: list[int] = PARAMETERS["seeds"]
CIRCUIT = (StateLoad if LOADS else StateStore)(config=CONFIG)
LANES = CONFIG.topk_lanes
LINES = CONFIG.tokens_max // LANES


def shape_of(port: str) -> Any:
    return getattr(CIRCUIT, port).payload.shape()


def make_context(source: np.random.Generator) -> Context:
    """A context with any contents; some importance at the ends of its range."""
    context = Context(CONFIG)
    top_token, top_head = (1 << bits for bits in (CONFIG.token_importance_bits, CONFIG.head_importance_bits))
    context.token_importance = source.integers(0, top_token, CONFIG.tokens_max)
    context.token_importance[:2] = [top_token - 1, 0]
    context.head_importance = source.integers(0, top_head, CONFIG.heads_max)
    context.head_importance[-1] = top_head - 1
    context.kept_tokens = source.random(CONFIG.tokens_max) < 0.5
    context.kept_heads = source.random(CONFIG.heads_max) < 0.5
    context.heads_saturated = source.random(CONFIG.heads_max) < 0.5
    return context


def bits(members: np.ndarray) -> int:
    return sum(1 << int(n) for n in np.flatnonzero(members))


def heads_of(context: Context) -> dict[str, Any]:
    return {
        "importance": context.head_importance.tolist(),
        "kept": bits(context.kept_heads),
        "saturated": bits(context.heads_saturated),
    }


def lines_of(context: Context) -> list[dict[str, Any]]:
    return [
        {
            "importance": context.token_importance[n * LANES : (n + 1) * LANES].tolist(),
            "kept": bits(context.kept_tokens[n * LANES : (n + 1) * LANES]),
        }
        for n in range(LINES)
    ]


def commands(source: np.random.Generator, count: int) -> list[dict[str, int]]:
    last = (1 << CONFIG.sector_bits) - state_sectors(CONFIG)
    places = [0, last, *source.integers(0, last, count).tolist()][:count]
    return [{"context": int(source.integers(CONFIG.contexts)), "sector": int(place)} for place in places]


@cocotb.test(skip=LOADS)
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def what_is_stored_is_the_golden_image(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = np.random.default_rng(seed)
    command = StreamDriver(bench, "i", shape_of("i"))
    asks = StreamMonitor(bench, "o_access", shape_of("o_access"), stall=stall)
    answers = StreamDriver(bench, "i_access", shape_of("i_access"), idle=idle)
    out = StreamMonitor(bench, "o", shape_of("o"), stall=stall)
    heads = bench.signal("heads")
    await bench.reset()
    for one in commands(source, 3):
        context = make_context(source)
        heads.value = Payload(CIRCUIT.heads.shape()).pack(heads_of(context))
        zeros = {"importance": [0] * LANES, "kept": 0}
        asks.expect({"context": one["context"], "line": n, "write": 0, "state": zeros} for n in range(LINES))
        out.expect(
            {"sector": one["sector"] + n, "data": int.from_bytes(sector.tobytes(), "little")}
            for n, sector in enumerate(save(context))
        )
        command.send([one])
        answers.send(lines_of(context))
        before = command.count
        await bench.until(lambda before=before: command.count > before, what="end of a state", limit=20_000)
    await bench.drain()
    assert out.count == 3 * state_sectors(CONFIG)
    assert asks.count == 3 * LINES


@cocotb.test(skip=not LOADS)
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def what_is_loaded_was_the_golden_image(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = np.random.default_rng(seed)
    command = StreamDriver(bench, "i", shape_of("i"))
    requests = StreamMonitor(bench, "o_request", shape_of("o_request"), stall=stall)
    rows = StreamDriver(bench, "i_rows", shape_of("i_rows"), idle=idle)
    out = StreamMonitor(bench, "o_access", shape_of("o_access"), stall=stall)
    heads = bench.signal("heads")
    await bench.reset()
    tokens, kept, head = token_sectors(CONFIG), kept_sectors(CONFIG), head_sectors(CONFIG)
    row_sectors = min(4, tokens)
    at_once = min(LANES, tokens // row_sectors)
    for one in commands(source, 3):
        context = make_context(source)
        image = save(context)
        wanted = [(tokens, kept, 1), (tokens + kept, head + 1, 1)]
        wanted += [(first, row_sectors, at_once) for first in range(0, tokens, row_sectors * at_once)]
        for first, sectors, count in wanted:
            requests.expect([{"sector": one["sector"] + first, "sectors": sectors, "rows": count}])
            for n in range(count):
                begin = first + n * sectors
                # Sectors that were not asked for hold anything.
                row = source.integers(0, 256, 4 * SECTOR_BYTES, dtype=np.uint8)
                row[: sectors * SECTOR_BYTES] = image[begin : begin + sectors].reshape(-1)
                rows.send([int.from_bytes(row.tobytes(), "little")])
        out.expect(
            {"context": one["context"], "line": n, "write": 1, "state": line}
            for n, line in enumerate(lines_of(context))
        )
        command.send([one])
        before = command.count
        await bench.until(lambda before=before: command.count > before, what="end of a state", limit=20_000)
        assert int(heads.value) == Payload(CIRCUIT.heads.shape()).pack(heads_of(context))
    await bench.drain()
    assert out.count == 3 * LINES
