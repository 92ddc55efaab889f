"""How the testbench of `converter` is run: sim/verify/benches/converter.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.converter import Converter
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import HEAD_DIMS, PLANE_BITS, Config
from spatten.spec.row_format import CODE_BITS

HEADER_BITS = 9


def run_arguments(
    *,
    tensor: str,
    slices: int,
    slice_width: int,
    lanes: int,
    operand_bits: int,
    banks: int = 4,
    header: int = HEADER_BITS,
    head_dims: tuple[int, ...] = HEAD_DIMS,
    widths: tuple[int, ...] | None = None,
    every_first: bool = True,
    count: int = 1,
) -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    if widths is None:
        widths = tuple(bits for bits in (CODE_BITS if tensor == "query" else PLANE_BITS) if bits <= operand_bits)
    size: dict[str, Any] = {
        "tensor": tensor,
        "slices": slices,
        "slice_width": slice_width,
        "lanes": lanes,
        "operand_bits": operand_bits,
        "head_dims": head_dims,
        "widths": widths,
        "banks": banks,
    }
    return {
        "component": Converter(header=header, **size),
        "test_module": "spatten.sim.verify.benches.converter",
        "parameters": {
            **size,
            "header_bits": header,
            "every_first": every_first,
            "seeds": seeds(count),
        },
        "seed": seeds(count)[0],
    }


def converter_sizes(config: Config, tensor: str) -> dict[str, Any]:
    return sizes(_instance(config, tensor))


def _instance(config: Config, tensor: str) -> Converter:
    return instances.key_converter(config) if tensor == "key" else instances.value_converter(config)


def mutation_run() -> dict[str, Any]:
    """A small run that checks everything."""
    return run_arguments(tensor="key", slices=1, slice_width=32, lanes=2, operand_bits=11, head_dims=(16, 32))


def measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures the key converter of `config`."""
    run = run_arguments(**converter_sizes(config, "key"), every_first=False)
    return instance_run(_instance(config, "key"), run)


def value_measurement_run(config: Config) -> dict[str, Any]:
    """The run that measures the value converter of `config`."""
    run = run_arguments(**converter_sizes(config, "value"), every_first=False)
    return instance_run(_instance(config, "value"), run)
