"""What goes into a quick-select, what comes out of it, and how it divides the range of its values."""

from __future__ import annotations

from amaranth.hdl import Shape, ShapeLike, signed, unsigned
from amaranth.lib import data

__all__ = [
    "candidate_beat",
    "default_digit_bits",
    "first_digit",
    "lowest_free_bits",
    "passes_of",
    "rank_shape",
    "scanned_beat",
    "select_bin",
    "selection",
]


def candidate_beat(width: int, lanes: int, n_max: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A beat of a row: `values`, of which the first `count` are live, `last`, and the row's `k` and `header`."""
    extra = {} if header is None else {"header": header}
    values = data.ArrayLayout(unsigned(width), lanes)
    return data.StructLayout({"values": values, "count": range(lanes + 1), "last": 1, "k": range(n_max + 1), **extra})


def selection(width: int, n_max: int, header: ShapeLike | None = None) -> data.StructLayout:
    """What a row's top-k is: the k-th largest value as `threshold`, and of its `equals` how many to keep."""
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"threshold": unsigned(width), "equals": range(n_max + 1), **extra})


def default_digit_bits(width: int) -> int:
    """Bits of a digit by default: 6, or 5 for values wider than 12 bits, but always fewer than a value has."""
    return min(5 if width > 12 else 6, width - 1)


def first_digit(width: int, digit_bits: int) -> list[tuple[int, int]]:
    """The bins into which values are sorted while they stream in: (lowest value, low bits that are free), ascending.

    Values up to two digits wide are sorted by their upper digit. Wider ones are sorted by half octaves, that is by
    exponent and first mantissa bit, so that a row is divided well whatever its scale; values below 2**digit_bits share
    a bin.
    """
    if width <= 2 * digit_bits:
        return [(top << digit_bits, digit_bits) for top in range(1 << width - digit_bits)]
    bins = [(0, digit_bits)]
    for exponent in range(digit_bits, width):
        bins += [(1 << exponent, exponent - 1), (3 << exponent - 1, exponent - 1)]
    return bins


def lowest_free_bits(width: int, digit_bits: int) -> list[int]:
    """For each bin of `first_digit`, where the next digit begins: how many bits below that digit are free."""
    return [max(free - digit_bits, 0) for _, free in first_digit(width, digit_bits)]


def passes_of(width: int, digit_bits: int) -> int:
    """Most passes over a buffered row, whatever its values."""
    return max(1, *(-(-free // digit_bits) for _, free in first_digit(width, digit_bits)))


def rank_shape(n_max: int) -> Shape:
    """Shape of a rank in a row, the number of elements above one, less those that are counted."""
    return signed(n_max.bit_length() + 1)


def select_bin(width: int, digit_bits: int) -> data.StructLayout:
    """A bin: the values that are like `value` in the bits that are set in `known`.

    The bits below are free: first the digit, from bit `low` up, that the next pass looks at, then the `low` others.
    """
    low = range(max(1, *lowest_free_bits(width, digit_bits)) + 1)
    return data.StructLayout({"value": width, "known": width, "low": low})


def scanned_beat(width: int, lanes: int) -> data.StructLayout:
    """A beat that is read in a pass: `values`, of which the first `count` are live; whether it is the pass's `first`,
    its `last`, and one of `several`."""
    values = data.ArrayLayout(unsigned(width), lanes)
    return data.StructLayout({"values": values, "count": range(lanes + 1), "first": 1, "last": 1, "several": 1})
