"""Compares a component with its twin in every cycle: the testbench of control, whose cycles are part of its contract.

A *twin* is a reference of one component in plain Python, written from the component's docstring:

    class Counter(Twin):
        goals = {"full": 20}

        def reset(self) -> None:
            self.count = 0

        def inputs(self) -> Values:
            self.takes = self.source.random() < 0.5
            return {"takes": self.takes}

        def outputs(self) -> Values:
            return {"full": self.count == 3}

        def clock(self) -> None:
            self.saw("full", self.count == 3)
            if self.takes:
                self.count = (self.count + 1) % 4

    @cocotb.test()
    async def it_counts(dut: HierarchyObject) -> None:
        await compare(dut, component, Counter, seed=1, cycles=2000)

What `inputs` leaves out is random in each cycle, and X in a simulator with four states: a component that looks at the
payload of a stream without its valid is found out. What `outputs` leaves out is not looked at.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

from amaranth.hdl import ShapeLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.handle import HierarchyObject
from cocotb.types import LogicArray

from spatten.hw.emit.payload import Payload, PayloadField
from spatten.sim.verify.stream import Bench

Values = Mapping[str, Any]
"""By port: structs and streams as mappings, arrays as sequences, else integers or Booleans; a part may be missing."""


class Anything:
    """Any value of a shape, structs as mappings and arrays as lists; made once, since to look at a shape takes long."""

    def __init__(self, shape: ShapeLike) -> None:
        self._payload = Payload(shape)

    def __call__(self, source: random.Random) -> Any:
        return self._payload.unpack(source.getrandbits(self._payload.width))


class Twin:
    """A reference of one component: what it may be given, what it must say, and what it remembers.

    In every cycle `inputs` is called, then `outputs`, then `clock`. `source` is the random source of all of them.
    """

    goals: ClassVar[Mapping[str, int]] = {}
    """What a run must have seen, by its name in `saw`, and how often at least."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.seen: Counter[str] = Counter()
        self.reset()

    def saw(self, what: str, is_seen: Any = True) -> None:
        """Count one of the cases that a run should have met."""
        self.seen[what] += bool(is_seen)

    def check_goals(self) -> None:
        """AssertionError if the run has seen too little of something."""
        missed = {name: self.seen[name] for name, least in self.goals.items() if self.seen[name] < least}
        assert not missed, f"the run saw too little of {missed}, of {dict(self.goals)}"

    def reset(self) -> None:
        """Forget everything: the component is being reset."""

    def inputs(self) -> Values:
        """The inputs of the coming cycle, as the component's contract allows them after what it said so far."""
        raise NotImplementedError

    def outputs(self) -> Values:
        """The outputs of this cycle, for its `inputs`."""
        raise NotImplementedError

    def clock(self) -> None:
        """Go to the next cycle."""


class _Port:
    """A signal of the circuit, and where its values are among those of a twin."""

    def __init__(self, bench: Bench, path: tuple[str | int, ...], shape: ShapeLike) -> None:
        self.name = "__".join(map(str, path))
        self._path = path
        self._signal = bench.signal(self.name)
        self._payload = Payload(shape)
        self._four_state = bench.four_state
        self._driven: int | None = None
        self._fields = {field.path: field for field in self._payload.fields}
        self._structs = {path[:depth] for path in self._fields for depth in range(len(path))}

    def _value(self, values: Values) -> Any:
        value: Any = values
        for key in self._path:
            value = _part(value, key)
        return value

    def _known(self, value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[PayloadField, int]]:
        """The fields of the signal that `value`, of its part `path`, has, and their bits."""
        if value is None:
            return
        if path in self._structs:
            for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
                yield from self._known(part, (*path, key))
            return
        field = self._fields.get(path)
        if field is None:
            raise ValueError(f"{'.'.join(map(str, (self.name, *path[:-1])))} has no member {path[-1]}")
        number = int(value)
        low = -(1 << field.width - 1) if field.signed else 0
        if not low <= number < low + (1 << field.width):
            raise ValueError(f"{self.name} {field.name} must have {field.width} bits, not be {number}")
        yield field, number & (1 << field.width) - 1

    def drive(self, values: Values, source: random.Random) -> None:
        bits = mask = 0
        for field, number in self._known(self._value(values)):
            bits |= number << field.offset
            mask |= (1 << field.width) - 1 << field.offset
        unknown = (1 << self._payload.width) - 1 & ~mask
        if unknown and self._four_state:
            if self._driven != ~mask or bits:
                text = f"{bits:0{self._payload.width}b}"
                known = f"{mask:0{self._payload.width}b}"
                parts = zip(text, known, strict=True)
                self._signal.value = LogicArray("".join(bit if is_known == "1" else "X" for bit, is_known in parts))
            self._driven = ~mask if not bits else None
            return
        if unknown:
            bits |= source.getrandbits(self._payload.width) & unknown
        if bits != self._driven:
            self._signal.value = self._driven = bits

    def differences(self, values: Values) -> list[str]:
        value = self._value(values)
        if value is None:
            return []
        text = str(self._signal.value)
        seen = int(text, 2) if not text.strip("01") else None
        found = []
        for field, wanted in self._known(value):
            if seen is not None and seen >> field.offset & (1 << field.width) - 1 == wanted:
                continue
            part = text[::-1][field.offset : field.offset + field.width][::-1]
            if part != f"{wanted:0{field.width}b}":
                name = f"{self.name}.{field.name}" if field.name else self.name
                found.append(f"{name} is {part}, not {wanted:0{field.width}b}")
        return found


def _part(value: Any, key: str | int) -> Any:
    """An element of a mapping or a sequence; None if there is none, or no value."""
    if value is None:
        return None
    return value.get(key) if isinstance(value, Mapping) else value[key]


class TwinAgent:
    """Gives a component what its twin is given, and compares what both say; ports in `without` are others' business."""

    def __init__(self, bench: Bench, component: wiring.Component, twin: Twin, *, without: Collection[str] = ()) -> None:
        self._bench = bench
        self._twin = twin
        self._source = bench.random("unused")
        self._inputs: list[_Port] = []
        self._outputs: list[_Port] = []
        for path, member, _ in component.signature.flatten(component):
            if path[0] not in without and Payload(member.shape).width:
                ports = {In: self._inputs, Out: self._outputs}[member.flow]
                ports.append(_Port(bench, path, member.shape))
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._twin.reset()
        self._given: Values = {}

    def drive(self) -> None:
        self._given = self._twin.inputs()
        for port in self._inputs:
            port.drive(self._given, self._source)

    def sample(self, cycle: int) -> None:
        wanted = self._twin.outputs()
        differences = [text for port in self._outputs for text in port.differences(wanted)]
        assert not differences, (
            f"{'; '.join(differences[:8])}, cycle {cycle}, seed {self._bench.seed}, given {self._given}"
        )
        self._twin.clock()


async def compare(
    dut: HierarchyObject,
    component: wiring.Component,
    make: Callable[[random.Random], Twin],
    *,
    seed: int,
    cycles: int,
    resets: int = 2,
) -> None:
    """Compare a component with its twin for `cycles` cycles, with `resets` resets of one cycle among them.

    AssertionError if they differ in a cycle, or if a goal of the twin was not met.
    """
    bench = Bench(dut, seed=seed)
    twin = make(bench.random("twin"))
    TwinAgent(bench, component, twin)
    places = sorted(bench.random("resets").sample(range(1, cycles), resets))
    await bench.reset()
    for begin, end in zip([0, *places], [*places, cycles], strict=True):
        if begin:
            await bench.reset(1)
        await bench.step(end - begin)
    twin.check_goals()
