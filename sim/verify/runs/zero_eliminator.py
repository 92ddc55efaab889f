"""How the testbench of `zero_eliminator` is run: sim/verify/benches/zero_eliminator.py."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ShapeLike
from amaranth.lib import data

from spatten.hw import instances
from spatten.hw.lib.zero_eliminator import ZeroEliminator
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config


def run_arguments(
    lanes: int, shape: Any, stages: int | None, count: int = 2, header: int | None = None
) -> dict[str, Any]:
    element: ShapeLike = data.StructLayout(shape) if isinstance(shape, dict) else shape
    component = ZeroEliminator(shape=element, lanes=lanes, stages=stages, header=header)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.zero_eliminator",
        "parameters": {
            "lanes": lanes,
            "shape": shape,
            "stages": component.stages,
            "header": header,
            "seeds": seeds(count),
        },
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """A number of lanes that is no power of two, in every test."""
    return run_arguments(5, 3, 2, 1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The eliminator of local pruning."""
    eliminator = instances.zero_eliminator(config)
    return instance_run(eliminator, run_arguments(**sizes(eliminator)))
