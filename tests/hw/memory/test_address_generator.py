"""The address generator against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden.address_generator import RowGroup, requests
from spatten.golden.memory import Plane
from spatten.hw.emit.verilog import convert
from spatten.hw.memory.address_generator import AddressGenerator
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.address_generator import SIZES, measurement_run
from spatten.spec.config import PAPER

for _name, _groups, _bits in (("tiny", 3, 5), ("one channel", 2, 6), ("wide", 5, 6)):
    SIZES[_name] |= {"groups": _groups, "sequence_bits": _bits}
SIZES["linear"] = {**SIZES["wide"], "linear_sectors": 32}


def _run(parameters: dict[str, Any], simulator: str, groups: int) -> None:
    passed = cosimulate(
        AddressGenerator(**parameters),
        test_module="spatten.sim.verify.benches.address_generator",
        simulator=simulator,
        parameters={"size": parameters, "seeds": seeds(), "groups": groups},
        strip_initial=simulator == "icarus",
    )
    assert len(passed) == 6 * len(seeds()) + 3


@pytest.mark.parametrize("name", ["tiny", pytest.param("one channel", marks=pytest.mark.slow)])
def test_matches_golden_in_icarus_without_initial_values(name: str) -> None:
    _run(SIZES[name], "icarus", 80)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wide", "one channel", "linear"])
def test_matches_golden_in_verilator(name: str) -> None:
    _run(SIZES[name], "verilator", 200)


@pytest.mark.slow
def test_matches_golden_at_paper_size() -> None:
    run = measurement_run(PAPER)
    assert len(cosimulate(**run)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(AddressGenerator(**SIZES[name])))


def test_golden_fetches_the_rows_of_a_plane() -> None:
    """The requests of all channels together are the sectors of the plane's rows, each once."""
    plane = Plane(channels=4, base=12, rows=30, heads=4, head_dim=64, bits=6)
    ids = np.array([0, 3, 4, 11, 29])
    sector = int(plane.row_address(1, 0))
    group = RowGroup(
        ids=ids, sector=sector, pitch=plane.row_sectors, sectors=plane.row_sectors, ring=1, place=18, stride=3
    )
    ones = requests([group], channels=4, lanes=2, ring_sectors=(32, 20, 32), sequence_bits=5)
    got = sorted(one.address * 4 + channel for channel, channel_ones in enumerate(ones) for one in channel_ones)
    assert got == sorted(int(plane.row_address(1, row)) + j for row in ids for j in range(3))
    places = sorted((one.lane, one.word * 4 + one.bank) for channel_ones in ones for one in channel_ones)
    # lane 0 takes three rows of three sectors from place 18 on, lane 1 two, in a ring of 20
    first = [(18 + n) % 20 for n in range(9)]
    assert places == sorted([(0, place) for place in first] + [(1, place) for place in first[:6]])


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"channels": 3}, ValueError, "channels must be a power of two, not 3"),
        ({"rows": 0}, ValueError, "rows must be a power of two, not 0"),
        ({"lanes": 2.0}, TypeError, "lanes must be an integer, not 2.0"),
        ({"lanes": 4}, ValueError, "rows must be a multiple of lanes = 4, not 2"),
        ({"id_bits": 0}, ValueError, "id_bits must be at least 1, not 0"),
        ({"sector_bits": 1}, ValueError, "sector_bits must be at least 2, not 1"),
        ({"groups": 1}, ValueError, "groups must be at least 2, not 1"),
        ({"sequence_bits": "9"}, TypeError, "sequence_bits must be an integer, not '9'"),
        (
            {"ring_sectors": (32, 36)},
            ValueError,
            "ring_sectors must be those of the query, key and value ring, not (32, 36)",
        ),
        ({"linear_sectors": 6}, ValueError, "linear_sectors must be a multiple of 4, not 6"),
        ({"linear_sectors": None}, TypeError, "linear_sectors must be an integer, not None"),
        ({"ring_sectors": (32, 38, 64)}, ValueError, "ring_sectors must be multiples of 4, at least 16, not 38"),
        ({"ring_sectors": (20, 36, 64)}, ValueError, "ring_sectors must be multiples of 4, at least 24, not 20"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        AddressGenerator(**{**SIZES["tiny"], **changes})
    assert str(caught.value) == text
