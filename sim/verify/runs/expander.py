"""How the testbench of `expander` is run: sim/verify/benches/expander.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.lib.expander import Expander
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config


def run_arguments(lanes: int, width: int, seed_count: int = 2) -> dict[str, Any]:
    return {
        "component": Expander(shape=width, lanes=lanes),
        "test_module": "spatten.sim.verify.benches.expander",
        "parameters": {"lanes": lanes, "width": width, "seeds": seeds(seed_count)},
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """A small run that checks everything."""
    return run_arguments(3, 4, 1)


def measurement_run(config: Config) -> dict[str, Any]:
    """That of the token importance unit."""
    expander = instances.expander(config)
    size = sizes(expander)
    return instance_run(expander, run_arguments(size["lanes"], size["shape"], 1))
