"""How the testbench of the planner, sim/verify/benches/planner.py, is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spatten.hw.control.planner import Planner
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.planner_parts import MANY_GROUPS
from spatten.spec.config import Config

SEQUENCE_BITS = 5
"""Few groups under way, so that their number is a limit."""


GOALS = {
    "query": 20,
    "members": 5,
    "key": 10,
    "key blocks all held": 10,
    "value": 5,
    "value blocks all held": 5,
    "pruned": 5,
    "flat": 10,
    "flat row goes round": 10,
    "two heads": 5,
    "wrapped": 3,
}
"""What a run must have seen, and how often at least."""


def planner_run(
    config: Config, *, jobs: int, goals: Mapping[str, int] = GOALS, starved_jobs: int = 0
) -> dict[str, Any]:
    """Arguments of `cosimulate`: for `jobs` jobs, and if `starved_jobs` is not 0 for so many with each ring starved."""
    return {
        "component": Planner(config=config, sequence_bits=SEQUENCE_BITS),
        "test_module": "spatten.sim.verify.benches.planner",
        "parameters": {
            "config": dataclasses.asdict(config),
            "sequence_bits": SEQUENCE_BITS,
            "seeds": seeds(1),
            "jobs": jobs,
            "goals": dict(goals),
            "starves": starved_jobs > 0,
            "starved_jobs": starved_jobs,
        },
        "timeout_seconds": 600,
    }


def mutation_run() -> dict[str, Any]:
    """As many heads in flight as there can be, in rings that hold many blocks, so that orders lie far apart."""
    config = MANY_GROUPS.replace(
        name="many_heads", tokens_max=16, heads_max=16, jobs_in_flight=4, key_buffer_rows=512, value_buffer_rows=512
    )
    return planner_run(config, jobs=48)


def starving_run() -> dict[str, Any]:
    """With every ring starved in turn."""
    return planner_run(MANY_GROUPS, jobs=2, goals={}, starved_jobs=6)


RUNS = {"every kind of block": mutation_run, "starved": starving_run}
