"""How the testbench of `ring_buffer` is run: sim/verify/benches/ring_buffer.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config

HEADER_BITS = 5


def run_arguments(
    *,
    lanes: int,
    sectors: int,
    banks: int = 4,
    linear: int = 0,
    header: int = HEADER_BITS,
    blocks: int = 40,
    count: int = 1,
) -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    size = {"lanes": lanes, "sectors": sectors, "banks": banks, "linear": linear}
    return {
        "component": RingBuffer(header=header, **size),
        "test_module": "spatten.sim.verify.benches.ring_buffer",
        "parameters": {**size, "header_bits": header, "blocks": blocks, "seeds": seeds(count)},
        "seed": seeds(count)[0],
    }


def mutation_run() -> dict[str, Any]:
    """A small run that checks everything."""
    return run_arguments(lanes=1, sectors=12, linear=8)


def measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures the key buffer of `config`."""
    ring = instances.key_ring(config)
    return instance_run(ring, run_arguments(**sizes(ring), blocks=0))


def value_measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures the value buffer of `config`."""
    ring = instances.value_ring(config)
    return instance_run(ring, run_arguments(**sizes(ring), blocks=0))
