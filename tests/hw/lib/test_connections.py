"""Structs and streams joined member by member."""

from __future__ import annotations

import re
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream
from amaranth.sim import Simulator

from spatten.hw.lib.connections import by_member, optional, pass_on

PAIR = data.StructLayout({"a": 4, "b": data.ArrayLayout(2, 2)})
WIDE = data.StructLayout({"b": data.ArrayLayout(2, 2), "c": 3, "a": 8})


def settled(m: Module, inputs: list[tuple[Any, int]], outputs: list[Any]) -> list[int]:
    """What the outputs are for these inputs."""
    found = []

    async def bench(context: Any) -> None:
        for signal, value in inputs:
            context.set(signal, value)
        found.extend(context.get(output) for output in outputs)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def test_members_go_by_their_names() -> None:
    m = Module()
    source, target = Signal(WIDE), Signal(PAIR)
    m.d.comb += by_member(target, source)
    bits = 0xA << 7 | 5 << 4 | 0b1101
    a, b0, b1 = settled(m, [(source.as_value(), bits)], [target.a, target.b[0], target.b[1]])
    assert (a, b0, b1) == (0xA, 0b01, 0b11)


def test_others_go_first_and_structs_of_other_layouts_go_by_member() -> None:
    m = Module()
    source = Signal(data.StructLayout({"inner": WIDE, "n": 1}))
    target = Signal(data.StructLayout({"inner": PAIR, "n": 3}))
    m.d.comb += by_member(target, source, n=5)
    a, n = settled(m, [(source.as_value(), 0x3 << 7)], [target.inner.a, target.n])
    assert (a, n) == (3, 5)


def test_streams_of_structs_and_of_numbers_of_other_widths() -> None:
    for shapes, bits, wanted in (((WIDE, PAIR), 0x9 << 7, 0x9), ((8, 4), 0x29, 0x9)):
        m = Module()
        source, target = (stream.Signature(shape).create() for shape in shapes)
        pass_on(m, source, target)
        payload = source.payload if isinstance(source.payload, Signal) else source.payload.as_value()
        member = target.payload if isinstance(target.payload, Signal) else target.payload.a
        inputs = [(payload, bits), (source.valid, 1), (target.ready, 1)]
        assert settled(m, inputs, [member, target.valid, source.ready]) == [wanted, 1, 1]


@pytest.mark.parametrize(
    ("source", "others", "error", "text"),
    [
        (PAIR, {"d": 1}, LookupError, "there is no member d among b, c, a"),
        (PAIR, {}, LookupError, "member c has no value; there are a, b"),
        (PAIR, {"c": 1, "b": 1}, TypeError, "member b must have 4 bits, not 1"),
    ],
)
def test_what_does_not_fit_is_refused(source: Any, others: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        by_member(Signal(WIDE), Signal(source), **others)


def test_only_structs_and_interfaces_have_members() -> None:
    with pytest.raises(TypeError, match=r"^must be a struct or an interface, not .*$"):
        by_member(Signal(4), Signal(PAIR))


def test_members_that_a_machine_lacks_are_left_out() -> None:
    assert data.StructLayout({"a": 4, **optional(True, b=2, c=1)}) == data.StructLayout({"a": 4, "b": 2, "c": 1})
    assert data.StructLayout({"a": 4, **optional(False, b=2, c=1)}) == data.StructLayout({"a": 4})
