"""A context's state as memory holds it (hw/control/state.py): importance of tokens and heads, and which are kept.

In sectors: the importance of the tokens, 32 bits each; the set of kept tokens, a bit each; the importance of the heads,
32 bits each; and one sector with the set of kept heads in its first 16 bits and the set of saturated heads in the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spatten.golden import BoolArray
from spatten.golden.cascade import Context
from spatten.spec.config import SECTOR_BYTES, Config

_WORD_BYTES = 4


def _sizes(config: Config) -> tuple[int, int, int]:
    """Sectors of the tokens' importance, of the kept tokens, and of the heads' importance."""
    return (
        -(-config.tokens_max * _WORD_BYTES // SECTOR_BYTES),
        -(-config.tokens_max // (8 * SECTOR_BYTES)),
        -(-config.heads_max * _WORD_BYTES // SECTOR_BYTES),
    )


def state_sectors(config: Config) -> int:
    """Sectors of a saved state."""
    return sum(_sizes(config)) + 1


def kept_sectors(config: Config) -> NDArray[np.int64]:
    """Which sectors of a saved state have the sets of kept tokens and heads, from 0 on."""
    tokens, kept, heads = _sizes(config)
    return np.array([*range(tokens, tokens + kept), tokens + kept + heads], np.int64)


def importance_sectors(config: Config) -> NDArray[np.int64]:
    """Which sectors of a saved state have the importance of tokens and heads, from 0 on."""
    return np.setdiff1d(np.arange(state_sectors(config)), kept_sectors(config))


def save(context: Context) -> NDArray[np.uint8]:
    """The image of a context, [sectors, 32]."""
    tokens, kept, heads = _sizes(context.config)
    image = np.zeros((state_sectors(context.config), SECTOR_BYTES), np.uint8)

    def put(first: int, data: NDArray[np.uint8]) -> None:
        image[first:].reshape(-1)[: len(data)] = data

    put(0, context.token_importance.astype("<u4").view(np.uint8))
    put(tokens, np.packbits(context.kept_tokens, bitorder="little"))
    put(tokens + kept, context.head_importance.astype("<u4").view(np.uint8))
    sets = [sum(1 << int(head) for head in np.flatnonzero(s)) for s in (context.kept_heads, context.heads_saturated)]
    put(tokens + kept + heads, np.array(sets, "<u2").view(np.uint8))
    return image


def restore(context: Context, image: NDArray[np.uint8]) -> None:
    """Set a context to an image; no head counts as saturated then."""
    config = context.config
    tokens, kept, heads = _sizes(config)
    flat = image.reshape(-1)

    def words(first: int, count: int) -> NDArray[np.int64]:
        start = first * SECTOR_BYTES
        return flat[start : start + count * _WORD_BYTES].copy().view("<u4").astype(np.int64)

    def members(first: int, count: int) -> BoolArray:
        return np.unpackbits(flat[first * SECTOR_BYTES :], bitorder="little", count=count).astype(np.bool_)

    context.token_importance = words(0, config.tokens_max)
    context.kept_tokens = members(tokens, config.tokens_max)
    context.head_importance = words(tokens + kept, config.heads_max)
    context.kept_heads = members(tokens + kept + heads, config.heads_max)
    context.heads_saturated = np.zeros(config.heads_max, np.bool_)
