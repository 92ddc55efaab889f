"""Zero elimination (SpAtten section V): the live lanes of a row at its front, in order, and their count."""

from __future__ import annotations

import numpy as np

from spatten.golden import BoolArray, GoldenError, IntArray


def eliminate_zeros(lanes: IntArray, mask: BoolArray) -> tuple[IntArray, IntArray]:
    """Rows [..., n] with the lanes where `mask` [..., n] is True first and zeros behind, and the counts [...]."""
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be an array of booleans, not of {mask.dtype}")
    if lanes.ndim < 1:
        raise GoldenError(f"lanes must have at least one axis, not shape {lanes.shape}")
    if mask.shape != lanes.shape:
        raise GoldenError(f"mask must have the shape of lanes {lanes.shape}, not {mask.shape}")
    # A stable sort that knows only live and dead puts the live lanes first and keeps their order.
    order = np.argsort(~mask, axis=-1, kind="stable")
    compacted = np.where(mask, lanes, 0)
    return np.take_along_axis(compacted, order, axis=-1), np.count_nonzero(mask, axis=-1, keepdims=True)[..., 0]
