"""Testbench of hw/lib/arbiter.py; tests/hw/lib/test_arbiter.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
INPUTS: int = PARAMETERS["inputs"]
WIDTH: int = PARAMETERS["width"]
SEEDS: list[int] = PARAMETERS["seeds"]
ROWS = 30
LATENCY = 1


class Turns:
    """The naive arbiter: grants the first valid input behind the one that it granted last. Checks every ready, and adds
    what is granted to what the monitor expects."""

    def __init__(self, bench: Bench) -> None:
        self._ports = [
            [bench.signal(f"i__{n}__{part}") for part in ("valid", "ready", "payload")] for n in range(INPUTS)
        ]
        self._o_valid, self._o_ready = bench.signal("o__valid"), bench.signal("o__ready")
        self._last = INPUTS - 1
        self._waited = [0] * INPUTS
        self.sink: StreamMonitor | None = None
        self.granted: list[int] = []
        self.longest = 0
        bench.agents.append(self)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        assert self.sink is not None
        takes = str(self._o_valid.value) == "0" or str(self._o_ready.value) == "1"
        valid = [str(valid.value) == "1" for valid, _, _ in self._ports]
        order = [(self._last + 1 + n) % INPUTS for n in range(INPUTS)]
        grant = next((n for n in order if valid[n]), None)
        ready = [str(ready.value) for _, ready, _ in self._ports]
        wanted = [str(int(takes and n == grant)) for n in range(INPUTS)]
        assert ready == wanted, f"ready is {ready}, not {wanted}, cycle {cycle}"
        if takes and grant is not None:
            self.sink.expect([int(self._ports[grant][2].value)])
            self.granted.append(grant)
            self._last = grant
            for n in range(INPUTS):
                self._waited[n] = self._waited[n] + 1 if valid[n] and n != grant else 0
            self.longest = max(self.longest, *self._waited)
            assert self.longest < INPUTS, f"input {self._waited.index(self.longest)} was overtaken, cycle {cycle}"

    def clear(self) -> None:
        self._last = INPUTS - 1
        self._waited = [0] * INPUTS
        self.granted.clear()
        self.longest = 0


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, list[StreamDriver], StreamMonitor, Turns]:
    bench = Bench(dut, seed=seed)
    turns = Turns(bench)
    sources = [StreamDriver(bench, f"i__{n}", WIDTH, idle=idle) for n in range(INPUTS)]
    turns.sink = StreamMonitor(bench, "o", WIDTH, stall=stall, patient=patient)
    return bench, sources, turns.sink, turns


def send(bench: Bench, sources: list[StreamDriver], rows: int = ROWS) -> None:
    source = bench.random("rows")
    for driver in sources:
        driver.send(source.getrandbits(WIDTH) for _ in range(rows))


async def take_all(bench: Bench, sources: list[StreamDriver], sink: StreamMonitor, rows: int) -> None:
    await bench.until(lambda: all(driver.count == rows for driver in sources), what="end", limit=100 * INPUTS * rows)
    await bench.drain()
    assert sink.count == INPUTS * rows


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5, 0.9], stall=[0.0, 0.5], seed=SEEDS)
async def inputs_take_turns(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, sources, sink, turns = make_bench(dut, seed, idle, stall)
    await bench.reset()
    send(bench, sources)
    await take_all(bench, sources, sink, ROWS)
    if not idle:
        assert turns.granted == list(range(INPUTS)) * ROWS
        assert turns.longest == INPUTS - 1
        bubbles = [cycle for cycle in sink.starved if sink.cycles[0] < cycle < sink.cycles[-1]]
        assert not bubbles, f"nothing in cycles {bubbles} although every input waits"
    if not idle and not stall:
        assert sink.cycles[0] - sources[0].cycles[0] == LATENCY
        record("latency", LATENCY, unit="cycles")
        record("cycles_per_beat", (sink.cycles[-1] - sink.cycles[0]) / (sink.count - 1))


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_lone_input_has_the_full_rate(dut: HierarchyObject, seed: int) -> None:
    bench, sources, sink, _ = make_bench(dut, seed)
    await bench.reset()
    for driver in sources:
        before = sink.count
        send(bench, [driver])
        await bench.until(lambda before=before: sink.count == before + ROWS, what="end")
        assert driver.cycles == list(range(driver.cycles[0], driver.cycles[0] + ROWS))
        assert sink.cycles[before:] == [cycle + LATENCY for cycle in driver.cycles]


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, sources, sink, _ = make_bench(dut, seed, idle=0.5, patient=True)
    await bench.reset()
    send(bench, sources)
    await take_all(bench, sources, sink, ROWS)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_gives_the_first_turn_to_the_first(dut: HierarchyObject, seed: int) -> None:
    bench, sources, sink, turns = make_bench(dut, seed, stall=0.5)
    await bench.reset()
    for taken in range(INPUTS + 4):
        send(bench, sources)
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(4)
        assert sink.count == 0
        send(bench, sources, 2)
        await take_all(bench, sources, sink, 2)
        assert turns.granted == list(range(INPUTS)) * 2
        await bench.reset(1)
