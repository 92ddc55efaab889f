"""What stands between two units of the core, and which configurations have none."""

from __future__ import annotations

from typing import Any

import pytest

from hw.config import NAMED, PAPER, TINY, Config, ConfigError
from hw.core import Core, Widen, check_core
from sim.build import lint
from sim.cosim import cosimulate, seeds
from sim.verilog import convert


def _widen(lanes: int, wide: int) -> Widen:
    return Widen(width=5, lanes=lanes, wide=wide, n_max=50, header=3)


@pytest.mark.parametrize(
    ("lanes", "wide"), [(2, 8), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2, 2), (8, 16), (1, 4)))]
)
def test_widened_rows_are_the_same(lanes: int, wide: int) -> None:
    passed = cosimulate(
        _widen(lanes, wide),
        test_module="tests.cocotb_widen",
        simulator="icarus",
        parameters={"lanes": lanes, "wide": wide, "seeds": seeds(1)},
        strip_initial=True,
    )
    assert len(passed) == 5


@pytest.mark.parametrize(("lanes", "wide"), [(2, 2), (2, 8), (8, 16), (1, 4)])
def test_verilog_is_lint_clean(lanes: int, wide: int) -> None:
    lint(convert(_widen(lanes, wide)))


@pytest.mark.parametrize("config", NAMED.values(), ids=lambda config: config.name)
def test_named_configurations_have_a_core(config: Config) -> None:
    check_core(config)


@pytest.mark.parametrize(
    ("config", "changes", "text"),
    [
        (TINY, {"pv_multipliers": 16}, "pv_multipliers must equal qk_multipliers = 32, not 16: "),
        (TINY, {"topk_lanes": 1}, "topk_lanes must be at least softmax_lanes = 2, not 1: "),
        (PAPER, {"topk_lanes": 64}, "topk_lanes must be at most 32, not 64: "),
        (PAPER, {"softmax_lanes": 4}, "slice_width = 128 needs windows of 8 sectors, but the crossbar has 4 banks: "),
    ],
)
def test_configurations_that_do_not_fit_together(config: Config, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Core(config=config.replace(**changes))
    assert str(caught.value).startswith(text)
