"""How the testbench of `qk` is run: sim/verify/benches/qk.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.qk import QkArray
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

MIXED_ARRAY = {
    "multipliers": 64,
    "lanes": 4,
    "slice_width": 32,
    "operand_bits": 4,
    "head_dim_max": 64,
    "header": 5,
}
"""Small, and has everything: several slices, several keys per slice, keys of several beats, packing."""
SHORT = {"levels_per_stage": 3}


def array_of(config: Config, **changes: Any) -> dict[str, Any]:
    """Parameters of the array in a machine of this configuration."""
    return {**sizes(instances.qk(config)), **changes}


def run_arguments(array: dict[str, Any], *, rows: int = 120, reset_step: int = 2) -> dict[str, Any]:
    """Arguments of `cosimulate` for the array with these parameters."""
    component = QkArray(**array)
    sizes = {name: array[name] for name in ("multipliers", "lanes", "slice_width", "operand_bits", "head_dim_max")}
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.qk",
        "parameters": {
            **sizes,
            "head_dim_min": component.head_dim_min,
            "header": array["header"],
            "delay": component.delay,
            "places": component.places,
            "rows": rows,
            "reset_step": reset_step,
            "seeds": seeds(1),
        },
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """One small run that checks everything."""
    return run_arguments({**MIXED_ARRAY, **SHORT}, rows=30, reset_step=5)


def measurement_run(config: Config) -> dict[str, Any]:
    """The array of a whole machine."""
    return instance_run(instances.qk(config), run_arguments(array_of(config), rows=60, reset_step=5))
