"""The parts of the token importance unit and their twins, in Icarus with X for every initial value, and their lint."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.token_parts import RUNS, SMALL, rank_memory_run
from spatten.spec.config import TINY, Config


@pytest.mark.slow
@pytest.mark.parametrize("config", [SMALL, TINY], ids=lambda config: config.name)
@pytest.mark.parametrize("part", RUNS)
def test_a_part_does_what_its_twin_does(part: str, config: Config) -> None:
    assert cosimulate(**RUNS[part](config), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("prob_lanes", [4, 8])
def test_a_beat_may_be_as_wide_as_a_row_or_wider(prob_lanes: int) -> None:
    assert cosimulate(**rank_memory_run(SMALL, prob_lanes=prob_lanes), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", RUNS)
def test_verilog_is_lint_clean(part: str) -> None:
    lint(convert(RUNS[part](TINY)["component"]))
