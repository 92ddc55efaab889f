"""How the testbench of `local_values` is run: sim/verify/benches/local_values.py."""

from __future__ import annotations

import dataclasses
from typing import Any

from spatten.hw.control.local_values import LocalValues
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import TINY, Config


def run_arguments(config: Config, *, rounds: int = 4, rows: int = 12) -> dict[str, Any]:
    return {
        "component": LocalValues(config=config),
        "test_module": "spatten.sim.verify.benches.local_values",
        "parameters": {"config": dataclasses.asdict(config), "rounds": rounds, "rows": rows, "seeds": seeds(1)},
        "timeout_seconds": 300,
    }


def mutation_run() -> dict[str, Any]:
    return run_arguments(TINY)
