"""Testbench of the SDRAM controller with its pads and the part's model; tests/hw/board/test_sdram.py runs it.

An AXI master gives bursts in the order of a program and holds one back only while one before it, on the other channel
and with words in common, is not over: so what each read must bring follows from the program alone.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.hw.memory.axi import Response
from spatten.sim.verify.axi_checker import AxiChecker
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.sdram_part import RULES
from spatten.sim.verify.stream import Bench, _Gate

PARAMETERS = parameters()
TESTS: str = PARAMETERS["tests"]
SEEDS: list[int] = PARAMETERS["seeds"]
OPERATIONS: int = PARAMETERS["operations"]
BYTES = 1 << PARAMETERS["byte_bits"]
PAGE = 4096
"""A row of every bank, if rows have 512 words."""
READY_WITHIN = 400
"""Cycles from reset to the end of the initialisation."""
SECTOR = 16
"""Words of the accelerator's smallest burst, 32 bytes."""
STALLED = 5_000
"""Cycles that a channel is stalled for: what goes on meanwhile has 2,048 words."""


@dataclass(kw_only=True, eq=False)
class Operation:
    """A burst: `data` has (word, strobes) of each beat to write, and is empty for a read."""

    address: int
    beats: int
    id: int = 0
    data: list[tuple[int, int]] = field(default_factory=list)
    expected: list[int | None] = field(default_factory=list)
    response: Response = Response.OKAY

    @property
    def is_write(self) -> bool:
        return bool(self.data)

    def meets(self, other: Operation) -> bool:
        """Whether both are for a word."""
        return self.address < other.address + 2 * other.beats and other.address < self.address + 2 * self.beats


class Contents:
    """What the part must hold; None for what was never written."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def write(self, operation: Operation) -> None:
        for number, (word, strobes) in enumerate(operation.data):
            for byte in (0, 1):
                if strobes >> byte & 1:
                    self.bytes[(operation.address & ~1) + 2 * number + byte] = word >> 8 * byte & 0xFF

    def read(self, address: int) -> int | None:
        low, high = (self.bytes.get((address & ~1) + byte) for byte in (0, 1))
        return None if low is None or high is None else low | high << 8


class Master:
    """The AXI master; an agent of the bench. Shares of the time: `idle` of AR, AW and W, `stall` of R and B."""

    def __init__(self, bench: Bench, *, idle: float = 0.0, stall: float = 0.0) -> None:
        self._bench = bench
        self._random = bench.random("master")
        self._gates = {
            name: _Gate(bench.random(name), idle if name in ("ar", "aw", "w") else stall)
            for name in ("ar", "aw", "w", "r", "b")
        }
        names = [f"{channel}{name}" for channel in self._gates for name in ("valid", "ready")]
        names += [f"{channel}{name}" for channel in ("ar", "aw") for name in ("addr", "len", "id", "size", "burst")]
        names += ["wdata", "wstrb", "wlast", "rdata", "rid", "rlast", "rresp", "bid", "bresp"]
        self._signals = {name: bench.signal(f"axi__{name}") for name in names}
        for channel in ("ar", "aw"):
            bench.signal(f"axi__{channel}cache").value = 0
            bench.signal(f"axi__{channel}prot").value = 0
        self.stopped: set[str] = set()
        self.contents = Contents()
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.program: deque[Operation] = deque()
        self._offered: dict[str, deque[Operation]] = {"ar": deque(), "aw": deque()}
        self._words: deque[tuple[int, int, int]] = deque()
        self._open: dict[str, deque[Operation]] = {"ar": deque(), "aw": deque()}
        self._shown = dict.fromkeys(self._gates, False)
        self._beat = 0
        self.taken: dict[str, list[int]] = {name: [] for name in self._gates}

    def give(self, operations: Iterable[Operation]) -> None:
        """Add to the program; what reads must bring is known here."""
        for operation in operations:
            if operation.is_write and operation.response is Response.OKAY:
                self.contents.write(operation)
            elif not operation.is_write and operation.response is Response.OKAY:
                operation.expected = [
                    self.contents.read(operation.address + 2 * beat) for beat in range(operation.beats)
                ]
            self.program.append(operation)

    @property
    def is_done(self) -> bool:
        return not (self.program or any(self._offered.values()) or any(self._open.values()))

    def _set(self, name: str, value: Any) -> None:
        self._signals[name].value = value

    def _hide(self, name: str) -> None:
        signal = self._signals[name]
        signal.value = (
            LogicArray("X" * len(signal)) if self._bench.four_state else self._random.getrandbits(len(signal))
        )

    def drive(self) -> None:
        while self.program:
            operation = self.program[0]
            other = "ar" if operation.is_write else "aw"
            if any(operation.meets(earlier) for earlier in (*self._offered[other], *self._open[other])):
                break
            self._offered["aw" if operation.is_write else "ar"].append(operation)
            self._words += [
                (word, strobes, int(number == operation.beats - 1))
                for number, (word, strobes) in enumerate(operation.data)
            ]
            self.program.popleft()
        for channel in ("ar", "aw", "w"):
            queue: Any = self._words if channel == "w" else self._offered[channel]
            if self._shown[channel]:
                continue
            is_shown = bool(queue) and channel not in self.stopped and self._gates[channel]()
            self._set(f"{channel}valid", int(is_shown))
            self._shown[channel] = is_shown
            names = ("data", "strb", "last") if channel == "w" else ("addr", "len", "id", "size", "burst")
            if not is_shown:
                for name in names:
                    self._hide(channel + name)
                continue
            first = queue[0]
            values = first if channel == "w" else (first.address, first.beats - 1, first.id, 1, 1)
            for name, value in zip(names, values, strict=True):
                self._set(channel + name, value)
        for channel in ("r", "b"):
            self._set(f"{channel}ready", int(channel not in self.stopped and self._gates[channel]()))

    def _value(self, name: str) -> int:
        return int(str(self._signals[name].value), 2)

    def sample(self, cycle: int) -> None:
        for channel in self._gates:
            if not (self._value(f"{channel}valid") and self._value(f"{channel}ready")):
                continue
            self.taken[channel].append(cycle)
            if channel == "w":
                self._words.popleft()
            elif channel in ("ar", "aw"):
                self._open[channel].append(self._offered[channel].popleft())
            elif channel == "b":
                self._take_b(cycle)
            else:
                self._take_r(cycle)
            self._shown[channel] = False

    def _take_b(self, cycle: int) -> None:
        operation = self._open["aw"].popleft()
        answer = self._value("bid"), self._value("bresp")
        assert answer == (operation.id, operation.response), f"B is {answer} for {operation}, cycle {cycle}"

    def _take_r(self, cycle: int) -> None:
        operation = self._open["ar"][0]
        where = f"beat {self._beat} of {operation.address:#x}, cycle {cycle}, seed {self._bench.seed}"
        is_last = self._beat == operation.beats - 1
        answer = self._value("rid"), self._value("rresp"), self._value("rlast")
        assert answer == (operation.id, operation.response, is_last), f"R is {answer}, {where}"
        expected = operation.expected[self._beat] if operation.expected else None
        if expected is not None:
            word = self._value("rdata")
            assert word == expected, f"{word:#06x}, not {expected:#06x}, {where}"
        self._beat += 1
        if is_last:
            self._beat = 0
            self._open["ar"].popleft()

    async def finish(self, limit: int = 3_000) -> None:
        """Let the program end; AssertionError after `limit` cycles without a transfer on R or B."""
        before, quiet = -1, 0
        while not self.is_done:
            await self._bench.step()
            moved = len(self.taken["r"]) + len(self.taken["b"])
            quiet = quiet + 1 if moved == before else 0
            before = moved
            assert quiet < limit, f"nothing moved for {limit} cycles, seed {self._bench.seed}"
        await self._bench.step(8)


class Rules:
    """Fails in the cycle in which the part says that a rule was broken, and its number is not `wanted`."""

    def __init__(self, bench: Bench, wanted: str | None = None) -> None:
        self._breach = bench.signal("breach")
        self._edge = bench.signal("breach_edge")
        self._seed = bench.seed
        self._wanted = wanted
        self.seen: str | None = None
        bench.agents.append(self)

    def drive(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        number = int(str(self._breach.value), 2)
        if number:
            self.seen = RULES[number]
            edge = int(str(self._edge.value), 2)
            assert self.seen == self._wanted, f"{self.seen} is broken at edge {edge}, cycle {cycle}, seed {self._seed}"


def write(source: random.Random, address: int, beats: int, *, whole: float = 1.0, id: int = 0) -> Operation:
    """A write of random words; a share `whole` of them with all strobes."""
    data = [(source.getrandbits(16), 3 if source.random() < whole else source.getrandbits(2)) for _ in range(beats)]
    return Operation(address=address, beats=beats, id=id, data=data)


def somewhere(source: random.Random, rows: list[int]) -> tuple[int, int]:
    """Address and beats of a burst within one of a few pages: at a row's beginning or end, or anywhere."""
    beats = source.choice([1, 1, 2, 3, source.randint(1, 24), 16, 32, source.randint(1, 256), 256])
    offset = source.choice([0, 1024, 2048, 1024 - 2 * source.randint(1, beats), source.randrange(0, PAGE, 2)])
    offset = min(max(offset, 0), PAGE - 2 * beats)
    return PAGE * source.choice(rows) + offset + (source.random() < 0.1), beats


def traffic(source: random.Random, count: int) -> list[Operation]:
    """Reads and writes of a few pages, the first and the last among them, and of what is beyond the last."""
    rows = [0, BYTES // PAGE - 1, source.randrange(BYTES // PAGE)]
    operations: list[Operation] = []
    written: list[Operation] = []
    for _ in range(count):
        address, beats = somewhere(source, rows)
        is_write = source.random() < 0.5
        if written and not is_write and source.random() < 0.7:
            before = source.choice(written[-8:])
            address, beats = before.address, before.beats
        is_outside = source.random() < 0.04
        if is_outside:
            address += BYTES << source.randrange(0, 40 - BYTES.bit_length() + 1)
        id_ = source.getrandbits(1)
        if is_write:
            operation = write(source, address, beats, whole=source.choice([1.0, 1.0, 0.5]), id=id_)
        else:
            operation = Operation(address=address, beats=beats, id=id_)
        if is_outside:
            operation.response = Response.DECERR
        elif is_write:
            written.append(operation)
        operations.append(operation)
    return operations


@dataclass(kw_only=True)
class Surroundings:
    bench: Bench
    master: Master
    checker: AxiChecker
    rules: Rules

    async def power(self) -> None:
        """Reset with the part's supply off: before that the circuit may put anything on its pins."""
        supply = self.bench.signal("power_off")
        supply.value = 1
        await self.bench.reset()
        supply.value = 0

    async def start(self, *, power: bool = True) -> None:
        await (self.power() if power else self.bench.reset())
        ready = self.bench.signal("is_ready")
        await self.bench.until(lambda: str(ready.value) == "1", what="end of the initialisation", limit=READY_WITHIN)


def surround(dut: HierarchyObject, seed: int, *, wanted: str | None = None, **shares: float) -> Surroundings:
    bench = Bench(dut, seed=seed)
    return Surroundings(
        bench=bench,
        master=Master(bench, **shares),
        checker=AxiChecker(bench, "axi__"),
        rules=Rules(bench, wanted),
    )


def of(tests: str) -> Callable[[Any], Any]:
    """A cocotb test of one of the groups; it is skipped in runs of the others."""
    return lambda test: cocotb.test(skip=tests != TESTS)(test)


# -- Traffic -----------------------------------------------------------------------------------------------------------


@of("brief")
@cocotb.parametrize(seed=SEEDS)
async def a_few_words_are_what_was_written(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed, idle=0.3, stall=0.3)
    await around.start()
    around.master.give(traffic(around.bench.random("traffic"), OPERATIONS))
    await around.master.finish()
    around.checker.finish()


@of("traffic")
@cocotb.parametrize(idle=[0.0, 0.6], stall=[0.0, 0.6], seed=SEEDS)
async def words_are_what_was_written(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    around = surround(dut, seed, idle=idle, stall=stall)
    await around.start()
    operations = traffic(around.bench.random("traffic"), OPERATIONS)
    around.master.give(operations)
    await around.master.finish()
    around.checker.finish()
    reads = sum(operation.beats for operation in operations if not operation.is_write)
    known = sum(word is not None for operation in operations for word in operation.expected)
    assert len(around.master.taken["r"]) == reads
    assert len(around.master.taken["b"]) == sum(operation.is_write for operation in operations)
    assert known > reads // 8, f"only {known} of {reads} words read had been written"


@of("traffic")
@cocotb.parametrize(seed=SEEDS)
async def no_channel_waits_for_another(dut: HierarchyObject, seed: int) -> None:
    """With R stalled writes go on, with B or W stalled reads do."""
    around = surround(dut, seed)
    source = around.bench.random("words")
    await around.start()
    for stopped, others in (("r", "b"), ("b", "r"), ("w", "r")):
        around.master.stopped.add(stopped)
        reads = [Operation(address=PAGE * n, beats=256) for n in range(8)]
        writes = [write(source, PAGE * n + 2048, 256) for n in range(8)]
        around.master.give(operation for pair in zip(reads, writes, strict=True) for operation in pair)
        before = len(around.master.taken[others])
        await around.bench.step(STALLED)
        moved = len(around.master.taken[others]) - before
        assert moved == (8 if others == "b" else 8 * 256), f"{moved} on {others} with {stopped} stalled"
        around.master.stopped.clear()
        await around.master.finish()
    around.checker.finish()


@of("traffic")
@cocotb.parametrize(seed=SEEDS)
async def it_keeps_its_contents_over_a_reset(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed)
    source = around.bench.random("words")
    await around.start()
    pages = [source.randrange(BYTES // PAGE) for _ in range(4)]
    for number in range(3):
        around.master.give(write(source, PAGE * page + 512 * part, 256) for page in pages for part in range(8))
        await around.master.finish()
        # The reset comes in the middle of reads: of a burst, between commands.
        around.master.give(Operation(address=PAGE * page, beats=200) for page in pages)
        await around.bench.step(200 + 37 * number)
        around.checker.clear()
        await around.start(power=False)
        around.master.give(
            Operation(address=PAGE * page + 512 * part, beats=256) for page in pages for part in range(8)
        )
        await around.master.finish()


@of("traffic")
@cocotb.parametrize(seed=SEEDS)
async def one_at_a_time_has_the_latency(dut: HierarchyObject, seed: int) -> None:
    around = surround(dut, seed)
    await around.start()
    master = around.master
    for address, latency in ((64, 14), (96, 13), (64 + PAGE, 16)):
        master.give([Operation(address=address, beats=SECTOR)])
        await master.finish()
        seen = master.taken["r"][-SECTOR] - master.taken["ar"][-1]
        assert seen == latency, f"{seen} cycles from AR to R"
        assert master.taken["r"][-1] - master.taken["r"][-SECTOR] == SECTOR - 1
    record("latency", 13, unit="cycles", of="a read of an open row")


# -- Rates -------------------------------------------------------------------------------------------------------------


async def rate(around: Surroundings, operations: list[Operation]) -> float:
    """Words in a cycle, refreshing included: from the end of the first eighth of the operations to that of the last."""
    master = around.master
    master.give(operations)
    await master.finish()
    cycles: list[int] = []
    channel = "b" if operations[0].is_write else "r"
    if channel == "b":
        cycles = master.taken["b"]
    else:
        ends, beats = 0, master.taken["r"]
        for operation in operations:
            ends += operation.beats
            cycles.append(beats[ends - 1])
    first = len(operations) // 8
    words = sum(operation.beats for operation in operations[first + 1 :])
    result = words / (cycles[len(operations) - 1] - cycles[first])
    master.taken = {name: [] for name in master.taken}
    return result


def _sectors(source: random.Random, beats: int, *, is_random: bool) -> list[int]:
    count = OPERATIONS * SECTOR // beats
    step = 2 * beats
    return [step * (source.randrange(BYTES // step) if is_random else n) for n in range(count)]


@of("rates")
@cocotb.parametrize(
    kind=[
        ("streaming reads, 32 bytes a burst", SECTOR, False, False, 0.98),
        ("streaming reads, 512 bytes a burst", 256, False, False, 0.98),
        ("random reads of 32 bytes", SECTOR, True, False, 0.85),
        ("streaming writes, 32 bytes a burst", SECTOR, False, True, 0.98),
        ("random writes of 32 bytes", SECTOR, True, True, 0.85),
        ("random reads of 64 bytes", 32, True, False, 0.90),
    ],
    seed=SEEDS,
)
async def it_has_its_rate(dut: HierarchyObject, kind: tuple[str, int, bool, bool, float], seed: int) -> None:
    what, beats, is_random, is_write, least = kind
    around = surround(dut, seed)
    around.bench.agents.remove(around.checker)
    await around.start()
    source = around.bench.random(what)
    addresses = _sectors(source, beats, is_random=is_random)
    operations = [
        write(source, address, beats) if is_write else Operation(address=address, beats=beats) for address in addresses
    ]
    words = await rate(around, operations)
    cocotb.log.warning("%s: %.3f words a cycle", what, words)
    record("rate", words, unit="words per cycle", of=what)
    assert words >= least, f"{what}: {words:.3f} words a cycle, less than {least}"


# -- Breaches ----------------------------------------------------------------------------------------------------------


@of("breach")
@cocotb.parametrize(seed=SEEDS)
async def the_rule_is_seen_to_be_broken(dut: HierarchyObject, seed: int) -> None:
    """The part wants more of one timing than the controller was told."""
    wanted: str = PARAMETERS["wanted"]
    around = surround(dut, seed, wanted=wanted)
    around.bench.agents.remove(around.checker)
    await around.power()
    # What is read then means nothing.
    around.master.program.extend(traffic(around.bench.random("traffic"), OPERATIONS))
    await around.bench.until(lambda: around.rules.seen is not None, what=f"breach of {wanted}", limit=8_000)
