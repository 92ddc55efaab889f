"""The planner among all of its neighbours, in Icarus with X for every initial value, and each of its rings starved."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.planner import RUNS, mutation_run


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "starved" else pytest.mark.slow) for name in RUNS]
)
def test_every_block_comes_once_and_goes(name: str) -> None:
    assert cosimulate(**RUNS[name](), simulator="icarus", strip_initial=True)


@pytest.mark.slow
def test_verilog_is_lint_clean() -> None:
    lint(convert(mutation_run()["component"]))
