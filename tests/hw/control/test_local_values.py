"""What local pruning keeps of a row, packed, in Icarus with X for every initial value and in Verilator."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.local_values import run_arguments
from spatten.spec.config import FEATURES, PAPER, TINY, ULX3S


def test_ids_and_probabilities_in_icarus_without_initial_values() -> None:
    assert len(cosimulate(**run_arguments(TINY), simulator="icarus", strip_initial=True)) == 5


@pytest.mark.slow
def test_ids_and_probabilities_of_the_board_in_verilator() -> None:
    board = ULX3S.replace(features=FEATURES)
    assert len(cosimulate(**run_arguments(board, rounds=2, rows=6))) == 5


@pytest.mark.slow
def test_verilog_is_lint_clean() -> None:
    for config in (TINY, PAPER):
        lint(convert(run_arguments(config)["component"]))
