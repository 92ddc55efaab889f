"""The planner's parts and their twins, in Icarus with X for every initial value, and what lint says of them."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.planner_parts import RUNS


@pytest.mark.slow
@pytest.mark.parametrize("part", RUNS)
def test_a_part_does_what_its_twin_does(part: str) -> None:
    assert cosimulate(**RUNS[part](), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", RUNS)
def test_verilog_is_lint_clean(part: str) -> None:
    lint(convert(RUNS[part]()["component"]))
