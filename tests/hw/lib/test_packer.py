"""The packer against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden import GoldenError
from spatten.golden.packer import pack_rows
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.packer import Compactor, Packer, masked_beat, packed_row
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.packer import run_arguments

ELEMENT = {"prob": 12, "index": 10}
SIZES = [(1, 3, 2, None), (4, 7, 1, 3), (5, 6, None, 2)]
"""(lanes, shape, layers per stage, header): a power of two or not, one layer or several; None is for a Compactor."""
MORE_SIZES = [(2, 1, 1, 1), (5, 6, 2, None), (8, 33, 3, None), (13, 5, None, None), (1, 2, None, 1)]


@pytest.mark.parametrize("size", [*(pytest.param(size, marks=pytest.mark.slow) for size in SIZES[:-1]), SIZES[-1]])
def test_matches_golden_in_icarus_without_initial_values(size: Any) -> None:
    assert len(cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, ELEMENT, 4, 5), (16, ELEMENT, None, 5)])
def test_matches_golden_in_verilator(size: Any) -> None:
    assert len(cosimulate(**run_arguments(*size, seed_count=2))) == 8 * len(seeds())


@pytest.mark.slow
@pytest.mark.parametrize("size", MORE_SIZES)
def test_other_sizes_match_golden(size: Any) -> None:
    assert len(cosimulate(**run_arguments(*size), simulator="icarus", strip_initial=True)) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "layers_per_stage"), [(1, 1), (3, 1), (16, 4), (1, None), (16, None)])
def test_verilog_is_lint_clean(lanes: int, layers_per_stage: int | None) -> None:
    lint(convert(run_arguments(lanes, 12, layers_per_stage, 4)["component"]))


def test_delay_is_two_stages_and_the_rotation() -> None:
    assert [Packer(shape=8, lanes=lanes, layers_per_stage=1).delay for lanes in (1, 2, 3, 4, 16)] == [2, 3, 4, 4, 6]
    assert [Packer(shape=8, lanes=16, layers_per_stage=layers).delay for layers in (1, 2, 3, 4)] == [6, 4, 4, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8", "lanes": 4}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0, "lanes": 4}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"shape": 8, "lanes": 4.0}, TypeError, "lanes must be an integer, not 4.0"),
        ({"shape": 8, "lanes": True}, TypeError, "lanes must be an integer, not True"),
        ({"shape": 8, "lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"shape": 8, "lanes": 4, "layers_per_stage": "2"}, TypeError, "layers_per_stage must be an integer, not '2'"),
        ({"shape": 8, "lanes": 4, "layers_per_stage": 0}, ValueError, "layers_per_stage must be at least 1, not 0"),
        ({"shape": 8, "lanes": 4, "header": "x"}, TypeError, "header must be an Amaranth shape or None, not 'x'"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Packer(**arguments)
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = Packer(shape=9, lanes=5, header=3)
    assert component.i.payload.shape() == component.o.payload.shape() == packed_row(9, 5, 3)
    assert Compactor(shape=9, lanes=5, header=3).i.payload.shape() == masked_beat(9, 5, 3)
    assert "header" not in Packer(shape=9, lanes=5).o.payload.shape().members


def test_golden_by_hand() -> None:
    lanes, counts = pack_rows(np.array([[1, 2, 0], [3, 0, 0], [4, 5, 0]]), np.array([2, 1, 2]))
    assert lanes.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert counts.tolist() == [3, 2]
    lanes, counts = pack_rows(np.array([[9, 9, 9], [9, 9, 9]]), np.array([0, 0]))
    assert lanes.tolist() == [[0, 0, 0]]
    assert counts.tolist() == [0]
    assert pack_rows(np.array([[1, 2], [3, 4]]), np.array([2, 2]))[1].tolist() == [2, 2]


@pytest.mark.parametrize("seed", seeds())
def test_golden_is_a_list_cut_into_pieces(seed: int) -> None:
    source = np.random.default_rng(seed)
    for width in (1, 4, 7):
        counts = source.integers(0, width + 1, 20)
        lanes = source.integers(1, 99, (20, width))
        elements = [int(value) for row, count in zip(lanes, counts, strict=True) for value in row[:count]]
        packed, packed_counts = pack_rows(lanes, counts)
        pieces = [row[:count].tolist() for row, count in zip(packed, packed_counts, strict=True)]
        assert pieces == [elements[start : start + width] for start in range(0, len(elements), width)]


def test_golden_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(GoldenError, match=r"lanes must have two axes, not shape \(3,\)"):
        pack_rows(np.arange(3), np.array([1, 1, 1]))
    with pytest.raises(GoldenError, match=r"counts must have shape \(1,\), not \(2,\)"):
        pack_rows(np.ones((1, 3), np.int64), np.array([1, 1]))
    with pytest.raises(GoldenError, match="counts must be 0 to 3, not 1 to 4"):
        pack_rows(np.ones((2, 3), np.int64), np.array([1, 4]))
