"""How the testbench of `head_importance` is run: sim/verify/benches/head_importance.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.datapath.head_importance import HeadImportance
from spatten.sim.verify.cosim import seeds
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
    dims = (config.buffer_dim, config.operand_bits, config.head_dim_max)
    return size(*dims, config.heads_max, config.contexts, config.head_importance_bits)


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
    return {**run_arguments(size_of(config), 300, 1), "simulator": "verilator"}
