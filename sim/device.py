"""The simulated accelerator behind the driver: what `--engine rtl` runs on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from host.driver import Device
from hw.config import Config
from hw.spatten import Spatten
from sim.machine import Machine
from sim.transport import SimulatedTransport
from sim.verilog import convert

__all__ = ["simulated_device"]


@contextmanager
def simulated_device(config: Config, *, memory: str = "ideal", console: Console | None = None) -> Iterator[Device]:
    """The accelerator of a configuration: generated, compiled unless `build/sim` has it, reset, its memory empty.

    `memory` is a model of `sim.machine.Machine.set_memory`; on `console`, None: stderr, the progress is shown.
    """
    console = Console(stderr=True) if console is None else console
    began = time.monotonic()
    with console.status(f"generating the Verilog of {config.name}"):
        verilog = convert(Spatten(config=config), name="spatten")
    generated = time.monotonic()
    machine = Machine(verilog, config)
    ready = time.monotonic()
    console.print(
        f"Verilog of {config.name}: {verilog.count(chr(10)):,} lines, generated in {generated - began:.0f} s, "
        f"ready to run after {ready - generated:.0f} s more",
        highlight=False,
    )
    with machine:
        machine.set_memory(memory)
        with Device(SimulatedTransport(machine)) as device:
            yield device
