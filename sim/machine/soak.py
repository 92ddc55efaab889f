"""Random campaigns for as long as you like: `make soak N=1000`.

Every campaign has its own seed, which chooses its jobs, its memory's latency and back-pressure, and where each
channel's memory begins. The first difference from the golden model ends the soak, with the command that shows it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatten.host.driver.device import Device
from spatten.sim.machine.campaigns import machine_of, move, run_campaign
from spatten.sim.machine.random_jobs import Campaign
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.errors import SpattenError

__all__ = ["Conditions", "conditions", "soak_one"]

CAMPAIGN_JOBS = 50
MOST = 1 << 62
"""The most jobs, and the largest seed: counts stay integers of 64 bits."""


class SoakError(SpattenError, ValueError):
    """An impossible option of the soak."""


class CampaignError(SpattenError):
    """A campaign did not end as the golden model does; the message says how, and how to see it again."""

    exit_status = 1


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a campaign's memory is like."""

    memory: dict[str, Any]
    stall: float
    registers: bool
    """Whether the register bus stalls, too."""


def conditions(seed: int) -> Conditions:
    """The conditions of the campaign of a seed."""
    random = np.random.default_rng([seed, 1])
    memory: dict[str, Any] = {"model": "hbm2"}
    if random.random() < 0.7:
        latency = int(random.choice([1, 2, 7, 40, 200, int(random.integers(1, 400))]))
        memory = {"model": "ideal", "latency": latency, "write_latency": int(random.integers(1, 200))}
    return Conditions(
        memory=memory,
        stall=float(random.choice([0, 0.1, 0.3, 0.5, 0.9])),
        registers=bool(random.integers(2)),
    )


def soak_one(device: Device, seed: int, jobs: int, *, done: Callable[[], object] = lambda: None) -> None:
    """A campaign, from a reset on. Raises `DifferenceError`, `DeviceError` or `MachineError` with what is wrong."""
    machine = machine_of(device)
    device.reset()
    move(device, np.random.default_rng([seed, 2]))
    chosen = conditions(seed)
    machine.set_memory(**chosen.memory)
    machine.set_back_pressure(chosen.stall, seed=seed, registers=chosen.registers)
    config = device.config
    # The most sectors that one job can take: a plane of every kind and its output, of 16 bits an element each.
    largest = 5 * config.tokens_max * config.heads_max * config.head_dim_max * 2 // SECTOR_BYTES
    campaign = Campaign(config, seed, sectors=min(jobs * largest + 1_000, 1 << config.sector_bits))
    run_campaign(device, campaign, [campaign.task() for _ in range(jobs)], wait_cycles=100_000_000, done=done)
