"""The fetch unit and its crossbar against golden, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from golden.address_generator import RowGroup, requests
from golden.fetch import writes
from hw.config import Config
from hw.crossbar import Crossbar
from hw.fetch import Fetch
from sim.build import lint
from sim.cosim import cosimulate, seeds
from sim.verilog import convert
from tests.test_address_generator import SIZES as GENERATORS
from tests.test_address_generator import size as generator_size

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {**GENERATORS["tiny"], "outstanding": 4, "depth": 2},
    "one channel": {**GENERATORS["one channel"], "outstanding": 3, "depth": 1},
    "wide": {**GENERATORS["wide"], "outstanding": 9, "depth": 3},
}
SIZES["linear"] = {**SIZES["wide"], "linear_sectors": 32}
COMPLETION = {"linear": 5, "tiny": 4, "one channel": 4, "wide": 5, "paper": 6}


def _run(name: str, simulator: str, groups: int) -> None:
    passed = cosimulate(
        Fetch(**SIZES[name]),
        test_module="tests.cocotb_fetch",
        simulator=simulator,
        parameters={"size": SIZES[name], "seeds": seeds(), "groups": groups, "completion": COMPLETION[name]},
        strip_initial=simulator == "icarus",
    )
    assert len(passed) == 10 * len(seeds()) + 1


def mutation_run() -> dict[str, Any]:
    """A small run that must notice a fault."""
    return {
        "component": Fetch(**SIZES["tiny"]),
        "test_module": "tests.cocotb_fetch",
        "parameters": {"size": SIZES["tiny"], "seeds": [1], "groups": 50, "completion": COMPLETION["tiny"]},
    }


def crossbar_mutation_run() -> dict[str, Any]:
    """The same with faults in the crossbar only."""
    return {**mutation_run(), "part": "crossbar"}


def measurement_run(config: Config) -> dict[str, Any]:
    """The unit at a configuration's size."""
    parameters = generator_size(config)
    return {
        "component": Fetch(**parameters),
        "test_module": "tests.cocotb_fetch",
        "parameters": {
            "size": parameters,
            "seeds": [1, 2],
            "groups": 40,
            "completion": COMPLETION["paper" if config.channels == 16 else "one channel"],
        },
        "timeout_seconds": 600,
    }


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
