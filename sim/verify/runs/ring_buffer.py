"""How the testbench of `ring_buffer` is run: sim/verify/benches/ring_buffer.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import Config
from spatten.spec.row_format import BANKS, key_ring_sectors, lsb_sectors, value_ring_sectors

HEADER_BITS = 5


def run_arguments(
    *, lanes: int, sectors: int, banks: int = 4, linear: int = 0, blocks: int = 40, count: int = 1
) -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    sizes = {"lanes": lanes, "sectors": sectors, "banks": banks, "linear": linear}
    return {
        "component": RingBuffer(header=HEADER_BITS, **sizes),
        "test_module": "spatten.sim.verify.benches.ring_buffer",
        "parameters": {**sizes, "header_bits": HEADER_BITS, "blocks": blocks, "seeds": seeds(count)},
        "seed": seeds(count)[0],
    }


def mutation_run() -> dict[str, Any]:
    """A small run that checks everything."""
    return run_arguments(lanes=1, sectors=12, linear=8)


def measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures the key buffer of `config`."""
    return run_arguments(
        lanes=config.slices,
        sectors=key_ring_sectors(config),
        banks=BANKS,
        linear=lsb_sectors(config),
        blocks=0,
    )


def value_measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures the value buffer of `config`."""
    return run_arguments(lanes=config.slices, sectors=value_ring_sectors(config), banks=BANKS, blocks=0)
