"""The window walker and the arrival gate, in Verilator, and in Icarus with X for every initial value."""

from __future__ import annotations

import pytest

from spatten.hw.control.window_walker import ArrivalGate, WindowWalker
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.window_walker import WIDE, run_arguments
from spatten.spec.config import EIGHTH, PAPER, TINY, Config


@pytest.mark.parametrize("of_keys", [True, False], ids=["keys", "values"])
@pytest.mark.parametrize("config", [TINY, WIDE], ids=["tiny", "wide"])
def test_windows_in_icarus_without_initial_values(config: Config, of_keys: bool) -> None:
    run = run_arguments(config, of_keys=of_keys)
    assert len(cosimulate(**run, simulator="icarus", strip_initial=True)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("of_keys", [True, False], ids=["keys", "values"])
def test_windows_of_several_beats_in_verilator(of_keys: bool) -> None:
    """EIGHTH: a head dimension of 128 takes two beats of a slice of 64."""
    assert len(cosimulate(**run_arguments(EIGHTH, of_keys=of_keys, walks=20))) == 2


@pytest.mark.parametrize("of_keys", [True, False], ids=["keys", "values"])
def test_the_gate_in_icarus_without_initial_values(of_keys: bool) -> None:
    run = run_arguments(TINY, of_keys=of_keys, is_gate=True)
    assert len(cosimulate(**run, simulator="icarus", strip_initial=True)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, PAPER], ids=["tiny", "paper"])
def test_verilog_is_lint_clean(config: Config) -> None:
    lint(convert(WindowWalker(config=config, sectors=64, linear_sectors=16, left_shape=8)))
    lint(convert(WindowWalker(config=config, sectors=60, left_shape=range(9))))
    lint(convert(ArrivalGate(config=config, has_linear=True)))
