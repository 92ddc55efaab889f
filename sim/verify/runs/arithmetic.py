"""How the testbench of `arithmetic` is run: sim/verify/benches/arithmetic.py."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Shape
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from spatten.hw.lib.arithmetic import AdderTree, Multiplier
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import Config

Cases = list[dict[str, Any]]
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
"""The delay of each tree sets its levels per stage: 64 inputs have 6 levels, which are 2 a stage in 3 stages."""


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
        "test_module": "spatten.sim.verify.benches.arithmetic",
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
