"""The pieces of hw/lib/pipeline.py, in Amaranth's simulator."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import Const, Module, ResetInserter, Signal
from amaranth.sim import Simulator

from spatten.hw.lib.pipeline import delay_line, delayed, delayed_fields, delayed_valid, elastic_stages, register


def run(circuit: Any, bench: Any) -> None:
    simulator = Simulator(circuit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_delay_lines_hold_what_was_there() -> None:
    m = Module()
    value = Signal(8)
    enable = Signal()
    taps = delay_line(m, value, 3, "tap")
    late = delayed_fields(m, 2, "late", valid=value[0], value=value)
    held = register(m, value, "held", enable=enable)
    source = random.Random(1)

    async def bench(context: Any) -> None:
        history = [0] * 4
        wanted = 0
        for _ in range(100):
            number, takes = source.getrandbits(8), source.getrandbits(1)
            context.set(value, number)
            context.set(enable, takes)
            history.insert(0, number)
            assert [context.get(tap) for tap in taps] == history[:4]
            assert (context.get(late.valid), context.get(late.value)) == (history[2] & 1, history[2])
            assert context.get(held) == wanted
            wanted = number if takes else wanted
            await context.tick()

    run(m, bench)


def test_no_cycles_and_no_bits_need_no_register() -> None:
    m = Module()
    value, nothing = Signal(8), Const(0, 0)
    assert delayed(m, value, 0, "now") is value
    assert register(m, nothing, "nothing") is nothing


def test_a_reset_clears_valid_bits_and_nothing_else() -> None:
    m = Module()
    reset = Signal()
    valid = delayed_valid(m, Const(1, 1), 2, "valid")
    data = delayed(m, Const(1, 1), 2, "data")
    fields = delayed_fields(m, 1, "field", valid=Const(1, 1), value=Const(1, 1))

    async def bench(context: Any) -> None:
        await context.tick().repeat(3)
        context.set(reset, 1)
        await context.tick()
        context.set(reset, 0)
        assert [context.get(each) for each in (valid, data, fields.valid, fields.value)] == [0, 1, 0, 1]
        await context.tick()
        assert (context.get(valid), context.get(fields.valid)) == (0, 1)

    run(ResetInserter(reset)(m), bench)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_elastic_stages_lose_and_double_nothing(count: int) -> None:
    m = Module()
    valid, ready, value = Signal(), Signal(), Signal(8)
    stages = elastic_stages(m, valid, ready, count)
    late = value
    for number, stage in enumerate(stages):
        late = register(m, late, f"value{number}", enable=stage.takes)
    source = random.Random(count)
    sent: list[int] = []
    received: list[int] = []
    levels: list[int] = []

    async def bench(context: Any) -> None:
        for cycle in range(600):
            share = (0.5, 0.95, 0.05)[cycle // 200]
            context.set(valid, source.random() < 0.8)
            context.set(ready, source.random() < share)
            context.set(value, source.getrandbits(8))
            inside = len(sent) - len(received)
            levels.append(inside)
            assert sum(context.get(stage.valid) for stage in stages) == inside
            # The first stage is held up only when all stages are full and nothing leaves.
            assert context.get(stages[0].ready) == (inside < count or context.get(ready))
            leaves = context.get(stages[-1].valid) and context.get(ready)
            if leaves:
                received.append(context.get(late))
            if context.get(valid) and context.get(stages[0].ready):
                sent.append(context.get(value))
            await context.tick()

    run(m, bench)
    assert received == sent[: len(received)]
    assert len(received) > 200
    assert max(levels) == count
