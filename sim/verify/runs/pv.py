"""How the testbench of `pv` is run: sim/verify/benches/pv.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.pv import PvArray
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

Size = dict[str, int]


def size(
    multipliers: int, lanes: int, slice_width: int, operand_bits: int, prob_bits: int, head_dim_max: int, header: int
) -> Size:
    return {
        "multipliers": multipliers,
        "lanes": lanes,
        "slice_width": slice_width,
        "operand_bits": operand_bits,
        "prob_bits": prob_bits,
        "head_dim_max": head_dim_max,
        "header": header,
    }


def size_of(config: Config) -> Size:
    """The array of a whole machine."""
    return sizes(instances.pv(config))


SMALL = size(32, 2, 16, 4, 8, 32, 3)


def run_arguments(size: Size, rows: int, most_keys: int, count: int = 2, **changes: Any) -> dict[str, Any]:
    component = PvArray(**{**size, **changes})
    parameters = {
        "size": size,
        "head_dim_min": component.head_dim_min,
        "latency": component.latency,
        "rows": rows,
        "most_keys": most_keys,
        "seeds": seeds(count),
    }
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.pv",
        "parameters": parameters,
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """One small run that checks everything."""
    return run_arguments(SMALL, 30, 16, 1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures latency and rate at the size of `config`."""
    return {
        **instance_run(instances.pv(config), run_arguments(size_of(config), 60, config.tokens_max, 1)),
        "simulator": "verilator",
        "timeout_seconds": 600,
    }
