"""A ring of sectors that holds blocks in order (docs/numerics.md, section 3, has what is in them).

Where blocks lie, and what a window of the ring holds: nothing else of the buffer can be seen from outside.
"""

from __future__ import annotations

import numpy as np

from spatten.golden import GoldenError, IntArray


def block_addresses(sizes: IntArray, sectors: int) -> IntArray:
    """First sector of each block of `sizes` [n] sectors: each begins where the one before ends, around the ring."""
    if np.any((sizes < 1) | (sizes > sectors)):
        raise GoldenError(f"a block must have 1 to {sectors} sectors, not {sizes[(sizes < 1) | (sizes > sectors)][0]}")
    starts: IntArray = (np.cumsum(sizes) - sizes) % sectors
    return starts


def granted(sizes: IntArray, freed: int, sectors: int) -> int:
    """How many of the blocks of `sizes` [n] have got space once `freed` sectors in all were given up."""
    return int(np.count_nonzero(np.cumsum(sizes) <= sectors + freed))


def window(ring: IntArray, first: int, count: int, banks: int) -> tuple[IntArray, IntArray]:
    """What each bank delivers for `count` sectors from `first` on, of a ring [lanes, sectors] of whatever identifies a
    sector: [lanes, banks], and which banks are part of the window [banks]. Bank j holds the sectors s with
    s mod `banks` = j."""
    lanes, sectors = ring.shape
    words = np.zeros((lanes, banks), np.int64)
    needed = np.zeros(banks, np.int64)
    places = (first + np.arange(count)) % sectors
    words[:, places % banks] = ring[:, places]
    needed[places % banks] = 1
    return words, needed
