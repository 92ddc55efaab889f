"""How a testbench that compares a component with its twin (sim/verify/twin.py) is run."""

from __future__ import annotations

import dataclasses
from typing import Any

from amaranth.lib import wiring

from spatten.sim.verify.cosim import seeds
from spatten.spec.config import Config


def twin_run(
    component: wiring.Component, config: Config | None, bench: str, *, cycles: int, **parameters: Any
) -> dict[str, Any]:
    """Arguments of `cosimulate` for the testbench sim/verify/benches/<bench>.py: its `config`, `cycles` and `seeds`.

    A component that knows no configuration has none; then all its parameters are in `parameters`.
    """
    known = {} if config is None else {"config": dataclasses.asdict(config)}
    return {
        "component": component,
        "test_module": f"spatten.sim.verify.benches.{bench}",
        "parameters": {**known, "cycles": cycles, "seeds": seeds(1), **parameters},
        "timeout_seconds": 300,
    }
