"""How the testbench of `board_reset` is run: sim/verify/benches/board_reset.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.board.board_reset import BoardReset
from spatten.sim.verify.runs.twin import twin_run


def run_arguments() -> dict[str, Any]:
    """Arguments of `cosimulate`."""
    return twin_run(BoardReset(), None, "board_reset", cycles=12_000)
