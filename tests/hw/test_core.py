"""What stands between two units of the core."""

from __future__ import annotations

import pytest

from spatten.hw.core import Widen
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds


def _widen(lanes: int, wide: int) -> Widen:
    return Widen(width=5, lanes=lanes, wide=wide, n_max=50, header=3)


@pytest.mark.parametrize(
    ("lanes", "wide"), [(2, 8), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2, 2), (8, 16), (1, 4)))]
)
def test_widened_rows_are_the_same(lanes: int, wide: int) -> None:
    passed = cosimulate(
        _widen(lanes, wide),
        test_module="spatten.sim.verify.benches.widen",
        simulator="icarus",
        parameters={"lanes": lanes, "wide": wide, "seeds": seeds(1)},
        strip_initial=True,
    )
    assert len(passed) == 5


@pytest.mark.parametrize(("lanes", "wide"), [(2, 2), (2, 8), (8, 16), (1, 4)])
def test_verilog_is_lint_clean(lanes: int, wide: int) -> None:
    lint(convert(_widen(lanes, wide)))
