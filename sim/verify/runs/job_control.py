"""How the testbench of the job control is run (sim/verify/benches/job_control.py)."""

from __future__ import annotations

import dataclasses
from typing import Any

from spatten.hw.control.job_control import JobControl
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.job_parts import WIDE
from spatten.spec.config import Config


def job_control_run(config: Config, *, jobs: int = 14) -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    return {
        "component": JobControl(config=config),
        "test_module": "spatten.sim.verify.benches.job_control",
        "parameters": {"config": dataclasses.asdict(config), "seeds": seeds(1), "jobs": jobs},
        "timeout_seconds": 300,
    }


def mutation_run() -> dict[str, Any]:
    return job_control_run(WIDE)


def job_start_mutation_run() -> dict[str, Any]:
    return job_control_run(WIDE) | {"part": "start"}


def job_finish_mutation_run() -> dict[str, Any]:
    return job_control_run(WIDE) | {"part": "finish"}
