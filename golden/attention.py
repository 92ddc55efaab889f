"""One attention layer as a job: the whole datapath in order (SpAtten Fig. 8).

`attend` works on arrays of operands; `run` is the machine as memory sees it: it reads the operands of a job from a
DRAM image, calls `attend` and writes the outputs back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spatten.golden import BoolArray, GoldenError, IntArray
from spatten.golden.cascade import Context
from spatten.golden.convert import align, join, narrow
from spatten.golden.importance import head_sums, token_sums
from spatten.golden.local_value import kept_values
from spatten.golden.memory import Memory, OutputRegion, Plane
from spatten.golden.progressive import msb_scores, recompute_excess, recomputed_scores
from spatten.golden.pv import outputs
from spatten.golden.qk import scores
from spatten.golden.softmax import exponentials, is_flat, normalise
from spatten.spec.config import LSB_BITS, Config
from spatten.spec.job import Addresses, Job, KeyFetch, Mode


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a job computed. h = live heads, r = live query rows, n = live tokens."""

    heads: IntArray
    """[h] live heads, ascending."""
    tokens: IntArray
    """[n] live tokens, ascending."""
    rows: IntArray
    """[r] token ids of the query rows computed, ascending."""
    output: IntArray
    """[h, r, d] in units of the V scale / 2**(operand_bits - value_bits)."""
    kept_tokens: IntArray
    kept_heads: IntArray
    flat: BoolArray
    """[h, r] rows that were recomputed with their LSBs."""
    keys_fetched: int
    """K rows that each head fetched: the first of the n, as many as the longest query row attends to."""
    values_fetched: IntArray
    """[h, n] of 0 and 1: V rows each head fetched."""
    output_saturated: int
    """Output elements that saturated."""
    pinned: BoolArray = field(repr=False)
    """[n] which of the live tokens could not be pruned."""
    prob: IntArray = field(repr=False)
    """[h, r, n] probabilities, before local V pruning; 0 for tokens that a query does not attend to."""


@dataclass(frozen=True, kw_only=True)
class Bitmaps:
    """Sets of tokens and heads of a layer, which the circuit reads from memory or registers."""

    has_kv: BoolArray
    """[keys] tokens that have K and V in this layer."""
    pinned: BoolArray
    """[keys] tokens that are never pruned."""
    heads: BoolArray
    """[heads] heads that have K and V in this layer."""

    @classmethod
    def all(cls, job: Job) -> Bitmaps:
        """Every token and head has K and V, and no token is pinned."""
        return cls(
            has_kv=np.ones(job.keys, np.bool_), pinned=np.zeros(job.keys, np.bool_), heads=np.ones(job.heads, np.bool_)
        )


@dataclass(frozen=True, kw_only=True)
class Live:
    """The tokens, heads and query rows that take part in a job."""

    tokens: IntArray
    heads: IntArray
    rows: IntArray
    pinned: BoolArray = field(repr=False)
    """[tokens_max] tokens that are never pruned, the token that generates among them."""


def find_live(job: Job, context: Context, bitmaps: Bitmaps) -> Live:
    """Live tokens, heads and query rows of a job, from the cascade state and the layer's bitmaps.

    Raises `GoldenError` where a bitmap has the wrong size or nothing is live.
    """
    config = context.config
    for name, size in (("has_kv", job.keys), ("pinned", job.keys), ("heads", job.heads)):
        bitmap = getattr(bitmaps, name)
        if bitmap.shape != (size,):
            raise GoldenError(f"the bitmap {name} must have {size} entries, not shape {bitmap.shape}")
    valid = job.keys if job.valid_length is None else job.valid_length
    has_kv = np.zeros(config.tokens_max, np.bool_)
    has_kv[:valid] = bitmaps.has_kv[:valid]
    pinned = np.zeros(config.tokens_max, np.bool_)
    pinned[: job.keys] = bitmaps.pinned
    candidates = np.zeros(config.heads_max, np.bool_)
    candidates[: job.heads] = bitmaps.heads
    if job.mode is Mode.GENERATION:
        own = job.query_offset
        has_kv[own] = pinned[own] = True
    tokens = context.live_tokens(has_kv)
    heads = context.live_heads(candidates)
    rows = tokens[(tokens >= job.query_offset) & (tokens < job.query_offset + job.queries)]
    for what, ids in (("token", tokens), ("head", heads), ("query row", rows)):
        if len(ids) == 0:
            raise GoldenError(f"a job needs at least one live {what}; the kept set and the layer's bitmap share none")
    return Live(tokens=tokens, heads=heads, rows=rows, pinned=pinned)


def begin(job: Job, context: Context) -> None:
    """What a job does to its context before anything else: clear, restart, age, and keep the token that generates."""
    job.check(context.config)
    if job.clear:
        context.clear()
    if job.restart:
        context.restart()
    context.age(job.age_shift)
    if job.mode is Mode.GENERATION:
        context.kept_tokens[job.query_offset] = True


def attend(job: Job, context: Context, live: Live, query: IntArray, key: IntArray, value: IntArray) -> Result:
    """Compute a job on the live operands: Q [h, r, d], K codes [h, n, d], V codes [h, n, d].

    Updates `context`: importance, and which tokens and heads stay live.
    """
    config = context.config
    scales = [job.score_scales[head] for head in live.heads]
    mantissa = np.array([scale.mantissa for scale in scales], np.int64)[:, None]
    shift = np.array([scale.shift for scale in scales], np.int64)[:, None]
    mask, reach = None, len(live.tokens)
    if job.mode is Mode.CAUSAL:
        lengths = np.searchsorted(live.tokens, live.rows, side="right")
        mask, reach = np.arange(len(live.tokens)) < lengths[:, None], int(lengths[-1])
    flat = np.zeros((len(live.heads), len(live.rows)), np.bool_)
    if job.key_fetch is KeyFetch.PROGRESSIVE:
        first = msb_scores(query, key)
        exps = exponentials(first, mantissa, shift - LSB_BITS)
        flat = is_flat(exps.total, job.flat_limit)
        prob = normalise(config, exps)
        again = flat[:, 0]
        if again.any():
            second = recomputed_scores(config, first[again], query[again], key[again], job.key_bits)
            unit = recompute_excess(config, job.key_bits)
            prob[again] = normalise(config, exponentials(second, mantissa[again], shift[again] - unit))
    else:
        score = scores(query, narrow(key, job.key_bits, config.operand_bits))
        unit = recompute_excess(config, job.key_bits)
        prob = normalise(config, exponentials(score, mantissa, shift - unit, mask))
    if job.accumulate:
        context.add_tokens(live.tokens, token_sums(prob))
    fetched = np.tile(np.arange(len(live.tokens)) < reach, (len(live.heads), 1))
    weights = prob
    if job.keep_values is not None:
        fetched = kept_values(prob[:, 0], job.keep_values)
        weights = prob * fetched[:, None]
    output, saturated = outputs(config, weights, align(value, job.value_bits, config.operand_bits))
    if job.accumulate:
        context.add_heads(live.heads, head_sums(config, output, job.importance_multiplier))
    keep_tokens = len(live.tokens) if job.keep_tokens is None else job.keep_tokens
    keep_heads = len(live.heads) if job.keep_heads is None else job.keep_heads
    return Result(
        heads=live.heads,
        tokens=live.tokens,
        rows=live.rows,
        output=output,
        kept_tokens=context.prune_tokens(live.tokens, keep_tokens, live.pinned),
        kept_heads=context.prune_heads(live.heads, keep_heads),
        flat=flat,
        keys_fetched=reach,
        values_fetched=fetched.astype(np.int64),
        output_saturated=saturated,
        pinned=live.pinned[live.tokens],
        prob=prob,
    )


@dataclass(frozen=True, kw_only=True)
class Planes:
    """The layout of a job's data."""

    query: Plane
    key_msb: Plane
    key_lsb: Plane | None
    """None where K is one plane."""
    value: Plane
    output: OutputRegion


def planes(config: Config, job: Job, at: Addresses) -> Planes:
    """Where everything of a job lies. Q rows and output rows are numbered from the job's query offset."""

    def plane(base: int, rows: int, bits: int) -> Plane:
        return Plane(channels=config.channels, base=base, rows=rows, heads=job.heads, head_dim=job.head_dim, bits=bits)

    split = job.key_fetch is not KeyFetch.STATIC
    kv_rows = job.keys if at.kv_rows is None else at.kv_rows
    if kv_rows < job.keys:
        raise GoldenError(f"kv_rows must be at least keys = {job.keys}, not {kv_rows}")
    if split and at.key_lsb is None:
        raise GoldenError(f"a job that fetches K {job.key_fetch.label} needs the address of its LSB plane")
    return Planes(
        query=plane(at.query, job.queries, job.query_bits),
        key_msb=plane(at.key_msb, kv_rows, job.key_bits - LSB_BITS if split else job.key_bits),
        key_lsb=plane(at.key_lsb, kv_rows, LSB_BITS) if split and at.key_lsb is not None else None,
        value=plane(at.value, kv_rows, job.value_bits),
        output=OutputRegion(channels=config.channels, base=at.output, heads=job.heads, head_dim=job.head_dim),
    )


def run(job: Job, context: Context, heads: BoolArray, memory: Memory, at: Addresses) -> Result:
    """Run a job on a DRAM image: read the bitmaps and the live Q, K and V, and write the live output rows.

    `heads` [job.heads] marks the heads that have K and V in this layer, as a field of the job's descriptor does.
    """
    begin(job, context)
    bitmaps = Bitmaps.all(job)
    bitmaps = Bitmaps(
        has_kv=bitmaps.has_kv if at.has_kv is None else memory.load_bitmap(at.has_kv, job.keys),
        pinned=bitmaps.pinned if at.pinned is None else memory.load_bitmap(at.pinned, job.keys),
        heads=heads,
    )
    live = find_live(job, context, bitmaps)
    layout = planes(context.config, job, at)
    query = memory.load(layout.query, live.rows - job.query_offset)[live.heads]
    key = memory.load(layout.key_msb, live.tokens)[live.heads]
    if layout.key_lsb is not None:
        key = join(key, memory.load(layout.key_lsb, live.tokens, signed=False)[live.heads])
    value = memory.load(layout.value, live.tokens)[live.heads]
    result = attend(job, context, live, query, key, value)
    layout.output.store(memory, result.heads, result.rows - job.query_offset, result.output)
    return result
