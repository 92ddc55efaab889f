"""`spatten soak`: random jobs for as long as you like."""

from __future__ import annotations

import itertools
import secrets
import shlex
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceError
from spatten.host.driver.transport import TransportError
from spatten.sim.machine.campaigns import DifferenceError, machine_of
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.machine.machine import Machine, MachineError
from spatten.sim.machine.soak import CAMPAIGN_JOBS, MOST, CampaignError, SoakError, conditions, soak_one
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.verify.build import require_tools
from spatten.spec.config import load


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
    require_tools("verilator")  # now rather than after the minute that the generator takes
    verilog = accelerator_verilog(chosen, assertions=True)
    device = Device(SimulatedTransport(Machine(verilog, chosen, answer_seconds=600)))
    finished = 0
    current = first
    with device, Progress(*columns, console=console) as progress:
        meter = progress.add_task("", total=jobs or None)
        machine_of(device).output_hash(begin=True)
        try:
            for current in itertools.count(first):
                count = min(campaign_jobs, jobs - finished) if jobs else campaign_jobs
                progress.update(meter, description=f"seed {current}")
                soak_one(device, current, count, done=lambda: progress.advance(meter))
                finished += count
                if finished == jobs:
                    break
        except KeyboardInterrupt:
            if jobs:
                raise
        except (DifferenceError, DeviceError, MachineError, TransportError) as error:
            changes = "".join(f" --set {shlex.quote(change)}" for change in set_ or ())
            where = f"--config {shlex.quote(config)}{changes}"
            again = f"{where} --seed {current} --jobs {count} --campaign-jobs {count}"
            raise CampaignError(
                f"seed {current}, {conditions(current)}:\n{error}\nagain: spatten soak {again}"
            ) from error
        outputs = machine_of(device).output_hash()
    seconds = time.monotonic() - started
    console.print(f"{finished} jobs as in the golden model, in {seconds:.1f} s; last seed {current}", highlight=False)
    console.print(f"hash of all outputs in all cycles: {outputs:016x}", highlight=False)
