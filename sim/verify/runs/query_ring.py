"""How the testbench of `query_ring` is run: sim/verify/benches/query_ring.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.query_ring import QueryRing
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config


def run_arguments(config: Config) -> dict[str, Any]:
    return twin_run(QueryRing(config=config), config, "query_ring", cycles=700)


def mutation_run() -> dict[str, Any]:
    return run_arguments(TINY)
