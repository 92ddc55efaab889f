"""Runs campaigns of random jobs on a simulated accelerator and compares everything with the golden model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from spatten.golden.attention import planes
from spatten.golden.state import state_sectors
from spatten.host.driver.device import Device
from spatten.host.driver.encoding import Report
from spatten.host.driver.errors import JobRejectedError
from spatten.host.driver.protocol import ADDRESS_END
from spatten.sim.machine.machine import Machine
from spatten.sim.machine.random_jobs import Campaign, Task, lacking_asks
from spatten.sim.machine.transport import SimulatedTransport
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.constants import PAGE_BYTES
from spatten.spec.errors import SpattenError
from spatten.spec.job import Flag
from spatten.spec.register_map import RejectReason

__all__ = [
    "DifferenceError",
    "compare",
    "compare_counters",
    "compare_memory",
    "fill",
    "machine_of",
    "move",
    "require_refusal",
    "run_campaign",
    "submit",
    "written_regions",
]

WAIT_CYCLES = 1_000_000
"""Cycles within which a job must be done, whatever its memory does."""


class DifferenceError(SpattenError, AssertionError):
    """The accelerator did not do what the golden model does; the message has the job."""

    exit_status = 1


def machine_of(device: Device) -> Machine:
    """The simulation behind a device."""
    assert isinstance(device.transport, SimulatedTransport)
    return device.transport.machine


def move(device: Device, random: np.random.Generator) -> None:
    """Let the memory of every channel begin somewhere else: at an end of what can be addressed, or in between."""
    size = device.sectors // device.config.channels * SECTOR_BYTES
    last = (ADDRESS_END - size) // PAGE_BYTES
    pages = [random.choice([0, 1, last, int(random.integers(last))]) for _ in device.bases]
    device.set_bases([PAGE_BYTES * int(page) for page in pages])


def fill(device: Device, campaign: Campaign) -> None:
    """Write the memory image that a campaign's tasks begin with."""
    for channel, base in enumerate(device.bases):
        device.transport.write_memory(channel, base, campaign.initial[channel].tobytes())


def written_regions(device: Device, tasks: Iterable[Task]) -> list[tuple[int, int, int]]:
    """Where the tasks may write, as `Machine.allow_writes` wants it: outputs, and states that are saved."""
    config = device.config
    regions = []
    for task in tasks:
        output = planes(config, task.job, task.at).output
        spans = [(output.base, task.job.queries * output.row_sectors)]
        if task.fields["flags"] >> Flag.STORE_STATE & 1:
            spans.append((task.fields["state"], state_sectors(config)))
        for first, sectors in spans:
            for channel, base in enumerate(device.bases):
                mine = len(range(channel, sectors, config.channels))
                regions.append((channel, base + first // config.channels * SECTOR_BYTES, mine * SECTOR_BYTES))
    return regions


def submit(device: Device, tasks: Iterable[Task]) -> None:
    """Queue all tasks; one in four asks first for each thing that the machine lacks, which must be refused."""
    for number, task in enumerate(tasks):
        for fields in lacking_asks(device.config, task.fields) if number % 4 == 0 else ():
            require_refusal(device, fields)
        device.submit_fields(task.fields)


def require_refusal(device: Device, fields: dict[str, int]) -> None:
    """Raise `DifferenceError` unless the machine refuses a job because it lacks what the job asks for."""
    try:
        device.submit_fields(fields)
    except JobRejectedError as error:
        if error.reason == RejectReason.FEATURE:
            return
        raise DifferenceError(f"a job that asks for what the machine lacks was refused otherwise: {error}") from error
    raise DifferenceError(f"a job was taken that asks for what the machine lacks: {fields}")


def compare(report: Report, task: Task) -> None:
    """Raise `DifferenceError` unless `report` is what the golden model reports for the task."""
    for name, value in task.report.items():
        got = getattr(report, name)
        if isinstance(got, np.ndarray):
            got = sum(1 << int(head) for head in got)
        if got != value:
            raise DifferenceError(f"{name} is {got}, not {value}: {task}")


def compare_counters(before: dict[str, int], after: dict[str, int], tasks: Iterable[Task]) -> None:
    """Raise `DifferenceError` unless the performance counters have grown by what the tasks add."""
    tasks = list(tasks)
    for name in tasks[0].counters:
        wanted = sum(task.counters[name] for task in tasks)
        if after[name] - before[name] != wanted:
            raise DifferenceError(f"counter {name} grew by {after[name] - before[name]}, not {wanted}, over {tasks}")


def compare_memory(device: Device, campaign: Campaign, tasks: Sequence[Task]) -> None:
    """Raise `DifferenceError` unless all of memory is as the golden model leaves it."""
    config = device.config
    for channel, base in enumerate(device.bases):
        wanted = campaign.memory.bytes[channel]
        image = np.frombuffer(device.transport.read_memory(channel, base, wanted.size), np.uint8).reshape(wanted.shape)
        wrong = np.flatnonzero((image != wanted).any(axis=1))
        if len(wrong):
            sector = int(wrong[0]) * config.channels + channel
            owners = [
                task
                for task in tasks
                if any(
                    number == channel and start <= base + int(wrong[0]) * SECTOR_BYTES < start + size
                    for number, start, size in written_regions(device, [task])
                )
            ]
            whose = str(owners[0]) if owners else "where no task writes"
            raise DifferenceError(
                f"channel {channel}: sectors {wrong[:8]} of {len(wrong)} differ; {sector} is of: {whose}"
            )


def run_campaign(
    device: Device,
    campaign: Campaign,
    tasks: Sequence[Task],
    *,
    wait_cycles: int = WAIT_CYCLES,
    done: Callable[[], object] = lambda: None,
) -> None:
    """Run tasks of a campaign, several in flight; compare reports, counters and memory, and forbid other writes.

    `done` is called for each task. Raises `DifferenceError`.
    """
    machine = machine_of(device)
    fill(device, campaign)
    machine.allow_writes(written_regions(device, tasks))
    before = device.counters()
    submit(device, tasks)
    for task in tasks:
        compare(device.wait(task.tag, timeout_cycles=wait_cycles), task)
        done()
    compare_counters(before, device.counters(), tasks)
    outside = machine.outside()
    if outside.bytes:
        raise DifferenceError(f"{outside.bytes} bytes were written where no task writes: {outside}")
    compare_memory(device, campaign, tasks)
