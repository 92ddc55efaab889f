"""The whole accelerator: its Verilog behind its registers and channels, bit for bit against the golden model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from host.driver import Device
from hw.config import SECTOR_BYTES, TINY
from hw.spatten import Spatten
from sim.machine import Machine
from sim.random_jobs import Campaign
from sim.transport import SimulatedTransport
from sim.verilog import convert

SECTORS = 40_000


@pytest.fixture(scope="module")
def verilog() -> str:
    """Of the accelerator, with assertions about what every unit's neighbours must keep to."""
    return convert(Spatten(config=TINY), name="spatten", assertions=True)


@pytest.fixture
def device(verilog: str) -> Iterator[Device]:
    machine = Machine(verilog, TINY)
    with Device(SimulatedTransport(machine)) as device:
        yield device


def run_campaign(device: Device, campaign: Campaign, count: int, **wanted: Any) -> None:
    """Run tasks of a campaign, several in flight, and compare everything."""
    tasks = [campaign.task(**wanted) for _ in range(count)]
    for channel in range(device.config.channels):
        device.transport.write_memory(channel, 0, campaign.initial[channel].tobytes())
    for task in tasks:
        device.submit_fields(task.fields)
    for task in tasks:
        report = device.wait(task.tag, timeout_cycles=200_000)
        for name, value in task.report.items():
            got = getattr(report, name)
            if isinstance(got, np.ndarray):
                got = sum(1 << int(head) for head in got)
            assert got == value, f"{name} is {got}, not {value}: {task}"
    for channel in range(device.config.channels):
        size = campaign.memory.bytes[channel].size
        image = np.frombuffer(device.transport.read_memory(channel, 0, size), np.uint8).reshape(-1, SECTOR_BYTES)
        wrong = np.flatnonzero((image != campaign.memory.bytes[channel]).any(axis=1))
        assert len(wrong) == 0, f"channel {channel}: sectors {wrong[:8]} differ"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_random_jobs(device: Device, seed: int, stall: float) -> None:
    assert isinstance(device.transport, SimulatedTransport)
    if stall:
        device.transport.machine.set_back_pressure(stall, seed=seed)
    run_campaign(device, Campaign(TINY, seed, sectors=SECTORS), 60)
