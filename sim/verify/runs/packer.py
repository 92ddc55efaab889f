"""How the testbench of `packer` is run: sim/verify/benches/packer.py."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ShapeLike
from amaranth.lib import data

from spatten.hw import instances
from spatten.hw.lib.packer import Compactor, Packer
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config


def run_arguments(
    lanes: int,
    shape: Any,
    layers_per_stage: int | None,
    header: int | None,
    *,
    seed_count: int = 1,
    measures: bool = False,
) -> dict[str, Any]:
    element: ShapeLike = data.StructLayout(shape) if isinstance(shape, dict) else shape
    component = (
        Compactor(shape=element, lanes=lanes, header=header)
        if layers_per_stage is None
        else Packer(shape=element, lanes=lanes, layers_per_stage=layers_per_stage, header=header)
    )
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.packer",
        "parameters": {
            "lanes": lanes,
            "shape": shape,
            "delay": component.delay,
            "header": header,
            "compacts": layers_per_stage is None,
            "measures": measures,
            "seeds": seeds(seed_count),
        },
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    return run_arguments(3, 4, 1, 2)


def measurement_run(config: Config) -> dict[str, Any]:
    """The packer of local pruning."""
    packer = instances.packer(config)
    return instance_run(packer, run_arguments(**sizes(packer), measures=True))
