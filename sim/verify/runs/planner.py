"""How the testbench of the planner, sim/verify/benches/planner.py, is run."""

from __future__ import annotations

import dataclasses
from typing import Any

from spatten.hw.control.planner import Planner
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.planner_parts import MANY_GROUPS
from spatten.spec.config import Config

SEQUENCE_BITS = 5
"""Few groups under way, so that their number is a limit."""


def planner_run(config: Config, *, jobs: int) -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    return {
        "component": Planner(config=config, sequence_bits=SEQUENCE_BITS),
        "test_module": "spatten.sim.verify.benches.planner",
        "parameters": {
            "config": dataclasses.asdict(config),
            "sequence_bits": SEQUENCE_BITS,
            "seeds": seeds(1),
            "jobs": jobs,
        },
        "timeout_seconds": 300,
    }


def mutation_run() -> dict[str, Any]:
    return planner_run(MANY_GROUPS, jobs=16)
