"""How the testbench of `widen` is run: sim/verify/benches/widen.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.datapath.widen import Widen
from spatten.sim.verify.cosim import seeds


def run_arguments(lanes: int, wide: int) -> dict[str, Any]:
    return {
        "component": Widen(width=5, lanes=lanes, wide=wide, n_max=50, header=3),
        "test_module": "spatten.sim.verify.benches.widen",
        "parameters": {"lanes": lanes, "wide": wide, "seeds": seeds(1)},
    }


def mutation_run() -> dict[str, Any]:
    return run_arguments(2, 8)
