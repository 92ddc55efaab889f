"""How the testbench of `fifo` is run: sim/verify/benches/fifo.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import Config


def fifo_run(depth: int, width: int, count: int = 1) -> dict[str, Any]:
    size = {"width": width, "capacity": depth + 1, "latency": 2, "has_level": True, "seeds": seeds(count)}
    return {
        "component": Fifo(shape=width, depth=depth),
        "test_module": "spatten.sim.verify.benches.fifo",
        "parameters": size,
    }


def skid_buffer_run(width: int, count: int = 1) -> dict[str, Any]:
    size = {"width": width, "capacity": 2, "latency": 1, "has_level": False, "seeds": seeds(count)}
    return {"component": SkidBuffer(shape=width), "test_module": "spatten.sim.verify.benches.fifo", "parameters": size}


def mutation_run() -> dict[str, Any]:
    """A FIFO whose depth is no power of two, in every test."""
    return fifo_run(5, 3)


def skid_buffer_mutation_run() -> dict[str, Any]:
    return skid_buffer_run(3)


def measurement_run(config: Config) -> dict[str, Any]:
    """A FIFO of a channel's outstanding requests."""
    return fifo_run(64, config.channel_bits)
