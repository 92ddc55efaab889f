"""Small pieces of logic that several circuits need."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Const, Mux, Value

__all__ = ["choose", "count_ones", "equals", "first_set", "gather_or", "one_of", "product", "wrapped"]


def equals(value: Value, constant: int) -> Value:
    """value == constant. For 0 it is written as ~any, as the backend makes a logical not of a vector of `== 0`."""
    return value == constant if constant else ~value.any()


def choose(values: Sequence[Value], index: Value) -> Value:
    """values[index]; the last value for an index beyond it."""
    result = values[-1]
    for n, value in reversed(list(enumerate(values[:-1]))):
        result = Mux(equals(index, n), value, result)
    return result


def count_ones(bits: Sequence[Value]) -> Value:
    """How many of `bits` are set, as a balanced tree of sums."""
    if len(bits) < 2:
        return bits[0] if bits else Const(0, 1)
    half = len(bits) // 2
    return count_ones(bits[:half]) + count_ones(bits[half:])


def first_set(bits: Value) -> Value:
    """Number of the lowest bit that is set; 0 if none is."""
    result: Value = Const(0, 1)
    for n in reversed(range(len(bits))):
        result = Mux(bits[n], n, result)
    return result


def gather_or(values: Sequence[Value]) -> Value:
    """The bitwise OR of all values: where all but one are zero, that one."""
    result: Value = Const(0, 1)
    for value in values:
        result = result | value
    return result


def one_of(enables: Sequence[Value], values: Sequence[Value]) -> Value:
    """The value whose enable is set, as bits; zero if none is."""
    return gather_or([Mux(enable, value, 0) for enable, value in zip(enables, values, strict=True)])


def product(wide: Value, narrow: Value) -> Value:
    """wide x narrow as one sum of shifted terms, since a factor of a few bits needs no multiplier."""
    result: Value = Const(0, 1)
    for bit in range(len(narrow)):
        result = result + (Mux(narrow[bit], wide, 0) << bit)
    return result


def wrapped(place: Value, size: int) -> Value:
    """`place` in a ring of `size` places; it may be given as beyond the ring's end by less than `size`."""
    return Mux(place >= size, place - size, place)
