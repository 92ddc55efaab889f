"""Sizes of a saved state and payloads of what saves and restores it.

The image, in sectors: the importance of the tokens, 32 bits each; the set of kept tokens, a bit each; the importance of
the heads, 32 bits each; and a sector with the set of kept heads in its first 16 bits and the set of heads whose
importance has saturated in the next 16 (`golden.state`).
"""

from amaranth.hdl import Cat, Const, Value, unsigned
from amaranth.lib import data

from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.connections import optional
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import SECTOR_BITS

__all__ = [
    "HEAD_SET_BITS",
    "SECTOR_WORDS",
    "WORD_BITS",
    "as_word",
    "head_sectors",
    "head_state",
    "kept_sectors",
    "layouts",
    "sector_at",
    "state_command",
    "state_sectors",
    "token_sectors",
]

WORD_BITS = 32
"""Bits of an importance in the image."""
SECTOR_WORDS = SECTOR_BITS // WORD_BITS
HEAD_SET_BITS = 16
"""Bits of a set of heads in the image."""


def token_sectors(config: Config) -> int:
    """Sectors of the tokens' importance."""
    return -(-config.tokens_max // SECTOR_WORDS)


def kept_sectors(config: Config) -> int:
    """Sectors of the set of kept tokens."""
    return -(-config.tokens_max // SECTOR_BITS)


def head_sectors(config: Config) -> int:
    """Sectors of the heads' importance."""
    return -(-config.heads_max // SECTOR_WORDS)


def state_sectors(config: Config) -> int:
    """Sectors of a saved state; the last one has the sets of heads."""
    return token_sectors(config) + kept_sectors(config) + head_sectors(config) + 1


def sector_at(config: Config) -> data.StructLayout:
    """A sector's data, and its global address in sectors."""
    return data.StructLayout({"sector": unsigned(config.sector_bits), "data": unsigned(SECTOR_BITS)})


def layouts(config: Config) -> Layouts:
    """The payloads of the token importance unit."""
    return Layouts(
        tokens=config.tokens_max,
        prob_bits=config.prob_bits,
        importance_bits=config.token_importance_bits,
        prob_lanes=config.softmax_lanes,
        lanes=config.topk_lanes,
        contexts=config.contexts,
        slots=config.jobs_in_flight,
    )


def head_state(config: Config) -> data.StructLayout:
    """What is saved of the heads; without head pruning only which are kept, and the rest of their image is zero."""
    words = data.ArrayLayout(unsigned(config.head_importance_bits), config.heads_max)
    has_heads = config.has(Feature.PRUNE_HEADS)
    return data.StructLayout(
        {
            **optional(has_heads, importance=words),
            "kept": unsigned(config.heads_max),
            **optional(has_heads, saturated=unsigned(config.heads_max)),
        }
    )


def state_command(config: Config) -> data.StructLayout:
    """A context, and the first sector of its state in memory."""
    context = layouts(config).access.members["context"]
    return data.StructLayout({"context": context, "sector": unsigned(config.sector_bits)})


def as_word(importance: Value) -> Value:
    """An importance as a word of the image."""
    return Cat(importance, Const(0, WORD_BITS - len(importance)))
