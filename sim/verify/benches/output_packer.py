"""Testbench of hw/datapath/output_packer.py; tests/hw/datapath/test_output_packer.py runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject

from spatten.golden.memory import OutputRegion
from spatten.golden.output_packer import sector_writes
from spatten.hw.datapath.output_packer import placed_beat
from spatten.hw.memory.axi import sector_write
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench, StreamDriver, StreamMonitor
from spatten.spec.config import HEAD_DIMS

PARAMETERS = parameters()
SIZE: dict[str, int] = PARAMETERS["size"]
LANES, CHANNELS, ROWS, HEADS = SIZE["lanes"], SIZE["channels"], SIZE["rows"], SIZE["heads"]
ADDRESS_BITS, OPERAND_BITS, DEPTH = SIZE["address_bits"], SIZE["operand_bits"], SIZE["depth"]
DIMS = [dim for dim in HEAD_DIMS if SIZE["head_dim_min"] <= dim <= SIZE["head_dim_max"]]
TAKES_TURNS: bool = PARAMETERS["takes_turns"]
COUNT: int = PARAMETERS["rows_sent"]
SEEDS: list[int] = PARAMETERS["seeds"]
LAYOUT = placed_beat(**{name: value for name, value in SIZE.items() if name not in ("depth", "head_dim_min")})
LATENCY = 4


@dataclass
class Traffic:
    """Beats, what each channel must get, and how many channels and cycles each beat takes."""

    beats: list[dict[str, Any]] = field(default_factory=list)
    writes: list[list[dict[str, int]]] = field(default_factory=lambda: [[] for _ in range(CHANNELS)])
    cycles: list[int] = field(default_factory=list)
    channels: list[list[int]] = field(default_factory=list)


class Counters:
    """Checks the counters in every cycle against what was sent and taken; first of a bench's agents."""

    def __init__(self, bench: Bench, source: StreamDriver, sinks: list[StreamMonitor]) -> None:
        self._ports = [bench.signal(name) for name in ("beats_in", "beats_done", "queued")]
        self._source = source
        self._sinks = sinks
        # For each channel, how many of its sectors the first n beats have.
        self.sectors = [[0] for _ in range(CHANNELS)]
        self.clear()
        bench.agents.insert(0, self)

    def drive(self) -> None:
        pass

    def sample(self, cycle: int) -> None:
        beats_in, beats_done, queued = (int(port.value) for port in self._ports)
        assert beats_in == self._source.count % 256, f"beats_in is {beats_in}, cycle {cycle}"
        self.done += (beats_done - self.done) % 256
        assert self.done <= self._source.count, f"beats_done is {beats_done}, cycle {cycle}"
        for channel, sink in enumerate(self._sinks):
            count = self.queued[channel]
            count += (queued >> 16 * channel) - count & 0xFFFF
            self.queued[channel] = count
            assert sink.count <= count <= sink.count + DEPTH + 1, f"queued is {queued:#x}, cycle {cycle}"
            assert count >= self.sectors[channel][self.done], f"{self.done} beats are done too early, cycle {cycle}"

    def expect(self, traffic: Traffic) -> None:
        for channel in range(CHANNELS):
            for channels in traffic.channels:
                self.sectors[channel].append(self.sectors[channel][-1] + channels.count(channel))

    def clear(self) -> None:
        self.done = 0
        self.queued = [0] * CHANNELS


def make_traffic(seed: int, dims: list[int] = DIMS, count: int = COUNT) -> Traffic:
    """Rows of random regions; the first two are a region's first at its lowest base and its last at its highest."""
    source = np.random.default_rng(seed)
    low, high = -(1 << (OPERAND_BITS - 1)), (1 << (OPERAND_BITS - 1)) - 1
    traffic = Traffic()
    for n in range(count):
        dim = int(source.choice(dims))
        heads = HEADS if n < 2 else int(source.integers(1, HEADS + 1))
        region = OutputRegion(channels=CHANNELS, base=0, heads=heads, head_dim=dim)
        last_base = (1 << ADDRESS_BITS) - -(-ROWS * region.row_sectors // CHANNELS)
        base = CHANNELS * (0 if n == 0 else last_base if n == 1 else int(source.integers(last_base + 1)))
        region = OutputRegion(channels=CHANNELS, base=base, heads=heads, head_dim=dim)
        head = 0 if n == 0 else heads - 1 if n == 1 else int(source.integers(heads))
        row = 0 if n == 0 else ROWS - 1 if n == 1 else int(source.integers(ROWS))
        output = source.integers(low, high + 1, (1, dim))
        output[:, : dim // 8] = source.choice([low, high], dim // 8)
        channels, local, content = sector_writes(region, np.array([head]), np.array([row]), output)
        for channel, address, sector in zip(channels[0], local[0], content[0], strict=True):
            word = int.from_bytes(sector.tobytes(), "little")
            traffic.writes[int(channel)].append({"address": int(address), "data": word})
        for part in range(max(1, dim // LANES)):
            # Elements beyond the head dimension are the packer's to ignore, so they carry data here.
            lanes = source.integers(low, high + 1, LANES)
            lanes[: min(dim, LANES)] = output[0, part * LANES : (part + 1) * LANES]
            place = {"row": row, "head": head, "heads": heads, "base": base}
            code = dim.bit_length() - 5
            traffic.beats.append({"lanes": lanes.tolist(), "part": part, "dim": code, **place})
            sectors = min(dim, LANES) // 16
            traffic.cycles.append(max(1, sectors // CHANNELS))
            traffic.channels.append(channels[0, part * sectors : (part + 1) * sectors].tolist())
    return traffic


def make_bench(
    dut: HierarchyObject, seed: int, idle: float = 0.0, stall: float = 0.0, patient: bool = False
) -> tuple[Bench, StreamDriver, list[StreamMonitor]]:
    bench = Bench(dut, seed=seed)
    source = StreamDriver(bench, "i", LAYOUT, idle=idle)
    sinks = [
        StreamMonitor(bench, f"o__{channel}", sector_write(ADDRESS_BITS), stall=stall, patient=patient)
        for channel in range(CHANNELS)
    ]
    return bench, source, sinks


def start(source: StreamDriver, sinks: list[StreamMonitor], traffic: Traffic) -> None:
    source.send(traffic.beats)
    for sink, writes in zip(sinks, traffic.writes, strict=True):
        sink.expect(writes)


@cocotb.test
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5], seed=SEEDS)
async def writes_match_golden(dut: HierarchyObject, idle: float, stall: float, seed: int) -> None:
    bench, source, sinks = make_bench(dut, seed, idle, stall)
    traffic = make_traffic(seed)
    assert min(len(writes) for writes in traffic.writes) > 2, "a channel gets hardly anything"
    counters = Counters(bench, source, sinks)
    counters.expect(traffic)
    await bench.reset()
    start(source, sinks, traffic)
    await bench.drain()
    assert counters.done == source.count == len(traffic.beats)
    assert counters.queued == [sink.count for sink in sinks]
    assert [sink.count for sink in sinks] == [len(writes) for writes in traffic.writes]
    if idle or stall:
        return
    # Each beat follows as soon as the one before has had its cycles, and its sectors leave LATENCY cycles later.
    first = source.cycles[0]
    due: list[list[int]] = [[] for _ in range(CHANNELS)]
    begin = 0
    for n, (cycles, channels) in enumerate(zip(traffic.cycles, traffic.channels, strict=True)):
        # Two beats are inside before one has left, the second a cycle later where beats are taken in turn.
        taken = 0 if n == 0 else max(n, sum(traffic.cycles[: n - 1]) + (2 if TAKES_TURNS else 1 if n > 1 else 0))
        assert source.cycles[n] - first == taken, f"beat {n}"
        for sector, channel in enumerate(channels):
            due[channel].append(first + LATENCY + begin + sector * cycles // len(channels))
        begin += cycles
    assert [sink.cycles for sink in sinks] == due
    record("latency", sinks[traffic.channels[0][0]].cycles[0] - first, unit="cycles")


@cocotb.test
@cocotb.parametrize(dim=DIMS)
async def beats_take_their_cycles(dut: HierarchyObject, dim: int) -> None:
    """A long run of rows of one head dimension: the rate of the docstring, on the input."""
    bench, source, sinks = make_bench(dut, SEEDS[0])
    traffic = make_traffic(SEEDS[0] + dim, dims=[dim])
    await bench.reset()
    start(source, sinks, traffic)
    await bench.drain()
    per_beat = max(1, min(dim, LANES) // 16 // CHANNELS)
    assert source.cycles[-1] - source.cycles[1] == (len(traffic.beats) - 2) * per_beat
    record("cycles_per_beat", (source.cycles[-1] - source.cycles[1]) / (source.count - 2), head_dim=dim)


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def valid_does_not_wait_for_ready(dut: HierarchyObject, seed: int) -> None:
    bench, source, sinks = make_bench(dut, seed, patient=True)
    await bench.reset()
    start(source, sinks, make_traffic(seed))
    await bench.drain(limit=100)


@cocotb.test
async def a_stalled_channel_holds_its_depth(dut: HierarchyObject) -> None:
    """While one channel takes nothing the others get all sectors until `depth` + 1 wait for it, and nothing is lost."""
    for channel in range(0, CHANNELS, max(1, CHANNELS // 4)):
        bench, source, sinks = make_bench(dut, SEEDS[0])
        traffic = make_traffic(SEEDS[0] + channel, dims=DIMS[:1], count=40 * CHANNELS)
        await bench.reset()
        sinks[channel].stop()
        start(source, sinks, traffic)
        await bench.step(40 * CHANNELS + 20)
        # Beats are taken up to the one whose sector has no place, and one more; its earlier steps reach the others.
        steps = [
            ((n, sector // CHANNELS), target)
            for n, channels in enumerate(traffic.channels)
            for sector, target in enumerate(channels)
        ]
        waits = [step for step, target in steps if target == channel][DEPTH + 1]
        assert source.count == waits[0] + 2
        assert sum(sink.count for sink in sinks) == sum(target != channel and step < waits for step, target in steps)
        sinks[channel].start()
        await bench.drain()


@cocotb.test
async def reset_drops_the_beats_inside(dut: HierarchyObject) -> None:
    bench, source, sinks = make_bench(dut, SEEDS[0], stall=0.6)
    traffic = make_traffic(SEEDS[0], count=30)
    await bench.reset()
    for taken in range(12):
        start(source, sinks, traffic)
        await bench.step(taken)
        await bench.reset(1)
        await bench.step(12)
        # The monitors expect nothing yet, so a write left over would have failed.
        assert all(sink.count == 0 for sink in sinks)
        start(source, sinks, make_traffic(SEEDS[0] + taken, count=6))
        await bench.drain()
        await bench.reset(1)
