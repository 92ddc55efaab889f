"""Testbench of hw/memory/address_generator.py; tests/hw/memory/test_address_generator.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden.address_generator import RowGroup, requests
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE, AddressGenerator
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor

PARAMETERS = parameters()
SEEDS: list[int] = PARAMETERS["seeds"]
GENERATOR = AddressGenerator(**{**PARAMETERS["size"], "ring_sectors": tuple(PARAMETERS["size"]["ring_sectors"])})
CHANNELS, ROWS, LANES = GENERATOR.channels, GENERATOR.rows, GENERATOR.lanes
SEQUENCES = 1 << GENERATOR.sequence_bits
RINGS = (QUERY, KEY, VALUE, LINEAR) if GENERATOR.linear_sectors else (QUERY, KEY, VALUE)
LATENCY = 11


class Completed:
    """Tells the circuit, some cycles late, how far its requests have been taken, as the return path does."""

    def __init__(self, bench: Bench, sinks: list[StreamMonitor], ends: list[list[int]], delay: int) -> None:
        self.signal = bench.signal("completed")
        self.sinks = sinks
        self.ends = ends
        self.history = [0] * delay
        bench.agents.append(self)

    def drive(self) -> None:
        done = 0
        while done < len(self.ends) and all(
            sink.count >= end for sink, end in zip(self.sinks, self.ends[done], strict=True)
        ):
            done += 1
        self.history.append(done)
        self.signal.value = self.history.pop(0) % SEQUENCES

    def sample(self, cycle: int) -> None:
        pass

    def clear(self) -> None:
        self.history = [0] * len(self.history)


class Pending:
    """Watches what every channel says is pending: of the groups pushed so far, the first with requests left.

    A channel may not know that group for two cycles, while it comes out of its queue.
    """

    def __init__(self, bench: Bench, sinks: list[StreamMonitor], ends: list[list[int]]) -> None:
        self.pushed = bench.signal("pushed")
        self.signals = [bench.signal(f"pending__{channel}") for channel in range(CHANNELS)]
        self.sinks = sinks
        self.ends = ends
        self.groups = 0
        self.first = [0] * CHANNELS
        self.unknown = [0] * CHANNELS
        # This agent comes before the sinks, so that these have not yet taken this cycle's requests.
        bench.agents.insert(0, self)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        while self.groups % SEQUENCES != int(self.pushed.value):
            self.groups += 1
        for channel, (signal, sink) in enumerate(zip(self.signals, self.sinks, strict=True)):
            text = str(signal.value)
            while self.first[channel] < self.groups and self.ends[self.first[channel]][channel] <= sink.count:
                self.first[channel] += 1
            some = self.first[channel] < self.groups
            assert text[-1] == str(int(some)), f"pending{channel}.some is {text[-1]}, cycle {cycle}"
            if not some:
                continue
            if text[-2] == "1":
                sequence = int(text[:-2], 2)
                wanted = self.first[channel] % SEQUENCES
                assert sequence == wanted, f"pending{channel} is {sequence}, not {wanted}, cycle {cycle}"
                self.unknown[channel] = 0
            else:
                assert text[-2] == "0", f"pending{channel}.known is {text[-2]}, cycle {cycle}"
                self.unknown[channel] += 1
                assert self.unknown[channel] <= 2, f"pending{channel} is not known for long, cycle {cycle}"

    def clear(self) -> None:
        pass


def make_groups(seed: int, count: int) -> list[RowGroup]:
    """Every ring, width and fill, ids dense and sparse, places up to the ring's end."""
    source = np.random.default_rng(seed)
    groups = []
    for number in range(count):
        ring = RINGS[source.integers(len(RINGS))]
        pitch = int(source.integers(1, 9))
        rows = int(source.integers(1, ROWS + 1)) if number % 3 else ROWS
        ids = np.sort(source.choice(1 << GENERATOR.id_bits, rows, replace=False))
        if number % 4 == 0:
            ids = np.arange(rows) + int(source.integers((1 << GENERATOR.id_bits) - rows))
        sectors, stride = int(source.integers(1, pitch + 1)), int(source.integers(1, 9))
        groups.append(
            RowGroup(
                ids=ids,
                sector=int(source.integers((1 << GENERATOR.sector_bits) - (8 << GENERATOR.id_bits))),
                pitch=pitch,
                sectors=sectors,
                ring=ring,
                place=make_place(source, ring, (rows - 1) // LANES * stride + sectors, at_end=number % 2 == 0),
                stride=stride,
            )
        )
    return groups


def make_place(source: np.random.Generator, ring: int, size: int, *, at_end: bool) -> int:
    """Where a group of `size` sectors of a lane may begin: anywhere in a ring, or behind the key ring with room."""
    if ring == LINEAR:
        most = GENERATOR.linear_sectors - size
        return GENERATOR.ring_sectors[KEY] + (most if at_end else int(source.integers(most + 1)))
    sectors = GENERATOR.ring_sectors[ring]
    return sectors - 1 - int(source.integers(4)) if at_end else int(source.integers(sectors))


def payload(group: RowGroup, source: np.random.Generator) -> dict[str, Any]:
    """A group as the circuit takes it; ids beyond `count` are anything."""
    ids = source.integers(1 << GENERATOR.id_bits, size=ROWS)
    ids[: len(group.ids)] = group.ids
    rest = {name: getattr(group, name) for name in ("sector", "pitch", "sectors", "ring", "place", "stride")}
    return {"ids": [int(number) for number in ids], "count": len(group.ids), **rest}


def wanted(groups: list[RowGroup]) -> list[list[dict[str, Any]]]:
    result = requests(
        groups,
        channels=CHANNELS,
        lanes=LANES,
        ring_sectors=GENERATOR.ring_sectors,
        sequence_bits=GENERATOR.sequence_bits,
    )
    return [
        [
            {
                "address": one.address,
                "tag": {name: getattr(one, name) for name in ("ring", "lane", "bank", "word", "sequence")},
            }
            for one in channel
        ]
        for channel in result
    ]


def ends(rows: list[list[dict[str, Any]]], count: int) -> list[list[int]]:
    """How many requests of each channel belong to the groups up to each group, itself included."""
    totals = [[0] * CHANNELS for _ in range(count)]
    for channel, ones in enumerate(rows):
        group = 0
        for one in ones:
            while group % SEQUENCES != one["tag"]["sequence"]:
                group += 1
            totals[group][channel] += 1
    return np.cumsum(totals, axis=0).tolist()


class Setup:
    def __init__(
        self, dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
    ) -> None:
        self.bench = Bench(dut, seed=seed)
        self.source = StreamDriver(self.bench, "i", GENERATOR.group_shape, idle=idle)
        self.sinks = [
            StreamMonitor(self.bench, f"o__{channel}", GENERATOR.request_shape, stall=stall, patient=patient)
            for channel in range(CHANNELS)
        ]
        self.random = np.random.default_rng(seed + 1)

    def send(self, groups: list[RowGroup]) -> list[list[dict[str, Any]]]:
        self.source.send(payload(group, self.random) for group in groups)
        rows = wanted(groups)
        for sink, ones in zip(self.sinks, rows, strict=True):
            sink.expect(ones)
        return rows


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def requests_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    setup = Setup(dut, seed, idle, stall)
    # more groups than numbers, so that the numbers wrap
    groups = make_groups(seed, PARAMETERS["groups"])
    await setup.bench.reset()
    rows = setup.send(groups)
    Completed(setup.bench, setup.sinks, ends(rows, len(groups)), delay=7)
    Pending(setup.bench, setup.sinks, ends(rows, len(groups)))
    await setup.bench.drain()
    assert setup.source.count == len(groups)
    assert int(setup.bench.signal("accepted").value) == int(setup.bench.signal("pushed").value)
    assert int(setup.bench.signal("accepted").value) == len(groups) % SEQUENCES
    for channel in range(CHANNELS):
        assert int(setup.bench.signal(f"pending__{channel}").value) & 1 == 0, "something is left"


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    setup = Setup(dut, seed, patient=True)
    groups = make_groups(seed, 12)
    await setup.bench.reset()
    setup.bench.signal("completed").value = 0
    setup.send(groups)
    await setup.bench.drain()


@cocotb.test
async def one_request_per_channel_and_cycle(dut: HierarchyObject) -> None:
    """Rows that follow each other, in groups with sectors in every channel: each channel has a request every cycle."""
    setup = Setup(dut, 1)
    sectors = max(1, CHANNELS // ROWS)
    groups = [
        RowGroup(
            ids=np.arange(ROWS) + number % 2 * ROWS,
            sector=0,
            pitch=sectors,
            sectors=sectors,
            ring=KEY,
            place=0,
            stride=1,
        )
        for number in range(min(40, SEQUENCES // 2 - 8))
    ]
    await setup.bench.reset()
    setup.bench.signal("completed").value = 0
    rows = setup.send(groups)
    await setup.bench.drain()
    latency = setup.sinks[0].cycles[0] - setup.source.cycles[0]
    assert latency == LATENCY, f"latency is {latency}, not {LATENCY}"
    record("latency", latency, unit="cycles")
    for sink, ones in zip(setup.sinks, rows, strict=True):
        assert len(ones) == len(groups) * ROWS * sectors // CHANNELS
        assert sink.cycles == list(range(sink.cycles[0], sink.cycles[0] + len(ones))), "a channel paused"
    record("requests_per_channel_and_cycle", 1.0)


@cocotb.test
async def a_channel_that_stops_holds_the_others_only_when_its_queue_is_full(dut: HierarchyObject) -> None:
    setup = Setup(dut, 1)
    count = GENERATOR.groups + 3
    sectors = max(1, CHANNELS // ROWS)
    groups = [
        RowGroup(ids=np.arange(ROWS), sector=0, pitch=sectors, sectors=sectors, ring=KEY, place=0, stride=1)
        for _ in range(2 * count)
    ]
    await setup.bench.reset()
    setup.bench.signal("completed").value = 0
    setup.sinks[0].stop()
    setup.send(groups)
    await setup.bench.step(8 * count * -(-ROWS * sectors // CHANNELS) + 40)
    assert GENERATOR.groups <= setup.source.count <= GENERATOR.groups + 12, f"took {setup.source.count} groups"
    for sink in setup.sinks[1:]:
        assert sink.count == setup.source.count * ROWS * sectors // CHANNELS
    setup.sinks[0].start()
    await setup.bench.drain()


@cocotb.test
async def numbers_do_not_run_too_far_ahead(dut: HierarchyObject) -> None:
    """Without anything completed, groups stop before half of the numbers are under way, though channels are free."""
    setup = Setup(dut, 1)
    count = SEQUENCES * 3 // 4 + 2
    groups = [
        RowGroup(ids=np.arange(1), sector=0, pitch=1, sectors=1, ring=KEY, place=0, stride=1) for _ in range(count)
    ]
    await setup.bench.reset()
    setup.bench.signal("completed").value = 0
    setup.send(groups)
    await setup.bench.step(count + 60)
    assert SEQUENCES // 2 - 5 <= setup.source.count < SEQUENCES // 2, f"took {setup.source.count} groups"
    setup.bench.signal("completed").value = SEQUENCES // 4
    await setup.bench.step(count + 60)
    assert SEQUENCES * 3 // 4 - 5 <= setup.source.count < SEQUENCES * 3 // 4, f"took {setup.source.count} groups"
    setup.bench.signal("completed").value = SEQUENCES // 2
    await setup.bench.step(count + 60)
    assert setup.source.count == count
    await setup.bench.drain()


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def reset_drops_what_is_inside(dut: HierarchyObject, seed: int) -> None:
    setup = Setup(dut, seed, stall=0.5)
    for taken in range(0, 30, 2):
        await setup.bench.reset(1)
        setup.bench.signal("completed").value = 0
        setup.send(make_groups(seed + taken, 30))
        await setup.bench.step(taken)
        await setup.bench.reset(1)
        await setup.bench.step(20)
        setup.send(make_groups(seed + taken + 1, 4))
        await setup.bench.drain()
