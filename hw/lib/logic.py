"""Small pieces of logic that several circuits need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Value, ValueLike, unsigned
from amaranth.utils import ceil_log2

__all__ = [
    "add",
    "at_least",
    "choose",
    "count_ones",
    "equals",
    "first_set",
    "following",
    "gather_or",
    "index_shape",
    "one_hot",
    "one_of",
    "or_tree",
    "product",
    "ring_sum",
    "select",
    "store_at",
    "wrapped",
    "wrapped_sum",
]


def equals(value: Value, constant: int) -> Value:
    """value == constant. For 0 it is written as ~any, as the backend makes a logical not of a vector of `== 0`."""
    return value == constant if constant else ~value.any()


def choose(values: Sequence[Value], index: Value) -> Value:
    """values[index], by a chain of comparisons; the last value for an index beyond the last."""
    result = values[-1]
    for n, value in reversed(list(enumerate(values[:-1]))):
        result = Mux(equals(index, n), value, result)
    return result


def select(values: Sequence[Value] | Mapping[int, Value], index: Value) -> Value:
    """values[index], by a tree of two-way selections; an arbitrary one of them for an index without a value."""
    entries = values if isinstance(values, Mapping) else dict(enumerate(values))
    if len(entries) == 1:
        return next(iter(entries.values()))
    bit = max(entries).bit_length() - 1
    below = {n: value for n, value in entries.items() if not n >> bit}
    above = {n - (1 << bit): value for n, value in entries.items() if n >> bit}
    if not below:
        return select(above, index)
    return Mux(index[bit], select(above, index), select(below, index))


def count_ones(bits: Sequence[Value]) -> Value:
    """How many of `bits` are set, as a balanced tree of sums."""
    if len(bits) < 2:
        return bits[0] if bits else Const(0, 1)
    half = len(bits) // 2
    return count_ones(bits[:half]) + count_ones(bits[half:])


def at_least(bits: Sequence[Value], count: int) -> Value:
    """Whether at least `count` of `bits` are set, by a tree that counts no further, without a carry."""
    reached = _reached(bits, count)
    return reached[count - 1] if count <= len(reached) else Const(0, 1)


def _reached(bits: Sequence[Value], count: int) -> list[Value]:
    """Whether at least 1, 2, ... of `bits` are set, up to `count`."""
    if len(bits) < 2:
        return list(bits)
    half = len(bits) // 2
    always = Const(1, 1)
    left, right = [[always, *_reached(part, count)] for part in (bits[:half], bits[half:])]
    return [
        gather_or([left[n] & right[least - n] for n in range(len(left)) if 0 <= least - n < len(right)])
        for least in range(1, min(count, len(bits)) + 1)
    ]


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


def or_tree(values: Sequence[Value]) -> Value:
    """The bitwise OR of all values, as a balanced tree: for what comes late, or is on a long path."""
    if len(values) < 2:
        return values[0] if values else Const(0, 1)
    half = len(values) // 2
    return or_tree(values[:half]) | or_tree(values[half:])


def index_shape(count: int) -> Shape:
    """Shape of a number below `count`: of at least one bit, since Verilog has no signal without bits."""
    return unsigned(max(1, ceil_log2(count)))


def one_hot(index: Value, count: int) -> Value:
    """`count` bits, of which bit `index` is set."""
    return (Const(1, count) << index)[:count]


def one_of(enables: Sequence[Value], values: Sequence[Value]) -> Value:
    """The value whose enable is set, as bits; zero if none is."""
    return gather_or([Mux(enable, value, 0) for enable, value in zip(enables, values, strict=True)])


def add(left: Value, right: Value, carry: Value) -> Value:
    """`left` + `right` + `carry`, a bit, as wide as `left`, in one chain of carries."""
    return (Cat(Const(1, 1), left) + Cat(carry, right))[1 : 1 + len(left)]


def product(wide: Value, narrow: Value) -> Value:
    """wide x narrow as a tree of shifted terms, since a factor of a few bits needs no multiplier."""
    terms: list[Value] = [Mux(narrow[bit], wide, 0) << bit for bit in range(len(narrow))] or [Const(0, 1)]
    while len(terms) > 1:
        terms = [sum(terms[n + 1 : n + 2], terms[n]) for n in range(0, len(terms), 2)]
    return terms[0]


def store_at(m: Module, registers: Sequence[Any], index: Value, value: ValueLike) -> None:
    """registers[index] := value, at the end of the cycle."""
    for number, register in enumerate(registers):
        with m.If(equals(index, number)):
            m.d.sync += register.eq(value)


def wrapped(place: Value, size: int) -> Value:
    """`place` in a ring of `size` places; it may be given as beyond the ring's end by less than `size`."""
    return Mux(place >= size, place - size, place)


def wrapped_sum(place: Value, step: Value, size: int) -> Value:
    """`place` + `step` in a ring of `size` places, as `wrapped` has it, but with one chain of carries, not two."""
    wraps, total, less = ring_sum(place, step, size)
    return Mux(wraps, less, total)


def ring_sum(place: Value, step: Value, size: int) -> tuple[Value, Value, Value]:
    """Whether `place` + `step` wraps in a ring of `size` places; the sum, and where it wraps to.

    The second is made beside the first: each bit of `size` is taken off the two operands before they are added. Where
    `size` is a power of two the place is always the second.
    """
    total = place + step
    if size & (size - 1) == 0:
        return Const(1, 1), total, total[: size.bit_length() - 1]
    bits = len(total)
    left, right, rest = place | Const(0, bits), step | Const(0, bits), Const((1 << bits) - size, bits)
    carries = (left & right) | ((left | right) & rest)
    less = (left ^ right ^ rest) + (carries << 1)
    return less[bits], total, less[:bits]


def following(place: Value, size: int) -> Value:
    """The place behind `place` in a ring of `size` places."""
    if 1 << len(place) == size:
        return (place + 1)[: len(place)]
    return Mux(place == size - 1, 0, place + 1)
