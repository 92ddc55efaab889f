"""The multiplier and the adder tree against Python's integers, in Verilator and Icarus."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Shape, ShapeLike, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hw.arithmetic import AdderTree, Multiplier, sum_shape
from hw.config import Config
from sim.build import lint
from sim.cosim import cosimulate, seeds
from sim.verilog import convert

Cases = list[dict[str, Any]]

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
TREES: Cases = [
    {"kind": "tree", "shape": shape, "inputs": inputs, "taps": taps, "delay": delay}
    for shape, inputs, taps, delay in (
        ("s24", 64, {16: 4, 32: 1}, 3),
        ("s5", 1, {}, 0),
        ("u3", 2, {1: 2}, 1),
        ("s3", 7, {1: 1, 2: 3, 4: 1}, 3),
        ("u6", 11, {8: 1}, 2),
        ("s9", 16, {2: 8, 4: 3, 8: 1}, 4),
        ("s1", 5, {4: 1}, 1),
        ("u4", 12, {1: 12, 4: 3}, 2),
    )
]
"""Of each, the delay says the levels per stage: 64 inputs in 3 stages are 2 of the 6 levels a stage."""


def shape_of(text: str) -> Shape:
    return Shape(int(text[1:]), signed=text[0] == "s")


def circuit_of(case: dict[str, Any]) -> Multiplier | AdderTree:
    if case["kind"] == "multiplier":
        return Multiplier(a_shape=shape_of(case["a"]), b_shape=shape_of(case["b"]), stages=case["delay"])
    levels = (case["inputs"] - 1).bit_length()
    per_stage = -(-levels // case["delay"]) if case["delay"] else 1
    return AdderTree(
        shape=shape_of(case["shape"]), inputs=case["inputs"], levels_per_stage=per_stage, taps=case["taps"]
    )


class Collection(wiring.Component):
    """Circuits side by side, so that one build tests them all; the ports of case n are named case<n>__<port>."""

    def __init__(self, circuits: list[Multiplier | AdderTree]) -> None:
        self.circuits = circuits
        super().__init__({f"case{n}": Out(circuit.signature) for n, circuit in enumerate(circuits)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for n, circuit in enumerate(self.circuits):
            m.submodules[f"case{n}"] = circuit
            wiring.connect(m, circuit, wiring.flipped(getattr(self, f"case{n}")))
        return m


def run_arguments(cases: Cases, cycles: int = 400) -> dict[str, Any]:
    circuits = [circuit_of(case) for case in cases]
    assert [circuit.delay for circuit in circuits] == [case["delay"] for case in cases]
    return {
        "component": Collection(circuits),
        "test_module": "tests.cocotb_arithmetic",
        "parameters": {"cases": cases, "seeds": seeds(), "cycles": cycles},
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """Every form of a multiplier and of a tree, small."""
    small = [
        {"kind": "multiplier", "a": "s4", "b": b, "delay": stages} for stages, b in ((1, "u3"), (2, "s7"), (3, "s4"))
    ]
    return run_arguments([*small, *(case for case in TREES if case["inputs"] in (7, 11))])


def measurement_run(config: Config) -> dict[str, Any]:
    """The multiplier and the adder tree of one slice of the Q x K array."""
    operand = f"s{config.operand_bits}"
    tree = {"kind": "tree", "shape": f"s{2 * config.operand_bits}", "inputs": 64, "taps": {16: 1, 32: 1}, "delay": 3}
    return run_arguments([{"kind": "multiplier", "a": operand, "b": operand, "delay": 2}, tree])


def test_matches_integers_in_icarus_without_initial_values() -> None:
    arguments = run_arguments(MULTIPLIERS + TREES)
    assert len(cosimulate(**arguments, simulator="icarus", strip_initial=True)) == len(seeds())


@pytest.mark.slow
def test_matches_integers_in_verilator() -> None:
    assert len(cosimulate(**run_arguments(MULTIPLIERS + TREES))) == len(seeds())


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
