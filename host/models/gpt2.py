"""GPT-2 in NumPy, with its attention and K/V cache on any engine.

A prompt is one summarization pass per layer, in which the rows of pruned tokens leave right after the attention that
pruned them; every later token is one generation step per layer. Only the last row's logits are needed, so an engine
keeps the last prompt token alive.

Shapes: n = live token rows, h = live heads, d = head dimension, w = windows (sequences) run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatten.host.engines.engine import (
    AttentionEngine,
    AttentionSequence,
    FloatArray,
    IntArray,
    LayerResult,
    ModelShape,
)
from spatten.host.models.checkpoint import Checkpoint, Tokens
from spatten.host.models.layers import FeedForward, LayerNorm, Projections, check_result, surviving_rows
from spatten.spec.errors import SpattenError

LayerObserver = Callable[[int, int, int, LayerResult], None]
"""Called with window, position of the (last) row, layer and its result, as each layer's attention completes."""


@dataclass(frozen=True, kw_only=True)
class PromptResult:
    """The result of a prompt."""

    logits: FloatArray
    """[vocabulary] scores of the token after the prompt."""
    kept_tokens: IntArray
    """Positions that survived the last layer, ascending."""
    layers: tuple[LayerResult, ...]
    """The attention of each layer."""


@dataclass(frozen=True)
class _Layer:
    attention_norm: LayerNorm
    attention: Projections
    ffn_norm: LayerNorm
    ffn: FeedForward


class SamplingError(SpattenError, ValueError):
    """Tokens cannot be generated as asked; the message says what must hold."""


def check_sampling(count: int, temperature: float, seed: int) -> None:
    """Raise `SamplingError` unless `Gpt2.generate` can take these arguments, whatever the model."""
    if count < 1:
        raise SamplingError(f"count must be at least 1, not {count}")
    if not 0 <= temperature < np.inf:
        raise SamplingError(f"temperature must be 0 or a positive number, not {temperature}")
    if seed < 0:
        raise SamplingError(f"seed must be at least 0, not {seed}")


class Gpt2:
    """A GPT-2 language model from a checkpoint. Raises `CheckpointError` for another kind of model."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        checkpoint.require("gpt2")
        self._checkpoint = checkpoint
        config, tensors = checkpoint.config, checkpoint.tensors
        self.shape: ModelShape = config.shape
        self.positions = config.positions
        """The longest sequence the model allows; one token more may be generated from it."""
        self.ends = checkpoint.ends
        """Vocabulary ids that end a text."""
        self._words = tensors["wte.weight"]
        self._head = np.ascontiguousarray(self._words.T)
        self._positions = tensors["wpe.weight"]

        def norm(name: str) -> LayerNorm:
            return LayerNorm(tensors[f"{name}.weight"], tensors[f"{name}.bias"], config.epsilon)

        self._final_norm = norm("ln_f")
        self._layers: list[_Layer] = []
        heads, d, hidden = config.heads, config.head_dim, config.hidden
        for layer in range(config.layers):
            at = f"h.{layer}"
            self._layers.append(
                _Layer(
                    attention_norm=norm(f"{at}.ln_1"),
                    attention=Projections(
                        tensors[f"{at}.attn.c_attn.weight"].reshape(hidden, 3, heads, d),
                        tensors[f"{at}.attn.c_attn.bias"].reshape(3, heads, d),
                        tensors[f"{at}.attn.c_proj.weight"].reshape(heads, d, hidden),
                        tensors[f"{at}.attn.c_proj.bias"],
                    ),
                    ffn_norm=norm(f"{at}.ln_2"),
                    ffn=FeedForward(
                        tensors[f"{at}.mlp.c_fc.weight"],
                        tensors[f"{at}.mlp.c_fc.bias"],
                        tensors[f"{at}.mlp.c_proj.weight"],
                        tensors[f"{at}.mlp.c_proj.bias"],
                        config.activation,
                    ),
                )
            )

    def encode(self, text: str) -> Tokens:
        """Tokenize a text of any length; the methods that run it check that it fits the model."""
        return self._checkpoint.encode(text)

    def check_length(self, tokens: int) -> None:
        """Raise `TextError` where the model has no position for each of `tokens`."""
        self._checkpoint.check_length(tokens)

    def decode(self, ids: Sequence[int] | NDArray[np.integer]) -> str:
        """The text of vocabulary ids."""
        text: str = self._checkpoint.tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)
        return text

    def run_prompt(
        self,
        ids: Sequence[int] | NDArray[np.integer],
        sequence: AttentionSequence,
        *,
        window: int = 0,
        on_layer: LayerObserver | None = None,
    ) -> PromptResult:
        """The summarization stage: fill the cache of a fresh `sequence` with the vocabulary ids [n] of a prompt."""
        ids = self._checkpoint.check_ids(ids)
        tokens = np.arange(ids.size, dtype=np.int64)
        x = self._words[ids] + self._positions[: ids.size]
        results = []
        for index, layer in enumerate(self._layers):
            heads = sequence.heads(index)
            query, key, value = layer.attention.inputs(layer.attention_norm(x), heads)
            result = sequence.prompt(index, query, key, value, tokens)
            check_result(result, rows=tokens.size, heads=heads.size, head_dim=self.shape.head_dim, layer=index)
            if on_layer is not None:
                on_layer(window, ids.size - 1, index, result)
            results.append(result)
            attended = result.output
            rows = surviving_rows(result, tokens, layer=index)
            if rows[-1] != tokens.size - 1:
                raise RuntimeError(f"layer {index}: kept_tokens must include the last prompt token {tokens[-1]}")
            if index == len(self._layers) - 1:
                rows = rows[-1:]  # nothing attends to the others any more
            if rows.size < tokens.size:
                tokens, x, attended = tokens[rows], x[rows], attended[rows]
            x = x + layer.attention.output(attended, heads)
            x += layer.ffn(layer.ffn_norm(x))
        return PromptResult(logits=self._logits(x)[0], kept_tokens=results[-1].kept_tokens, layers=tuple(results))

    def run_step(
        self,
        ids: IntArray,
        position: int,
        sequences: Sequence[AttentionSequence],
        *,
        on_layer: LayerObserver | None = None,
    ) -> FloatArray:
        """The generation stage: append one token to each sequence, all at the same position.

        Args:
            ids: [w] vocabulary id for each sequence.
            position: How many tokens each sequence holds already.
            sequences: [w] sequences that have run their prompts.

        Returns:
            [w, vocabulary] scores of the next token of each sequence.
        """
        windows, d = len(sequences), self.shape.head_dim
        x = self._words[ids] + self._positions[position]
        for index, layer in enumerate(self._layers):
            given = [sequence.heads(index) for sequence in sequences]
            # Windows may have lost different heads: project the union, and a window's dead heads add zero.
            heads = given[0] if windows == 1 else np.unique(np.concatenate(given))
            query, key, value = layer.attention.inputs(layer.attention_norm(x), heads)
            attended = np.zeros((windows, heads.size, d), np.float32)
            for window, sequence in enumerate(sequences):
                columns: slice | IntArray = slice(None)
                if given[window].size < heads.size:
                    columns = np.searchsorted(heads, given[window])
                row = slice(window, window + 1)
                result = sequence.step(index, query[columns, row], key[columns, row], value[columns, row], position)
                check_result(result, rows=1, heads=given[window].size, head_dim=d, layer=index)
                if on_layer is not None:
                    on_layer(window, position, index, result)
                attended[window, columns] = result.output[0]
                del result  # while nothing refers to it, an accelerator need not be asked for the rest of it
            x = x + layer.attention.output(attended, heads)
            x += layer.ffn(layer.ffn_norm(x))
        return self._logits(x)

    def generate(
        self,
        ids: Sequence[int] | NDArray[np.integer],
        engine: AttentionEngine,
        count: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        ignore_eos: bool = False,
        on_token: Callable[[int], None] | None = None,
        on_layer: LayerObserver | None = None,
    ) -> IntArray:
        """Continue a prompt until the checkpoint's end-of-text token or for `count` tokens.

        Args:
            ids: [n] vocabulary ids of the prompt.
            engine: Computes the attention of the prompt and of every step.
            count: Most tokens to generate, at least 1. The model must have a position for the prompt and for each of
                them but the last, which nothing follows.
            temperature: 0 takes the most likely token; above 0 samples from softmax(logits / temperature).
            seed: Seed of the sampling, at least 0.
            ignore_eos: Go on after an end-of-text token, to exactly `count` tokens.
            on_token: Called with each vocabulary id as soon as it is known.
            on_layer: Called as each layer's attention completes; the window is 0.

        Returns:
            [at most count] vocabulary ids; an end-of-text token is the last of them.
        """
        check_sampling(count, temperature, seed)
        ids = self._checkpoint.check_ids(ids, reserve=count - 1)
        random = np.random.default_rng(seed)
        sequence = engine.start(self.shape, ids.size)
        logits = self.run_prompt(ids, sequence, on_layer=on_layer).logits
        chosen = np.empty(count, np.int64)
        for index in range(count):
            if index:
                logits = self.run_step(chosen[index - 1 : index], ids.size + index - 1, [sequence], on_layer=on_layer)[
                    0
                ]
            chosen[index] = _choose(logits, temperature, random)
            if on_token is not None:
                on_token(int(chosen[index]))
            if not ignore_eos and int(chosen[index]) in self.ends:
                return chosen[: index + 1]
        return chosen

    def score_windows(
        self,
        windows: Sequence[Sequence[int] | NDArray[np.integer]] | NDArray[np.integer],
        engine: AttentionEngine,
        prompt_length: int,
        *,
        on_layer: LayerObserver | None = None,
    ) -> NDArray[np.float64]:
        """How likely the model finds given texts when it generates them token by token.

        The first `prompt_length` tokens of each window are its prompt; the rest is fed in generation steps whatever
        the model would have chosen. The windows' rows share one matrix outside attention.

        Args:
            windows: [w, length] vocabulary ids; the last needs no position, since nothing follows it.
            engine: Holds one sequence per window.
            prompt_length: 1 to length - 1.
            on_layer: Called as each layer's attention completes.

        Returns:
            [w, length - prompt_length] natural log-probability of each token after the prompt.
        """
        lengths = {len(window) for window in windows}
        if len(lengths) != 1:
            raise ValueError(f"windows must be at least one, and equally long, not of lengths {sorted(lengths)}")
        ids = np.stack([self._checkpoint.check_ids(window, reserve=-1) for window in windows])
        length = ids.shape[1]
        if not 1 <= prompt_length < length:
            raise ValueError(f"prompt_length must be 1 to {length - 1}, not {prompt_length}")
        sequences = [engine.start(self.shape, prompt_length) for _ in windows]
        logits = np.stack(
            [
                self.run_prompt(ids[window, :prompt_length], sequence, window=window, on_layer=on_layer).logits
                for window, sequence in enumerate(sequences)
            ]
        )
        scores = np.empty((ids.shape[0], length - prompt_length))
        for position in range(prompt_length, length):
            if position > prompt_length:
                logits = self.run_step(ids[:, position - 1], position - 1, sequences, on_layer=on_layer)
            scores[:, position - prompt_length] = _log_likelihood(logits, ids[:, position])
        return scores

    def _logits(self, x: FloatArray) -> FloatArray:
        """[n, hidden] to [n, vocabulary]."""
        logits = self._final_norm(x) @ self._head
        if not np.isfinite(logits).all():
            raise RuntimeError("the model's logits are not finite")
        return logits


def _log_likelihood(logits: FloatArray, ids: IntArray) -> NDArray[np.float64]:
    """log softmax(logits [w, vocabulary]) at ids [w]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, dtype=np.float64)
    scores: NDArray[np.float64] = shifted[np.arange(ids.size), ids] - np.log(total)
    return scores


def _choose(logits: FloatArray, temperature: float, random: np.random.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # a very low temperature: what is far from the most likely token is impossible
        shifted = (logits.astype(np.float64) - logits.max()) / temperature
    prob = np.exp(shifted)
    return int(random.choice(prob.size, p=prob / prob.sum()))
