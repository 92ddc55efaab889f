"""The multiplier and the adder tree against Python's integers, in Verilator and Icarus."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Shape, ShapeLike, signed, unsigned
from amaranth.lib import data

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.arithmetic import AdderTree, Multiplier, sum_shape
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.arithmetic import TREES, Cases, circuit_of, run_arguments

MULTIPLIERS: Cases = [
    {"kind": "multiplier", "a": a, "b": b, "delay": stages}
    for stages in (1, 2, 3)
    for a, b in (
        ("s12", "s12"),
        ("s16", "s16"),
        ("u18", "u16"),
        ("u17", "u18"),
        ("u12", "s12"),
        ("s12", "u12"),
        ("u18", "u17"),
        ("s4", "u3"),
        ("u1", "s7"),
        ("s1", "s1"),
        ("u5", "u1"),
    )
]


def test_matches_integers_in_icarus_without_initial_values() -> None:
    arguments = run_arguments(MULTIPLIERS + TREES)
    assert len(cosimulate(**arguments, simulator="icarus", strip_initial=True)) == len(seeds())


@pytest.mark.slow
def test_matches_integers_in_verilator() -> None:
    assert len(cosimulate(**run_arguments(MULTIPLIERS + TREES))) == len(seeds())


@pytest.mark.slow
@pytest.mark.parametrize("case", [MULTIPLIERS[0], MULTIPLIERS[11], MULTIPLIERS[-3], TREES[0], TREES[1], TREES[3]])
def test_verilog_is_lint_clean(case: dict[str, Any]) -> None:
    lint(convert(circuit_of(case)))


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_product_is_signed_if_an_operand_is(stages: int) -> None:
    def product(a: ShapeLike, b: ShapeLike) -> Shape:
        return Multiplier(a_shape=a, b_shape=b, stages=stages).o.shape()

    assert product(12, 7) == unsigned(19)
    assert product(signed(12), 7) == product(12, signed(7)) == product(signed(12), signed(7)) == signed(19)


@pytest.mark.parametrize(
    ("inputs", "levels", "delay"),
    [(1, 1, 0), (2, 1, 1), (2, 3, 1), (5, 1, 3), (8, 1, 3), (8, 2, 2), (64, 2, 3), (64, 3, 2), (65, 3, 3), (64, 6, 1)],
)
def test_delay_of_a_tree(inputs: int, levels: int, delay: int) -> None:
    assert AdderTree(shape=8, inputs=inputs, levels_per_stage=levels).delay == delay


def test_sums_have_the_declared_shapes() -> None:
    tree = AdderTree(shape=signed(24), inputs=40, taps={16: 2, 1: 3})
    assert tree.i.shape() == data.ArrayLayout(signed(24), 40)
    assert tree.o.shape() == sum_shape(signed(24), 40) == signed(30)
    assert tree.o_16.shape() == data.ArrayLayout(signed(28), 2)
    assert tree.o_1.shape() == data.ArrayLayout(signed(24), 3)
    assert sum_shape(7, 1) == unsigned(7)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"a_shape": "12"}, TypeError, "a_shape must be an Amaranth shape, not '12'"),
        ({"a_shape": 0}, ValueError, "a_shape must be at least 1 bit wide, not 0"),
        ({"b_shape": None}, TypeError, "b_shape must be an Amaranth shape, not None"),
        ({"stages": 1.0}, TypeError, "stages must be an integer, not 1.0"),
        ({"stages": True}, TypeError, "stages must be an integer, not True"),
        ({"stages": 0}, ValueError, "stages must be 1 to 3, not 0"),
        ({"stages": 4}, ValueError, "stages must be 1 to 3, not 4"),
    ],
)
def test_multiplier_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Multiplier(**{"a_shape": 12, "b_shape": 12, "stages": 1, **arguments})
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8"}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"inputs": "8"}, TypeError, "inputs must be an integer, not '8'"),
        ({"inputs": 0}, ValueError, "inputs must be at least 1, not 0"),
        ({"levels_per_stage": 1.5}, TypeError, "levels_per_stage must be an integer, not 1.5"),
        ({"levels_per_stage": 0}, ValueError, "levels_per_stage must be at least 1, not 0"),
        ({"taps": {3: 1}}, ValueError, "size of a tap must be a power of two below 8, not 3"),
        ({"taps": {8: 1}}, ValueError, "size of a tap must be a power of two below 8, not 8"),
        ({"taps": {0: 1}}, ValueError, "size of a tap must be at least 1, not 0"),
        ({"taps": {2: 5}}, ValueError, "groups of a tap must be at most 4 of 2 inputs, not 5"),
        ({"taps": {2: 0}}, ValueError, "groups of a tap must be at least 1, not 0"),
        ({"taps": {2: "1"}}, TypeError, "groups of a tap must be an integer, not '1'"),
    ],
)
def test_tree_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        AdderTree(**{"shape": 8, "inputs": 8, **arguments})
    assert str(caught.value) == text
