"""Figures that a testbench measures and a tool collects: latencies, rates, distributions.

Inside a cocotb test: `record("latency", 9, unit="cycles")`. The tool that started the run with `measured=path` finds
every record there, in order.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MEASURED = "COSIM_MEASURED"
"""Environment variable that names the file of a run; without it records are dropped."""


def record(name: str, value: float, **details: Any) -> None:
    """Add one figure to the run's file: `name`, `value`, and what it depends on."""
    path = os.environ.get(MEASURED)
    if path is not None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "value": value, **details}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a run; empty if it made none."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
