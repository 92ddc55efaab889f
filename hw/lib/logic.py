"""Small pieces of logic that several circuits need."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Const, Mux, Value

__all__ = ["choose", "count_ones", "equals", "first_set", "gather_or", "one_of", "product", "wrapped"]


def equals(value: Value, constant: int) -> Value:
    """value == constant; 0 apart, since the backend writes a comparison with 0 as a logical not of a vector."""
    return value == constant if constant else ~value.any()


def choose(values: Sequence[Value], index: Value) -> Value:
    """values[index]; the last for an index beyond."""
    result = values[-1]
    for n, value in reversed(list(enumerate(values[:-1]))):
        result = Mux(equals(index, n), value, result)
    return result


def count_ones(bits: Sequence[Value]) -> Value:
    """How many of them are set, as a balanced tree of sums."""
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
    """All of them, one bit or another: for values of which all but one are zero."""
    result: Value = Const(0, 1)
    for value in values:
        result = result | value
    return result


def one_of(enables: Sequence[Value], values: Sequence[Value]) -> Value:
    """The value whose enable is set, as bits; zero if none is."""
    return gather_or([Mux(enable, value, 0) for enable, value in zip(enables, values, strict=True)])


def product(wide: Value, narrow: Value) -> Value:
    """wide x narrow as one sum of shifted terms: no multiplier for a factor of a few bits."""
    result: Value = Const(0, 1)
    for bit in range(len(narrow)):
        result = result + (Mux(narrow[bit], wide, 0) << bit)
    return result


def wrapped(place: Value, size: int) -> Value:
    """A place of a ring from one that may be beyond its end, by less than its size."""
    return Mux(place >= size, place - size, place)
