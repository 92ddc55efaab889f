"""How the testbench of the query reader is run: sim/verify/benches/query_reader.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.query_reader import QueryReader
from spatten.sim.verify.runs.row_parts import ROWS
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import Config


def run_arguments(config: Config, *, cycles: int = 2500) -> dict[str, Any]:
    return twin_run(QueryReader(config=config), config, "query_reader", cycles=cycles)


def mutation_run() -> dict[str, Any]:
    return run_arguments(ROWS)
