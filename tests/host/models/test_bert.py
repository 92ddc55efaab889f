"""BERT on the attention plug: known behaviour of MiniLM, and pruning against a naive masked model in float64."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spatten.host.engines.engine import FloatArray, IntArray, LayerResult, ModelShape, ReferenceEngine
from spatten.host.models import layers, zoo
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import CheckpointError, load
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, random_tensors, write

TOKENS = [2, 4, 9, 7, 4, 11, 5, 3]
"""A sentence of eight words, one of them twice."""


@dataclass
class ScriptedEngine:
    """Dense attention in float64 that prunes what it is told to, and notes what it was given.

    `kept_tokens[layer]` and `kept_heads[layer]` are what stays after that layer of a prompt; steps use the same heads
    and attend to every token with K and V. Sequence s starts with `first_heads[s]`.
    """

    kept_tokens: Sequence[Sequence[int]]
    kept_heads: Sequence[Sequence[int]]
    first_heads: Sequence[Sequence[int]] | None = None
    name: str = "scripted"

    def __post_init__(self) -> None:
        self.sequences: list[ScriptedSequence] = []

    def start(self, shape: ModelShape, length: int) -> ScriptedSequence:
        first = self.first_heads[len(self.sequences)] if self.first_heads else range(shape.heads)
        self.sequences.append(ScriptedSequence(self, shape, length, list(first)))
        return self.sequences[-1]


class ScriptedSequence:
    def __init__(self, engine: ScriptedEngine, shape: ModelShape, length: int, first_heads: list[int]) -> None:
        self.engine, self.shape, self.length, self.first_heads = engine, shape, length, first_heads
        self.keys: dict[int, FloatArray] = {}
        self.values: dict[int, FloatArray] = {}
        self.ids: dict[int, list[int]] = {}
        self.prompts: list[tuple[int, tuple[int, ...], list[int]]] = []

    def heads(self, layer: int) -> IntArray:
        live = set(self.first_heads)
        for kept in self.engine.kept_heads[:layer]:
            live &= set(kept)
        return np.array(sorted(live), dtype=np.int64)

    def prompt(
        self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, tokens: IntArray
    ) -> LayerResult:
        self.prompts.append((layer, query.shape, tokens.tolist()))
        self.keys[layer], self.values[layer], self.ids[layer] = key, value, tokens.tolist()
        return self._attend(layer, query, tokens.tolist(), self.engine.kept_tokens[layer])

    def step(self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, token: int) -> LayerResult:
        self.keys[layer] = np.concatenate([self.keys[layer], key], axis=1)
        self.values[layer] = np.concatenate([self.values[layer], value], axis=1)
        self.ids[layer].append(token)
        return self._attend(layer, query, [token], self.ids[layer])

    def _attend(self, layer: int, query: FloatArray, rows: list[int], kept: Sequence[int]) -> LayerResult:
        output = np.empty((len(rows), query.shape[0], query.shape[2]), np.float32)
        for head in range(query.shape[0]):
            for index, row in enumerate(rows):
                live = [i for i, token in enumerate(self.ids[layer]) if token <= row or not self.shape.causal]
                score = self.keys[layer][head, live].astype(np.float64) @ query[head, index]
                prob = np.exp((score - score.max()) / math.sqrt(self.shape.head_dim))
                output[index, head] = prob / prob.sum() @ self.values[layer][head, live]
        return LayerResult(
            output=output,
            kept_tokens=np.array(kept, dtype=np.int64),
            kept_heads=self.heads(layer + 1),
            rows=len(rows) * query.shape[0],
        )


def masked_attention(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, allowed: np.ndarray, heads: Sequence[int], count: int
) -> np.ndarray:
    """[n, hidden]: attention of every row where `allowed` [n, n]; heads not in `heads` give zero."""
    out = np.zeros_like(query)
    d = query.shape[1] // count
    for head in heads:
        part = slice(head * d, head * d + d)
        score = np.where(allowed, query[:, part] @ key[:, part].T / math.sqrt(d), -np.inf)
        prob = np.exp(score - score.max(axis=1, keepdims=True))
        out[:, part] = prob / prob.sum(axis=1, keepdims=True) @ value[:, part]
    return out


def normalise(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + epsilon) * weight + bias


def naive_bert(
    tensors: dict[str, np.ndarray],
    config: dict[str, Any],
    ids: Sequence[int],
    live_tokens: Sequence[Sequence[int]],
    live_heads: Sequence[Sequence[int]],
) -> np.ndarray:
    """[n, hidden] in float64 with every row in every layer: dead tokens and heads are masked, nothing is dropped."""
    t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    erf = np.vectorize(math.erf)

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return normalise(x, t[f"{name}.weight"], t[f"{name}.bias"], config["layer_norm_eps"])

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        q, k, v = (dense(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        allowed = np.zeros((len(ids), len(ids)), bool)
        allowed[:, live_tokens[layer]] = True
        a = masked_attention(q, k, v, allowed, live_heads[layer], config["num_attention_heads"])
        x = norm(x + dense(a, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = dense(x, f"{at}.intermediate.dense")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        x = norm(x + dense(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


# -- Pruning ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Bert:
    return Bert(load(write(tmp_path, BERT_CONFIG)))


def everything(count: int) -> list[list[int]]:
    return [list(range(count))] * BERT_CONFIG["num_hidden_layers"]  # type: ignore[operator]


def test_dense_equals_the_naive_model(tiny: Bert) -> None:
    expected = naive_bert(random_tensors(BERT_CONFIG), BERT_CONFIG, TOKENS, everything(8), everything(3))
    result = tiny.run(TOKENS, ReferenceEngine())
    np.testing.assert_allclose(result.hidden, expected, rtol=0, atol=2e-5)
    assert result.kept_tokens.tolist() == list(range(8))
    assert [layer.rows for layer in result.layers] == [24, 24, 24]
    mean = expected.mean(axis=0)
    np.testing.assert_allclose(result.embedding(), mean / np.linalg.norm(mean), rtol=0, atol=1e-5)
    assert np.linalg.norm(result.embedding()) == pytest.approx(1)


def test_pooler(tiny: Bert, tmp_path: Path) -> None:
    tensors = random_tensors(BERT_CONFIG)
    result = tiny.run(TOKENS, ReferenceEngine())
    expected = np.tanh(tensors["pooler.dense.weight"] @ result.hidden[0] + tensors["pooler.dense.bias"])
    assert result.pooled is not None
    np.testing.assert_allclose(result.pooled, expected, rtol=0, atol=1e-6)
    without_first = ScriptedEngine([range(8), range(1, 8), range(1, 8)], everything(3))
    assert tiny.run(TOKENS, without_first).pooled is None
    del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]
    assert Bert(load(write(tmp_path, BERT_CONFIG, tensors))).run(TOKENS, ReferenceEngine()).pooled is None


def test_pruned_rows_leave_the_ffn_and_heads_are_not_projected(tiny: Bert, monkeypatch: pytest.MonkeyPatch) -> None:
    ffn_rows = []
    whole = layers.FeedForward.__call__

    def counting(self: layers.FeedForward, x: FloatArray) -> FloatArray:
        ffn_rows.append(x.shape[0])
        return whole(self, x)

    monkeypatch.setattr(layers.FeedForward, "__call__", counting)
    kept_tokens = [[0, 1, 3, 4, 6, 7], [0, 3, 4, 7], [0, 4, 7]]
    kept_heads = [[0, 1, 2], [0, 2], [2]]
    engine = ScriptedEngine(kept_tokens, kept_heads)
    result = tiny.run(TOKENS, engine)

    assert ffn_rows == [6, 4, 3]
    assert engine.sequences[0].prompts == [
        (0, (3, 8, 16), list(range(8))),
        (1, (3, 6, 16), kept_tokens[0]),
        (2, (2, 4, 16), kept_tokens[1]),
    ]
    assert engine.sequences[0].length == 8
    expected = naive_bert(
        random_tensors(BERT_CONFIG), BERT_CONFIG, TOKENS, [range(8), *kept_tokens[:2]], [range(3), *kept_heads[:2]]
    )
    assert result.kept_tokens.tolist() == kept_tokens[2]
    np.testing.assert_allclose(result.hidden, expected[kept_tokens[2]], rtol=0, atol=2e-5)
    dense = tiny.run(TOKENS, ReferenceEngine())
    assert np.abs(dense.hidden[kept_tokens[2]] - expected[kept_tokens[2]]).max() > 0.1, "pruning must matter here"


def test_weights_of_dead_heads_are_never_touched(tmp_path: Path) -> None:
    kept_heads = [[0, 2], [2], [2]]
    engine = ScriptedEngine(everything(8), kept_heads)
    checkpoint = load(write(tmp_path, BERT_CONFIG))
    expected = Bert(checkpoint).run(TOKENS, engine).hidden
    poisoned = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
    for layer, dead in ((1, [1]), (2, [0, 1])):
        for head in dead:
            part = slice(head * 16, head * 16 + 16)
            for name in ("query", "key", "value"):
                poisoned[f"encoder.layer.{layer}.attention.self.{name}.weight"][part] = np.nan
                poisoned[f"encoder.layer.{layer}.attention.self.{name}.bias"][part] = np.nan
            poisoned[f"encoder.layer.{layer}.attention.output.dense.weight"][:, part] = np.nan
    model = Bert(replace(checkpoint, tensors=poisoned))
    np.testing.assert_array_equal(model.run(TOKENS, engine).hidden, expected)


def test_a_set_of_heads_does_not_leak_into_the_next_run(tiny: Bert) -> None:
    dense = tiny.run(TOKENS, ReferenceEngine()).hidden
    for kept in ([0], [1, 2], [0]):
        pruned = tiny.run(TOKENS, ScriptedEngine(everything(8), [kept] * 3)).hidden
        assert np.abs(pruned - dense).max() > 0.1
    np.testing.assert_array_equal(tiny.run(TOKENS, ReferenceEngine()).hidden, dense)


# -- Errors -----------------------------------------------------------------------------------------------------------


def test_another_kind_of_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a 'gpt2' model where a 'bert' model is needed"):
        Bert(load(write(tmp_path, GPT2_CONFIG)))


def test_too_long(tiny: Bert) -> None:
    assert tiny.encode("a " * 22).ids.size == 24
    with pytest.raises(ValueError, match="the sequence has 25 tokens, and the model allows 24"):
        tiny.encode("a " * 23)
    with pytest.raises(ValueError, match="the sequence has 25 tokens, and the model allows 24"):
        tiny.run([2] * 25, ReferenceEngine())


def test_unusable_ids(tiny: Bert) -> None:
    with pytest.raises(ValueError, match="token ids must not be empty: a sequence has at least one token"):
        tiny.run([], ReferenceEngine())
    with pytest.raises(ValueError, match="token ids must be 0 to 11, not 12"):
        tiny.run([2, 12, 3], ReferenceEngine())


@pytest.mark.parametrize("kept", [[], [1, 8], [0, 2, 1], [3, 3], [-1, 2]])
def test_engine_that_keeps_what_is_not_there(tiny: Bert, kept: list[int]) -> None:
    with pytest.raises(
        RuntimeError,
        match=re.escape(
            "layer 0: kept_tokens must be some of the live tokens [0, 1, 2, 3, 4, 5, 6, 7] in ascending order, "
            f"not {kept}"
        ),
    ):
        tiny.run(TOKENS, ScriptedEngine([kept] * 3, everything(3)))


def test_engine_that_revives_a_token(tiny: Bert) -> None:
    with pytest.raises(
        RuntimeError,
        match=re.escape("layer 1: kept_tokens must be some of the live tokens [0, 7] in ascending order, not [0, 1]"),
    ):
        tiny.run(TOKENS, ScriptedEngine([[0, 7], [0, 1], [0]], everything(3)))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda output: output[:, :2], "layer 0: the attention output must have shape (8, 3, 16), not (8, 2, 16)"),
        (lambda output: output * np.nan, "layer 0: the attention output holds values that are not finite"),
    ],
)
def test_engine_with_an_unusable_output(tiny: Bert, monkeypatch: pytest.MonkeyPatch, spoil: Any, text: str) -> None:
    whole = ScriptedSequence.prompt

    def spoiled(self: ScriptedSequence, *args: Any) -> LayerResult:
        result = whole(self, *args)
        return replace(result, output=spoil(result.output))

    monkeypatch.setattr(ScriptedSequence, "prompt", spoiled)
    with pytest.raises(RuntimeError, match=re.escape(text)):
        tiny.run(TOKENS, ScriptedEngine(everything(8), everything(3)))


# -- MiniLM -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Bert:
    try:
        return Bert(load(zoo.minilm()))
    except CheckpointError as error:
        pytest.skip(str(error))


def test_minilm_tokens(minilm: Bert) -> None:
    tokens = minilm.encode("Sparse attention prunes tokens.")
    assert tokens.strings == ["[CLS]", "sparse", "attention", "pr", "##unes", "token", "##s", ".", "[SEP]"]
    assert tokens.ids.tolist()[0] == 101
    assert tokens.ids.tolist()[-1] == 102
    assert tokens.ids.dtype == np.int64
    assert minilm.encode("word " * 254).ids.size == 256
    with pytest.raises(ValueError, match=r"257 tokens, and the model allows 256 \(max_seq_length of sent"):
        minilm.encode("word " * 255)
    with pytest.raises(ValueError, match="the sequence has 602 tokens, and the model allows 512"):
        minilm.encode("word " * 600)


def test_minilm_ranks_sentences_by_meaning(minilm: Bert) -> None:
    sentences = [
        "A man is playing a guitar on stage.",
        "Someone performs music with a guitar at a concert.",
        "The stock market fell sharply on Monday.",
        "Shares dropped steeply at the start of the week.",
        "How do I bake sourdough bread at home?",
    ]
    vectors = np.stack([minilm.run(minilm.encode(text).ids, ReferenceEngine()).embedding() for text in sentences])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.6
    assert similarity[2, 3] > 0.6
    pairs = {(0, 1), (2, 3)}
    for i in range(5):
        for j in range(i + 1, 5):
            if (i, j) not in pairs:
                assert similarity[i, j] < 0.3, (sentences[i], sentences[j])
