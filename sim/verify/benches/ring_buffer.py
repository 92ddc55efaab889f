"""Testbench of hw/memory/ring_buffer.py; tests/hw/memory/test_ring_buffer.py runs it."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.golden.ring_buffer import block_addresses, granted, window
from spatten.hw.emit.payload import Payload
from spatten.hw.memory.ring_buffer import RingBuffer, lane_window, window_request
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.row_format import SECTOR_BITS

PARAMETERS = parameters()
LANES: int = PARAMETERS["lanes"]
SECTORS: int = PARAMETERS["sectors"]
BANKS: int = PARAMETERS["banks"]
LINEAR: int = PARAMETERS["linear"]
HEADER_BITS: int = PARAMETERS["header_bits"]
SEEDS: list[int] = PARAMETERS["seeds"]
BLOCKS: int = PARAMETERS["blocks"]
DELAY = RingBuffer.delay
COUNT = range(SECTORS + 1)
REQUEST = Payload(window_request(SECTORS + LINEAR, BANKS, HEADER_BITS))
WINDOW = Payload(lane_window(LANES, BANKS, HEADER_BITS))


class Read(NamedTuple):
    """A window asked for, and the words that must come."""

    first: int
    sectors: int
    header: int
    words: dict[tuple[int, int], int]


class Ports:
    """The write and read ports: writes all that was put since the last cycle, reads the next window that is wanted,
    and checks what comes `DELAY` cycles later."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._source = bench.random("ports")
        self._read = [bench.signal(name) for name in ("i_read__valid", "i_read__payload")]
        self._window = [bench.signal(name) for name in ("o_read__valid", "o_read__payload")]
        self._write = {
            (lane, bank): [bench.signal(f"write__{lane}__{bank}__{name}") for name in ("enable", "address", "data")]
            for lane in range(LANES)
            for bank in range(BANKS)
        }
        # The contents by lane and sector, of the ring and of the space behind it, as indices into `_data`.
        self.contents = np.zeros((LANES, SECTORS + LINEAR), np.int64)
        self._data: list[int] = [0]
        self.reads: deque[Read] = deque()
        self.writes: dict[tuple[int, int], int] = {}
        # Ports that are not idle yet: at first all.
        self._busy = set(self._write)
        self._inside: deque[Read | None] = deque([None] * DELAY)
        self._shown: Read | None = None
        self.count = 0
        bench.agents.append(self)

    def put(self, lane: int, sector: int) -> None:
        """Write fresh random data in the next cycle."""
        port = (lane, sector % BANKS)
        assert port not in self.writes, "one write per bank and cycle"
        self.contents[lane, sector] = len(self._data)
        self._data.append(self._source.getrandbits(SECTOR_BITS))
        self.writes[port] = sector

    def want(self, first: int, sectors: int) -> None:
        """Read a window, of what was put so far, in the next cycle that is free."""
        ring = self.contents[:, :SECTORS]
        numbers, needed = window(ring if first < SECTORS else self.contents, first, sectors, BANKS)
        words = {
            (lane, int(bank)): self._data[numbers[lane, bank]]
            for lane in range(LANES)
            for bank in np.flatnonzero(needed)
        }
        self.reads.append(Read(first, sectors, self._source.getrandbits(HEADER_BITS), words))

    @property
    def waiting(self) -> int:
        return len(self.reads) + sum(read is not None for read in self._inside)

    def clear(self) -> None:
        self.reads.clear()
        self.writes.clear()
        self._inside = deque([None] * DELAY)
        self._shown = None
        self.count = 0

    def _idle(self, signal: Any) -> Any:
        width = len(signal)
        return LogicArray("X" * width) if self._bench.four_state else self._source.getrandbits(width)

    def drive(self) -> None:
        for port in self._busy - self.writes.keys():
            enable, address, data = self._write[port]
            enable.value = 0
            address.value = self._idle(address)
            data.value = self._idle(data)
        for (lane, bank), sector in self.writes.items():
            enable, address, data = self._write[lane, bank]
            enable.value = 1
            address.value = sector // BANKS
            data.value = self._data[self.contents[lane, sector]]
        self._busy = set(self.writes)
        self.writes.clear()
        valid, payload = self._read
        self._shown = self.reads.popleft() if self.reads else None
        valid.value = int(self._shown is not None)
        if self._shown is None:
            payload.value = self._idle(payload)
        else:
            read = self._shown
            payload.value = REQUEST.pack({"sector": read.first, "sectors": read.sectors, "header": read.header})

    def sample(self, cycle: int) -> None:
        self._inside.append(self._shown)
        read = self._inside.popleft()
        valid, payload = self._window
        where = f"cycle {cycle}, seed {self._bench.seed}"
        assert str(valid.value) == str(int(read is not None)), f"o_read.valid is {valid.value}, {where}"
        if read is None:
            return
        text = str(payload.value)[::-1]
        wanted = {f"words[{lane}][{bank}]": data for (lane, bank), data in read.words.items()}
        wanted |= {"first": read.first % BANKS, "header": read.header}
        for field in WINDOW.fields:
            if field.name in wanted:
                got = text[field.offset : field.offset + field.width][::-1]
                should = f"{wanted[field.name]:0{field.width}b}"
                assert got == should, (
                    f"{field.name} is {got}, not {should}: window {read.first} + {read.sectors}, {where}"
                )
        self.count += 1


class Space:
    """Allocation and release, the level in every cycle, and that no block is granted without space."""

    def __init__(self, bench: Bench, idle: float = 0.0, stall: float = 0.0, patient: bool = False) -> None:
        self._bench = bench
        self._level = bench.signal("level")
        self._block_valid = bench.signal("o_block__valid")
        self.sizes: list[int] = []
        self._freed: list[int] = []
        bench.agents.append(self)
        self.allocate = StreamDriver(bench, "i_allocate", COUNT, idle=idle)
        self.blocks = StreamMonitor(bench, "o_block", range(SECTORS), stall=stall, patient=patient)
        self.release = StreamDriver(bench, "i_free", COUNT, idle=idle)

    def ask(self, sizes: list[int]) -> None:
        before = len(self.sizes)
        self.sizes += sizes
        self.allocate.send(sizes)
        self.blocks.expect(block_addresses(np.array(self.sizes), SECTORS)[before:].tolist())

    def free(self, sectors: int) -> None:
        self._freed.append(sectors)
        self.release.send([sectors])

    @property
    def freed(self) -> int:
        """Sectors given up before this cycle."""
        return sum(self._freed[: self.release.count])

    def clear(self) -> None:
        self.sizes.clear()
        self._freed.clear()

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        # The streams' agents sample after this one: their counts are of the cycles before.
        text = str(self._block_valid.value)
        assert text in ("0", "1")
        blocks = self.blocks.count + int(text)
        level = sum(self.sizes[:blocks]) - self.freed
        where = f"cycle {cycle}, seed {self._bench.seed}"
        assert blocks <= granted(np.array(self.sizes, np.int64), self.freed, SECTORS), f"a block has no space, {where}"
        assert str(self._level.value) == f"{level:0{len(self._level)}b}", f"level {self._level.value}: {level}, {where}"


class Life:
    """Blocks come, are filled in any order, read at random, and go: what the buffer is for."""

    def __init__(self, bench: Bench, source: np.random.Generator, ports: Ports, space: Space, activity: float) -> None:
        self._source = source
        self._ports = ports
        self._space = space
        self._activity = activity
        self._missing: list[list[tuple[int, int]]] = []
        self._reads: list[int] = []
        self.done = 0
        self.overlapping = 0
        bench.agents.append(self)

    def clear(self) -> None:
        self._missing.clear()
        self._reads.clear()
        self.done = 0

    def sample(self, cycle: int) -> None:
        pass

    def drive(self) -> None:
        received, sizes = self._space.blocks.received, self._space.sizes
        while len(self._missing) < len(received):
            block = len(self._missing)
            sectors = [(received[block] + k) % SECTORS for k in range(sizes[block])]
            places = [(lane, sector) for lane in range(LANES) for sector in sectors]
            self._source.shuffle(places)
            self._missing.append([(int(lane), int(sector)) for lane, sector in places])
            self._reads.append(int(self._source.integers(1, 2 + min(sizes[block], 40))))
        # There may be a write on every port, to any block.
        for block in range(self.done, len(self._missing)):
            for lane, sector in list(self._missing[block]):
                if (lane, sector % BANKS) not in self._ports.writes and self._source.random() < self._activity:
                    self._ports.put(lane, sector)
                    self._missing[block].remove((lane, sector))
        # One read of a block that is complete, as early as in the cycle of its last write; older blocks more often.
        ready = [b for b in range(self.done, len(self._missing)) if not self._missing[b] and self._reads[b]]
        if ready and self._source.random() < self._activity:
            block = ready[int(self._source.integers(len(ready)) * self._source.random())]
            count = int(self._source.integers(1, 1 + min(BANKS, sizes[block])))
            offset = int(self._source.integers(sizes[block] - count + 1))
            self._ports.want((received[block] + offset) % SECTORS, count)
            self._reads[block] -= 1
        self.overlapping += bool(self._ports.writes and self._ports.reads)
        # The oldest block is given up when it has been read, sometimes in several pieces.
        if self.done < len(self._missing) and not self._missing[self.done] and not self._reads[self.done]:
            left = sizes[self.done]
            while left:
                piece = int(self._source.integers(1, left + 1)) if self._source.random() < 0.3 else left
                self._space.free(piece)
                left -= piece
            self.done += 1


class Beside:
    """Writes at random to some sectors, which must not disturb what is read from others."""

    def __init__(self, bench: Bench, ports: Ports, sectors: range) -> None:
        self._source = bench.random("beside")
        self._ports = ports
        self._sectors = sectors
        self.met = 0
        bench.agents.append(self)

    def drive(self) -> None:
        for lane in range(LANES):
            for sector in self._source.sample(self._sectors, len(self._sectors)):
                if (lane, sector % BANKS) not in self._ports.writes:
                    self._ports.put(lane, sector)
        self.met += bool(self._sectors and self._ports.reads)

    def sample(self, cycle: int) -> None:
        pass

    def clear(self) -> None:
        pass


def make_sizes(seed: int) -> list[int]:
    """Blocks of all sizes, the largest and smallest among them, more often small."""
    source = np.random.default_rng(seed)
    some = [1, SECTORS, 1, 1, SECTORS - 1, 2, SECTORS, BANKS, SECTORS // 2, SECTORS // 2, SECTORS // 2 + 1]
    more = source.integers(1, 1 + np.where(source.random(BLOCKS) < 0.8, SECTORS // 3 + 1, SECTORS))
    return some + more.tolist()


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.4], stall=[0.0, 0.5], seed=SEEDS)
async def blocks_come_and_go(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    ports, space = Ports(bench), Space(bench, idle, stall)
    life = Life(bench, np.random.default_rng(seed), ports, space, 1.0 - idle)
    await bench.reset()
    sizes = make_sizes(seed)
    space.ask(sizes)
    await bench.until(
        lambda: life.done == len(sizes) and not ports.waiting and space.freed == sum(sizes),
        what="end of the last block",
        limit=200 * len(sizes) + 4 * sum(sizes),
    )
    await bench.step(4)
    assert space.blocks.count == len(sizes)
    assert ports.count > len(sizes)
    assert life.overlapping > len(sizes) // 4, "reads and writes hardly met"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def windows_come_every_cycle(dut: HierarchyObject, seed: int) -> None:
    """Every window of a full ring, one per cycle; before each sweep all of the ring is written anew.

    Meanwhile all banks are written behind the ring.
    """
    bench = Bench(dut, seed=seed)
    ports, space = Ports(bench), Space(bench)
    source = np.random.default_rng(seed)
    await bench.reset()
    for base in (0, SECTORS - 3, 2):
        # A ring that is full from `base` on.
        if base:
            space.ask([base])
            await bench.until(lambda: space.blocks.count == space.blocks.expected, what="block")
            space.free(base)
            await bench.step(3)
        space.ask([SECTORS])
        await bench.until(lambda: space.blocks.count == space.blocks.expected, what="block")
        for word in source.permutation(SECTORS // BANKS):
            for lane in range(LANES):
                for bank in range(BANKS):
                    ports.put(lane, int(word) * BANKS + bank)
            await bench.step()
        behind = Beside(bench, ports, range(SECTORS, SECTORS + LINEAR))
        windows = [(first, count) for first in range(SECTORS) for count in range(1, BANKS + 1)]
        if len(windows) > 400:
            windows = [windows[int(n)] for n in source.integers(0, len(windows), 400)]
        source.shuffle(windows)
        before = ports.count
        for first, count in windows:
            end = (first - base) % SECTORS + count
            if end <= SECTORS:
                ports.want(int(first), int(count))
        wanted, start = len(ports.reads), bench.cycle
        await bench.until(lambda: not ports.waiting, what="last window", limit=len(windows) + 10)
        assert ports.count - before == wanted
        assert bench.cycle - start == wanted + DELAY
        assert not LINEAR or behind.met >= wanted - 1
        record("latency", DELAY, unit="cycles", of="read")
        record("cycles_per_window", (bench.cycle - start - DELAY) / wanted, unit="cycles")
        bench.agents.remove(behind)
        space.free(SECTORS)
        await bench.step(3)
        await bench.reset(1)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def what_lies_behind_the_ring_needs_no_space(dut: HierarchyObject, seed: int) -> None:
    """Every window of the space behind the ring three times, written afresh; the ring is full and written meanwhile."""
    bench = Bench(dut, seed=seed)
    ports, space = Ports(bench), Space(bench)
    await bench.reset()
    space.ask([SECTORS])
    await bench.until(lambda: space.blocks.count == 1, what="block")
    windows = [
        (first, count)
        for first in range(SECTORS, SECTORS + LINEAR)
        for count in range(1, min(BANKS, SECTORS + LINEAR - first) + 1)
        for _ in range(3)
    ]
    source = np.random.default_rng(seed)
    source.shuffle(windows)
    for first, count in windows:
        for lane in range(LANES):
            for sector in range(first, first + count):
                ports.put(lane, sector)
        await bench.step()
        beside = Beside(bench, ports, range(SECTORS))
        await bench.step(int(source.integers(1, 3)))
        ports.want(first, count)
        await bench.until(lambda: not ports.waiting, what="window")
        bench.agents.remove(beside)
        await bench.step()
    assert ports.count == len(windows)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def space_is_granted_as_soon_as_it_suffices(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    ports, space = Ports(bench), Space(bench)
    await bench.reset()
    # An allocation every two cycles while there is space.
    space.ask([1] * SECTORS + [2, SECTORS, 1])
    await bench.until(lambda: space.blocks.count == SECTORS, what="full ring", limit=4 * SECTORS)
    asked, got = space.allocate.cycles[:SECTORS], space.blocks.cycles
    assert [later - earlier for earlier, later in zip(asked, got, strict=True)] == [2] * SECTORS
    assert got == list(range(got[0], got[0] + 2 * SECTORS, 2))
    record("latency", 2, unit="cycles", of="allocation")
    record("cycles_per_allocation", (got[-1] - got[0]) / (SECTORS - 1), unit="cycles")
    # A block of two sectors waits for two; then a block of all for all, down to the last; then one of one for one.
    for count in (2, SECTORS, 1):
        for left in reversed(range(count)):
            await bench.step(4)
            granted_before = space.blocks.count
            space.free(1)
            await bench.step(3)
            assert space.blocks.count == granted_before + (left == 0)
        assert space.blocks.cycles[-1] == space.release.cycles[-1] + 2
    # While a block is not taken the next one waits.
    space.free(SECTORS)
    space.blocks.stop()
    space.ask([2, 3])
    await bench.step(10)
    space.blocks.start()
    await bench.step(6)
    assert space.blocks.cycles[-1] == space.blocks.cycles[-2] + 2
    assert ports.count == 0


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    Ports(bench)
    space = Space(bench, patient=True)
    await bench.reset()
    space.ask([1] * (SECTORS // 2))
    await bench.drain(limit=20)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_empties_the_ring(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    ports, space = Ports(bench), Space(bench, stall=0.3)
    life = Life(bench, np.random.default_rng(seed), ports, space, 0.9)
    sizes = make_sizes(seed)
    await bench.reset()
    for cycles in [*range(1, 12), 40, 90]:
        space.ask(sizes[::-1])
        await bench.step(cycles)
        await bench.reset(1)
        # Nothing may come that was asked for before the reset.
        await bench.step(DELAY + 3)
        space.ask(sizes[:3])
        await bench.until(
            lambda: life.done == 3 and not ports.waiting, what="end of the last block", limit=1000 + 4 * SECTORS
        )
        await bench.reset(1)
