"""How the testbench of `axi_reader` is run: sim/verify/benches/axi_reader.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.memory.axi_reader import AxiReader
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

SIZES: dict[str, dict[str, int]] = {
    "16": {"address_bits": 40, "local_bits": 20, "channel_bits": 16, "outstanding": 128},
    "64": {"address_bits": 33, "local_bits": 24, "channel_bits": 64, "outstanding": 70},
    "256": {"address_bits": 40, "local_bits": 24, "channel_bits": 256, "outstanding": 128},
    "small": {"address_bits": 15, "local_bits": 9, "channel_bits": 128, "outstanding": 5},
}


def run_arguments(size: dict[str, int], sectors: int = 200) -> dict[str, Any]:
    return {
        "component": AxiReader(**size),
        "test_module": "spatten.sim.verify.benches.axi_reader",
        "parameters": {"size": size, "seeds": seeds(1), "sectors": sectors, "stops": 24},
    }


def mutation_run() -> dict[str, Any]:
    """Every test with two beats a sector, and with addresses that have every bit of the base."""
    run = run_arguments({**SIZES["small"], "address_bits": 40}, 60)
    run["parameters"]["stops"] = 10
    return run


def measurement_run(config: Config) -> dict[str, Any]:
    """The reader of one of a configuration's channels."""
    unit = instances.axi_reader(config)
    return instance_run(unit, run_arguments(sizes(unit)))
