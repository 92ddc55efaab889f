"""The fetch unit and its crossbar against golden, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden.address_generator import RowGroup, requests
from spatten.golden.fetch import writes
from spatten.hw.emit.verilog import convert
from spatten.hw.memory.crossbar import Crossbar
from spatten.hw.memory.fetch import Fetch
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.fetch import COMPLETION, SIZES

SIZES["linear"] = {**SIZES["wide"], "linear_sectors": 32}


def _run(name: str, simulator: str, groups: int) -> None:
    passed = cosimulate(
        Fetch(**SIZES[name]),
        test_module="spatten.sim.verify.benches.fetch",
        simulator=simulator,
        parameters={"size": SIZES[name], "seeds": seeds(), "groups": groups, "completion": COMPLETION[name]},
        strip_initial=simulator == "icarus",
    )
    assert len(passed) == (10 if SIZES[name]["channels"] == 1 else 12) * len(seeds()) + 1


@pytest.mark.parametrize("name", ["tiny", pytest.param("one channel", marks=pytest.mark.slow)])
def test_matches_golden_in_icarus_without_initial_values(name: str) -> None:
    _run(name, "icarus", 80)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide", "linear"])
def test_matches_golden_in_verilator(name: str) -> None:
    _run(name, "verilator", 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(Fetch(**SIZES[name])))


def test_golden_writes_each_group_apart() -> None:
    groups = [
        RowGroup(ids=np.array([0, 2]), sector=4, pitch=2, sectors=2, ring=1, place=6, stride=2),
        RowGroup(ids=np.array([1]), sector=4, pitch=2, sectors=1, ring=0, place=3, stride=1),
    ]
    ones = requests(groups, channels=2, lanes=2, ring_sectors=(32, 8, 32), sequence_bits=9)
    first, second = writes(ones, lambda channel, address: 100 * channel + address)
    # id 0 in sectors 4 and 5, id 2 in 8 and 9: channels 0 and 1, local 2 and 4
    assert sorted(first) == [((1, 0, 2, 1), 2), ((1, 0, 3, 1), 102), ((1, 1, 2, 1), 4), ((1, 1, 3, 1), 104)]
    assert second == [((0, 0, 3, 0), 3)]


CROSSBAR = {"channels": 2, "lanes": 2, "words": 16}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"channels": 6}, ValueError, "channels must be a power of two, not 6"),
        ({"lanes": True}, TypeError, "lanes must be an integer, not True"),
        ({"words": 1}, ValueError, "words must be at least 2, not 1"),
        ({"sequence_bits": 4}, ValueError, "sequence_bits must be at least 5, not 4"),
        ({"outstanding": 1}, ValueError, "outstanding must be at least 2, not 1"),
        ({"depth": 0}, ValueError, "depth must be at least 1, not 0"),
        ({"depth": 4.0}, TypeError, "depth must be an integer, not 4.0"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Crossbar(**{**CROSSBAR, **changes})
    assert str(caught.value) == text
