"""The job control between models of its neighbours, in Icarus with X for every initial value, and what lint says."""

from __future__ import annotations

import pytest

from spatten.hw.control.job_control import JobControl
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.job_control import job_control_run
from spatten.sim.verify.runs.job_parts import WIDE
from spatten.spec.config import PAPER, TINY, Config


@pytest.mark.parametrize(
    "config", [pytest.param(TINY, marks=pytest.mark.slow, id="tiny"), pytest.param(WIDE, id="wide")]
)
def test_jobs_begin_and_end(config: Config) -> None:
    passed = cosimulate(**job_control_run(config), simulator="icarus", strip_initial=True)
    assert len(passed) == 4


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, WIDE, PAPER], ids=lambda config: config.name)
def test_verilog_is_lint_clean(config: Config) -> None:
    lint(convert(JobControl(config=config)))
