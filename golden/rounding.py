"""The one rounding and the one saturation of the machine (docs/numerics.md, section 1)."""

from __future__ import annotations

import numpy as np

from spatten.golden import IntArray


def round_shift(value: IntArray, shift: int | IntArray) -> IntArray:
    """Divide by 2**shift (shift >= 0) and round half up: floor(value / 2**shift + 1/2), so -1.5 becomes -1.

    |value| must lie below 2**61; then every shift beyond 61 leaves 0.
    """
    shift = np.minimum(np.asarray(shift, np.int64), 62)  # a 64-bit word has no larger one
    half = (np.int64(1) << shift) >> 1
    return (value + half) >> shift


def saturate(value: IntArray, bits: int) -> tuple[IntArray, int]:
    """Clip to a signed `bits`-wide range; returns the values and how many were out of it."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    clipped = np.clip(value, low, high)
    return clipped, int(np.count_nonzero(clipped != value))
