"""BERT in NumPy, with its attention on any engine.

The runner owns embeddings, projections, layer norm and FFN. For each layer it projects Q, K and V of the live heads
only, and the rows of pruned tokens leave right after the attention that pruned them, before residual and FFN.

Shapes: n = live token rows, h = live heads, d = head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatten.host.engines.engine import AttentionEngine, FloatArray, IntArray, LayerResult, ModelShape
from spatten.host.models.checkpoint import Checkpoint, Tokens
from spatten.host.models.layers import FeedForward, LayerNorm, Projections, check_result, surviving_rows
from spatten.host.models.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class BertResult:
    """The result of one sentence."""

    hidden: FloatArray
    """[n, hidden] last hidden state of the surviving tokens."""
    kept_tokens: IntArray
    """[n] their positions in the sentence, ascending."""
    layers: tuple[LayerResult, ...]
    """The attention of each layer."""
    pooled: FloatArray | None
    """[hidden] pooler output of the first token; None without a pooler or where that token was pruned."""
    pooling: Pooling
    """How the checkpoint makes a sentence embedding."""

    def embedding(self) -> FloatArray:
        """[modes * hidden] sentence embedding of sentence-transformers, pooled from the surviving tokens.

        Raises `GoldenError` where pooling needs the first token, and it was pruned.
        """
        return self.pooling(self.hidden, self.kept_tokens)


@dataclass(frozen=True)
class _Layer:
    attention: Projections
    attention_norm: LayerNorm
    ffn: FeedForward
    ffn_norm: LayerNorm


class Bert:
    """A BERT encoder from a checkpoint. Raises `CheckpointError` for another kind of model."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        checkpoint.require("bert")
        self._checkpoint = checkpoint
        config, tensors = checkpoint.config, checkpoint.tensors
        self.shape: ModelShape = config.shape
        self._words = tensors["embeddings.word_embeddings.weight"]
        # Every token is of type 0: one sentence, not a pair.
        self._positions = (
            tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        )

        def norm(name: str) -> LayerNorm:
            return LayerNorm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], config.epsilon)

        def rows_in(name: str) -> FloatArray:
            # [in, out]: with few token rows, BLAS is up to twice as fast as with PyTorch's [out, in]
            return np.ascontiguousarray(tensors[name].T)

        self._embedding_norm = norm("embeddings.LayerNorm")
        self._layers: list[_Layer] = []
        heads, d, hidden = config.heads, config.head_dim, config.hidden
        for layer in range(config.layers):
            at = f"encoder.layer.{layer}"
            parts = [f"{at}.attention.self.{part}" for part in ("query", "key", "value")]
            self._layers.append(
                _Layer(
                    attention=Projections(
                        np.stack([tensors[f"{part}.weight"].T.reshape(hidden, heads, d) for part in parts], axis=1),
                        np.stack([tensors[f"{part}.bias"].reshape(heads, d) for part in parts]),
                        rows_in(f"{at}.attention.output.dense.weight").reshape(heads, d, hidden),
                        tensors[f"{at}.attention.output.dense.bias"],
                    ),
                    attention_norm=norm(f"{at}.attention.output.LayerNorm"),
                    ffn=FeedForward(
                        rows_in(f"{at}.intermediate.dense.weight"),
                        tensors[f"{at}.intermediate.dense.bias"],
                        rows_in(f"{at}.output.dense.weight"),
                        tensors[f"{at}.output.dense.bias"],
                        config.activation,
                    ),
                    ffn_norm=norm(f"{at}.output.LayerNorm"),
                )
            )
        self._pooler = (
            (tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]) if "pooler.dense.weight" in tensors else None
        )

    def encode(self, text: str) -> Tokens:
        """Tokenize a sentence with [CLS] and [SEP]. Raises `TextError` where it is longer than the model allows."""
        tokens = self._checkpoint.encode(text)
        self._checkpoint.check_text(tokens.ids.size)
        return tokens

    def run(self, token_ids: Sequence[int] | NDArray[np.integer], engine: AttentionEngine) -> BertResult:
        """The forward pass of one sentence.

        Args:
            token_ids: [n] vocabulary ids with special tokens, as `encode` makes them.
            engine: Computes the attention and decides which tokens and heads stay.
        """
        ids = self._checkpoint.check_ids(token_ids)
        sequence = engine.start(self.shape, ids.size)
        tokens = np.arange(ids.size, dtype=np.int64)
        x = self._embedding_norm(self._words[ids] + self._positions[: ids.size])
        results = []
        for index, layer in enumerate(self._layers):
            heads = sequence.heads(index)
            query, key, value = layer.attention.inputs(x, heads)
            result = sequence.prompt(index, query, key, value, tokens)
            check_result(result, rows=tokens.size, heads=heads.size, head_dim=self.shape.head_dim, layer=index)
            results.append(result)
            attended = result.output
            rows = surviving_rows(result, tokens, layer=index)
            if rows.size < tokens.size:
                tokens, x, attended = tokens[rows], x[rows], attended[rows]
            x = layer.attention_norm(x + layer.attention.output(attended, heads))
            x = layer.ffn_norm(x + layer.ffn(x))
        pooled = None
        if self._pooler is not None and tokens[0] == 0:
            weight, bias = self._pooler
            pooled = np.tanh(weight @ x[0] + bias)
        return BertResult(
            hidden=x,
            kept_tokens=tokens,
            layers=tuple(results),
            pooled=pooled,
            pooling=self._checkpoint.pooling,
        )
