"""How the testbench of `address_generator` is run: sim/verify/benches/address_generator.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.memory.address_generator import AddressGenerator
from spatten.sim.verify.runs.instance import sizes
from spatten.spec.config import Config

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"channels": 2, "rows": 2, "lanes": 2, "id_bits": 4, "sector_bits": 10, "ring_sectors": (32, 36, 64)},
    "one channel": {
        "channels": 1,
        "rows": 4,
        "lanes": 1,
        "id_bits": 5,
        "sector_bits": 10,
        "ring_sectors": (40, 44, 64),
    },
    "wide": {"channels": 4, "rows": 8, "lanes": 4, "id_bits": 6, "sector_bits": 12, "ring_sectors": (72, 100, 96)},
}


def size(config: Config) -> dict[str, Any]:
    """Parameters of the unit in a configuration."""
    return sizes(instances.address_generator(config))


def mutation_run() -> dict[str, Any]:
    """A small run that must notice a fault."""
    return {
        "component": AddressGenerator(**SIZES["tiny"]),
        "test_module": "spatten.sim.verify.benches.address_generator",
        "parameters": {"size": SIZES["tiny"], "seeds": [1], "groups": 70},
    }


def measurement_run(config: Config) -> dict[str, Any]:
    """The unit at a configuration's size."""
    parameters = size(config)
    return {
        "component": instances.address_generator(config),
        "test_module": "spatten.sim.verify.benches.address_generator",
        "parameters": {"size": parameters, "seeds": [1], "groups": 60},
    }
