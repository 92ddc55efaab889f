"""Random jobs with their memory, for tests and soaks of the whole machine: any mode, any format, any pruning, as far as
the machine has it.

A `Campaign` makes jobs one after the other, lays their planes out in a memory image, runs each through the golden
model, and says what the machine must report and what memory must hold afterwards.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spatten.golden import BoolArray, GoldenError, IntArray
from spatten.golden.attention import Bitmaps, Result, begin, find_live, planes, run
from spatten.golden.cascade import Context
from spatten.golden.memory import Memory, Plane
from spatten.golden.progressive import recompute_excess
from spatten.golden.quick_select import passes
from spatten.golden.state import restore, save, state_sectors
from spatten.golden.traffic import traffic
from spatten.host.driver.encoding import descriptor
from spatten.hw.control.format_tables import rows_per_read
from spatten.hw.control.job_control import topk_sizes
from spatten.hw.datapath.quick_select import default_digit_bits
from spatten.spec.config import LSB_BITS, MULTIPLIER_FRACTION, SECTOR_BYTES, Config, Feature
from spatten.spec.errors import SpattenError
from spatten.spec.job import Addresses, Flag, Job, KeyFetch, Mode, ScoreScale, flags_of
from spatten.spec.row_format import row_format


@dataclass(kw_only=True)
class Task:
    """A job, where its data lie, and what came of it in the golden model."""

    tag: int
    context: int
    job: Job
    at: Addresses
    heads: BoolArray
    result: Result
    report: dict[str, int]
    counters: dict[str, int]
    """What the job adds to the performance counters; those that count cycles are not among them."""
    fields: dict[str, int] = field(repr=False)
    """The descriptor, by the names of `spec.job.job_fields`."""


def lacking_asks(config: Config, fields: dict[str, int]) -> list[dict[str, int]]:
    """The descriptor of a job, changed so that it asks for one thing that the machine lacks: all ways to do so."""
    asks = [{**fields, "flags": fields["flags"] | 1 << flag} for flag in Flag if flag not in flags_of(config)]
    if not config.has(Feature.PROGRESSIVE) and fields["mode"] == Mode.GENERATION:
        asks.append({**fields, "fetch": int(KeyFetch.PROGRESSIVE)})
    return asks


def report(result: Result, tag: int, lost_tokens: int, lost_heads: int) -> dict[str, int]:
    """What the machine must report."""
    return {
        "tag": tag,
        "live_tokens": len(result.tokens),
        "kept_tokens": len(result.kept_tokens),
        "live_heads": sum(1 << int(h) for h in result.heads),
        "kept_heads": sum(1 << int(h) for h in result.kept_heads),
        "rows": (len(result.heads) * len(result.rows)) & 0xFFFF,
        "recomputed": int(result.flat.sum()),
        "output_saturated": result.output_saturated,
        "tokens_saturated": lost_tokens,
        "heads_saturated": lost_heads,
    }


def counters(config: Config, job: Job, at: Addresses, context: Context, result: Result) -> dict[str, int]:
    """What a job adds to the performance counters, less those that count cycles. `context` is as the job leaves it."""
    moved = traffic(config, job, planes(config, job, at), result)
    if job.mode is Mode.CAUSAL:
        lengths = np.searchsorted(result.tokens, result.rows, side="right")
    else:
        lengths = np.full(len(result.rows), len(result.tokens))
    split = job.key_fetch is not KeyFetch.STATIC
    key_bits = job.key_bits - LSB_BITS if split else job.key_bits
    first = _beats(config, job.head_dim, key_bits, job.key_fetch is KeyFetch.JOINED, lengths)
    both = recompute_excess(config, job.key_bits) > 0
    again = _beats(config, job.head_dim, key_bits if both else LSB_BITS, both, np.array([len(result.tokens)]))
    kept = lengths if job.keep_values is None else np.minimum(lengths, job.keep_values)
    recomputed = int(result.flat.sum())

    passed = 0
    if job.keep_values is not None:
        passed += sum(_passes(row, job.keep_values, config.prob_bits) for row in result.prob[:, 0])
    width = topk_sizes(config)["width"]
    if job.keep_tokens is not None:
        keys = context.token_keys(result.tokens, result.pinned)
        passed += _passes(keys, max(job.keep_tokens, int(result.pinned.sum())), width)
    if job.keep_heads is not None:
        # All heads are candidates; those that do not live are zeros, below the others.
        candidates = np.zeros(config.heads_max, np.int64)
        candidates[result.heads] = 2 * context.head_importance[result.heads] + 1
        passed += _passes(candidates, job.keep_heads, width)
    bitmaps = sum(-(-job.keys // (8 * SECTOR_BYTES)) for base in (at.has_kv, at.pinned) if base is not None)
    return {
        "qk_beats": len(result.heads) * first + recomputed * again,
        "pv_beats": len(result.heads) * _beats(config, job.head_dim, job.value_bits, False, kept),
        "query_sectors": moved.query // SECTOR_BYTES,
        "key_sectors": moved.key // SECTOR_BYTES,
        "lsb_sectors": moved.lsb // SECTOR_BYTES,
        "value_sectors": moved.value // SECTOR_BYTES,
        "other_sectors": bitmaps,
        "output_sectors": moved.output // SECTOR_BYTES,
        "rows": len(result.heads) * len(result.rows),
        "recomputed": recomputed,
        "topk_passes": passed,
        "output_saturated": result.output_saturated,
    }


def _beats(config: Config, head_dim: int, bits: int, joined: bool, lengths: IntArray) -> int:
    """Beats of an array for rows of `lengths` keys or values."""
    row = row_format(head_dim=head_dim, slice_width=config.slice_width, bits=bits, joined=joined)
    together = config.slices * rows_per_read(config, row)
    return int((-(-lengths // together)).sum()) * row.beats


def _passes(values: IntArray, k: int, width: int) -> int:
    return passes(values, k, width=width, digit_bits=default_digit_bits(width))


class ImageFullError(SpattenError):
    """A campaign's jobs have filled its memory."""


class Campaign:
    """A seeded source of tasks for a configuration."""

    def __init__(self, config: Config, seed: int, *, sectors: int, longest: int | None = None) -> None:
        self.config = config
        self.random = np.random.default_rng(seed)
        self.memory = Memory(config, sectors)
        self.memory.bytes[:] = self.random.integers(0, 256, self.memory.bytes.shape, dtype=np.uint8)
        self.initial = self.memory.bytes.copy()
        self.contexts = [Context(config) for _ in range(config.contexts)]
        self.sectors = sectors
        self.longest = config.tokens_max if longest is None else longest
        self._next = 0
        self._fresh = [True] * config.contexts
        self._tag = 0

    def _allocate(self, sectors: int) -> int:
        channels = self.config.channels
        place = self._next
        self._next += -(-sectors // channels) * channels
        if self._next > self.sectors:
            raise ImageFullError(f"the campaign's {self.sectors} sectors are used up: take fewer jobs for a campaign")
        return place

    def _choose(self, *values: Any) -> Any:
        return values[int(self.random.integers(len(values)))]

    def task(self, **wanted: Any) -> Task:
        """The next task; `wanted` fixes fields of its `Job`. The memory image and the contexts are as it leaves them.

        Raises `ImageFullError` when the image is full: make a new campaign.
        """
        while True:
            kept_next = self._next
            try:
                return self._task(**wanted)
            except GoldenError as error:
                if "at least one live" not in str(error):
                    raise
                self._next = kept_next

    def _task(self, **wanted: Any) -> Task:
        config, random = self.config, self.random
        context_number = int(random.integers(config.contexts))
        job = self._job(context_number, wanted)
        heads = random.random(job.heads) < 0.85
        heads[int(random.integers(job.heads))] = True
        kv_rows = min(config.tokens_max, job.keys + int(random.integers(3)))
        has_kv = random.random(job.keys) < 0.8 if random.random() < 0.5 else None
        pinned = random.random(job.keys) < 0.2 if random.random() < 0.5 else None
        if has_kv is not None:
            has_kv[int(random.integers(job.keys))] = True

        first = self._next
        # The address of a state to begin with, which the host has put into memory.
        load = None
        trial = copy.deepcopy(self.contexts[context_number])
        saves = config.has(Feature.SAVED_STATES)
        if saves and not job.clear and random.random() < 0.2:
            load = self._state()
            restore(trial, self.memory.read(load + np.arange(state_sectors(config))))
        loaded = copy.deepcopy(trial)
        store = None
        if saves and random.random() < 0.3:
            store = self._allocate(state_sectors(config)) if load is None else load
        # Raise GoldenError unless something would be live.
        begin(job, trial)
        everything = Bitmaps.all(job)
        find_live(
            job,
            trial,
            Bitmaps(has_kv=everything.has_kv if has_kv is None else has_kv, pinned=everything.pinned, heads=heads),
        )
        at = self._lay_out(job, kv_rows, has_kv, pinned)
        # `initial` takes over the new part of the image before the job runs: the output's place is still random.
        mine = np.arange(first, self._next)
        channels = config.channels
        self.initial[mine % channels, mine // channels] = self.memory.read(mine)
        context = self.contexts[context_number] = loaded
        before = context.tokens_saturated
        tag = self._tag
        self._tag = (self._tag + 1) & 0xFFFF
        was_saturated = 0 if job.clear else before
        result = run(job, context, heads, self.memory, at)
        self._fresh[context_number] = False
        added = counters(config, job, at, context, result)
        if load is not None:
            added["other_sectors"] += state_sectors(config)
        if store is not None:
            added["output_sectors"] += state_sectors(config)
            self.memory.write(store + np.arange(state_sectors(config)), save(context))
        lost_heads = context.heads_saturated & np.isin(np.arange(config.heads_max), result.heads)
        marks = 0 if job.keep_heads is None else sum(1 << int(head) for head in np.flatnonzero(lost_heads))
        lost = context.tokens_saturated - was_saturated
        return Task(
            tag=tag,
            context=context_number,
            job=job,
            at=at,
            heads=heads,
            result=result,
            report=report(result, tag, lost, marks),
            counters=added,
            fields=descriptor(config, job, at, tag=tag, context=context_number, heads=heads, load=load, store=store),
        )

    def _state(self) -> int:
        """First sector of a random state."""
        config, random = self.config, self.random
        context = Context(config)
        token_top, head_top = (1 << bits for bits in (config.token_importance_bits, config.head_importance_bits))
        # Some scores are so large that they saturate.
        low = self._choose(0, token_top - 4000)
        context.token_importance = random.integers(low, token_top, config.tokens_max)
        context.head_importance = random.integers(self._choose(0, head_top - 9000), head_top, config.heads_max)
        context.kept_tokens = random.random(config.tokens_max) < 0.8
        context.kept_heads = random.random(config.heads_max) < 0.8
        base = self._allocate(state_sectors(config))
        self.memory.write(base + np.arange(state_sectors(config)), save(context))
        return base

    def _job(self, context: int, wanted: dict[str, Any]) -> Job:
        config, random = self.config, self.random
        mode = wanted.get("mode", self._choose(*Mode))
        head_dim = wanted.get("head_dim", self._choose(*config.head_dims))
        heads = wanted.get("heads", int(random.integers(1, config.heads_max + 1)))
        keys = wanted.get("keys", int(random.integers(1, self.longest + 1)))
        if random.random() < 0.15 and "keys" not in wanted:
            keys = self._choose(1, 2, self.longest)
        generation = mode is Mode.GENERATION
        queries = wanted.get("queries", 1 if generation else int(random.integers(1, keys + 1)))
        if not generation and random.random() < 0.5 and "queries" not in wanted:
            queries = keys
        offset = wanted.get("query_offset", int(random.integers(keys - queries + 1)))
        query_bits = wanted.get("query_bits", self._choose(*config.query_bits))
        value_bits = wanted.get("value_bits", self._choose(*config.plane_bits))
        fetches = [KeyFetch.STATIC, KeyFetch.JOINED] + (
            [KeyFetch.PROGRESSIVE] * 2 if generation and config.has(Feature.PROGRESSIVE) else []
        )
        fetch = wanted.get("key_fetch", self._choose(*fetches))
        widths = config.plane_bits
        key_bits = self._choose(*widths) + (0 if fetch is KeyFetch.STATIC else LSB_BITS)
        key_bits = wanted.get("key_bits", key_bits)
        fresh = self._fresh[context]
        restart = bool(random.random() < 0.5)
        clear = fresh or bool(random.random() < 0.1)
        scales = tuple(self._scale(head_dim, query_bits, key_bits) for _ in range(heads))
        flat = wanted.get("flat_limit", self._choose(0, 0xFFFF, int(random.integers(32, 32 * max(2, keys)))))
        fields: dict[str, Any] = {
            "mode": mode,
            "head_dim": head_dim,
            "heads": heads,
            "keys": keys,
            "query_offset": offset,
            "queries": queries,
            "query_bits": query_bits,
            "key_bits": key_bits,
            "value_bits": value_bits,
            "key_fetch": fetch,
            "score_scales": scales,
            "importance_multiplier": self._choose(1, 1 << MULTIPLIER_FRACTION, int(random.integers(1, 1 << 15))),
            "flat_limit": flat,
            "valid_length": self._choose(None, int(random.integers(1, keys + 1))),
            "keep_tokens": self._choose(None, 1, keys, int(random.integers(1, keys + 1))),
            "keep_heads": self._choose(None, heads, int(random.integers(1, heads + 1))),
            "keep_values": self._choose(None, 1, keys, int(random.integers(1, keys + 1))) if generation else None,
            "restart": restart,
            "clear": clear,
            "age_shift": self._choose(0, 0, 1, int(random.integers(32))),
            "accumulate": bool(random.random() < 0.8),
        }
        for name, feature in (("keep_heads", Feature.PRUNE_HEADS), ("keep_values", Feature.PRUNE_VALUES)):
            if not config.has(feature):
                fields[name] = None
        fields.update({name: value for name, value in wanted.items() if name in fields})
        return Job(**fields)

    def _scale(self, head_dim: int, query_bits: int, key_bits: int) -> ScoreScale:
        """A scale by which scores spread over some binary orders of magnitude; sometimes far more, or nothing."""
        spread = math.sqrt(head_dim) * 2.0 ** (query_bits + key_bits - 2) / 3
        step = self._choose(0.01, 1.0, 2.0, 4.0, 50.0) / spread
        return ScoreScale.from_step(step)

    def _lay_out(self, job: Job, kv_rows: int, has_kv: BoolArray | None, pinned: BoolArray | None) -> Addresses:
        """Planes of random codes, bitmaps, and room for the output."""
        config, random = self.config, self.random
        split = job.key_fetch is not KeyFetch.STATIC

        def plane(rows: int, bits: int) -> Plane:
            shape = {"channels": config.channels, "rows": rows, "heads": job.heads, "head_dim": job.head_dim}
            own = Plane(base=0, bits=bits, **shape)
            return dataclasses.replace(own, base=self._allocate(own.sectors))

        query = plane(job.queries, job.query_bits)
        key = plane(kv_rows, job.key_bits - LSB_BITS if split else job.key_bits)
        key_lsb = plane(kv_rows, LSB_BITS) if split else None
        value = plane(kv_rows, job.value_bits)
        at = Addresses(query=query.base, key_msb=key.base, key_lsb=key_lsb.base if key_lsb else None,
                       value=value.base, output=0, kv_rows=kv_rows)  # fmt: skip
        output = planes(config, job, at).output
        at = dataclasses.replace(at, output=self._allocate(job.queries * output.row_sectors))
        extremes = random.random() < 0.2

        def codes(of: Plane, *, signed: bool = True) -> None:
            low, high = (-(1 << of.bits - 1), 1 << of.bits - 1) if signed else (0, 1 << of.bits)
            shape = (of.heads, of.rows, of.head_dim)
            values = random.integers(low, high, shape)
            if extremes:
                values = np.where(random.random(shape) < 0.7, self._choose(low, high - 1), values)
            self.memory.store(of, values)

        codes(query)
        codes(key)
        if key_lsb is not None:
            codes(key_lsb, signed=False)
        codes(value)
        for name, members in (("has_kv", has_kv), ("pinned", pinned)):
            if members is not None:
                base = self._allocate(-(-job.keys // (8 * SECTOR_BYTES)))
                self.memory.store_bitmap(base, members)
                at = dataclasses.replace(at, **{name: base})
        return at
