"""The functions of hw/lib/logic.py for every value of their operands, in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Const, Module, Signal, Value, unsigned
from amaranth.sim import Simulator

from spatten.hw.lib.logic import (
    at_least,
    choose,
    count_ones,
    equals,
    first_set,
    following,
    index_shape,
    one_hot,
    one_of,
    or_tree,
    product,
    select,
    wrapped,
    wrapped_sum,
)


def table(bits: int, function: Callable[[Signal], Value]) -> list[int]:
    """What the circuit of a function of one operand of so many bits gives for each of its values."""
    m = Module()
    operand = Signal(bits)
    result = Value.cast(function(operand))
    output = Signal(result.shape())
    m.d.comb += output.eq(result)
    found: list[int] = []

    async def look(context: Any) -> None:
        for number in range(1 << bits):
            context.set(operand, number)
            found.append(context.get(output))

    simulator = Simulator(m)
    simulator.add_testbench(look)
    simulator.run()
    return found


@pytest.mark.parametrize("count", range(1, 8))
def test_select_and_choose(count: int) -> None:
    wanted = [7 * n % 16 for n in range(count)]
    values = [Const(value, 4) for value in wanted]
    assert table(3, lambda index: select(values, index))[:count] == wanted
    assert table(3, lambda index: choose(values, index)) == wanted + [wanted[-1]] * (8 - count)


@pytest.mark.parametrize("count", range(6))
def test_or_tree(count: int) -> None:
    wanted = [int(any(operand >> n & 1 for n in range(count))) for operand in range(64)]
    assert table(6, lambda operand: or_tree(list(operand[:count]))) == wanted


@pytest.mark.parametrize("size", range(1, 9))
def test_places_of_a_ring(size: int) -> None:
    assert table(3, lambda place: following(place, size))[:size] == [(n + 1) % size for n in range(size)]
    assert table(4, lambda place: wrapped(place, size))[: 2 * size] == [n % size for n in range(2 * size)]
    sums = table(6, lambda both: wrapped_sum(both[:3], both[3:], size))
    assert [[sums[n + (step << 3)] for n in range(size)] for step in range(size)] == [
        [(n + step) % size for n in range(size)] for step in range(size)
    ]


def test_one_hot_and_one_of() -> None:
    assert table(3, lambda index: one_hot(index, 5)) == [1, 2, 4, 8, 16, 0, 0, 0]
    values = [Const(n, 3) for n in (5, 3, 6)]
    found = table(3, lambda enables: one_of(list(enables), values))
    assert [found[enables] for enables in (0, 1, 2, 4)] == [0, 5, 3, 6]


def test_bits_that_are_set() -> None:
    assert table(5, lambda bits: count_ones(list(bits))) == [n.bit_count() for n in range(32)]
    for least in range(1, 7):
        assert table(5, lambda bits, least=least: at_least(list(bits), least)) == [
            n.bit_count() >= least for n in range(32)
        ]
    assert table(5, first_set) == [max(0, (n & -n).bit_length() - 1) for n in range(32)]
    assert table(3, lambda value: equals(value, 0)) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert table(3, lambda value: equals(value, 5)) == [0, 0, 0, 0, 0, 1, 0, 0]


def test_product() -> None:
    assert table(5, lambda both: product(both[:3], both[3:])) == [(n & 7) * (n >> 3) for n in range(32)]


def test_the_shape_of_an_index_has_a_bit() -> None:
    assert [index_shape(count) for count in (1, 2, 3, 4, 5)] == [unsigned(width) for width in (1, 1, 2, 2, 3)]
