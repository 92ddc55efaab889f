"""The board's reset button, in every cycle against a twin."""

from __future__ import annotations

from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.board_reset import run_arguments


def test_matches_its_twin() -> None:
    assert cosimulate(**run_arguments(), simulator="icarus", strip_initial=True)
