"""Testbench of the queues of hw/lib/fifo.py; tests/hw/lib/test_fifo.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
CAPACITY: int = PARAMETERS["capacity"]
LATENCY: int = PARAMETERS["latency"]
HAS_LEVEL: bool = PARAMETERS["has_level"]
SEEDS: list[int] = PARAMETERS["seeds"]
ROWS = 12 * CAPACITY + 40
"""Every pointer wraps at least ten times."""


class Level:
    """Checks `level` and `some` in every cycle against what the testbench put in and took out; first of the agents."""

    def __init__(self, bench: Bench, source: StreamDriver, sink: StreamMonitor) -> None:
        self._level = bench.signal("level")
        self._some = bench.signal("some")
        self._source = source
        self._sink = sink
        self.seen: set[int] = set()
        # This agent comes before those that count, so that what moves in a cycle is not in its level yet.
        bench.agents.insert(0, self)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        inside = self._source.count - self._sink.count
        assert str(self._level.value) == f"{inside:0{len(self._level)}b}", (
            f"level is {self._level.value}, not {inside}, cycle {cycle}"
        )
        assert str(self._some.value) == str(int(inside > 0)), f"some is {self._some.value}, cycle {cycle}"
        self.seen.add(inside)

    def clear(self) -> None:
        self.seen.clear()


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, StreamMonitor, Level | None]:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", WIDTH, idle=idle)
    sink = StreamMonitor(bench, "o", WIDTH, stall=stall, patient=patient)
    return bench, source, sink, Level(bench, source, sink) if HAS_LEVEL else None


def make_rows(bench: Bench, count: int = ROWS) -> list[int]:
    """Random payloads among the extreme ones."""
    source = bench.random("rows")
    rows = [source.getrandbits(WIDTH) for _ in range(count)]
    rows[1:5] = [(1 << WIDTH) - 1, 0, (1 << WIDTH) - 1, 1]
    return rows


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def what_enters_leaves_in_order(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, source, sink, level = make_bench(dut, seed, idle, stall)
    rows = make_rows(bench)
    await bench.reset()
    source.send(rows)
    sink.expect(rows)
    await bench.drain()
    assert source.count == sink.count == len(rows)
    if not idle:
        bubbles = [cycle for cycle in sink.starved if sink.cycles[0] < cycle < sink.cycles[-1]]
        assert not bubbles, f"nothing in cycles {bubbles} although the source never paused"
    if not idle and not stall:
        first = source.cycles[0]
        assert source.cycles == list(range(first, first + len(rows))), "i.ready fell without back-pressure"
        assert sink.cycles == [cycle + LATENCY for cycle in source.cycles]
        record("latency", sink.cycles[0] - first, unit="cycles")
        record("cycles_per_beat", (sink.cycles[-1] - sink.cycles[0]) / (len(rows) - 1))
    if level is not None:
        assert 0 in level.seen
        assert not stall or idle or CAPACITY in level.seen, f"only levels {level.seen}"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink, _ = make_bench(dut, seed, idle=0.5, patient=True)
    rows = make_rows(bench)
    await bench.reset()
    source.send(rows)
    sink.expect(rows)
    await bench.drain(limit=100)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def it_fills_up_and_drains_at_full_rate(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink, level = make_bench(dut, seed)
    rows = make_rows(bench)
    await bench.reset()
    sink.stop()
    source.send(rows)
    await bench.step(CAPACITY + LATENCY + 10)
    assert source.count == CAPACITY, f"it took {source.count} entries, not {CAPACITY}"
    first = bench.cycle
    sink.start()
    sink.expect(rows)
    await bench.drain()
    assert sink.cycles == list(range(first, first + len(rows)))
    assert level is None or CAPACITY in level.seen


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def one_at_a_time_has_the_latency_in_every_place(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink, _ = make_bench(dut, seed)
    rows = make_rows(bench, 2 * CAPACITY + 6)
    await bench.reset()
    for row in rows:
        source.send([row])
        sink.expect([row])
        await bench.step(LATENCY + 2)
    assert sink.cycles == [cycle + LATENCY for cycle in source.cycles]
    assert sink.count == len(rows)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_empties_it(dut: HierarchyObject, seed: int) -> None:
    bench, source, sink, _ = make_bench(dut, seed, stall=0.5)
    rows = make_rows(bench)
    await bench.reset()
    for taken in range(2 * CAPACITY + 2):
        source.send(rows)
        sink.expect(rows)
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(LATENCY + 2)
        assert sink.count == 0
        # The monitor expects nothing yet, so an entry left over would have failed; now it must work from the start.
        source.send(rows[: CAPACITY + 3])
        sink.expect(rows[: CAPACITY + 3])
        await bench.drain(tail=4)
        await bench.reset(1)
