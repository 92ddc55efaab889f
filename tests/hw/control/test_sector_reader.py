"""The reader of bitmaps and states, in Icarus with X for every initial value."""

from __future__ import annotations

import pytest

from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.state import sector_reader_run
from spatten.spec.config import PAPER, TINY, Config

LONG = TINY.replace(tokens_max=64, topk_lanes=32, key_buffer_rows=128, value_buffer_rows=128)


@pytest.mark.parametrize("config", [TINY, pytest.param(LONG, marks=pytest.mark.slow)], ids=["tiny", "long"])
def test_rows_match_the_ring(config: Config) -> None:
    passed = cosimulate(**sector_reader_run(config), simulator="icarus", strip_initial=True)
    assert len(passed) == 4


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, LONG, PAPER], ids=["tiny", "long", "paper"])
def test_verilog_is_lint_clean(config: Config) -> None:
    lint(convert(SectorReader(config=config)))
