"""How the testbench of the window walker and of the arrival gate is run: sim/verify/benches/window_walker.py."""

from __future__ import annotations

import dataclasses
from typing import Any

from spatten.hw.control.window_walker import ArrivalGate, WindowWalker
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import TINY, Config
from spatten.spec.row_format import key_ring_sectors, lsb_sectors, value_ring_sectors

WIDE = TINY.replace(
    name="wide", softmax_lanes=4, topk_lanes=4, qk_multipliers=64, pv_multipliers=64, buffer_dim=32, head_dim_max=64
)
"""A slice of 32 operands: a window has two block rows of the smallest heads, and the largest ones take two beats."""


def run_arguments(config: Config, *, of_keys: bool, is_gate: bool = False, walks: int = 60) -> dict[str, Any]:
    """The walker of keys, which has a part behind its ring, or of values; or the gate in front of either."""
    sectors = key_ring_sectors(config) if of_keys else value_ring_sectors(config)
    linear = lsb_sectors(config) if of_keys else 0
    component: ArrivalGate | WindowWalker
    if is_gate:
        component = ArrivalGate(config=config, has_linear=of_keys)
    else:
        left = range(config.tokens_max + 1)
        component = WindowWalker(config=config, sectors=sectors, linear_sectors=linear, left_shape=left)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.window_walker",
        "parameters": {
            "config": dataclasses.asdict(config),
            "sectors": sectors,
            "linear_sectors": linear,
            "is_gate": is_gate,
            "walks": walks,
            "seeds": seeds(1),
        },
        "timeout_seconds": 300,
    }


def mutation_run() -> dict[str, Any]:
    """The walker of keys, with windows of several block rows."""
    return run_arguments(WIDE, of_keys=True, walks=40)


def arrival_gate_mutation_run() -> dict[str, Any]:
    """The gate of keys."""
    return run_arguments(TINY, of_keys=True, is_gate=True)
