"""What every engine on integers shares: it quantizes, decides each layer's job, and dequantizes its result.

`QuantizedSequence` leaves one thing open, `compute`: the golden model fills it in (`host/engines/golden_engine.py`),
and so does an accelerator (`host/engines/device_engine.py`).

Quantization scales: Q and K one per head, V one per layer. Q is scaled anew in every job; K and V scales are fixed at
the prompt, with headroom where a sequence goes on, and later values beyond them saturate and are counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf

import numpy as np

from spatten.golden import BoolArray, GoldenError, IntArray
from spatten.golden.attention import Bitmaps, Live, begin, find_live
from spatten.golden.cascade import Context
from spatten.golden.quantize import choose_scale, importance_multiplier, quantize
from spatten.golden.schedule import HEAD_FRONT, NO_PRUNING, TOKEN_FRONT, Ratios, exact_ceil, explicit
from spatten.golden.softmax import flat_limit
from spatten.golden.traffic import Traffic
from spatten.host.engines.engine import Derived, FloatArray, Importance, Known, LayerResult, Lazy, ModelShape
from spatten.spec.config import LSB_BITS, PLANE_BITS, Config
from spatten.spec.job import Job, KeyFetch, Mode, ScoreScale
from spatten.spec.row_format import CODE_BITS

IMPORTANCE_HEADROOM = 8.0
"""Head importance is measured against this many times the first layer's V scale: later layers may exceed the first."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model's attention is quantized and pruned."""

    query_bits: int | None = None
    """Bits of the Q plane; None: the widest of the configuration, at most 12."""
    key_bits: int = 8
    """Bits of the K plane, or of K's MSB plane where `lsb` is set."""
    lsb: bool = False
    """Keep 4 more bits of K in an LSB plane. Prompts read both planes; generation reads the LSBs of flat rows only."""
    threshold: float = 0.1
    """A generated row whose largest probability lies below this is flat."""
    value_bits: int = 8
    tokens: Ratios | tuple[int, ...] = NO_PRUNING
    """Token pruning: ratios, or how many tokens stay after each layer."""
    heads: Ratios | tuple[int, ...] = NO_PRUNING
    """Head pruning: ratios, or how many heads stay after each layer."""
    value_keep: float | None = None
    """Fraction of the live V rows that each head fetches in generation; None fetches all."""
    pin_first: int = 1
    """Leading tokens that are never pruned ([CLS], attention sinks)."""
    pin_recent: int = 32
    """Trailing tokens of a causal model that are never pruned: no later row has attended to them yet."""
    headroom: float = 1.25
    """K and V ranges of a causal model exceed the prompt's largest magnitude by this factor."""

    def __post_init__(self) -> None:
        for name, widths in (("query_bits", CODE_BITS), ("key_bits", PLANE_BITS), ("value_bits", PLANE_BITS)):
            if getattr(self, name) not in widths and (name, getattr(self, name)) != ("query_bits", None):
                raise GoldenError(f"{name} must be one of {widths}, not {getattr(self, name)!r}")
        if self.value_keep is not None and not 0 < self.value_keep <= 1:
            raise GoldenError(f"value_keep must be above 0 and at most 1, not {self.value_keep}")
        if not 0 <= self.threshold < 1:
            raise GoldenError(f"threshold must be 0 to below 1, not {self.threshold}")
        if not 1 <= self.headroom < inf:
            raise GoldenError(f"headroom must be at least 1, not {self.headroom}")
        if self.pin_first < 0 or self.pin_recent < 0:
            raise GoldenError(f"pinned tokens cannot be fewer than none: {self.pin_first}, {self.pin_recent}")

    def query_width(self, config: Config) -> int:
        """Bits of the Q plane on a configuration."""
        return self.query_bits or max(bits for bits in config.query_bits if bits <= PLANE_BITS[-1])

    @property
    def key_bits_full(self) -> int:
        """All bits of a K code."""
        return self.key_bits + (LSB_BITS if self.lsb else 0)

    @property
    def bits_label(self) -> str:
        """The K setting as the paper writes it: "8" or "6+4"."""
        return f"{self.key_bits}+{LSB_BITS}" if self.lsb else str(self.key_bits)


def _counts(schedule: Ratios | tuple[int, ...], n: int, layers: int, front: Fraction) -> list[int]:
    """How many of n stay after each layer; explicit counts above n keep all."""
    if isinstance(schedule, Ratios):
        return schedule.counts(n, layers, front)
    return [min(n, count) for count in explicit(schedule, max((n, *schedule)), layers)]


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """A layer's job, with all that is needed to compute it. h = live heads, r = live query rows."""

    layer: int
    job: Job
    bitmaps: Bitmaps
    live: Live
    query: IntArray
    """[h, r, d] codes."""
    new_tokens: IntArray
    """Ids of the tokens that the cache did not hold before."""

    @property
    def multiplications(self) -> int:
        """Of both arrays if no row is flat: with every live key and fetched V row, for each head and query row."""
        job, live = self.job, self.live
        pairs = len(live.rows) * len(live.tokens)
        if job.mode is Mode.CAUSAL:
            pairs = int(np.searchsorted(live.tokens, live.rows, side="right").sum())
        values = pairs if job.keep_values is None else min(pairs, job.keep_values)
        return len(live.heads) * job.head_dim * (pairs + values)


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What came of a job. h = live heads, r = live query rows. What is lazy is so as in `LayerResult`."""

    output: IntArray
    """[h, r, d] in units of the V scale / 2**(operand_bits - value_bits)."""
    kept_tokens: IntArray
    kept_heads: IntArray
    recomputed: int
    """Rows of all heads that were flat and computed again with their LSBs."""
    values_fetched: int
    """V rows fetched, over all heads."""
    saturated: int
    """Output elements that saturated."""
    lazy_importance: Lazy[tuple[IntArray, IntArray]]
    """The importance of tokens [tokens_max] and heads [heads_max] after the job."""
    lazy_traffic: Lazy[Traffic]
    """What `traffic` gives."""
    lazy_counters: Lazy[Mapping[str, int]] = field(default_factory=lambda: Known({}))
    """What `counters` gives."""

    @property
    def traffic(self) -> Traffic:
        """Bytes that the job moved, by class."""
        return self.lazy_traffic.value

    @property
    def counters(self) -> Mapping[str, int]:
        """What an accelerator counted for the job; empty for the golden model."""
        return self.lazy_counters.value


class LayerCache:
    """K and V codes of one layer, and the scales that fix their ranges."""

    def __init__(self, shape: ModelShape, config: Config) -> None:
        self.key = np.zeros((shape.heads, config.tokens_max, shape.head_dim), np.int64)
        """[heads, tokens_max, d], all bits."""
        self.value = np.zeros_like(self.key)
        """[heads, tokens_max, d]"""
        self.has_kv = np.zeros(config.tokens_max, np.bool_)
        """[tokens_max] tokens with K and V."""
        self.heads = np.ones(shape.heads, np.bool_)
        """[heads] heads with K and V."""
        self.key_scale = np.ones((shape.heads, 1, 1))
        self.value_scale = 1.0


class QuantizedEngine:
    """Settings, and the configuration that must be able to run them."""

    def __init__(self, settings: Settings | None, config: Config, name: str) -> None:
        self.settings = Settings() if settings is None else settings
        self.config = config
        self.name = name

    def check(self, shape: ModelShape, length: int) -> None:
        """Raises `GoldenError` for a model, a length or settings that the configuration has no room for."""
        settings, config = self.settings, self.config
        for name, bits, widths in (
            ("query_bits", settings.query_width(config), config.query_bits),
            ("key_bits", settings.key_bits, config.plane_bits),
            ("value_bits", settings.value_bits, config.plane_bits),
        ):
            if bits not in widths:
                raise GoldenError(f"the configuration {config.name!r} takes {name} of {widths}, not {bits}")
        for what, value, limit in (
            ("layers", shape.layers, self.config.layers_max),
            ("heads", shape.heads, self.config.heads_max),
            ("tokens", length, self.config.tokens_max),
        ):
            if not 1 <= value <= limit:
                raise GoldenError(f"the configuration {self.config.name!r} takes 1 to {limit} {what}, not {value}")
        if shape.head_dim not in self.config.head_dims:
            raise GoldenError(
                f"the configuration {self.config.name!r} takes a head dimension of {self.config.head_dims}, "
                f"not {shape.head_dim}"
            )


class QuantizedSequence(ABC):
    """One sequence: its cascade state, its K/V codes and its scales."""

    def __init__(self, config: Config, settings: Settings, shape: ModelShape) -> None:
        self.config = config
        self.settings = settings
        self.shape = shape
        self.context = Context(config)
        """The cascade state after the last job."""
        self.work: LayerWork | None = None
        """The last job; None before the first."""
        self.computed: Computed | None = None
        """What came of the last job; None before the first and after one that failed."""
        self._layers = [LayerCache(shape, config) for _ in range(shape.layers)]
        self._generating = False
        self._prompt_length = 0

    @abstractmethod
    def compute(self, work: LayerWork) -> Computed:
        """Compute a job that has begun in `context` (`golden.attention.begin`), and leave the state after it there."""

    def cache(self, layer: int) -> LayerCache:
        """The K and V codes of a layer."""
        return self._layers[layer]

    def heads(self, layer: int) -> IntArray:
        if self._generating or layer == 0:
            return np.flatnonzero(self._layers[layer].heads).astype(np.int64)
        return np.flatnonzero(self.context.kept_heads[: self.shape.heads]).astype(np.int64)

    def prompt(
        self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, tokens: IntArray
    ) -> LayerResult:
        heads, cache = self.heads(layer), self._layers[layer]
        self._check(query, key, value, len(heads), len(tokens))
        if len(tokens) > self.config.tokens_max:
            raise GoldenError(
                f"the configuration {self.config.name!r} takes 1 to {self.config.tokens_max} tokens, not {len(tokens)}"
            )
        settings, bits = self.settings, self.settings.key_bits_full
        room = settings.headroom if self.shape.causal else 1.0
        cache.key_scale[heads] = choose_scale(key, bits, axis=(1, 2)) * room
        cache.value_scale = float(choose_scale(value, settings.value_bits)) * room
        cache.heads[:] = False
        cache.heads[heads] = True
        cache.has_kv[tokens] = True
        clipped = self._store(cache, heads, tokens, key, value)
        if layer == 0:
            self._prompt_length = len(tokens)
        return self._job(
            layer,
            query,
            mode=Mode.CAUSAL if self.shape.causal else Mode.SUMMARIZATION,
            key_fetch=KeyFetch.JOINED if settings.lsb else KeyFetch.STATIC,
            length=self._prompt_length,
            new_tokens=tokens,
            clipped=clipped,
        )

    def step(self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, token: int) -> LayerResult:
        if self._prompt_length == 0:
            raise GoldenError("generation needs a prompt first: it fixes the ranges of K and V")
        if token >= self.config.tokens_max:
            raise GoldenError(
                f"the configuration {self.config.name!r} takes {self.config.tokens_max} tokens: token {token} is beyond"
            )
        self._generating = True
        heads, cache = self.heads(layer), self._layers[layer]
        self._check(query, key, value, len(heads), 1)
        cache.has_kv[token] = True
        new_tokens = np.array([token], np.int64)
        clipped = self._store(cache, heads, new_tokens, key, value)
        return self._job(
            layer,
            query,
            mode=Mode.GENERATION,
            key_fetch=KeyFetch.PROGRESSIVE if self.settings.lsb else KeyFetch.STATIC,
            length=token + 1,
            new_tokens=new_tokens,
            clipped=clipped,
        )

    def _check(self, query: FloatArray, key: FloatArray, value: FloatArray, heads: int, rows: int) -> None:
        expected = (heads, rows, self.shape.head_dim)
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            if tensor.shape != expected:
                raise GoldenError(f"{name} must have shape {expected} (live heads, rows, head_dim), not {tensor.shape}")

    def _store(self, cache: LayerCache, heads: IntArray, tokens: IntArray, key: FloatArray, value: FloatArray) -> int:
        """Quantize K and V into the cache; returns how many elements were clipped."""
        place = np.ix_(heads, tokens)
        cache.key[place], key_clipped = quantize(key, cache.key_scale[heads], self.settings.key_bits_full)
        cache.value[place], value_clipped = quantize(value, cache.value_scale, self.settings.value_bits)
        return key_clipped + value_clipped

    def _job(
        self,
        layer: int,
        query: FloatArray,
        *,
        mode: Mode,
        key_fetch: KeyFetch,
        length: int,
        new_tokens: IntArray,
        clipped: int,
    ) -> LayerResult:
        """Run one job over token ids 0..length-1; `query` holds the live rows of the live heads."""
        settings, shape, cache = self.settings, self.shape, self._layers[layer]
        heads = self.heads(layer)
        query_bits = settings.query_width(self.config)
        query_scale = choose_scale(query, query_bits, axis=(1, 2))
        codes, _ = quantize(query, query_scale, query_bits)
        steps = (query_scale * cache.key_scale[heads] / np.sqrt(shape.head_dim)).ravel()
        scales = [ScoreScale.from_step(1.0)] * shape.heads
        for head, step in zip(heads, steps, strict=True):
            scales[head] = ScoreScale.from_step(float(step))
        generation = mode is Mode.GENERATION
        keep_tokens = _counts(settings.tokens, length, shape.layers, TOKEN_FRONT)[layer]
        keep_heads = None if generation else _counts(settings.heads, shape.heads, shape.layers, HEAD_FRONT)[layer]
        reference = self._layers[0].value_scale * IMPORTANCE_HEADROOM
        bitmaps = Bitmaps(has_kv=cache.has_kv[:length], pinned=self._pinned(length, mode), heads=cache.heads)
        keep_values = None
        if generation and settings.value_keep is not None:
            kept = np.ones(length, np.bool_) if layer == 0 else self.context.kept_tokens[:length]
            live_rows = int(np.count_nonzero(kept & cache.has_kv[:length]))
            keep_values = max(1, exact_ceil(settings.value_keep, live_rows))
        job = Job(
            mode=mode,
            head_dim=shape.head_dim,
            heads=shape.heads,
            keys=length,
            query_offset=length - 1 if generation else 0,
            queries=1 if generation else length,
            query_bits=query_bits,
            key_bits=settings.key_bits_full,
            value_bits=settings.value_bits,
            key_fetch=key_fetch,
            score_scales=tuple(scales),
            importance_multiplier=importance_multiplier(cache.value_scale, reference),
            flat_limit=flat_limit(settings.threshold),
            keep_tokens=keep_tokens,
            keep_heads=keep_heads,
            keep_values=keep_values,
            restart=layer == 0,
            clear=layer == 0 and not generation,
        )
        begin(job, self.context)
        live = find_live(job, self.context, bitmaps)
        if codes.shape[:2] != (len(live.heads), len(live.rows)):
            raise GoldenError(f"layer {layer} takes rows {live.rows.tolist()}, not {codes.shape[1]} rows")
        work = LayerWork(layer=layer, job=job, bitmaps=bitmaps, live=live, query=codes, new_tokens=new_tokens)
        # Whatever is still to be read of the job before is read with this one if somebody else refers to it.
        self.computed = None
        computed = self.compute(work)
        self.work, self.computed = work, computed

        def in_probabilities(importance: tuple[IntArray, IntArray]) -> Importance:
            tokens, heads = importance
            return Importance(tokens=tokens[:length] / (1 << prob_bits), heads=heads[:model_heads].astype(np.float64))

        prob_bits, model_heads = self.config.prob_bits, shape.heads
        unit = cache.value_scale / (1 << (self.config.operand_bits - settings.value_bits))
        return LayerResult(
            output=(computed.output * unit).transpose(1, 0, 2).astype(np.float32),
            kept_tokens=computed.kept_tokens,
            kept_heads=computed.kept_heads,
            lazy_importance=Derived(computed.lazy_importance, in_probabilities),
            lazy_traffic=computed.lazy_traffic,
            rows=len(live.heads) * len(live.rows),
            rows_recomputed=computed.recomputed,
            value_rows=computed.values_fetched,
            value_rows_live=len(live.heads) * len(live.tokens),
            saturations=computed.saturated,
            clipped=clipped,
        )

    def _pinned(self, length: int, mode: Mode) -> BoolArray:
        """First and last tokens that settings pin; a causal prompt's last token stays, as it predicts the next one."""
        recent = 0 if mode is Mode.SUMMARIZATION else max(self.settings.pin_recent, 1)
        pinned = np.zeros(length, np.bool_)
        pinned[: self.settings.pin_first] = True
        pinned[length - min(recent, length) :] = True
        return pinned
