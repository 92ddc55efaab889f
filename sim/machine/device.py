"""The simulated accelerator behind the driver: what the engine `rtl` runs on, which importing this module registers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from spatten.host.driver.device import Device
from spatten.host.engines.registry import EngineName, register
from spatten.hw.emit.verilog import convert
from spatten.hw.spatten import Spatten
from spatten.sim.machine.kept_verilog import kept_verilog
from spatten.sim.machine.machine import Machine
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.verify.build import require_tools
from spatten.spec.config import Config

__all__ = ["accelerator_verilog", "simulated_device"]


def accelerator_verilog(config: Config, *, assertions: bool = False) -> str:
    """Verilog of the accelerator, generated or, if nothing that makes it has changed, found in the cache.

    `assertions` adds assertions about what every unit's neighbours must keep to; without, it is as it is delivered.
    """
    return kept_verilog(
        ["accelerator", config.as_dict(), assertions],
        lambda: convert(Spatten(config=config), name="spatten", assertions=assertions),
    )


@contextmanager
def simulated_device(config: Config, *, memory: str = "ideal", console: Console | None = None) -> Iterator[Device]:
    """The accelerator of a configuration: generated, compiled unless the cache has it, reset, its memory empty.

    `memory` is a model of `sim.machine.machine.Machine.set_memory`. The progress is shown on `console`, or, if that is
    None, on stderr if it is a terminal.
    """
    require_tools("verilator")  # now rather than after the minute that the generator takes
    if console is None:
        console = Console(stderr=True)
        console.quiet = not console.is_terminal  # elsewhere stderr is for errors
    began = time.monotonic()
    with console.status(f"generating the Verilog of {config.name}"):
        verilog = accelerator_verilog(config)
    generated = time.monotonic()
    lines = verilog.count("\n")
    console.print(f"Verilog of {config.name}: {lines:,} lines, after {generated - began:.0f} s", highlight=False)
    machine = Machine(verilog, config)
    console.print(f"simulator ready, after {time.monotonic() - generated:.0f} s more", highlight=False)
    with machine:
        machine.set_memory(memory)
        with Device(SimulatedTransport(machine)) as device:
            yield device


register(EngineName.RTL, simulated_device)
