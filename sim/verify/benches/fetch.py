"""Testbench of hw/memory/fetch.py; tests/hw/memory/test_fetch.py runs it."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.golden.address_generator import Request, RowGroup, requests
from spatten.golden.fetch import Place, writes
from spatten.golden.memory import Plane
from spatten.hw.emit.payload import Payload
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE
from spatten.hw.memory.fetch import Fetch
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver

PARAMETERS = parameters()
SEEDS: list[int] = PARAMETERS["seeds"]
FETCH = Fetch(**{**PARAMETERS["size"], "ring_sectors": tuple(PARAMETERS["size"]["ring_sectors"])})
GENERATOR = FETCH.generator
CHANNELS, ROWS, LANES = GENERATOR.channels, GENERATOR.rows, GENERATOR.lanes
SEQUENCES = 1 << GENERATOR.sequence_bits
RINGS = (QUERY, KEY, VALUE, LINEAR) if GENERATOR.linear_sectors else (QUERY, KEY, VALUE)


CROSSING = 2 if CHANNELS > 1 else 0
"""Least cycles from a sector to its write."""


def sector(channel: int, address: int) -> int:
    """The contents of the memory: 256 bits that differ everywhere."""
    return random.Random(f"{channel} {address}").getrandbits(256)


class Channels:
    """All channels of a memory: answers after `latency` cycles, in order, one sector a cycle.

    `stall` is the share of cycles in which a channel takes no request, and of those in which it has no answer; `slow`
    channels answer at a quarter of the rate; those in `blocked` take no request.
    """

    def __init__(self, bench: Bench, *, latency: int, stall: float, slow: tuple[int, ...] = ()) -> None:
        self.bench = bench
        self.latency = latency
        self.stall = stall
        self.slow = slow
        self.blocked: set[int] = set()
        self.random = bench.random("channels")
        self.valid = [bench.signal(f"o_address__{c}__valid") for c in range(CHANNELS)]
        self.ready = [bench.signal(f"o_address__{c}__ready") for c in range(CHANNELS)]
        self.address = [bench.signal(f"o_address__{c}__payload") for c in range(CHANNELS)]
        self.data_valid = [bench.signal(f"i_data__{c}__valid") for c in range(CHANNELS)]
        self.data_ready = [bench.signal(f"i_data__{c}__ready") for c in range(CHANNELS)]
        self.data = [bench.signal(f"i_data__{c}__payload") for c in range(CHANNELS)]
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.queues: list[deque[tuple[int, int]]] = [deque() for _ in range(CHANNELS)]
        self.shown = [False] * CHANNELS
        self.takes = [False] * CHANNELS
        self.beats = [0] * CHANNELS
        self.cycle = 0
        self.answered: list[int] = []

    def drive(self) -> None:
        for channel in range(CHANNELS):
            self.takes[channel] = self.random.random() >= self.stall and channel not in self.blocked
            self.ready[channel].value = int(self.takes[channel])
            if self.shown[channel]:
                continue
            queue = self.queues[channel]
            slow = channel in self.slow and self.random.random() < 0.75
            if queue and queue[0][0] <= self.cycle and self.random.random() >= self.stall and not slow:
                self.shown[channel] = True
                self.data[channel].value = sector(channel, queue[0][1])
                self.data_valid[channel].value = 1
            else:
                self.data[channel].value = LogicArray("X" * 256) if self.bench.four_state else 0
                self.data_valid[channel].value = 0

    def sample(self, cycle: int) -> None:
        self.cycle += 1
        self.answered = []
        for channel in range(CHANNELS):
            if self.shown[channel] and int(self.data_ready[channel].value):
                self.answered.append(channel)
                self.shown[channel] = False
                self.queues[channel].popleft()
                self.beats[channel] += 1
            if self.takes[channel] and int(self.valid[channel].value):
                self.queues[channel].append((self.cycle + self.latency, int(self.address[channel].value)))


class Banks:
    """All write ports, cycle by cycle, and `completed`.

    A sector that was taken waits for its port, `CROSSING` cycles at least, behind those of its channel for the same
    bank. A port writes whenever a sector waits for it, that of the first channel behind the one it served last. A group
    is completed no earlier than the latency after its last write.
    """

    def __init__(self, bench: Bench, channels: Channels) -> None:
        self.bench = bench
        self.channels = channels
        self.layout = Payload(FETCH.crossbar.write_shape)
        self.ports = [bench.signal(f"write__{port}") for port in range(4 * LANES)]
        self.completed = bench.signal("completed")
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self.groups: list[Counter[tuple[Place, int]]] = []
        self.left: Counter[tuple[Place, int]] = Counter()
        self.written: deque[tuple[int, tuple[Place, int]]] = deque()
        self.requests: list[deque[Request]] = [deque() for _ in range(CHANNELS)]
        # by channel and bank, of each sector: the cycle from which it may be written, its lane, and what is written
        self.columns: dict[tuple[int, int], deque[tuple[int, int, tuple[Place, int]]]] = {
            (channel, bank): deque() for channel in range(CHANNELS) for bank in range(4)
        }
        self.served = [CHANNELS - 1] * (4 * LANES)
        self.contended = 0
        self.groups_done = 0
        self.last_write = 0
        self.last_completion = 0
        self.count = 0

    def expect(self, ones: list[list[Request]]) -> None:
        groups = writes(ones, sector)
        self.groups += [Counter(group) for group in groups]
        for group in groups:
            self.left.update(group)
        for channel, own in enumerate(ones):
            self.requests[channel].extend(own)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        for channel in self.channels.answered:
            assert self.requests[channel], f"channel {channel} answers more than it was asked, cycle {cycle}"
            one = self.requests[channel].popleft()
            key = ((one.ring, one.lane, one.bank, one.word), sector(channel, one.address))
            self.columns[channel, one.bank].append((cycle + CROSSING, one.lane, key))
        for number, port in enumerate(self.ports):
            self._sample_port(cycle, number, str(port.value))
        while self.written and self.written[0][0] <= cycle - PARAMETERS["completion"]:
            self.left[self.written.popleft()[1]] -= 1
        done = int(self.completed.value)
        while self.groups_done % SEQUENCES != done:
            assert self.groups_done < len(self.groups), f"completed is {done}, beyond the last group, cycle {cycle}"
            group = self.groups[self.groups_done]
            # equal sectors of later groups may still be outstanding, but not more of them than those groups have
            for key, times in group.items():
                later = sum(other[key] for other in self.groups[self.groups_done + 1 :])
                assert self.left[key] <= later, f"group {self.groups_done} is completed without {key}, {times}"
            self.groups_done += 1
            self.last_completion = cycle

    def _sample_port(self, cycle: int, number: int, text: str) -> None:
        lane, bank = divmod(number, 4)
        waiting = {}
        for channel in range(CHANNELS):
            column = self.columns[channel, bank]
            if column and column[0][0] <= cycle and column[0][1] == lane:
                waiting[channel] = column[0][2]
        assert text[-1] == str(int(bool(waiting))), (
            f"write{number}.enable is {text[-1]} with {len(waiting)} sectors waiting, cycle {cycle}"
        )
        if not waiting:
            return
        assert set(text) <= {"0", "1"}, f"write{number} is {text} while enabled"
        value = self.layout.unpack(int(text, 2))
        key = ((value["ring"], lane, bank, value["word"]), value["data"])
        winner = min(waiting, key=lambda channel: (channel - self.served[number] - 1) % CHANNELS)
        assert key == waiting[winner], (
            f"write{number}: unexpected {key[0]} = {value['data']:#x}, it is channel {winner}'s turn, cycle {cycle}"
        )
        self.contended += len(waiting) > 1
        self.served[number] = winner
        column = self.columns[winner, bank]
        column.popleft()
        if column:
            # the sector behind it comes to the queue's end, and can be written in the next cycle
            ready, place, wanted = column[0]
            column[0] = (max(ready, cycle + 1), place, wanted)
        self.written.append((cycle, key))
        self.count += 1
        self.last_write = cycle

    @property
    def finished(self) -> bool:
        return self.groups_done == len(self.groups) and not any(self.left.values()) and not any(self.requests)


class Setup:
    def __init__(
        self, dut: HierarchyObject, seed: int, *, idle: float = 0.0, stall: float = 0.0, **memory: Any
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        self.source = StreamDriver(self.bench, "i", GENERATOR.group_shape, idle=idle)
        self.channels = Channels(self.bench, **{"latency": 5, "stall": stall, **memory})
        self.banks = Banks(self.bench, self.channels)
        self.random = np.random.default_rng(seed + 1)

    def send(self, groups: list[RowGroup]) -> None:
        ones = requests(groups, channels=CHANNELS, lanes=LANES, ring_sectors=GENERATOR.ring_sectors, sequence_bits=30)
        self.banks.expect(ones)
        for group in groups:
            ids = self.random.integers(1 << GENERATOR.id_bits, size=ROWS)
            ids[: len(group.ids)] = group.ids
            rest = {name: getattr(group, name) for name in ("sector", "pitch", "sectors", "ring", "place", "stride")}
            self.source.send([{"ids": [int(number) for number in ids], "count": len(group.ids), **rest}])

    async def finish(self, tail: int = 20) -> None:
        quiet, before = 0, -1
        while not self.banks.finished:
            await self.bench.step()
            progress = self.banks.count + self.banks.groups_done + self.source.count
            quiet = 0 if progress != before else quiet + 1
            before = progress
            assert quiet < 400, f"stuck with {self.banks.groups_done} of {len(self.banks.groups)} groups"
        await self.bench.step(tail)


def random_groups(seed: int, count: int) -> list[RowGroup]:
    """Row groups of every ring, width, fill and place."""
    source = np.random.default_rng(seed)
    groups = []
    for number in range(count):
        ring = RINGS[source.integers(len(RINGS))]
        sectors = 1 + number % 8
        pitch = int(source.integers(sectors, 9))
        rows = int(source.integers(1, ROWS + 1))
        stride = int(source.integers(1, 9))
        place = int(source.integers(GENERATOR.ring_sectors[min(ring, VALUE)]))
        if ring == LINEAR:
            # Behind the key ring nothing wraps.
            most = GENERATOR.linear_sectors - (rows - 1) // LANES * stride - sectors
            place = GENERATOR.ring_sectors[KEY] + int(source.integers(most + 1))
        groups.append(
            RowGroup(
                ids=np.sort(source.choice(1 << GENERATOR.id_bits, rows, replace=False)),
                sector=int(source.integers((1 << GENERATOR.sector_bits) - (8 << GENERATOR.id_bits))),
                pitch=pitch,
                sectors=sectors,
                ring=ring,
                place=place,
                stride=stride,
            )
        )
    return groups


def one_sector(source: np.random.Generator, channel: int) -> RowGroup:
    """A row of one sector, which a channel has."""
    number = int(source.integers(1 << GENERATOR.id_bits))
    local = int(source.integers(1 << GENERATOR.sector_bits - 1)) // CHANNELS
    return RowGroup(
        ids=np.array([number]),
        sector=(local * CHANNELS + channel - number) % (1 << GENERATOR.sector_bits - 1),
        pitch=1,
        sectors=1,
        ring=KEY,
        place=int(source.integers(GENERATOR.ring_sectors[KEY])),
        stride=1,
    )


def plane_groups(ids: np.ndarray[Any, Any], *, heads: int, bits: int) -> list[RowGroup]:
    """The rows `ids` of every head of a key plane, whose bases are skewed by a row per group of heads."""
    plane = Plane(channels=CHANNELS, base=0, rows=1 << GENERATOR.id_bits, heads=heads, head_dim=64, bits=bits)
    place, groups = 0, []
    for head in range(plane.groups):
        for first in range(0, len(ids), ROWS):
            groups.append(
                RowGroup(
                    ids=ids[first : first + ROWS],
                    sector=int(plane.row_address(head, 0)),
                    pitch=plane.row_sectors,
                    sectors=plane.row_sectors,
                    ring=KEY,
                    place=place,
                    stride=plane.row_sectors,
                )
            )
            place = (place + -(-len(groups[-1].ids) // LANES) * plane.row_sectors) % GENERATOR.ring_sectors[KEY]
    return groups


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.4], seed=SEEDS)
async def every_sector_arrives_once_and_completion_is_in_order(
    dut: HierarchyObject, idle: float, stall: float, seed: int
) -> None:
    setup = Setup(dut, seed, idle=idle, stall=stall)
    await setup.bench.reset()
    # more groups than numbers, so that the numbers wrap
    groups = random_groups(seed, PARAMETERS["groups"])
    setup.send(groups)
    await setup.finish()
    assert setup.source.count == len(groups)
    assert int(setup.bench.signal("accepted").value) == len(groups) % SEQUENCES


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def a_slow_channel_changes_only_the_time(dut: HierarchyObject, seed: int) -> None:
    setup = Setup(dut, seed, latency=1, stall=0.0, slow=(seed % CHANNELS,))
    await setup.bench.reset()
    setup.send(random_groups(seed, PARAMETERS["groups"]))
    await setup.finish()


@cocotb.test(skip=CHANNELS == 1)
@cocotb.parametrize(blocked=[0, CHANNELS - 1], seed=SEEDS)
async def a_blocked_channel_holds_up_no_group_that_does_without_it(
    dut: HierarchyObject, blocked: int, seed: int
) -> None:
    """As many groups pass as have numbers, however few places the channel's queue has."""
    setup = Setup(dut, seed, latency=1)
    await setup.bench.reset()
    setup.channels.blocked.add(blocked)
    source = np.random.default_rng(seed)
    # As many requests as the blocked channel's stages hold, and one or two that wait in its queue.
    held = [one_sector(source, blocked) for _ in range(10)]
    others = [channel for channel in range(CHANNELS) if channel != blocked]
    passing = [one_sector(source, int(source.choice(others))) for _ in range(SEQUENCES // 2 - 4 - len(held))]
    groups = held + passing
    setup.send(groups)
    await setup.bench.step(60 + 2 * len(groups))
    assert setup.source.count == len(groups), f"{setup.source.count} of {len(groups)} groups are taken"
    assert setup.banks.count == len(passing)
    assert setup.banks.groups_done == 0
    setup.channels.blocked.clear()
    await setup.finish()


@cocotb.test
@cocotb.parametrize(bank=range(4), seed=SEEDS)
async def all_channels_want_one_bank(dut: HierarchyObject, bank: int, seed: int) -> None:
    setup = Setup(dut, seed, latency=1)
    await setup.bench.reset()
    source = np.random.default_rng(seed + bank)
    groups = []
    for _ in range(60):
        ring = (QUERY, KEY, VALUE)[source.integers(3)]
        sectors = GENERATOR.ring_sectors[ring] // 4
        groups.append(
            RowGroup(
                ids=np.sort(source.choice(1 << GENERATOR.id_bits, ROWS, replace=False)),
                sector=int(source.integers((1 << GENERATOR.sector_bits) - (8 << GENERATOR.id_bits))),
                pitch=1,
                sectors=1,
                ring=ring,
                place=int(source.integers(sectors)) * 4 + bank,
                stride=4,
            )
        )
    setup.send(groups)
    await setup.finish()
    assert CHANNELS == 1 or setup.banks.contended > 20, setup.banks.contended


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_forgets_what_is_under_way(dut: HierarchyObject, seed: int) -> None:
    setup = Setup(dut, seed, stall=0.3)
    for taken in range(0, 60, 5):
        await setup.bench.reset(1)
        setup.send(random_groups(seed + taken, 12))
        await setup.bench.step(taken)
        await setup.bench.reset(1)
        await setup.bench.step(20)
        setup.send(random_groups(seed + taken + 1, 4))
        await setup.finish()


@cocotb.test
async def latencies_are_those_of_the_docstrings(dut: HierarchyObject) -> None:
    setup = Setup(dut, 1, latency=8)
    await setup.bench.reset()
    setup.send([RowGroup(ids=np.arange(1), sector=0, pitch=1, sectors=1, ring=KEY, place=0, stride=1)])
    await setup.finish()
    completion = setup.banks.last_completion - setup.banks.last_write
    assert completion == PARAMETERS["completion"], f"completion takes {completion} cycles"
    # 11 to the request, 8 of the memory and its own register, and through the crossbar to the port
    total = setup.banks.last_write - setup.source.cycles[0]
    assert total == 11 + 9 + CROSSING, f"{total} cycles from a group to its write"
    record("latency", total - 9, unit="cycles")
    record("completion_latency", completion, unit="cycles")


@cocotb.test(skip=CHANNELS < 16)
async def random_rows_keep_all_channels_busy(dut: HierarchyObject) -> None:
    for count in (256, 512):
        for seed in SEEDS:
            setup = Setup(dut, seed, latency=40)
            await setup.bench.reset()
            ids = np.sort(np.random.default_rng(seed).choice(1 << GENERATOR.id_bits, count, replace=False))
            groups = plane_groups(ids, heads=12, bits=8)
            setup.send(groups)
            await setup.finish()
            beats = 2 * 12 * count
            assert setup.banks.count == beats
            # from the first possible write to the last one
            cycles = setup.banks.last_write - setup.source.cycles[0] - (11 + 41 + 2) + 1
            fraction = beats / CHANNELS / cycles
            record("channel_beats_per_cycle", fraction, rows=count, seed=seed)
            assert fraction >= 0.95, f"{fraction:.3f} of all channel cycles at {count} random rows, seed {seed}"
            setup.bench.agents.clear()
