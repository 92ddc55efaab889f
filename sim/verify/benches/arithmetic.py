"""Testbench of hw/lib/arithmetic.py; tests/hw/lib/test_arithmetic.py runs it on several circuits side by side."""

from __future__ import annotations

import itertools
import random
from typing import Any

import cocotb
from amaranth.hdl import Shape
from amaranth.lib import data
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.hw.emit.payload import Payload
from spatten.hw.lib.arithmetic import sum_shape
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.records import record
from spatten.sim.verify.stream import Bench

PARAMETERS = parameters()
CASES: list[dict[str, Any]] = PARAMETERS["cases"]
SEEDS: list[int] = PARAMETERS["seeds"]
CYCLES: int = PARAMETERS["cycles"]


def shape_of(text: str) -> Shape:
    """ "s12" is 12 bits signed, "u3" 3 bits unsigned."""
    return Shape(int(text[1:]), signed=text[0] == "s")


def ends(shape: Shape) -> tuple[int, int]:
    """Least and largest value."""
    return (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (0, (1 << shape.width) - 1)


class Circuit:
    """Agent of one circuit: new operands in every cycle, and every output checked `delay` cycles later."""

    def __init__(self, bench: Bench, name: str, delay: int, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        self.name = name
        self.bench = bench
        self.delay = delay
        self.source = bench.random(name)
        self.inputs = {port: (bench.signal(f"{name}__{port}"), Payload(shape)) for port, shape in inputs.items()}
        self.outputs = {port: (bench.signal(f"{name}__{port}"), Payload(shape)) for port, shape in outputs.items()}
        for signal, payload in [*self.inputs.values(), *self.outputs.values()]:
            assert len(signal) == payload.width, f"{signal._name} has {len(signal)} bits, not {payload.width}"
        self.wanted: list[dict[str, Any] | None] = []
        self.checked = 0
        bench.agents.append(self)

    def operands(self, source: random.Random) -> dict[str, Any]:
        raise NotImplementedError

    def results(self, operands: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def drive(self) -> None:
        # Now and then a cycle without operands, which must leave no trace in the cycles around it.
        if self.source.random() < 0.1:
            for signal, payload in self.inputs.values():
                signal.value = LogicArray(("X" if self.bench.four_state else "1") * payload.width)
            self.wanted.append(None)
            return
        operands = self.operands(self.source)
        for port, (signal, payload) in self.inputs.items():
            signal.value = payload.pack(operands[port])
        self.wanted.append(self.results(operands))

    def sample(self, cycle: int) -> None:
        if len(self.wanted) <= self.delay or (wanted := self.wanted[-1 - self.delay]) is None:
            return
        self.checked += 1
        for port, (signal, payload) in self.outputs.items():
            got = signal.value
            where = f"{self.name}.{port}, cycle {cycle}, seed {self.bench.seed}"
            assert got.is_resolvable, f"{where}: {got}"
            assert int(got) == payload.pack(wanted[port]), f"{where}: {payload.unpack(int(got))}, not {wanted[port]}"

    def clear(self) -> None:
        self.wanted.clear()


class MultiplierCircuit(Circuit):
    def __init__(self, bench: Bench, name: str, delay: int, a: str, b: str) -> None:
        self.shapes = shape_of(a), shape_of(b)
        width = sum(shape.width for shape in self.shapes)
        product = Shape(width, signed=any(shape.signed for shape in self.shapes))
        super().__init__(bench, name, delay, {"a": self.shapes[0], "b": self.shapes[1]}, {"o": product})
        lows, highs = zip(*(ends(shape) for shape in self.shapes), strict=True)
        if width <= 8:
            ranges = [range(low, high + 1) for low, high in zip(lows, highs, strict=True)]
            self.pairs = list(itertools.product(*ranges))
        else:
            corners = [(low, low + 1, 0, 1, high - 1, high) for low, high in zip(lows, highs, strict=True)]
            self.pairs = list(itertools.product(*corners))
        self.source.shuffle(self.pairs)

    def operands(self, source: random.Random) -> dict[str, Any]:
        if self.pairs:
            a, b = self.pairs.pop()
        else:
            a, b = (source.randint(*ends(shape)) for shape in self.shapes)
        return {"a": a, "b": b}

    def results(self, operands: dict[str, Any]) -> dict[str, Any]:
        return {"o": operands["a"] * operands["b"]}


class TreeCircuit(Circuit):
    def __init__(self, bench: Bench, name: str, delay: int, shape: str, inputs: int, taps: dict[str, int]) -> None:
        self.shape = shape_of(shape)
        self.count = inputs
        self.taps = {int(size): count for size, count in taps.items()}
        outputs: dict[str, Any] = {
            f"o_{size}": data.ArrayLayout(sum_shape(self.shape, size), count) for size, count in self.taps.items()
        }
        outputs["o"] = sum_shape(self.shape, inputs)
        super().__init__(bench, name, delay, {"i": data.ArrayLayout(self.shape, inputs)}, outputs)

    def operands(self, source: random.Random) -> dict[str, Any]:
        low, high = ends(self.shape)
        kind = source.randrange(8)
        if kind < 2:
            return {"i": [(low, high)[kind]] * self.count}
        if kind < 4:
            return {"i": [source.choice((low, high)) for _ in range(self.count)]}
        return {"i": [source.randint(low, high) for _ in range(self.count)]}

    def results(self, operands: dict[str, Any]) -> dict[str, Any]:
        values = operands["i"]
        sums = {
            f"o_{size}": [sum(values[n * size : (n + 1) * size]) for n in range(count)]
            for size, count in self.taps.items()
        }
        return {"o": sum(values), **sums}


@cocotb.test
@cocotb.parametrize(seed=SEEDS)
async def results_are_exact(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    circuits: list[Circuit] = []
    for n, case in enumerate(CASES):
        arguments = dict(case)
        kind = {"multiplier": MultiplierCircuit, "tree": TreeCircuit}[arguments.pop("kind")]
        circuits.append(kind(bench, f"case{n}", **arguments))
    await bench.step(CYCLES)
    for circuit in circuits:
        assert circuit.checked > 0.8 * (CYCLES - circuit.delay), f"{circuit.name}: {circuit.checked} results checked"
        if isinstance(circuit, MultiplierCircuit):
            assert not circuit.pairs, f"{circuit.name}: {len(circuit.pairs)} pairs left"
        record("latency", circuit.delay, unit="cycles", circuit=type(circuit).__name__)
