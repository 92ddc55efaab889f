"""What a job is: the fields of its descriptor, declared once, and what it reports when it ends.

The register bank lays `job_fields` out in its shadow registers, checks them and queues them; the machine reads them
from the queue as a `job_layout`. Addresses are global 32-byte sectors, multiples of the channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from amaranth.hdl import unsigned
from amaranth.lib import data

from hw.config import LSB_BITS, MULTIPLIER_FRACTION, SCALE_MANTISSA_BITS, Config

__all__ = ["JOB_WORDS", "Fetch", "Field", "Flag", "Mode", "events_layout", "job_fields", "job_layout", "report_layout"]


class Mode(IntEnum):
    """What a job's query rows are (golden.attention.Mode)."""

    SUMMARIZATION = 0
    """Every live token attends to every live token."""
    CAUSAL = 1
    """Every live token attends to the live tokens up to itself."""
    GENERATION = 2
    """One token attends to all live tokens and itself."""


class Fetch(IntEnum):
    """Which planes of K a job reads (golden.attention.KeyFetch)."""

    STATIC = 0
    """One plane of `key_bits`."""
    JOINED = 1
    """MSB and LSB planes, for every row."""
    PROGRESSIVE = 2
    """The MSB plane, and the LSB plane where a row is flat. Generation only."""


class Flag(IntEnum):
    """Bits of a job's `flags`."""

    CLEAR = 0
    """The first job of a sequence: importance starts from zero, everything is live."""
    RESTART = 1
    """The first layer of a step: all tokens and heads are live again."""
    ACCUMULATE = 2
    """Probabilities and outputs add to the importance."""
    PRUNE_TOKENS = 3
    """Keep the `keep_tokens` most important tokens at the end, pinned ones first; else all live ones stay."""
    PRUNE_HEADS = 4
    """Keep the `keep_heads` most important heads at the end; else all live ones stay."""
    PRUNE_VALUES = 5
    """Each head fetches the V rows of its `keep_values` largest probabilities only. Generation only."""
    HAS_KV = 6
    """Read the bitmap of the tokens that have K and V in this layer; else all have."""
    PINNED = 7
    """Read the bitmap of the tokens that are never pruned; else none is."""
    LOAD_STATE = 8
    """Read the context's state from memory before anything else. Not with CLEAR."""
    STORE_STATE = 9
    """Write the context's state to memory at the end."""


@dataclass(frozen=True)
class Field:
    """A field of the descriptor: where in the shadow registers it lies, and what it means."""

    name: str
    word: int
    """32-bit word of the shadow registers."""
    bit: int
    """First bit in the word."""
    width: int
    what: str


def index_bits(count: int) -> int:
    """Bits of a number below `count`; at least one."""
    return max(1, (count - 1).bit_length())


def job_fields(config: Config) -> tuple[Field, ...]:
    """The fields of the descriptor, in the order of the words."""
    count = config.tokens_max.bit_length()
    token = index_bits(config.tokens_max)
    heads = config.heads_max.bit_length()
    sector = config.sector_bits
    fields = [
        Field("tag", 0, 0, 16, "comes back in the report; anything"),
        Field("mode", 0, 16, 2, "what the query rows are: MODE_IS_..."),
        Field("fetch", 0, 18, 2, "planes of K that are read: FETCH_IS_..."),
        Field("context", 0, 24, index_bits(config.contexts), "cascade state that the job uses"),
        Field("flags", 1, 0, len(Flag), "what else the job does: a sum of FLAG_..."),
        Field("age_shift", 1, 16, 5, "importance is halved so many times before the job"),
        Field("head_dim", 2, 0, 2, "head dimension: HEAD_DIM_IS_..."),
        Field("query_bits", 2, 4, 3, "bits of a Q code: WIDTH_IS_..."),
        Field("key_bits", 2, 8, 3, "bits of a code in the K plane, or in its MSB plane: WIDTH_IS_..."),
        Field("value_bits", 2, 12, 3, "bits of a V code: WIDTH_IS_..."),
        Field("heads", 2, 16, heads, "heads of the layer"),
        Field("head_mask", 3, 0, config.heads_max, "bit h: head h has K and V in this layer"),
        Field("keys", 4, 0, count, "rows of the K and V planes that exist: token ids 0 to keys - 1"),
        Field("kv_rows", 4, 16, count, "rows that the K and V planes have room for, at least keys"),
        Field("valid_length", 5, 0, count, "tokens from this id on are padding; at most keys"),
        Field("queries", 5, 16, count, "rows of the Q plane: token ids query_offset to query_offset + queries - 1"),
        Field("query_offset", 6, 0, token, "token id of the first query row; in generation the id of the token"),
        Field("keep_tokens", 7, 0, count, "tokens to keep, with prune_tokens"),
        Field("keep_values", 7, 16, count, "V rows that each head keeps, with prune_values"),
        Field("keep_heads", 8, 0, heads, "heads to keep, with prune_heads"),
        Field("multiplier", 8, 8, MULTIPLIER_FRACTION + 1, "weight of head importance, 32768 is 1.0"),
        Field("flat_limit", 9, 0, 16, "progressive: a row whose sum of exponentials exceeds limit / 32 is flat"),
        Field("query", 10, 0, sector, "sector of the Q plane"),
        Field("key", 11, 0, sector, "sector of the K plane, or of its MSB plane"),
        Field("key_lsb", 12, 0, sector, "sector of the K LSB plane; unless static"),
        Field("value", 13, 0, sector, "sector of the V plane"),
        Field("output", 14, 0, sector, "sector of the output"),
        Field("has_kv", 15, 0, sector, "sector of the bitmap, with the flag has_kv"),
        Field("pinned", 16, 0, sector, "sector of the bitmap, with the flag pinned"),
        Field("state", 17, 0, sector, "sector of the context's state, with load_state or store_state"),
    ]
    for head in range(config.heads_max):
        what = f"score scale of head {head}: mantissa, top bit set"
        fields.append(Field(f"mantissa{head}", 32 + head, 0, SCALE_MANTISSA_BITS, what))
        fields.append(Field(f"shift{head}", 32 + head, 16, 6, f"and shift, {LSB_BITS} to 63"))
    return tuple(fields)


JOB_WORDS = 64
"""32-bit words of the descriptor."""


def job_layout(config: Config) -> data.StructLayout:
    """A job as the queue holds it; `scales` are of all heads."""
    scale = data.StructLayout({"mantissa": SCALE_MANTISSA_BITS, "shift": 6})
    members = {
        field.name: unsigned(field.width)
        for field in job_fields(config)
        if not field.name.startswith(("mantissa", "shift"))
    }
    return data.StructLayout({**members, "scales": data.ArrayLayout(scale, config.heads_max)})


def report_layout(config: Config) -> data.StructLayout:
    """What a job reports when it ends without an error, beside its `tag`."""
    return data.StructLayout(
        {
            "tag": 16,
            "live_tokens": config.tokens_max.bit_length(),
            "kept_tokens": config.tokens_max.bit_length(),
            "live_heads": config.heads_max,
            "kept_heads": config.heads_max,
            "rows": 16,
            "recomputed": 16,
            "output_saturated": 32,
            "tokens_saturated": config.tokens_max.bit_length(),
            "heads_saturated": config.heads_max,
        }
    )


def events_layout(config: Config) -> data.StructLayout:
    """What happens in a cycle, for the performance counters: each adds its value to the counter of its name."""
    sectors = range(8 * config.topk_lanes + 1)
    return data.StructLayout(
        {
            "busy": 1,
            "stalled_memory": 1,
            "stalled_topk": 1,
            "qk_beats": 1,
            "pv_beats": 1,
            "query_sectors": sectors,
            "key_sectors": sectors,
            "lsb_sectors": sectors,
            "value_sectors": sectors,
            "other_sectors": sectors,
            "output_sectors": range(config.channels + 1),
            "rows": 1,
            "recomputed": 1,
            "topk_passes": range(3),
            "output_saturated": range(config.slice_width + 1),
        }
    )
