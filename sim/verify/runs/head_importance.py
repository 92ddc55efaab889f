"""How the testbench of `head_importance` is run: sim/verify/benches/head_importance.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.head_importance import HeadImportance
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

Size = dict[str, int]


def size(lanes: int, operand_bits: int, head_dim_max: int, heads: int, slots: int, bits: int) -> Size:
    return {
        "lanes": lanes,
        "operand_bits": operand_bits,
        "head_dim_max": head_dim_max,
        "heads": heads,
        "slots": slots,
        "bits": bits,
    }


def size_of(config: Config) -> Size:
    """The unit of a whole machine."""
    return sizes(instances.head_importance(config))


SMALL = size(16, 5, 32, 3, 2, 18)


def run_arguments(size: Size, rows: int, count: int = 2) -> dict[str, Any]:
    component = HeadImportance(**size)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.head_importance",
        "parameters": {"size": size, "latency": component.latency, "rows": rows, "seeds": seeds(count)},
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """One small run that checks everything."""
    return run_arguments(SMALL, 120, 1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures latency and rate at the size of `config`."""
    run = instance_run(instances.head_importance(config), run_arguments(size_of(config), 300, 1))
    return {**run, "simulator": "verilator"}
