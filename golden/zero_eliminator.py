"""What `hw/zero_eliminator.py` computes: the live lanes of each row at its front, in order, and their count."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def eliminate_zeros(lanes: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Compact every row of `lanes` (rows x lanes, integers) by its `mask` (the same shape, True where live).

    Returns the compacted rows, zero from the count up, in the same type, and the live count of each row.
    """
    lanes = np.asarray(lanes)
    mask = np.asarray(mask)
    if not np.issubdtype(lanes.dtype, np.integer):
        raise TypeError(f"lanes must be an array of integers, not of {lanes.dtype}")
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be an array of booleans, not of {mask.dtype}")
    if lanes.ndim != 2:
        raise ValueError(f"lanes must be rows x lanes, not of shape {lanes.shape}")
    if mask.shape != lanes.shape:
        raise ValueError(f"mask must have the shape of lanes {lanes.shape}, not {mask.shape}")
    # A stable sort that knows only live and dead keeps the live lanes in order and puts them first.
    order = np.argsort(~mask, axis=1, kind="stable")
    live = np.take_along_axis(mask, order, axis=1)
    compacted = np.where(live, np.take_along_axis(lanes, order, axis=1), 0).astype(lanes.dtype, copy=False)
    return compacted, mask.sum(axis=1, dtype=np.int64)
