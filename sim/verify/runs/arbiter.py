"""How the testbench of `arbiter` is run: sim/verify/benches/arbiter.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.lib.arbiter import RoundRobin
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import Config


def run_arguments(inputs: int, width: int, count: int = 1) -> dict[str, Any]:
    return {
        "component": RoundRobin(shape=width, inputs=inputs),
        "test_module": "spatten.sim.verify.benches.arbiter",
        "parameters": {"inputs": inputs, "width": width, "seeds": seeds(count)},
    }


def mutation_run() -> dict[str, Any]:
    """An arbiter of a number of inputs that is no power of two."""
    return run_arguments(5, 3)


def measurement_run(config: Config) -> dict[str, Any]:
    """One input of every channel, a sector wide."""
    return run_arguments(max(2, config.channels), 256)
