"""How the testbench of the key reader is run: sim/verify/benches/key_reader.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.key_reader import KeyReader
from spatten.sim.verify.runs.row_parts import LONG
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import Config


def run_arguments(config: Config, *, places: int = 5, cycles: int = 5000) -> dict[str, Any]:
    return twin_run(KeyReader(config=config, places=places), config, "key_reader", cycles=cycles, places=places)


def mutation_run() -> dict[str, Any]:
    return run_arguments(LONG)
