"""Joining the rows of a sequence into full ones (SpAtten section V-B): the same elements in the same order."""

from __future__ import annotations

import numpy as np

from spatten.golden import GoldenError, IntArray


def pack_rows(lanes: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
    """Rows [r, n] of which the first `counts` [r] lanes are live, joined: rows [R, n], zeros behind, and counts [R].

    R = ceil(sum of counts / n), and at least 1: a sequence without elements is one row of count 0.
    """
    if lanes.ndim != 2:
        raise GoldenError(f"lanes must have two axes, not shape {lanes.shape}")
    rows, width = lanes.shape
    if counts.shape != (rows,):
        raise GoldenError(f"counts must have shape ({rows},), not {counts.shape}")
    if rows and not 0 <= counts.min() <= counts.max() <= width:
        raise GoldenError(f"counts must be 0 to {width}, not {counts.min()} to {counts.max()}")
    elements = lanes[np.arange(width) < counts[:, None]]
    full_rows = max(1, -(-len(elements) // width))
    packed = np.zeros(full_rows * width, np.int64)
    packed[: len(elements)] = elements
    starts = np.arange(full_rows) * width
    return packed.reshape(full_rows, width), np.clip(len(elements) - starts, 0, width)
