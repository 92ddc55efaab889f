"""The selection of a quick-select (SpAtten section IV-B): the k-th largest value and how many of its equals to keep."""

from __future__ import annotations

import numpy as np

from spatten.golden import GoldenError, IntArray
from spatten.golden.topk import threshold


def select(values: IntArray, k: int) -> tuple[int, int]:
    """`golden.topk.threshold` of a row of unsigned values [n], followed by zeros where k is above n."""
    if values.ndim != 1 or not len(values):
        raise GoldenError(f"values must be one row of at least one value, not of shape {values.shape}")
    if values.min() < 0:
        raise GoldenError(f"values must be unsigned, not {values.min()}")
    kth, equals = threshold(np.pad(values, (0, max(0, k - len(values)))), k)
    return int(kth), int(equals)


def passes(values: IntArray, k: int, *, width: int, digit_bits: int) -> int:
    """Passes over a row of values [n] of `width` bits, after the first, in which the row streams in.

    The first tells apart the values' highest digits: their binary order of magnitude and the bit below it, or where
    `width` is at most 2 x `digit_bits` all but the last digit. Each pass then fixes `digit_bits` more bits of the k-th
    largest, until all are fixed or all values that share the bits known before it are equal.
    """
    kth, _ = select(values, k)
    by_order = width > 2 * digit_bits and kth >> digit_bits > 0
    free = kth.bit_length() - 2 if by_order else digit_bits
    count = 0
    while True:
        count += 1
        alike = values[values >> free == kth >> free]
        if free <= digit_bits or (len(alike) and alike.min() == alike.max()):
            return count
        free -= digit_bits
