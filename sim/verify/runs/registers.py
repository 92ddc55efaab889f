"""How the testbench of `registers` is run: sim/verify/benches/registers.py."""

from __future__ import annotations

import dataclasses
from typing import Any

from spatten.hw import instances
from spatten.hw.front.registers import Registers
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.job_descriptors import possible_reasons
from spatten.sim.verify.runs.instance import instance_run
from spatten.spec.config import TINY, Config


def run_arguments(config: Config, *, rounds: int, waves: dict[str, list[int | None]] | None = None) -> dict[str, Any]:
    """Arguments of `cosimulate`: `rounds` of random accesses, and `waves`, a bus access as a document draws it."""
    return {
        "component": Registers(config=config),
        "test_module": "spatten.sim.verify.benches.registers",
        "parameters": {
            "config": dataclasses.asdict(config),
            "seeds": seeds(1),
            "rounds": rounds,
            "waves": waves,
            "reasons": sorted(reason.name for reason in possible_reasons(config)),
        },
        "timeout_seconds": 900,
    }


def mutation_run() -> dict[str, Any]:
    """The front end of the small configuration."""
    return run_arguments(TINY, rounds=4)


def measurement_run(config: Config) -> dict[str, Any]:
    """The front end of a whole machine."""
    return instance_run(instances.registers(config), run_arguments(config, rounds=4))
