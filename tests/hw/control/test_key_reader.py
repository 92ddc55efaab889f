"""The key reader, in Icarus with X for every initial value, and what lint says of it."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.key_reader import run_arguments
from spatten.sim.verify.runs.row_parts import LONG
from spatten.spec.config import PAPER, TINY, Config


@pytest.mark.parametrize("config", [TINY, pytest.param(LONG, marks=pytest.mark.slow)], ids=["tiny", "long"])
def test_it_does_what_its_twin_does(config: Config) -> None:
    assert cosimulate(**run_arguments(config), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, PAPER], ids=["tiny", "paper"])
def test_verilog_is_lint_clean(config: Config) -> None:
    lint(convert(run_arguments(config)["component"]))
