"""How the testbench of `fetch` is run: sim/verify/benches/fetch.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.memory.fetch import Fetch
from spatten.sim.verify.runs.address_generator import SIZES as GENERATORS
from spatten.sim.verify.runs.address_generator import size as generator_size
from spatten.spec.config import Config

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**GENERATORS["tiny"], "outstanding": 4, "depth": 2},
    "one channel": {**GENERATORS["one channel"], "outstanding": 3, "depth": 1},
    "wide": {**GENERATORS["wide"], "outstanding": 9, "depth": 3},
}
COMPLETION = {"linear": 5, "tiny": 4, "one channel": 3, "wide": 5, "paper": 6}


def mutation_run() -> dict[str, Any]:
    """A small run that must notice a fault; the numbers of groups are so short that they wrap, and more groups than a
    channel has places for can be under way."""
    size = {**SIZES["tiny"], "sequence_bits": 6, "groups": 4}
    return {
        "component": Fetch(**size),
        "test_module": "spatten.sim.verify.benches.fetch",
        "parameters": {"size": size, "seeds": [1], "groups": 70, "completion": COMPLETION["tiny"]},
    }


def crossbar_mutation_run() -> dict[str, Any]:
    """The run of `mutation_run`, with faults in the crossbar only."""
    return {**mutation_run(), "part": "crossbar"}


def measurement_run(config: Config) -> dict[str, Any]:
    """The unit at a configuration's size."""
    unit = instances.fetch(config)
    crossbar = {"outstanding": unit.crossbar.outstanding, "depth": unit.crossbar.depth}
    return {
        "component": unit,
        "test_module": "spatten.sim.verify.benches.fetch",
        "parameters": {
            "size": {**generator_size(config), **crossbar},
            "seeds": [1, 2],
            "groups": 40,
            "completion": COMPLETION["paper" if config.channels == 16 else "one channel"],
        },
        "timeout_seconds": 600,
    }
