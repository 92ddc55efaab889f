"""How the testbench of row control is run: sim/verify/benches/row_control.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.row_control import RowControl
from spatten.sim.verify.runs.row_parts import ROWS
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import Config


def run_arguments(config: Config, *, cycles: int = 5000) -> dict[str, Any]:
    return twin_run(RowControl(config=config), config, "row_control", cycles=cycles)


def mutation_run() -> dict[str, Any]:
    return run_arguments(ROWS)
