"""The job control's parts and their twins, in Icarus with X for every initial value, and what lint says of them."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.job_parts import LONG, RUNS, WIDE, job_sizes_run
from spatten.spec.config import TINY, Config

CONFIGS = pytest.mark.parametrize(
    "config", [pytest.param(TINY, marks=pytest.mark.slow, id="tiny"), pytest.param(WIDE, id="wide")]
)


@pytest.mark.slow
@CONFIGS
@pytest.mark.parametrize("part", RUNS)
def test_a_part_does_what_its_twin_does(part: str, config: Config) -> None:
    assert cosimulate(**RUNS[part](config), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@CONFIGS
@pytest.mark.parametrize("part", RUNS)
def test_verilog_is_lint_clean(part: str, config: Config) -> None:
    lint(convert(RUNS[part](config)["component"]))


def test_sizes_of_long_rows() -> None:
    assert cosimulate(**job_sizes_run(LONG), simulator="icarus", strip_initial=True)
