"""How the testbench of `output_packer` is run: sim/verify/benches/output_packer.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.output_packer import OutputPacker
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import HEAD_DIMS, Config


def size(
    lanes: int,
    operand_bits: int,
    head_dim_max: int,
    channels: int,
    rows: int,
    heads: int,
    address_bits: int,
    depth: int,
    head_dim_min: int = HEAD_DIMS[0],
) -> dict[str, int]:
    return {
        "lanes": lanes,
        "operand_bits": operand_bits,
        "head_dim_max": head_dim_max,
        "channels": channels,
        "rows": rows,
        "heads": heads,
        "address_bits": address_bits,
        "depth": depth,
        "head_dim_min": head_dim_min,
    }


def size_of(config: Config) -> dict[str, int]:
    """The unit of a whole machine."""
    return sizes(instances.output_packer(config))


SMALL = size(16, 5, 32, 2, 5, 3, 7, 2)


def run_arguments(size: dict[str, int], rows_sent: int, count: int = 2) -> dict[str, Any]:
    component = OutputPacker(**size)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.output_packer",
        "parameters": {
            "size": size,
            "takes_turns": component.takes_turns,
            "rows_sent": rows_sent,
            "seeds": seeds(count),
        },
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """One small run that checks everything."""
    return run_arguments(SMALL, 40, 1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures latency and rate at the size of `config`."""
    run = instance_run(instances.output_packer(config), run_arguments(size_of(config), 200, 1))
    return {**run, "simulator": "verilator"}
