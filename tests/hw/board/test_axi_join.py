"""Two masters on one memory, in every cycle against a twin."""

from __future__ import annotations

from spatten.hw.board.axi_join import AxiJoin
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.axi_join import run_arguments


def test_matches_its_twin() -> None:
    assert cosimulate(**run_arguments(), simulator="icarus", strip_initial=True)


def test_verilog_is_lint_clean() -> None:
    lint(convert(AxiJoin(address_bits=40, data_bits=16)))
