"""The query ring and its two readers, in Icarus with X for every initial value."""

from __future__ import annotations

import pytest

from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.query_ring import run_arguments
from spatten.spec.config import TINY


def test_both_readers_in_icarus_without_initial_values() -> None:
    assert len(cosimulate(**run_arguments(TINY), simulator="icarus", strip_initial=True)) == 2


@pytest.mark.slow
def test_verilog_is_lint_clean() -> None:
    lint(convert(run_arguments(TINY)["component"]))
