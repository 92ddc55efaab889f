"""How the testbench of `ram` is run: sim/verify/benches/ram.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.lib.ram import Ram, ReadWriteRam
from spatten.sim.verify.cosim import seeds


def run_arguments(depth: int, width: int, count: int = 1) -> dict[str, Any]:
    return {
        "component": Ram(shape=width, depth=depth),
        "test_module": "spatten.sim.verify.benches.ram",
        "parameters": {"depth": depth, "width": width, "seeds": seeds(count)},
    }


def mutation_run() -> dict[str, Any]:
    """A memory whose depth is no power of two."""
    return run_arguments(11, 6)


def read_write_ram_run(depth: int, width: int) -> dict[str, Any]:
    return {
        "component": ReadWriteRam(shape=width, depth=depth),
        "test_module": "spatten.sim.verify.benches.read_write_ram",
        "parameters": {"depth": depth, "width": width, "cycles": 1500, "seeds": seeds(1)},
    }


def read_write_ram_mutation_run() -> dict[str, Any]:
    """A memory whose depth is no power of two."""
    return read_write_ram_run(11, 6)
