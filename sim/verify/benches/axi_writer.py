"""Testbench of the AXI writer against `sim.verify.axi_memory` and `sim.verify.axi_checker`;
tests/hw/memory/test_axi_writer.py runs it."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject
from cocotbext.axi import AxiSlaveWrite, AxiWriteBus

from spatten.hw.emit.payload import Payload
from spatten.hw.memory.axi import bus_error, sector_write
from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.axi_memory import AxiMemory
from spatten.sim.verify.benches.axi_channel import AxiChannel, make_locals
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver

PARAMETERS = parameters()
CHANNEL_BITS: int = PARAMETERS["size"]["channel_bits"]
LOCAL_BITS: int = PARAMETERS["size"]["local_bits"]
ADDRESS_BITS: int = PARAMETERS["size"]["address_bits"]
DEPTH: int = PARAMETERS["size"]["depth"]
OUTSTANDING: int = PARAMETERS["size"]["outstanding"]
SEEDS: list[int] = PARAMETERS["seeds"]
SECTORS: int = PARAMETERS["sectors"]
BEATS = 256 // CHANNEL_BITS
BURST = min(16, DEPTH - 1, OUTSTANDING)
"""Sectors that are sure to gather in a burst."""
COUNTS = 1 << 16


class Probe:
    """Checks `idle`, `error`, `activity` and the counts in every cycle; keeps the words that went out on W, and the
    cycles in which AW and W were presented."""

    def __init__(self, bench: Bench, checker: AxiChecker, source: StreamDriver) -> None:
        self._bench = bench
        names = ["idle", "error", "activity", "i__ready", "accepted", "acknowledged"]
        names += [f"axi__{channel}{name}" for channel in ("aw", "w", "b") for name in ("valid", "ready")]
        names += ["axi__wdata", "axi__bresp"]
        self._signals = {name: bench.signal(name) for name in names}
        self._checker = checker
        self._source = source
        self._error = Payload(bus_error)
        self.clear()
        # This agent comes before those that count what moves in a cycle.
        bench.agents.insert(0, self)

    def clear(self) -> None:
        self._bad: dict[str, int] = {"valid": 0, "is_decode": 0}
        self.errors = {2: 0, 3: 0}
        self.presented: dict[str, list[int]] = {"aw": [], "w": []}
        self.words: list[int] = []
        self.word_cycles: list[int] = []
        self._was_stalled = {"aw": False, "w": False}
        self.stopped = False
        self._was_stopped = False

    @property
    def acknowledged(self) -> int:
        """Sectors whose burst has its response; all ids are the same, so these are the first."""
        writes = self._checker.writes
        return sum(burst.beats for burst in writes.bursts[: writes.responses]) // BEATS

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        bits = {name: str(signal.value) for name, signal in self._signals.items()}
        where = f"cycle {cycle}, seed {self._bench.seed}"
        takes = {
            channel: bits[f"axi__{channel}valid"] == bits[f"axi__{channel}ready"] == "1" for channel in ("aw", "w", "b")
        }
        assert bits["activity"] == str(int(any(takes.values()))), f"activity is {bits['activity']}, {where}"
        error = self._error.unpack(int(bits["error"], 2))
        assert error == self._bad, f"error is {error}, not {self._bad}, {where}"
        bad = int(bits["axi__bresp"], 2) if takes["b"] else 0
        self._bad = {"valid": int(bad >= 2), "is_decode": int(bad == 3)}
        if error["valid"]:
            self.errors[2 + error["is_decode"]] += 1
        for channel, cycles in self.presented.items():
            if bits[f"axi__{channel}valid"] == "1" and not self._was_stalled[channel]:
                cycles.append(cycle)
                assert channel == "w" or not self._was_stopped, f"a burst is presented under stop, {where}"
            self._was_stalled[channel] = bits[f"axi__{channel}valid"] == "1" and not takes[channel]
        if takes["w"]:
            self.words.append(int(bits["axi__wdata"], 2))
            self.word_cycles.append(cycle)
        is_open = self._checker.writes.open_bytes > 0 or bits["axi__awvalid"] == "1"
        if self.stopped:
            assert bits["i__ready"] == "1", f"i is not ready under stop, {where}"
            assert bits["idle"] == "0" or not is_open, f"idle with an open burst, {where}"
            counts = (0, 0) if self._was_stopped else None
        else:
            counts = self._source.count % COUNTS, self.acknowledged % COUNTS
            assert bits["idle"] == str(int(self._source.count == self.acknowledged)), f"idle is {bits['idle']}, {where}"
        if counts is not None:
            seen = int(bits["accepted"], 2), int(bits["acknowledged"], 2)
            assert seen == counts, f"accepted and acknowledged are {seen}, not {counts}, {where}"
        self._was_stopped = self.stopped


@dataclass(kw_only=True)
class Surroundings(AxiChannel):
    """Of the AXI writer."""

    def __post_init__(self) -> None:
        self.sent: list[dict[str, int]] = []

    def send(self, locals_: list[int]) -> None:
        """Send random sectors."""
        rows = [
            {"address": local, "data": self.bench.random(f"data {len(self.sent)}").getrandbits(256)}
            for local in locals_
        ]
        for number, row in enumerate(rows):
            row["data"] ^= (len(self.sent) + number) << 128
        self.sent += rows
        self.source.send(rows)

    def check(self, count: int) -> None:
        """Check that the first `count` sectors were written, in order, and nothing else."""
        self.checker.finish()
        words = [row["data"] >> n * CHANNEL_BITS & (1 << CHANNEL_BITS) - 1 for row in self.sent for n in range(BEATS)]
        assert self.probe.words == words[: count * BEATS]
        addresses = [local + n for local, sectors in self.bursts for n in range(sectors)]
        assert addresses == [row["address"] for row in self.sent[:count]]
        stored = {}
        for row in self.sent[:count]:
            for n in range(BEATS):
                stored[self.address(row["address"]) + n * CHANNEL_BITS // 8] = (
                    row["data"] >> n * CHANNEL_BITS & (1 << CHANNEL_BITS) - 1
                )
        assert self.memory.data == stored

    async def drain(self, limit: int = 3000) -> None:
        """Wait until everything that was sent is acknowledged."""
        quiet = 0
        while self.probe.acknowledged < len(self.sent):
            before = self.probe.acknowledged
            await self.bench.step()
            quiet = quiet + 1 if self.probe.acknowledged == before else 0
            assert quiet < limit, (
                f"{self.probe.acknowledged} of {len(self.sent)} sectors after {limit} quiet cycles, "
                f"seed {self.bench.seed}"
            )
        await self.bench.step(8)
        assert self.source.count == len(self.sent)
        self.check(len(self.sent))

    async def stop(self, limit: int = 6000) -> None:
        """Set `stop` until `idle`."""
        await self.stop_until_idle(limit)

    def go(self) -> None:
        """Clear `stop`, and go on with another base: all bursts that were presented are complete, and no others."""
        self.check(sum(sectors for _, sectors in self.bursts))
        self.bench.signal("stop").value = 0
        self.source.clear()
        self.checker.clear()
        self.probe.clear()
        self.memory.data.clear()
        self.sent.clear()
        self.move()


def surround(dut: HierarchyObject, seed: int, *, idle: float = 0.0, **memory: Any) -> Surroundings:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", sector_write(LOCAL_BITS), idle=idle)
    model = AxiMemory(bench, "axi__", **memory)
    checker = AxiChecker(bench, "axi__")
    return Surroundings(
        bench=bench,
        source=source,
        memory=model,
        checker=checker,
        probe=Probe(bench, checker, source),
        direction="writes",
        channel_bits=CHANNEL_BITS,
        local_bits=LOCAL_BITS,
        address_bits=ADDRESS_BITS,
    )


PAUSES: dict[str, dict[str, Any]] = {
    "none": {},
    "aw": {"aw": 0.7},
    "w": {"w": 0.6},
    "b": {"b": 0.6},
    "all": {"aw": 0.5, "w": 0.4, "b": 0.4},
    "aw first": {"aw": 0.4, "w": 0.2, "order": "aw first"},
    "w first": {"aw": 0.1, "w": 0.3, "order": "w first"},
}


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], pauses=list(PAUSES), seed=SEEDS)
async def sectors_are_written_in_order(dut: HierarchyObject, idle: float, pauses: str, seed: int) -> None:
    latency = random.Random(seed).choice([1, 2, 7, 30])
    around = surround(dut, seed, idle=idle, latency=latency, **PAUSES[pauses])
    await around.reset()
    around.send(make_locals(around.bench.random("locals"), SECTORS, local_bits=LOCAL_BITS))
    await around.drain()
    assert around.checker.writes.peak_bursts <= OUTSTANDING
    if pauses in ("none", "aw"):
        longest = max(sectors for _, sectors in around.bursts)
        assert (longest == 1) == (pauses == "none"), f"bursts of up to {longest} sectors"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def it_writes_at_full_rate(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, latency=max(1, min(20, OUTSTANDING - 5)))
    await around.reset()
    sectors = max(SECTORS, 300)
    around.send([around.bench.random(f"local {n}").getrandbits(LOCAL_BITS) for n in range(sectors)])
    await around.drain()
    first = around.source.cycles[0]
    assert (around.probe.presented["aw"][0], around.probe.presented["w"][0]) == (first + 2, first + 2)
    cycles = around.probe.word_cycles
    assert cycles == list(range(first + 2, first + 2 + sectors * BEATS)), "a cycle without a beat"
    record("latency", around.probe.presented["aw"][0] - first, unit="cycles", of="address")
    record("latency", around.probe.presented["w"][0] - first, unit="cycles", of="data")
    record("cycles_per_sector", (cycles[-1] - cycles[0] + 1) / sectors)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def one_at_a_time_has_the_latency(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, latency=3)
    await around.reset()
    for local in make_locals(around.bench.random("locals"), 20, local_bits=LOCAL_BITS):
        around.send([local])
        await around.drain()
    assert around.probe.presented["aw"] == [cycle + 2 for cycle in around.source.cycles]
    assert around.probe.word_cycles[::BEATS] == [cycle + 2 for cycle in around.source.cycles]


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def neighbours_behind_a_stalled_burst_merge(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed)
    await around.reset()
    await around.check_merging(burst=BURST, is_most=BURST == 16)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def no_more_than_allowed_waits(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed)
    await around.reset()
    around.memory.frozen.add("b")
    around.send([5 * n % (1 << LOCAL_BITS) for n in range(OUTSTANDING + DEPTH + 20)])
    await around.bench.step((OUTSTANDING + DEPTH + 20) * BEATS + 20)
    assert around.checker.writes.open_bursts == OUTSTANDING
    around.memory.frozen.clear()
    await around.drain()
    around.memory.frozen.add("w")
    before = len(around.sent)
    around.send([3 * n % (1 << LOCAL_BITS) for n in range(DEPTH + 20)])
    await around.bench.step(DEPTH + 30)
    bursts = around.checker.writes.open_bursts
    assert around.source.count - before == min(DEPTH + 1, OUTSTANDING + 3)
    assert bursts == min(DEPTH + 1, OUTSTANDING)
    around.memory.frozen.clear()
    await around.drain()


def _some_bad(seed: int) -> Callable[[str, int], int]:
    return lambda channel, number: random.Random(f"{seed} {channel} {number}").choice([0, 0, 0, 2, 3])


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def bad_responses_are_reported(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, aw=0.3, b=0.3, respond=_some_bad(seed))
    await around.reset()
    around.send(make_locals(around.bench.random("locals"), 80, local_bits=LOCAL_BITS))
    await around.drain()
    seen = [response for _, response in around.checker.writes.errors]
    assert around.probe.errors == {2: seen.count(2), 3: seen.count(3)}
    assert seen.count(2) > 2
    assert seen.count(3) > 2


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def ids_are_not_looked_at(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, aw=0.6, w=0.3, confuse=True)
    around.bench.agents.remove(around.probe)
    around.bench.agents.remove(around.checker)
    await around.reset()
    around.send(make_locals(around.bench.random("locals"), 80, local_bits=LOCAL_BITS))
    acknowledged = around.bench.signal("acknowledged")
    await around.bench.until(lambda: int(str(acknowledged.value), 2) == 80, what="end", limit=8000)
    assert str(around.bench.signal("idle").value) == "1"


@cocotb.test
@cocotb.parametrize(order=["any", "aw first", "w first"], seed=SEEDS)
async def stop_finishes_what_was_presented(dut: HierarchyObject, order: str, seed: int) -> None:
    around = surround(dut, seed, aw=0.5, w=0.5, b=0.4, order=order, respond=_some_bad(seed))
    await around.reset()
    source = around.bench.random("stops")
    finished = dropped = 0
    for number in range(PARAMETERS["stops"]):
        around.memory.latency = source.choice([1, 3, 25])
        around.send(make_locals(around.bench.random(f"locals {number}"), 70, local_bits=LOCAL_BITS))
        await around.bench.step(source.choice([0, 1, 2, source.randint(0, 40), source.randint(0, 200)]))
        taken = around.source.count
        await around.stop()
        await around.bench.step(source.choice([0, 0, 1, 5]))
        finished += sum(sectors for _, sectors in around.bursts)
        dropped += taken - sum(sectors for _, sectors in around.bursts)
        around.go()
        # In half of the rounds all of the next writes come to their end.
        if number % 2:
            around.send(make_locals(around.bench.random(f"more {number}"), 20, local_bits=LOCAL_BITS))
            await around.drain()
            around.check(20)
            await around.bench.reset(1)
            around.memory.data.clear()
            around.sent.clear()
    assert finished > 0
    assert dropped > 0


@cocotb.test
@cocotb.parametrize(channel=["aw", "w", "b"], seed=SEEDS)
async def stop_waits_for_a_slave_that_stands_still(dut: HierarchyObject, channel: str, seed: int) -> None:
    around = surround(dut, seed, latency=2)
    await around.reset()
    around.memory.frozen.add(channel)
    around.send([4, 5, 6, 9])
    await around.bench.step(6 + 6 * BEATS)
    around.bench.signal("stop").value = 1
    around.probe.stopped = True
    await around.bench.step(30)
    assert str(around.bench.signal("idle").value) == "0"
    around.memory.frozen.clear()
    await around.stop()
    # With AW stalled only the first burst has been presented; otherwise all have.
    assert around.bursts == [(4, 1)] if channel == "aw" else [(4, 1), (5, 1), (6, 1), (9, 1)]
    around.go()
    around.send([7, 8, 9])
    await around.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_empties_it(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, aw=0.5, w=0.4, b=0.3)
    await around.reset()
    for number in range(12):
        around.send(make_locals(around.bench.random(f"locals {number}"), 60, local_bits=LOCAL_BITS))
        await around.bench.step(7 * number)
        await around.bench.reset(1)
        around.sent.clear()
        around.memory.data.clear()
        await around.bench.step(4)
        around.send(make_locals(around.bench.random(f"more {number}"), 12, local_bits=LOCAL_BITS))
        await around.drain()
        await around.bench.reset(1)
        around.sent.clear()
        around.memory.data.clear()


@cocotb.test(skip=not PARAMETERS.get("long"))
@cocotb.parametrize(seed=SEEDS)
async def counts_wrap(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", sector_write(LOCAL_BITS))
    AxiMemory(bench, "axi__", latency=5)
    bench.signal("base").value = 0
    bench.signal("stop").value = 0
    await bench.reset()
    counts = [bench.signal(name) for name in ("accepted", "acknowledged")]
    for sectors in (COUNTS - 3, 1, 1, 1, 1, 5):
        source.send({"address": 0, "data": n} for n in range(sectors))
        before = source.count
        await bench.until(lambda all_=before + sectors: source.count == all_, what="end", limit=2 * COUNTS)
        await bench.step(20 + BEATS)
        assert [int(str(count.value), 2) for count in counts] == [source.count % COUNTS] * 2
    assert source.count == COUNTS + 6


class Words:
    """The memory of cocotbext's slave: words by address, a part of which answer SLVERR."""

    def __init__(self) -> None:
        self.data: dict[int, int] = {}

    async def write(self, address: int, data: bytes) -> None:
        assert len(data) == CHANNEL_BITS // 8
        self.data[address] = int.from_bytes(data, "little")
        if address // 32 % 7 == 3 and address % 32 == 0:
            raise ValueError("bad word")


def pauses(source: random.Random, share: float) -> Any:
    """Endless pauses and runs, for `cocotbext.axi`."""
    runs = ([source.random() < share] * source.randint(1, 8) for _ in itertools.count())
    return itertools.chain.from_iterable(runs)


@cocotb.test
@cocotb.parametrize(share=[0.0, 0.5], seed=SEEDS)
async def a_slave_by_others_agrees(dut: HierarchyObject, share: float, seed: int) -> None:
    logging.getLogger("cocotb").setLevel(logging.ERROR)
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", sector_write(LOCAL_BITS), idle=share)
    words = Words()
    slave = AxiSlaveWrite(AxiWriteBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, target=words)
    for channel in (slave.aw_channel, slave.w_channel, slave.b_channel):
        channel.set_pause_generator(pauses(bench.random(str(channel.bus._name)), share))
    checker = AxiChecker(bench, "axi__")
    around = Surroundings(
        bench=bench,
        source=source,
        memory=words,  # type: ignore[arg-type]
        checker=checker,
        probe=Probe(bench, checker, source),
        direction="writes",
        channel_bits=CHANNEL_BITS,
        local_bits=LOCAL_BITS,
        address_bits=ADDRESS_BITS,
    )
    await around.reset()
    for number in range(3):
        around.send(make_locals(bench.random(f"locals {number}"), 60, local_bits=LOCAL_BITS))
        await around.drain()
        seen = [response for _, response in checker.writes.errors]
        assert around.probe.errors == {2: len(seen), 3: 0}
        assert set(seen) == {2}
        around.send(make_locals(bench.random(f"more {number}"), 40, local_bits=LOCAL_BITS))
        await bench.step(13 * number)
        await around.stop()
        around.go()
