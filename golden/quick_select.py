"""The selection of a quick-select (SpAtten section IV-B): the k-th largest value and how many of its equals to keep."""

from __future__ import annotations

import numpy as np

from golden import GoldenError, IntArray
from golden.topk import threshold


def select(values: IntArray, k: int) -> tuple[int, int]:
    """`golden.topk.threshold` of a row of unsigned values [n], as if zeros were behind it where k is above n."""
    if values.ndim != 1 or not len(values):
        raise GoldenError(f"values must be one row of at least one value, not of shape {values.shape}")
    if values.min() < 0:
        raise GoldenError(f"values must be unsigned, not {values.min()}")
    kth, equals = threshold(np.pad(values, (0, max(0, k - len(values)))), k)
    return int(kth), int(equals)
