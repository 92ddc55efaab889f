"""Output rows as sector writes to channels, in the order in which a machine makes them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spatten.golden import GoldenError, IntArray
from spatten.golden.convert import pack
from spatten.golden.memory import OUTPUT_BITS, OutputRegion
from spatten.spec.config import SECTOR_BYTES


def sector_writes(
    region: OutputRegion, heads: IntArray, rows: IntArray, output: IntArray
) -> tuple[IntArray, IntArray, NDArray[np.uint8]]:
    """Rows `output` [n, d] of `heads` [n] and `rows` [n]: channels [n, s], local sectors [n, s] and bytes [n, s, 32].

    s = d / 16 sectors a row, ascending.
    """
    if output.ndim != 2 or output.shape[1] != region.head_dim:
        raise GoldenError(f"rows must have {region.head_dim} elements, not shape {output.shape}")
    if heads.shape != output.shape[:1] or rows.shape != output.shape[:1]:
        raise GoldenError(f"{len(output)} rows need as many heads and row numbers, not {heads.shape} and {rows.shape}")
    if np.any((heads < 0) | (heads >= region.heads)):
        raise GoldenError(f"heads must be 0 to {region.heads - 1}, not {heads.min()} to {heads.max()}")
    first = region.base + rows * region.row_sectors + heads * region.head_sectors
    sectors = first[:, None] + np.arange(region.head_sectors)
    content = pack(output, OUTPUT_BITS).reshape(len(output), region.head_sectors, SECTOR_BYTES)
    return sectors % region.channels, sectors // region.channels, content
