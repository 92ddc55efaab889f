"""Testbench of the AXI reader against `sim.verify.axi_memory` and `sim.verify.axi_checker`;
tests/hw/memory/test_axi_reader.py runs it."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject
from cocotbext.axi import AxiReadBus, AxiSlaveRead

from spatten.hw.emit.payload import Payload
from spatten.hw.memory.axi import bus_error
from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.axi_memory import AxiMemory
from spatten.sim.verify.benches.axi_channel import AxiChannel, make_locals
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
CHANNEL_BITS: int = PARAMETERS["size"]["channel_bits"]
LOCAL_BITS: int = PARAMETERS["size"]["local_bits"]
ADDRESS_BITS: int = PARAMETERS["size"]["address_bits"]
OUTSTANDING: int = PARAMETERS["size"]["outstanding"]
SEEDS: list[int] = PARAMETERS["seeds"]
SECTORS: int = PARAMETERS["sectors"]
BEATS = 256 // CHANNEL_BITS
BURST = min(16, 1 << (OUTSTANDING.bit_length() - 1))


class Probe:
    """Checks `idle`, `error` and `activity` in every cycle; counts bad beats by kind."""

    def __init__(self, bench: Bench, checker: AxiChecker, source: StreamDriver, sink: StreamMonitor) -> None:
        self._bench = bench
        names = ["idle", "error", "activity", "o__valid", "i__ready"]
        names += [f"axi__{name}" for name in ("arvalid", "arready", "rvalid", "rready", "rresp")]
        self._signals = {name: bench.signal(name) for name in names}
        self._checker = checker
        self._source = source
        self._sink = sink
        self._error = Payload(bus_error)
        self.clear()
        # This agent comes before those that count what moves in a cycle.
        bench.agents.insert(0, self)

    def clear(self) -> None:
        self._bad: dict[str, int] | None = {"valid": 0, "is_decode": 0}
        self.errors = {2: 0, 3: 0}
        self.presented: list[int] = []
        self._was_stalled = False
        self.stopped = False
        self._was_stopped = False

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        bits = {name: str(signal.value) for name, signal in self._signals.items()}
        where = f"cycle {cycle}, seed {self._bench.seed}"
        ar = bits["axi__arvalid"] == bits["axi__arready"] == "1"
        r = bits["axi__rvalid"] == bits["axi__rready"] == "1"
        assert bits["activity"] == str(int(ar or r)), f"activity is {bits['activity']}, {where}"
        error = self._error.unpack(int(bits["error"], 2))
        assert error == self._bad, f"error is {error}, not {self._bad}, {where}"
        bad = int(bits["axi__rresp"], 2) if r else 0
        self._bad = {"valid": int(bad >= 2), "is_decode": int(bad == 3)}
        if error["valid"]:
            self.errors[2 + error["is_decode"]] += 1
        if bits["axi__arvalid"] == "1" and not self._was_stalled:
            self.presented.append(cycle)
            assert not self._was_stopped, f"a burst is presented under stop, {where}"
        self._was_stalled = bits["axi__arvalid"] == "1" and not ar
        # Under stop only bursts that are open on the bus count, otherwise also sectors that have not left yet.
        is_open = self._checker.reads.open_bytes > 0 or bits["axi__arvalid"] == "1"
        if self.stopped:
            assert bits["o__valid"] == "0", f"a sector under stop, {where}"
            assert bits["i__ready"] == "1", f"i is not ready under stop, {where}"
            assert bits["idle"] == "0" or not is_open, f"idle with an open burst, {where}"
            assert bits["idle"] == "1" or is_open or not self._was_stopped, f"not idle with nothing open, {where}"
        else:
            is_idle = self._source.count == self._sink.count
            assert bits["idle"] == str(int(is_idle)), f"idle is {bits['idle']}, {where}"
        self._was_stopped = self.stopped


@dataclass(kw_only=True)
class Surroundings(AxiChannel):
    """Of the AXI reader."""

    sink: StreamMonitor

    def sector(self, local: int) -> int:
        beats = [self.memory.read(self.address(local) + n * CHANNEL_BITS // 8) for n in range(BEATS)]
        return sum(beat << n * CHANNEL_BITS for n, beat in enumerate(beats))

    def send(self, locals_: list[int]) -> None:
        self.source.send(locals_)
        self.sink.expect([self.sector(local) for local in locals_])

    async def drain(self, limit: int = 2000) -> None:
        await self.bench.drain(limit=limit)
        self.checker.finish()
        assert self.source.count == self.sink.count == self.sink.expected
        sectors = sum(burst.beats for burst in self.checker.reads.bursts) // BEATS
        assert sectors == self.sink.count, f"{sectors} sectors were asked for"

    async def stop(self, limit: int = 4000) -> None:
        """Set `stop` until `idle`; the consumer forgets what it saw."""
        self.sink.clear()
        await self.stop_until_idle(limit)

    def go(self) -> None:
        """Clear `stop`, and go on with another base."""
        self.bench.signal("stop").value = 0
        self.probe.stopped = self.probe._was_stopped = False
        self.source.clear()
        self.sink.clear()
        self.checker.finish()
        self.checker.clear()
        self.move()


def surround(dut: HierarchyObject, seed: int, *, idle: float = 0.0, stall: float = 0.0, **memory: Any) -> Surroundings:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", LOCAL_BITS, idle=idle)
    sink = StreamMonitor(bench, "o", 256, stall=stall)
    model = AxiMemory(bench, "axi__", **memory)
    checker = AxiChecker(bench, "axi__")
    return Surroundings(
        bench=bench,
        source=source,
        sink=sink,
        memory=model,
        checker=checker,
        probe=Probe(bench, checker, source, sink),
        direction="reads",
        channel_bits=CHANNEL_BITS,
        local_bits=LOCAL_BITS,
        address_bits=ADDRESS_BITS,
    )


@cocotb.test
@cocotb.parametrize(
    idle=[0.0, 0.5], stall=[0.0, 0.5], pauses=[(0.0, 0.0), (0.7, 0.0), (0.0, 0.5), (0.6, 0.6)], seed=SEEDS
)
async def sectors_come_in_order(
    dut: HierarchyObject, idle: float, stall: float, pauses: tuple[float, float], seed: int
) -> None:
    latency = random.Random(seed).choice([1, 2, 7, 30])
    around = surround(dut, seed, idle=idle, stall=stall, ar=pauses[0], r=pauses[1], latency=latency)
    await around.reset()
    around.send(make_locals(around.bench.random("locals"), SECTORS, local_bits=LOCAL_BITS))
    await around.drain()
    assert around.checker.reads.peak_bytes <= 32 * OUTSTANDING
    longest = max(sectors for _, sectors in around.bursts)
    assert (longest == 1) == (pauses[0] == 0), f"bursts of up to {longest} sectors"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def it_reads_at_full_rate(dut: HierarchyObject, seed: int) -> None:
    latency = max(1, min(20, OUTSTANDING - 2))
    around = surround(dut, seed, latency=latency)
    await around.reset()
    around.send([around.bench.random("locals").getrandbits(LOCAL_BITS) for _ in range(SECTORS)])
    await around.drain()
    first = around.source.cycles[0]
    assert around.probe.presented[0] == first + 1
    # AR, latency, the sector's beats, and a cycle to `o`.
    assert around.sink.cycles[0] == first + 1 + latency + BEATS
    beats = [after - before for before, after in zip(around.sink.cycles, around.sink.cycles[1:], strict=False)]
    assert set(beats) == {BEATS}, f"sectors in distances of {sorted(set(beats))} cycles"
    record("latency", around.probe.presented[0] - first, unit="cycles", of="request")
    record("latency", around.sink.cycles[0] - first - latency - BEATS, unit="cycles", of="data")
    record("cycles_per_sector", sum(beats) / len(beats))


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def one_at_a_time_has_the_latency(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, latency=3)
    await around.reset()
    for local in make_locals(around.bench.random("locals"), 20, local_bits=LOCAL_BITS):
        around.send([local])
        await around.bench.step(BEATS + 8)
    assert around.probe.presented == [cycle + 1 for cycle in around.source.cycles]
    assert around.sink.cycles == [cycle + 4 + BEATS for cycle in around.source.cycles]
    await around.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def neighbours_behind_a_stalled_burst_merge(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed)
    await around.reset()
    await around.check_merging(burst=BURST, is_most=True)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def no_more_than_allowed_is_outstanding(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, ar=0.3)
    await around.reset()
    around.memory.frozen.add("r")
    locals_ = make_locals(around.bench.random("locals"), 2 * OUTSTANDING + 60, local_bits=LOCAL_BITS)
    around.send(locals_)
    await around.bench.step(6 * OUTSTANDING + 100)
    peak = around.checker.reads.peak_bytes // 32
    assert OUTSTANDING - BURST < peak <= OUTSTANDING, f"{peak} sectors were outstanding"
    around.memory.frozen.clear()
    around.memory._gates["ar"]._closed = 0.0
    await around.drain()
    # Single sectors use every place.
    around.memory.frozen.add("r")
    around.send([5 * n % (1 << LOCAL_BITS) for n in range(OUTSTANDING + 20)])
    await around.bench.step(OUTSTANDING + 30)
    assert around.checker.reads.open_bytes == 32 * OUTSTANDING
    assert around.sink.count == len(locals_)
    around.memory.frozen.clear()
    await around.drain()
    assert around.checker.reads.peak_bytes == 32 * OUTSTANDING


def _some_bad(seed: int) -> Callable[[str, int], int]:
    return lambda channel, number: random.Random(f"{seed} {channel} {number}").choice([0, 0, 0, 2, 3])


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def bad_responses_are_reported(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, stall=0.3, ar=0.4, r=0.3, respond=_some_bad(seed))
    await around.reset()
    around.send(make_locals(around.bench.random("locals"), 60, local_bits=LOCAL_BITS))
    await around.drain()
    seen = [response for _, response in around.checker.reads.errors]
    assert around.probe.errors == {2: seen.count(2), 3: seen.count(3)}
    assert seen.count(2) > 2
    assert seen.count(3) > 2


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def ids_and_rlast_are_not_looked_at(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, stall=0.3, ar=0.6, r=0.3, confuse=True)
    around.bench.agents.remove(around.probe)
    around.bench.agents.remove(around.checker)
    await around.reset()
    around.send(make_locals(around.bench.random("locals"), 80, local_bits=LOCAL_BITS))
    await around.bench.drain()
    assert str(around.bench.signal("idle").value) == "1"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def stop_drains_and_drops(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, stall=0.4, ar=0.6, r=0.6, respond=_some_bad(seed))
    await around.reset()
    source = around.bench.random("stops")
    answered = 0
    for number in range(PARAMETERS["stops"]):
        around.memory.latency = source.choice([1, 3, 25])
        around.send(make_locals(around.bench.random(f"locals {number}"), 60, local_bits=LOCAL_BITS))
        await around.bench.step(source.choice([0, 1, 2, source.randint(0, 40), source.randint(0, 200)]))
        answered += around.sink.count
        await around.stop()
        await around.bench.step(source.choice([0, 0, 1, 5]))
        around.go()
        # In half of the rounds all of the next reads come to their end.
        if number % 2:
            around.send(make_locals(around.bench.random(f"more {number}"), 20, local_bits=LOCAL_BITS))
            await around.drain()
    assert answered > 0


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def stop_waits_for_a_burst_that_is_never_taken(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, latency=2)
    await around.reset()
    around.memory.frozen.add("ar")
    around.send([4, 5, 6, 9])
    await around.bench.step(8)
    around.bench.signal("stop").value = 1
    around.probe.stopped = True
    around.sink.clear()
    await around.bench.step(30)
    assert str(around.bench.signal("axi__arvalid").value) == "1"
    assert str(around.bench.signal("idle").value) == "0"
    around.memory.frozen.clear()
    await around.stop()
    assert around.bursts == [(4, 1)]
    around.go()
    around.send([7, 8, 9])
    await around.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_empties_it(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, stall=0.5, ar=0.5, r=0.3)
    await around.reset()
    for number in range(12):
        around.send(make_locals(around.bench.random(f"locals {number}"), 60, local_bits=LOCAL_BITS))
        await around.bench.step(7 * number)
        await around.bench.reset(1)
        await around.bench.step(4)
        around.send(make_locals(around.bench.random(f"more {number}"), 12, local_bits=LOCAL_BITS))
        await around.drain()
        await around.bench.reset(1)


class Words:
    """The memory of cocotbext's slave: every beat holds its address, many times; a seventh of these answer SLVERR."""

    def read(self, address: int) -> int:
        return 0 if self.is_bad(address) else AxiMemory.content(self, address)  # type: ignore[arg-type]

    data_bits = CHANNEL_BITS
    failures = 0

    def is_bad(self, address: int) -> bool:
        return address // (CHANNEL_BITS // 8) % 7 == 3


class Target:
    """What `cocotbext.axi` reads from."""

    def __init__(self, words: Words) -> None:
        self._words = words

    async def read(self, address: int, length: int) -> bytes:
        if self._words.is_bad(address):
            self._words.failures += 1
            raise ValueError("bad word")
        return self._words.read(address).to_bytes(length, "little")


def pauses(source: random.Random, share: float) -> Any:
    """Endless pauses and runs, for `cocotbext.axi`."""
    runs = ([source.random() < share] * source.randint(1, 8) for _ in itertools.count())
    return itertools.chain.from_iterable(runs)


@cocotb.test
@cocotb.parametrize(share=[0.0, 0.5], seed=SEEDS)
async def a_slave_by_others_agrees(dut: HierarchyObject, share: float, seed: int) -> None:
    logging.getLogger("cocotb").setLevel(logging.ERROR)
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", LOCAL_BITS, idle=share)
    sink = StreamMonitor(bench, "o", 256, stall=share)
    words = Words()
    slave = AxiSlaveRead(AxiReadBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, target=Target(words))
    for channel in (slave.ar_channel, slave.r_channel):
        channel.set_pause_generator(pauses(bench.random(str(channel.bus._name)), share))
    checker = AxiChecker(bench, "axi__")
    around = Surroundings(
        bench=bench,
        source=source,
        sink=sink,
        memory=words,  # type: ignore[arg-type]
        checker=checker,
        probe=Probe(bench, checker, source, sink),
        direction="reads",
        channel_bits=CHANNEL_BITS,
        local_bits=LOCAL_BITS,
        address_bits=ADDRESS_BITS,
    )
    await around.reset()
    for number in range(3):
        around.send(make_locals(bench.random(f"locals {number}"), 60, local_bits=LOCAL_BITS))
        await around.drain()
        assert around.probe.errors[2] == words.failures > 0
        assert around.probe.errors[3] == 0
        around.send(make_locals(bench.random(f"more {number}"), 40, local_bits=LOCAL_BITS))
        await bench.step(13 * number)
        await around.stop()
        around.go()
        words.failures = around.probe.errors[2]
