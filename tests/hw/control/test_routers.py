"""What joins the units, and its twins, in Icarus with X for every initial value, and what lint says of them."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.routers import RUNS
from spatten.spec.config import TINY


@pytest.mark.parametrize("part", RUNS)
def test_a_part_does_what_its_twin_does(part: str) -> None:
    assert cosimulate(**RUNS[part](TINY), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", RUNS)
def test_verilog_is_lint_clean(part: str) -> None:
    lint(convert(RUNS[part](TINY)["component"]))
