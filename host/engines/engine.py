"""The attention plug: what a model runner asks of whatever computes its attention.

A model runner (`host/models/bert.py`, `host/models/gpt2.py`) owns everything outside attention and talks to an
`AttentionEngine` only through the types below, so the float reference, the golden model, the simulated Verilog and a
board are interchangeable. The engine owns the K/V cache, the importance scores and the pruning decisions of a sequence.

Shapes use h = heads given, n = token rows given, d = head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from spatten.golden.traffic import Traffic

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.int64]
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Lazy(Protocol[T_co]):
    """A value that may have to be fetched from an accelerator first: it is when `value` is first asked for."""

    @property
    def value(self) -> T_co: ...


@dataclass(frozen=True)
class Known(Generic[T]):
    """A value that is here already."""

    value: T


class Derived(Generic[S, T]):
    """What a function makes of a lazy value, made once, when it is first asked for."""

    def __init__(self, source: Lazy[S], derive: Callable[[S], T]) -> None:
        self._source = source
        self._derive = derive
        self._values: list[T] = []
        """The value, once it was asked for."""

    @property
    def value(self) -> T:
        if not self._values:
            self._values.append(self._derive(self._source.value))
        return self._values[0]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """The importance that tokens and heads have after a layer."""

    tokens: NDArray[np.float64]
    """[tokens seen] accumulated importance by token id, in units of one probability of 1.0."""
    heads: NDArray[np.float64]
    """[heads of the model] accumulated importance by head."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What an engine must know of a model before its first layer."""

    layers: int
    heads: int
    head_dim: int
    causal: bool
    """True: row i attends to tokens 0..i (GPT-2). False: every row attends to every token (BERT)."""


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """The attention of one layer and what it decided.

    An accelerator is asked for importance and traffic when somebody reads them here first, or at the latest with its
    next job if somebody still can; its own values stay those of its own layer.
    """

    output: FloatArray
    """[n, h, d] float32, in the order of the rows and heads given."""
    kept_tokens: IntArray
    """Ids that stay live after this layer, ascending. After a prompt layer the runner drops the other rows."""
    kept_heads: IntArray
    """Heads that stay live after this layer, ascending."""
    lazy_importance: Lazy[Importance | None] = Known(None)
    """What `token_importance` and `head_importance` give; None for an engine that knows none."""
    lazy_traffic: Lazy[Traffic] = Known(Traffic())
    """What `traffic` gives."""
    rows: int = 0
    """(row, head) pairs computed."""
    rows_recomputed: int = 0
    """How many of `rows` were flat and fetched their LSBs."""
    value_rows: int = 0
    """V rows fetched, over all heads."""
    value_rows_live: int = 0
    """V rows of the live tokens, over all heads."""
    saturations: int = 0
    """Output elements that saturated."""
    clipped: int = 0
    """K and V elements of this call that exceeded the range fixed at the prompt."""

    @property
    def token_importance(self) -> NDArray[np.float64] | None:
        """[tokens seen] accumulated importance by token id, in units of one probability of 1.0."""
        importance = self.lazy_importance.value
        return None if importance is None else importance.tokens

    @property
    def head_importance(self) -> NDArray[np.float64] | None:
        """[heads of the model] accumulated importance by head."""
        importance = self.lazy_importance.value
        return None if importance is None else importance.heads

    @property
    def traffic(self) -> Traffic:
        """Bytes that the layer moved, by class."""
        return self.lazy_traffic.value


class AttentionSequence(Protocol):
    """One sequence (a sentence, or a prompt and its continuation) in flight on an engine."""

    def heads(self, layer: int) -> IntArray:
        """Ids of the heads that `layer` computes next; the runner projects Q, K and V for these heads only."""
        ...

    def prompt(
        self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, tokens: IntArray
    ) -> LayerResult:
        """Summarization: attention of rows `tokens` (ids, ascending, [n]) over themselves; Q, K, V are [h, n, d]."""
        ...

    def step(self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, token: int) -> LayerResult:
        """Generation: append `token`'s K and V (each [h, 1, d]) to the cache and attend with its one query row."""
        ...


class AttentionEngine(Protocol):
    """Makes sequences. `name` labels rows of reports."""

    name: str

    def start(self, shape: ModelShape, length: int) -> AttentionSequence:
        """Begin a sequence whose prompt has `length` tokens; schedules may depend on that length."""
        ...


class ReferenceEngine:
    """Unpruned, unquantized float32 attention: the yardstick every other engine is compared with."""

    name = "float"

    def start(self, shape: ModelShape, length: int) -> ReferenceSequence:
        return ReferenceSequence(shape)


class ReferenceSequence:
    """Dense float attention with a K/V cache per layer."""

    def __init__(self, shape: ModelShape) -> None:
        self._shape = shape
        self._heads = np.arange(shape.heads, dtype=np.int64)
        self._keys: list[FloatArray] = [np.empty((shape.heads, 0, shape.head_dim), np.float32)] * shape.layers
        self._values = list(self._keys)
        self._tokens = 0

    def heads(self, layer: int) -> IntArray:
        return self._heads

    def prompt(
        self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, tokens: IntArray
    ) -> LayerResult:
        self._keys[layer], self._values[layer] = key, value
        self._tokens = key.shape[1]
        return self._attend(query, key, value, first_row=0)

    def step(self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, token: int) -> LayerResult:
        self._keys[layer] = np.concatenate([self._keys[layer], key], axis=1)
        self._values[layer] = np.concatenate([self._values[layer], value], axis=1)
        self._tokens = token + 1
        return self._attend(query, self._keys[layer], self._values[layer], first_row=token)

    def _attend(self, query: FloatArray, key: FloatArray, value: FloatArray, *, first_row: int) -> LayerResult:
        score = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(self._shape.head_dim))
        if self._shape.causal:
            rows = first_row + np.arange(query.shape[1])[:, None]
            score = np.where(np.arange(key.shape[1])[None, :] <= rows, score, -np.inf)
        prob = np.exp(score - score.max(axis=-1, keepdims=True))
        prob /= prob.sum(axis=-1, keepdims=True)
        output = (prob @ value).transpose(1, 0, 2).astype(np.float32)
        return LayerResult(
            output=output,
            kept_tokens=np.arange(self._tokens, dtype=np.int64),
            kept_heads=self._heads,
            rows=query.shape[0] * query.shape[1],
        )
