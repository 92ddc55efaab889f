"""How the testbench of `axi_writer` is run: sim/verify/benches/axi_writer.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.memory.axi_writer import AxiWriter
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

SIZES: dict[str, dict[str, int]] = {
    "16": {"address_bits": 40, "local_bits": 20, "channel_bits": 16, "depth": 32, "outstanding": 64},
    "64": {"address_bits": 33, "local_bits": 24, "channel_bits": 64, "depth": 37, "outstanding": 30},
    "256": {"address_bits": 40, "local_bits": 24, "channel_bits": 256, "depth": 32, "outstanding": 64},
    "small": {"address_bits": 15, "local_bits": 9, "channel_bits": 128, "depth": 4, "outstanding": 7},
}


def run_arguments(size: dict[str, int], sectors: int = 200) -> dict[str, Any]:
    return {
        "component": AxiWriter(**size),
        "test_module": "spatten.sim.verify.benches.axi_writer",
        "parameters": {"size": size, "seeds": seeds(1), "sectors": sectors, "stops": 16},
    }


def mutation_run() -> dict[str, Any]:
    """Every test with two beats a sector, and with addresses that have every bit of the base."""
    run = run_arguments({**SIZES["small"], "address_bits": 40}, 60)
    run["parameters"]["stops"] = 10
    return run


def measurement_run(config: Config) -> dict[str, Any]:
    """The writer of one of a configuration's channels."""
    unit = instances.axi_writer(config)
    return instance_run(unit, run_arguments(sizes(unit)))
