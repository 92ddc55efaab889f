"""Expansion: the elements of a packed sequence in the places that a mask names, zeros elsewhere."""

from __future__ import annotations

import numpy as np

from spatten.golden import BoolArray, GoldenError, IntArray


def expand(elements: IntArray, mask: BoolArray) -> IntArray:
    """Array of the shape of `mask` that holds `elements` [n] in order where `mask` is True, and 0 elsewhere."""
    if mask.dtype != np.bool_:
        raise TypeError(f"mask must be an array of booleans, not of {mask.dtype}")
    if elements.ndim != 1:
        raise GoldenError(f"elements must have one axis, not shape {elements.shape}")
    wanted = int(np.count_nonzero(mask))
    if len(elements) != wanted:
        raise GoldenError(f"elements must be as many as the mask is True, {wanted}, not {len(elements)}")
    expanded = np.zeros(mask.shape, elements.dtype)
    expanded[mask] = elements
    return expanded


def packed_rows(elements: IntArray, lanes: int) -> IntArray:
    """Elements [n] in rows of `lanes`, zeros behind the last: [ceil(n / lanes), lanes]."""
    rows = np.zeros(-(-len(elements) // lanes) * lanes, elements.dtype)
    rows[: len(elements)] = elements
    return rows.reshape(-1, lanes)
