"""How the testbench of `softmax` is run: sim/verify/benches/softmax.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.softmax import Softmax
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

SMALL = {"lanes": 2, "score_bits": 13, "prob_bits": 12, "row_max": 7, "header": 3}


def unit_of(config: Config) -> dict[str, Any]:
    """The softmax unit of a whole machine."""
    return sizes(instances.softmax(config))


def run_arguments(size: dict[str, Any], *, rows: int, count: int) -> dict[str, Any]:
    """Arguments of `cosimulate` for one size: so many rows in a test, and so many seeds."""
    component = Softmax(**size)
    derived = ("delay", "decision_delay", "decision_places", "output_places", "capacity", "decides")
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.softmax",
        "parameters": {
            **size,
            **{name: getattr(component, name) for name in derived},
            "rows": rows,
            "seeds": seeds(count),
        },
        "seed": seeds()[0],
        "timeout_seconds": 600,
    }


def mutation_run() -> dict[str, Any]:
    """One small run that checks everything."""
    return run_arguments(SMALL, rows=60, count=1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The unit of a whole machine."""
    return instance_run(instances.softmax(config), run_arguments(unit_of(config), rows=50, count=1))
