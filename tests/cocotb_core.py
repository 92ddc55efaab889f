"""The machine between its queue of jobs and its channels: random jobs, bit for bit against the golden model."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
import numpy as np

from hw.config import Config
from hw.job import job_layout, report_layout
from hw.output_packer import sector_write
from sim.cosim import parameters
from sim.payload import Payload
from sim.random_jobs import Campaign
from sim.stream import Bench, StreamDriver, StreamMonitor


class Channel:
    """A memory channel behind its streams: answers in order, after `latency` cycles and more at random."""

    def __init__(self, bench: Bench, number: int, memory: np.ndarray, config: Config, *, latency: int, stall: float):
        self.bench = bench
        self.memory = memory
        self.number = number
        self.latency = latency
        self.stall = stall
        self.source = bench.random(f"channel {number}")
        signal = bench.signal
        self.address = [signal(f"o_address__{number}__{part}") for part in ("payload", "valid", "ready")]
        self.data = [signal(f"i_data__{number}__{part}") for part in ("payload", "valid", "ready")]
        self.write = [signal(f"o_write__{number}__{part}") for part in ("payload", "valid", "ready")]
        self.layout = Payload(sector_write(config.local_sector_bits))
        self.flight: deque[tuple[int, int]] = deque()
        self.shown = False
        self.ready = [0, 0]
        self.acknowledged = 0
        self.acks: deque[int] = deque()
        self.written: list[int] = []
        self.read: list[int] = []
        bench.agents.append(self)

    def clear(self) -> None:
        self.flight.clear()
        self.acks.clear()
        self.shown = False
        self.acknowledged = 0

    def drive(self) -> None:
        for index, signal in enumerate((self.address[2], self.write[2])):
            self.ready[index] = int(self.source.random() >= self.stall)
            signal.value = self.ready[index]
        if (
            not self.shown
            and self.flight
            and self.flight[0][0] <= self.bench.cycle
            and self.source.random() >= self.stall
        ):
            self.data[0].value = int.from_bytes(self.memory[self.flight[0][1]].tobytes(), "little")
            self.shown = True
        self.data[1].value = int(self.shown)
        while self.acks and self.acks[0] <= self.bench.cycle:
            self.acks.popleft()
            self.acknowledged += 1

    def sample(self, cycle: int) -> None:
        if self.shown and str(self.data[2].value) == "1":
            self.flight.popleft()
            self.shown = False
        if self.ready[0] and str(self.address[1].value) == "1":
            address = int(str(self.address[0].value), 2)
            assert address < len(self.memory), f"channel {self.number} reads sector {address}"
            self.read.append(address)
            self.flight.append((cycle + self.latency, address))
        if self.ready[1] and str(self.write[1].value) == "1":
            fields = self.layout.unpack(int(str(self.write[0].value), 2))
            assert fields["address"] < len(self.memory), f"channel {self.number} writes sector {fields['address']}"
            self.memory[fields["address"]] = np.frombuffer(fields["data"].to_bytes(32, "little"), np.uint8)
            self.written.append(fields["address"])
            self.acks.append(cycle + 8)


class Acknowledge:
    """The channels' counters of acknowledged writes."""

    def __init__(self, bench: Bench, channels: list[Channel]) -> None:
        self.signal = bench.signal("acknowledged")
        self.channels = channels
        bench.agents.append(self)

    def clear(self) -> None:
        pass

    def drive(self) -> None:
        value = 0
        for channel in reversed(self.channels):
            value = value << 16 | channel.acknowledged & 0xFFFF
        self.signal.value = value

    def sample(self, cycle: int) -> None:
        pass


def queued(config: Config, fields: dict[str, int]) -> dict[str, Any]:
    """A descriptor's fields as the job queue holds them."""
    scales = [
        {"mantissa": fields[f"mantissa{head}"], "shift": fields[f"shift{head}"]} for head in range(config.heads_max)
    ]
    return {**fields, "scales": scales}


async def run_campaign(dut: Any, *, seed: int, jobs: int, stall: float, latency: int, wanted: dict[str, Any]) -> None:
    config = Config(**parameters()["config"])
    bench = Bench(dut, seed=seed, max_cycles=2_000_000)
    campaign = Campaign(config, seed, sectors=parameters()["sectors"])
    tasks = [campaign.task(**wanted) for _ in range(jobs)]
    memory = campaign.initial.copy()
    channels = [
        Channel(bench, number, memory[number], config, latency=latency, stall=stall)
        for number in range(config.channels)
    ]
    Acknowledge(bench, channels)
    source = StreamDriver(bench, "i_job", job_layout(config), idle=0.3 if stall else 0.0)
    sink = StreamMonitor(bench, "o_report", report_layout(config), stall=stall)
    await bench.reset()
    source.send([queued(config, task.fields) for task in tasks])
    sink.expect([task.report for task in tasks])
    try:
        await bench.drain(limit=parameters().get("limit", 20_000))
    except AssertionError as error:
        done = sink.count
        raise AssertionError(f"{error}\njob {done}: {tasks[min(done, jobs - 1)]}") from error
    for number, task in enumerate(tasks):
        region = task.at.output
        sectors = region + np.arange(task.job.queries * task.job.heads * task.job.head_dim // 16)
        got = memory[sectors % config.channels, sectors // config.channels]
        want = campaign.memory.read(sectors)
        if not np.array_equal(got, want):
            where = np.argwhere((got != want).any(axis=1)).ravel()
            head_sectors = task.job.head_dim // 16
            rows = [
                (int(s) // head_sectors // task.job.heads, int(s) // head_sectors % task.job.heads) for s in where[:6]
            ]
            raise AssertionError(
                f"job {number}: outputs differ in (row, head) {rows} of {len(where)} sectors, seed {seed}: {task}"
            )
    assert np.array_equal(memory, campaign.memory.bytes), f"something outside the outputs was written, seed {seed}"
    cocotb.log.info("%d jobs in %d cycles", jobs, bench.cycle)


@cocotb.test
async def random_jobs(dut: Any) -> None:
    given = parameters()
    for seed in given["seeds"]:
        await run_campaign(
            dut, seed=seed, jobs=given["jobs"], stall=given["stall"], latency=given["latency"], wanted={}
        )
