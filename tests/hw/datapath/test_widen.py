"""Wider beats of the same rows, in Icarus with X for every initial value."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.widen import run_arguments

SIZES = [(2, 8), (2, 2), (8, 16), (1, 4)]


@pytest.mark.parametrize("size", [SIZES[0], *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[1:])])
def test_widened_rows_are_the_same(size: tuple[int, int]) -> None:
    assert len(cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)) == 5


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_verilog_is_lint_clean(size: tuple[int, int]) -> None:
    lint(convert(run_arguments(*size)["component"]))
