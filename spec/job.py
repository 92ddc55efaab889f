"""What a job is: one attention layer as software asks for it, and the descriptor's fields that say so to the circuit.

`Job` is what is computed, `Addresses` where its data lie, `Submission` both and all else that a run needs. `job_fields`
is the one list of the descriptor: where each field lies in the words, what it means, and how it follows from a
submission. The circuit lays the same list out in its shadow registers, checks the fields and queues them. Addresses are
global 32-byte sectors, multiples of the channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from spatten.spec.config import (
    HEAD_DIMS,
    LSB_BITS,
    MULTIPLIER_FRACTION,
    SCALE_MANTISSA_BITS,
    SCALE_SHIFT_MAX,
    SCALE_SHIFT_MIN,
    Config,
    Feature,
)
from spatten.spec.constants import FLAT_LIMIT_BITS, SCALE_SHIFT_BITS
from spatten.spec.errors import SpattenError
from spatten.spec.row_format import CODE_BITS

__all__ = [
    "JOB_WORDS",
    "Addresses",
    "Field",
    "Flag",
    "Job",
    "JobError",
    "KeyFetch",
    "Mode",
    "ScoreScale",
    "Submission",
    "event_limits",
    "flags_of",
    "ignored_bits",
    "index_bits",
    "job_fields",
    "report_widths",
]


class JobError(SpattenError, ValueError):
    """A job that no configuration can run, or that this one cannot; the message says what was wrong and what would be
    right."""


class _Labelled(IntEnum):
    """A number of the descriptor whose member has a name for messages."""

    @property
    def label(self) -> str:
        """The name in lower case."""
        return self.name.lower()


class Mode(_Labelled):
    """What a job's query rows are."""

    SUMMARIZATION = 0
    """Every live token attends to every live token."""
    CAUSAL = 1
    """Every live token attends to the live tokens up to itself."""
    GENERATION = 2
    """One token attends to all live tokens and itself."""


class KeyFetch(_Labelled):
    """Which planes of K a job reads."""

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


_FLAG_FEATURES = {
    Flag.PRUNE_HEADS: Feature.PRUNE_HEADS,
    Flag.PRUNE_VALUES: Feature.PRUNE_VALUES,
    Flag.LOAD_STATE: Feature.SAVED_STATES,
    Flag.STORE_STATE: Feature.SAVED_STATES,
}
"""The flags that only a machine with a feature has."""
_FIELD_FEATURES = {
    "keep_values": Feature.PRUNE_VALUES,
    "keep_heads": Feature.PRUNE_HEADS,
    "multiplier": Feature.PRUNE_HEADS,
    "flat_limit": Feature.PROGRESSIVE,
    "state": Feature.SAVED_STATES,
}
"""The fields of the descriptor that only a machine with a feature has."""


def flags_of(config: Config) -> tuple[Flag, ...]:
    """The flags that a machine has, in the order of their bits."""
    return tuple(flag for flag in Flag if flag not in _FLAG_FEATURES or config.has(_FLAG_FEATURES[flag]))


@dataclass(frozen=True)
class ScoreScale:
    """What turns a head's exact integer scores into log2 of exponentials: mantissa x 2**-shift.

    It stands for Q scale x K scale / sqrt(D) x log2(e); the mantissa is normalised to 16 bits.
    """

    mantissa: int
    shift: int

    def __post_init__(self) -> None:
        low, high = 1 << (SCALE_MANTISSA_BITS - 1), (1 << SCALE_MANTISSA_BITS) - 1
        if not low <= self.mantissa <= high:
            raise JobError(f"score scale mantissa must be {low} to {high}, not {self.mantissa}")
        if not SCALE_SHIFT_MIN <= self.shift <= SCALE_SHIFT_MAX:
            raise JobError(f"score scale shift must be {SCALE_SHIFT_MIN} to {SCALE_SHIFT_MAX}, not {self.shift}")

    @property
    def log2_step(self) -> float:
        """Log2 units of one score unit."""
        return self.mantissa * 2.0**-self.shift

    @classmethod
    def from_step(cls, step: float) -> ScoreScale:
        """The closest scale to `step`, natural-log units of one integer score unit (Qs x Ks / sqrt(D)).

        Steps too small to matter (every score difference far below one) become the smallest scale.
        """
        if not (math.isfinite(step) and step > 0):
            raise JobError(f"a score step must be finite and positive, not {step}")
        fraction, exponent = math.frexp(step)
        mantissa = math.floor(fraction * math.log2(math.e) * (1 << SCALE_MANTISSA_BITS) + 0.5)
        if mantissa >= 1 << SCALE_MANTISSA_BITS:  # log2(e) lifts the fraction to 0.72 .. 1.44
            exponent += 1
            mantissa = math.floor(fraction * math.log2(math.e) * (1 << (SCALE_MANTISSA_BITS - 1)) + 0.5)
        shift = SCALE_MANTISSA_BITS - exponent
        if shift > SCALE_SHIFT_MAX:
            return cls(1 << (SCALE_MANTISSA_BITS - 1), SCALE_SHIFT_MAX)
        if shift < SCALE_SHIFT_MIN:
            raise JobError(
                f"a score step of {step} is too large: at most {2.0 ** (SCALE_MANTISSA_BITS - SCALE_SHIFT_MIN)} "
                "in log2 units per integer score unit"
            )
        return cls(mantissa, shift)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attention layer. The fields are those of the register bank, without addresses."""

    mode: Mode
    head_dim: int
    heads: int
    """Heads of the layer; planes and output rows hold this many."""
    keys: int
    """Rows of the K and V planes: token ids 0 .. keys-1."""
    query_offset: int = 0
    """Token id of the first query row; in generation the id of the token."""
    queries: int
    """Query rows: token ids query_offset .. query_offset+queries-1, of which the live ones are computed."""
    query_bits: int
    key_bits: int
    """All bits of a K code, MSB and LSB planes together."""
    value_bits: int
    key_fetch: KeyFetch = KeyFetch.STATIC
    score_scales: tuple[ScoreScale, ...]
    """One per head, for scores of full K codes."""
    importance_multiplier: int = 1 << MULTIPLIER_FRACTION
    """Makes head magnitudes of layers comparable; 1.0 = 32,768."""
    flat_limit: int = 0xFFFF
    """Progressive: a row whose sum of exponentials exceeds this (5 fraction bits) is recomputed."""
    valid_length: int | None = None
    """Tokens from this id on are padding; None: all `keys` are valid."""
    keep_tokens: int | None = None
    """Tokens to keep at the end; None: all that are live."""
    keep_heads: int | None = None
    """Heads to keep at the end; None: all that are live."""
    keep_values: int | None = None
    """V rows that each head fetches (generation only); None: all."""
    restart: bool = False
    """The first layer of a step: all tokens and heads are live again."""
    clear: bool = False
    """The first job of a sequence: importance starts from zero."""
    age_shift: int = 0
    """How many times all importance is halved before the job."""
    accumulate: bool = True
    """Probabilities and outputs add to the importance."""

    def check(self, config: Config) -> None:
        """Raise `JobError` unless `config` can run this job."""

        def require(holds: bool, name: str, what: str) -> None:
            if not holds:
                raise JobError(f"{name} must be {what}, not {getattr(self, name)!r}")

        full_bits = tuple(bits + LSB_BITS for bits in config.plane_bits)
        require(self.head_dim in config.head_dims, "head_dim", f"one of {config.head_dims}")
        require(1 <= self.heads <= config.heads_max, "heads", f"1 to {config.heads_max}")
        require(1 <= self.keys <= config.tokens_max, "keys", f"1 to {config.tokens_max}")
        require(1 <= self.queries <= self.keys, "queries", f"1 to keys = {self.keys}")
        last = self.keys - self.queries
        require(0 <= self.query_offset <= last, "query_offset", f"0 to keys - queries = {last}")
        require(self.query_bits in config.query_bits, "query_bits", f"one of {config.query_bits}")
        widths = config.plane_bits if self.key_fetch is KeyFetch.STATIC else full_bits
        require(self.key_bits in widths, "key_bits", f"one of {widths} where K is fetched {self.key_fetch.label}")
        require(self.value_bits in config.plane_bits, "value_bits", f"one of {config.plane_bits}")
        require(len(self.score_scales) == self.heads, "score_scales", f"one per head ({self.heads})")
        unit = 1 << MULTIPLIER_FRACTION
        require(1 <= self.importance_multiplier <= unit, "importance_multiplier", f"1 to {unit}")
        require(0 <= self.flat_limit <= 0xFFFF, "flat_limit", "0 to 65535")
        require(self.valid_length is None or 1 <= self.valid_length <= self.keys, "valid_length", f"1 to {self.keys}")
        require(self.keep_tokens is None or 1 <= self.keep_tokens <= self.keys, "keep_tokens", f"1 to {self.keys}")
        require(self.keep_heads is None or 1 <= self.keep_heads <= self.heads, "keep_heads", f"1 to {self.heads}")
        require(self.keep_values is None or 1 <= self.keep_values <= self.keys, "keep_values", f"1 to {self.keys}")
        require(0 <= self.age_shift <= 31, "age_shift", "0 to 31")
        has_progressive = config.has(Feature.PROGRESSIVE) or self.key_fetch is not KeyFetch.PROGRESSIVE
        require(has_progressive, "key_fetch", f"static or joined{_lacks(Feature.PROGRESSIVE)}")
        for name, feature in (("keep_values", Feature.PRUNE_VALUES), ("keep_heads", Feature.PRUNE_HEADS)):
            require(config.has(feature) or getattr(self, name) is None, name, f"None{_lacks(feature)}")
        if self.mode is Mode.GENERATION:
            require(self.queries == 1, "queries", "1 in generation")
        else:
            require(self.key_fetch is not KeyFetch.PROGRESSIVE, "key_fetch", "static or joined outside generation")
            require(self.keep_values is None, "keep_values", "None outside generation: rows share their V")


def _lacks(feature: Feature) -> str:
    return f" on a machine without {feature.value}"


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """First global sectors of a job's planes, bitmaps and output, each a multiple of the channels."""

    query: int
    key_msb: int
    key_lsb: int | None
    value: int
    output: int
    kv_rows: int | None = None
    """Rows that the K and V planes have for each head, the same in all jobs of a sequence; None: `Job.keys`."""
    has_kv: int | None = None
    """Bitmap of the tokens that have K and V in this layer; None: all have."""
    pinned: int | None = None
    """Bitmap of the tokens that are never pruned; None: none."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job, where its data lie, and all else that it takes to run it."""

    job: Job
    at: Addresses
    tag: int
    """Comes back in the report."""
    context: int
    """Cascade state that the job uses."""
    head_mask: int
    """Bit h: head h has K and V in this layer."""
    load: int | None = None
    """First sector of the saved state that the context begins with; None: the context keeps its state."""
    store: int | None = None
    """First sector where the context's state goes at the end, the same as `load` if both are given; None: nowhere."""

    @property
    def splits_keys(self) -> bool:
        """Whether K lies in two planes."""
        return self.job.key_fetch is not KeyFetch.STATIC

    @property
    def flags(self) -> int:
        """The bits of `Flag`."""
        job, at = self.job, self.at
        holds = {
            Flag.CLEAR: job.clear,
            Flag.RESTART: job.restart,
            Flag.ACCUMULATE: job.accumulate,
            Flag.PRUNE_TOKENS: job.keep_tokens is not None,
            Flag.PRUNE_HEADS: job.keep_heads is not None,
            Flag.PRUNE_VALUES: job.keep_values is not None,
            Flag.HAS_KV: at.has_kv is not None,
            Flag.PINNED: at.pinned is not None,
            Flag.LOAD_STATE: self.load is not None,
            Flag.STORE_STATE: self.store is not None,
        }
        return sum(1 << flag for flag, is_set in holds.items() if is_set)

    def check(self, config: Config) -> None:
        """Raise `JobError` unless `config` can run this job, and load and store the state."""
        self.job.check(config)
        for name, sector in (("load", self.load), ("store", self.store)):
            if sector is not None and not config.has(Feature.SAVED_STATES):
                raise JobError(f"{name} must be None{_lacks(Feature.SAVED_STATES)}, not {sector!r}")

    @property
    def state(self) -> int | None:
        """First sector of the state in memory, if the job loads or stores one."""
        return self.load if self.store is None else self.store

    def scale(self, head: int) -> tuple[int, int]:
        """Mantissa and shift of a head's score scale; zeros for a head that the layer does not have."""
        if head >= self.job.heads:
            return 0, 0
        return self.job.score_scales[head].mantissa, self.job.score_scales[head].shift


@dataclass(frozen=True)
class Field:
    """A field of the descriptor: where in the shadow registers it lies, what it means, and what a submission has
    there."""

    name: str
    word: int
    """32-bit word of the shadow registers."""
    bit: int
    """First bit in the word."""
    width: int
    what: str
    encode: Callable[[Submission], int]


def index_bits(count: int) -> int:
    """Bits of a number below `count`; at least one."""
    return max(1, (count - 1).bit_length())


def _scale(head: int, part: int) -> Callable[[Submission], int]:
    """Mantissa (0) or shift (1) of a head's score scale."""
    return lambda submission: submission.scale(head)[part]


def job_fields(config: Config) -> tuple[Field, ...]:
    """The fields of the descriptor, in the order of the words, without those of features that the machine lacks."""
    return tuple(
        field
        for field in _all_fields(config)
        if field.name not in _FIELD_FEATURES or config.has(_FIELD_FEATURES[field.name])
    )


def ignored_bits(config: Config) -> dict[int, int]:
    """By word the bits of the descriptor that would be fields if the machine lacked nothing: they are not kept, and may
    be anything. Of a word that has no other fields these are all bits."""
    known = {field.name for field in job_fields(config)}
    masks: dict[int, int] = {}
    for field in _all_fields(config):
        if field.name not in known:
            masks[field.word] = masks.get(field.word, 0) | (1 << field.width) - 1 << field.bit
    kept = {field.word for field in job_fields(config)}
    return {word: mask if word in kept else 0xFFFF_FFFF for word, mask in masks.items()}


def _all_fields(config: Config) -> tuple[Field, ...]:
    """The fields of a machine that lacks nothing."""
    count = config.tokens_max.bit_length()
    token = index_bits(config.tokens_max)
    heads = config.heads_max.bit_length()
    sector = config.sector_bits
    fields = [
        Field("tag", 0, 0, 16, "comes back in the report; anything", lambda s: s.tag),
        Field("mode", 0, 16, 2, "what the query rows are: MODE_IS_...", lambda s: s.job.mode),
        Field("fetch", 0, 18, 2, "planes of K that are read: FETCH_IS_...", lambda s: s.job.key_fetch),
        Field("context", 0, 24, index_bits(config.contexts), "cascade state that the job uses", lambda s: s.context),
        Field("flags", 1, 0, len(Flag), "what else the job does: a sum of FLAG_...", lambda s: s.flags),
        Field("age_shift", 1, 16, 5, "importance is halved so many times before the job", lambda s: s.job.age_shift),
        Field("head_dim", 2, 0, 2, "head dimension: HEAD_DIM_IS_...", lambda s: HEAD_DIMS.index(s.job.head_dim)),
        Field("query_bits", 2, 4, 3, "bits of a Q code: WIDTH_IS_...", lambda s: CODE_BITS.index(s.job.query_bits)),
        Field(
            "key_bits",
            2,
            8,
            3,
            "bits of a code in the K plane, or in its MSB plane: WIDTH_IS_...",
            lambda s: CODE_BITS.index(s.job.key_bits - LSB_BITS if s.splits_keys else s.job.key_bits),
        ),
        Field("value_bits", 2, 12, 3, "bits of a V code: WIDTH_IS_...", lambda s: CODE_BITS.index(s.job.value_bits)),
        Field("heads", 2, 16, heads, "heads of the layer", lambda s: s.job.heads),
        Field("head_mask", 3, 0, config.heads_max, "bit h: head h has K and V in this layer", lambda s: s.head_mask),
        Field(
            "keys", 4, 0, count, "rows of the K and V planes that exist: token ids 0 to keys - 1", lambda s: s.job.keys
        ),
        Field(
            "kv_rows",
            4,
            16,
            count,
            "rows that the K and V planes have room for, at least keys",
            lambda s: s.job.keys if s.at.kv_rows is None else s.at.kv_rows,
        ),
        Field(
            "valid_length",
            5,
            0,
            count,
            "tokens from this id on are padding; at most keys",
            lambda s: s.job.keys if s.job.valid_length is None else s.job.valid_length,
        ),
        Field(
            "queries",
            5,
            16,
            count,
            "rows of the Q plane: token ids query_offset to query_offset + queries - 1",
            lambda s: s.job.queries,
        ),
        Field(
            "query_offset",
            6,
            0,
            token,
            "token id of the first query row; in generation the id of the token",
            lambda s: s.job.query_offset,
        ),
        Field("keep_tokens", 7, 0, count, "tokens to keep, with prune_tokens", lambda s: s.job.keep_tokens or 0),
        Field(
            "keep_values",
            7,
            16,
            count,
            "V rows that each head keeps, with prune_values",
            lambda s: s.job.keep_values or 0,
        ),
        Field("keep_heads", 8, 0, heads, "heads to keep, with prune_heads", lambda s: s.job.keep_heads or 0),
        Field(
            "multiplier",
            8,
            8,
            MULTIPLIER_FRACTION + 1,
            "weight of head importance, 32768 is 1.0",
            lambda s: s.job.importance_multiplier,
        ),
        Field(
            "flat_limit",
            9,
            0,
            FLAT_LIMIT_BITS,
            "progressive: a row whose sum of exponentials exceeds limit / 32 is flat",
            lambda s: s.job.flat_limit,
        ),
        Field("query", 10, 0, sector, "sector of the Q plane", lambda s: s.at.query),
        Field("key", 11, 0, sector, "sector of the K plane, or of its MSB plane", lambda s: s.at.key_msb),
        Field("key_lsb", 12, 0, sector, "sector of the K LSB plane; unless static", lambda s: s.at.key_lsb or 0),
        Field("value", 13, 0, sector, "sector of the V plane", lambda s: s.at.value),
        Field("output", 14, 0, sector, "sector of the output", lambda s: s.at.output),
        Field("has_kv", 15, 0, sector, "sector of the bitmap, with the flag has_kv", lambda s: s.at.has_kv or 0),
        Field("pinned", 16, 0, sector, "sector of the bitmap, with the flag pinned", lambda s: s.at.pinned or 0),
        Field(
            "state",
            17,
            0,
            sector,
            "sector of the context's state, with load_state or store_state",
            lambda s: s.state or 0,
        ),
    ]
    for head in range(config.heads_max):
        what = f"score scale of head {head}: mantissa, top bit set"
        fields.append(Field(f"mantissa{head}", 32 + head, 0, SCALE_MANTISSA_BITS, what, _scale(head, 0)))
        fields.append(
            Field(f"shift{head}", 32 + head, 16, SCALE_SHIFT_BITS, f"and shift, {LSB_BITS} to 63", _scale(head, 1))
        )
    return tuple(fields)


JOB_WORDS = 64
"""32-bit words of the descriptor."""


def report_widths(config: Config) -> dict[str, int]:
    """What a job reports when it ends without an error, by name: bits of each field, in the order of the words."""
    widths = {
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
    return _of_features(config, widths, {"recomputed": Feature.PROGRESSIVE, "heads_saturated": Feature.PRUNE_HEADS})


def _of_features(config: Config, values: dict[str, int], needed: dict[str, Feature]) -> dict[str, int]:
    """The values, without those that need a feature which the machine lacks."""
    return {name: value for name, value in values.items() if name not in needed or config.has(needed[name])}


def event_limits(config: Config) -> dict[str, int]:
    """What performance counters count, by name: the most that can be added in a cycle, in the order of the counters."""
    sectors = 8 * config.topk_lanes
    limits = {
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
        "output_sectors": config.channels,
        "rows": 1,
        "recomputed": 1,
        "topk_passes": 2 if config.has(Feature.PRUNE_VALUES) else 1,
        "output_saturated": config.slice_width,
    }
    return _of_features(config, limits, {"stalled_topk": Feature.PRUNE_VALUES, "recomputed": Feature.PROGRESSIVE})
