"""The parts of row control and of the readers, in Icarus with X for every initial value, and what lint says of them."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.row_parts import LONG, ROWS, RUNS
from spatten.spec.config import TINY


@pytest.mark.slow
@pytest.mark.parametrize("part", RUNS)
def test_a_part_does_what_its_twin_does(part: str) -> None:
    config = LONG if part == "key_windows" else ROWS
    assert cosimulate(**RUNS[part](config), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", RUNS)
def test_verilog_is_lint_clean(part: str) -> None:
    for config in (TINY, ROWS):
        lint(convert(RUNS[part](config)["component"]))
