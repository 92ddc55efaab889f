"""Random campaigns for as long as you like: `make soak N=1000`.

Every campaign has its own seed, which chooses its jobs, its memory's latency and back-pressure, and where each
channel's memory begins. The first difference from the golden model ends the soak, with the command that shows it again.
"""

from __future__ import annotations

import itertools
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.main import run_app
from host.driver import Device, DeviceError
from host.transport import TransportError
from hw.config import SECTOR_BYTES, load
from hw.errors import SpattenError
from hw.spatten import Spatten
from sim.build import require_tools
from sim.campaigns import DifferenceError, machine_of, move, run
from sim.machine import Machine, MachineError
from sim.random_jobs import Campaign
from sim.transport import SimulatedTransport
from sim.verilog import convert

__all__ = ["Conditions", "conditions", "soak_one"]

CAMPAIGN_JOBS = 50
MOST = 1 << 62
"""Of jobs and seeds: what is counted stays an integer of 64 bits."""


class SoakError(SpattenError, ValueError):
    """An option of the soak that cannot be."""


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
    """Those of a campaign."""
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
    # What one job can take at most: a plane of every kind and its output, of 16 bits an element each.
    largest = 5 * config.tokens_max * config.heads_max * config.head_dim_max * 2 // SECTOR_BYTES
    campaign = Campaign(config, seed, sectors=min(jobs * largest + 1_000, 1 << config.sector_bits))
    run(device, campaign, [campaign.task() for _ in range(jobs)], wait_cycles=100_000_000, done=done)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    config: Annotated[str, typer.Option(help="paper, eighth, ulx3s, tiny or a .toml file")] = "tiny",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE", help="change it")] = None,
    jobs: Annotated[int, typer.Option(help="jobs to run; 0: until Ctrl-C")] = 1000,
    seed: Annotated[int | None, typer.Option(help="of the first campaign; others count up from it")] = None,
    campaign_jobs: Annotated[int, typer.Option(help="jobs of a campaign")] = CAMPAIGN_JOBS,
) -> None:
    """Run random jobs until one differs from the golden model."""
    console = Console()
    first = secrets.randbelow(1 << 32) if seed is None else seed
    chosen = load(config, set_ or ())
    for name, value, least in (("jobs", jobs, 0), ("seed", first, 0), ("campaign-jobs", campaign_jobs, 1)):
        if not least <= value <= MOST:
            raise SoakError(f"{name} must be {least} to {MOST}, not {value}")
    console.print(f"{chosen.name}: campaigns of {campaign_jobs} jobs, the first with seed {first}", highlight=False)
    bar = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), *bar)
    started = time.monotonic()
    require_tools("verilator")  # rather now than after the generator's minute
    verilog = convert(Spatten(config=chosen), name="spatten", assertions=True)
    device = Device(SimulatedTransport(Machine(verilog, chosen, answer_seconds=600)))
    finished = 0
    current = first
    with device, Progress(*columns, console=console) as progress:
        meter = progress.add_task("", total=jobs or None)
        try:
            for current in itertools.count(first):
                count = min(campaign_jobs, jobs - finished) if jobs else campaign_jobs
                if count == 0:
                    break
                progress.update(meter, description=f"seed {current}")
                soak_one(device, current, count, done=lambda: progress.advance(meter))
                finished += count
        except KeyboardInterrupt:
            if jobs:
                raise
        except (DifferenceError, DeviceError, MachineError, TransportError) as error:
            changes = "".join(f" --set {shlex.quote(change)}" for change in set_ or ())
            where = f"--config {shlex.quote(config)}{changes}"
            again = f"{where} --seed {current} --jobs {count} --campaign-jobs {count}"
            raise CampaignError(
                f"seed {current}, {conditions(current)}:\n{error}\nagain: python -m sim.soak {again}"
            ) from error
    seconds = time.monotonic() - started
    console.print(f"{finished} jobs as in the golden model, in {seconds:.0f} s; last seed {current}", highlight=False)


if __name__ == "__main__":
    run_app(app, "python -m sim.soak")
