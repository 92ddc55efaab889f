"""GPT-2 on the attention plug: prompt, cache, pruning and batching against one naive causal pass in float64."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spatten.golden import GoldenError
from spatten.host.engines import registry as engines
from spatten.host.engines.engine import FloatArray, LayerResult, ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.models import layers
from spatten.host.models.checkpoint import CheckpointError, load
from spatten.host.models.gpt2 import Gpt2
from spatten.spec.config import TINY
from tests.cli.command_line import run_spatten
from tests.host.models.test_bert import ScriptedEngine, ScriptedSequence, masked_attention, normalise
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, random_tensors, write

CONFIG = GPT2_CONFIG | {"n_layer": 3, "n_embd": 48, "n_head": 3}
"""Three layers of three heads of 16, so that a cascade has somewhere to go."""
SEED = 2021
IDS = np.random.default_rng(SEED).integers(0, 256, (3, 20))
"""Three windows of 20 tokens."""


def naive_gpt2(
    ids: Sequence[int] | np.ndarray,
    live_tokens: Sequence[Sequence[int]] = ((), (), ()),
    live_heads: Sequence[Sequence[int]] = ((0, 1, 2),) * 3,
) -> np.ndarray:
    """[n, vocabulary] logits in float64 of every row in one causal pass: dead tokens and heads are masked.

    An empty entry of `live_tokens` stands for every token.
    """
    t = {name: tensor.astype(np.float64) for name, tensor in random_tensors(CONFIG).items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return normalise(x, t[f"{name}.weight"], t[f"{name}.bias"], CONFIG["layer_norm_epsilon"])  # type: ignore[arg-type]

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ t[f"{name}.weight"] + t[f"{name}.bias"]

    count = len(ids)
    x = t["wte.weight"][ids] + t["wpe.weight"][:count]
    for layer in range(3):
        q, k, v = np.split(dense(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn"), 3, axis=1)
        allowed = np.tril(np.ones((count, count), bool))
        if live_tokens[layer]:
            dead = sorted(set(range(count)) - set(live_tokens[layer]))
            allowed[:, dead] = False
            allowed[dead, dead] = True  # a row of nothing would be 0 / 0; no live row reads it
        a = masked_attention(q, k, v, allowed, live_heads[layer], 3)
        x = x + dense(a, f"h.{layer}.attn.c_proj")
        inner = dense(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        inner = inner / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        x = x + dense(inner, f"h.{layer}.mlp.c_proj")
    logits: np.ndarray = norm(x, "ln_f") @ t["wte.weight"].T
    return logits


def naive_scores(logits: np.ndarray, ids: np.ndarray, prompt: int) -> np.ndarray:
    """Log-probability of each of ids[prompt:] in the row before it."""
    rows = logits[prompt - 1 : -1]
    top = rows.max(axis=1, keepdims=True)
    rows = rows - top - np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    scores: np.ndarray = rows[np.arange(len(rows)), ids[prompt:]]
    return scores


@pytest.fixture
def model(tmp_path: Path) -> Gpt2:
    return Gpt2(load(write(tmp_path, CONFIG)))


def everything(count: int) -> list[list[int]]:
    return [list(range(count))] * 3


# -- Dense ------------------------------------------------------------------------------------------------------------


def test_text_survives_the_tokenizer(model: Gpt2) -> None:
    text = "def naïve(): return 'π'\n"
    tokens = model.encode(text)
    assert tokens.ids.size == len(text.encode())
    assert model.decode(tokens.ids) == text
    assert model.encode("x" * 1000).ids.size == 1000


@pytest.mark.parametrize("length", [1, 2, 20])
def test_prompt_equals_the_naive_model(model: Gpt2, length: int) -> None:
    ids = IDS[0, :length]
    result = model.run_prompt(ids, ReferenceEngine().start(model.shape, length))
    np.testing.assert_allclose(result.logits, naive_gpt2(ids)[-1], rtol=0, atol=3e-5)
    assert result.kept_tokens.tolist() == list(range(length))
    assert [layer.rows for layer in result.layers] == [3 * length] * 3


@pytest.mark.parametrize("prompt", [1, 7, 19])
def test_steps_through_the_cache_equal_one_causal_pass(model: Gpt2, prompt: int) -> None:
    sequence = ReferenceEngine().start(model.shape, prompt)
    rows = [model.run_prompt(IDS[0, :prompt], sequence).logits]
    rows += [model.run_step(IDS[0, at : at + 1], at, [sequence])[0] for at in range(prompt, 20)]
    np.testing.assert_allclose(np.stack(rows), naive_gpt2(IDS[0])[prompt - 1 :], rtol=0, atol=3e-5)


def test_windows_side_by_side_equal_single_windows_and_the_naive_model(model: Gpt2) -> None:
    together = model.score_windows(IDS, ReferenceEngine(), 6)
    assert together.shape == (3, 14)
    assert together.dtype == np.float64
    for window, scores in zip(IDS, together, strict=True):
        np.testing.assert_allclose(scores, model.score_windows([window], ReferenceEngine(), 6)[0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, naive_scores(naive_gpt2(window), window, 6), rtol=0, atol=3e-5)
    assert len(np.unique(together.round(3))) > 30, "windows must differ for this to mean anything"


def test_greedy_generation_is_the_argmax_of_growing_prompts(model: Gpt2) -> None:
    seen: list[int] = []
    ids = list(IDS[1, :5])
    chosen = model.generate(ids, ReferenceEngine(), 10, on_token=seen.append)
    for token in chosen:
        assert token == naive_gpt2(ids)[-1].argmax()
        ids.append(token)
    assert seen == chosen.tolist()
    assert all(type(token) is int for token in seen)
    assert len(set(seen)) > 1


def test_sampling_follows_seed_and_temperature(model: Gpt2) -> None:
    def sample(temperature: float, seed: int) -> list[int]:
        return model.generate(IDS[1, :5], ReferenceEngine(), 10, temperature=temperature, seed=seed).tolist()

    assert sample(1.0, 1) == sample(1.0, 1)
    assert sample(1.0, 1) != sample(1.0, 2)
    assert sample(1e-4, 1) == sample(0.0, 2)

    logits = naive_gpt2(IDS[1, :5])[-1]
    firsts = [model.generate(IDS[1, :5], ReferenceEngine(), 1, temperature=0.5, seed=seed)[0] for seed in range(300)]
    prob = np.exp((logits - logits.max()) / 0.5)
    prob /= prob.sum()
    likely = int(prob.argmax())
    error = math.sqrt(prob[likely] * (1 - prob[likely]) / 300)
    assert abs(np.mean(np.array(firsts) == likely) - prob[likely]) < 4 * error


def test_observer_sees_every_layer_in_order(model: Gpt2) -> None:
    seen: list[tuple[int, int, int, int]] = []
    model.score_windows(
        IDS[:2, :6],
        ReferenceEngine(),
        4,
        on_layer=lambda w, at, layer, result: seen.append((w, at, layer, result.rows)),
    )
    prompts = [(window, 3, layer, 12) for window in range(2) for layer in range(3)]
    assert seen == prompts + [(window, 4, layer, 3) for layer in range(3) for window in range(2)]

    seen.clear()
    model.generate(
        IDS[0, :4], ReferenceEngine(), 3, on_layer=lambda w, at, layer, result: seen.append((w, at, layer, result.rows))
    )
    assert seen == [(0, 3, layer, 12) for layer in range(3)] + [
        (0, at, layer, 3) for at in (4, 5) for layer in range(3)
    ]


# -- Pruning ----------------------------------------------------------------------------------------------------------

KEPT_TOKENS = [[0, 1, 3, 4, 6, 7, 9], [0, 3, 4, 9], [4, 9]]
KEPT_HEADS = [[0, 1, 2], [0, 2], [2]]


def test_pruned_rows_leave_the_ffn_and_heads_are_not_projected(model: Gpt2, monkeypatch: pytest.MonkeyPatch) -> None:
    ffn_rows = []
    whole = layers.FeedForward.__call__

    def counting(self: layers.FeedForward, x: FloatArray) -> FloatArray:
        ffn_rows.append(x.shape[0])
        return whole(self, x)

    monkeypatch.setattr(layers.FeedForward, "__call__", counting)
    engine = ScriptedEngine(KEPT_TOKENS, KEPT_HEADS)
    result = model.run_prompt(IDS[0, :10], engine.start(model.shape, 10))

    assert ffn_rows == [7, 4, 1], "after the last layer only the last row is needed"
    assert engine.sequences[0].prompts == [
        (0, (3, 10, 16), list(range(10))),
        (1, (3, 7, 16), KEPT_TOKENS[0]),
        (2, (2, 4, 16), KEPT_TOKENS[1]),
    ]
    assert result.kept_tokens.tolist() == [4, 9]
    expected = naive_gpt2(IDS[0, :10], [[], *KEPT_TOKENS[:2]], [range(3), *KEPT_HEADS[:2]])
    np.testing.assert_allclose(result.logits, expected[-1], rtol=0, atol=3e-5)
    assert np.abs(expected[-1] - naive_gpt2(IDS[0, :10])[-1]).max() > 0.1, "pruning must matter here"


def test_generation_after_a_pruned_prompt_equals_the_masked_model(model: Gpt2) -> None:
    scores = model.score_windows(IDS, ScriptedEngine(KEPT_TOKENS, KEPT_HEADS), 10)
    later = list(range(10, 20))
    live = [[], KEPT_TOKENS[0] + later, KEPT_TOKENS[1] + later]
    for window, row in zip(IDS, scores, strict=True):
        expected = naive_gpt2(window, live, [range(3), *KEPT_HEADS[:2]])
        np.testing.assert_allclose(row, naive_scores(expected, window, 10), rtol=0, atol=3e-5)


def test_windows_with_different_live_heads(model: Gpt2) -> None:
    first_heads = [[0, 1, 2], [2], [0, 1]]
    kept_heads = [[0, 2], [0, 2], [0, 2]]
    scores = model.score_windows(IDS, ScriptedEngine(everything(10), kept_heads, first_heads), 10)
    for window, row, first in zip(IDS, scores, first_heads, strict=True):
        rest = sorted({0, 2} & set(first))
        expected = naive_gpt2(window, live_heads=[first, rest, rest])
        np.testing.assert_allclose(row, naive_scores(expected, window, 10), rtol=0, atol=3e-5)


def test_weights_of_dead_heads_are_never_touched(tmp_path: Path) -> None:
    checkpoint = load(write(tmp_path, CONFIG))
    expected = Gpt2(checkpoint).score_windows(IDS, ScriptedEngine(everything(10), [[0, 2], [2], [2]]), 10)
    poisoned = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
    for layer, dead in ((1, [1]), (2, [0, 1])):
        for head in dead:
            for part in range(3):
                columns = slice(part * 48 + head * 16, part * 48 + head * 16 + 16)
                poisoned[f"h.{layer}.attn.c_attn.weight"][:, columns] = np.nan
                poisoned[f"h.{layer}.attn.c_attn.bias"][columns] = np.nan
            poisoned[f"h.{layer}.attn.c_proj.weight"][head * 16 : head * 16 + 16] = np.nan
    model = Gpt2(replace(checkpoint, tensors=poisoned))
    scores = model.score_windows(IDS, ScriptedEngine(everything(10), [[0, 2], [2], [2]]), 10)
    np.testing.assert_array_equal(scores, expected)


# -- Errors -----------------------------------------------------------------------------------------------------------


def test_another_kind_of_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a 'bert' model where a 'gpt2' model is needed"):
        Gpt2(load(write(tmp_path, BERT_CONFIG)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda m: m.generate([], ReferenceEngine(), 1), "token ids must not be empty: a sequence has at least one"),
        (lambda m: m.generate([256], ReferenceEngine(), 1), "token ids must be 0 to 255, not 256"),
        (lambda m: m.generate([1] * 20, ReferenceEngine(), 6), "the sequence has 25 tokens, and the model allows 24"),
        (lambda m: m.generate([1], ReferenceEngine(), 0), "count must be at least 1, not 0"),
        (
            lambda m: m.generate([1], ReferenceEngine(), 1, temperature=-1.0),
            "temperature must be 0 or a positive number, not -1.0",
        ),
        (
            lambda m: m.generate([1], ReferenceEngine(), 1, temperature=math.nan),
            "temperature must be 0 or a positive number, not nan",
        ),
        (
            lambda m: m.run_prompt([1] * 25, ReferenceEngine().start(m.shape, 25)),
            "the sequence has 25 tokens, and the model allows 24",
        ),
        (
            lambda m: m.score_windows([], ReferenceEngine(), 1),
            "windows must be at least one, and equally long, not of lengths []",
        ),
        (
            lambda m: m.score_windows([[1, 2, 3], [1, 2]], ReferenceEngine(), 1),
            "windows must be at least one, and equally long, not of lengths [2, 3]",
        ),
        (lambda m: m.score_windows([[1] * 26], ReferenceEngine(), 1), "the sequence has 25 tokens, and the model"),
        (lambda m: m.score_windows(IDS, ReferenceEngine(), 0), "prompt_length must be 1 to 19, not 0"),
        (lambda m: m.score_windows(IDS, ReferenceEngine(), 20), "prompt_length must be 1 to 19, not 20"),
    ],
)
def test_unusable_arguments(model: Gpt2, call: Callable[[Gpt2], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        call(model)


def test_the_longest_sequence_is_allowed(model: Gpt2) -> None:
    """24 positions, and one token more, which nothing follows."""
    assert model.positions == 24
    for prompt in (1, 20, 23, 24):
        assert model.generate([1] * prompt, ReferenceEngine(), 25 - prompt).size == 25 - prompt
    full = model.generate(IDS[0, :20], ReferenceEngine(), 5)
    assert full[-1] == naive_gpt2([*IDS[0, :20], *full[:-1]])[-1].argmax()

    window = [*IDS[0, :20], *full]
    scores = model.score_windows([window], ReferenceEngine(), 1)
    assert scores.shape == (1, 24)
    logits = naive_gpt2(window[:-1])
    expected = naive_scores(np.concatenate([logits, logits[-1:]]), np.array(window), 1)
    np.testing.assert_allclose(scores[0], expected, rtol=0, atol=3e-5)


def test_the_longest_sequence_of_a_configuration_is_allowed(tmp_path: Path) -> None:
    """The accelerator needs no room for the last token either."""
    longest = TINY.tokens_max
    model = Gpt2(load(write(tmp_path, GPT2_CONFIG | {"n_positions": 4 * longest})))
    assert model.generate([1] * longest, GoldenEngine(config=TINY), 1).size == 1
    assert model.generate([1] * (longest - 3), GoldenEngine(config=TINY), 4).size == 4
    with pytest.raises(GoldenError, match=f"takes {longest} tokens: token {longest} is beyond"):
        model.generate([1] * (longest - 3), GoldenEngine(config=TINY), 5)
    with pytest.raises(GoldenError, match=f"takes 1 to {longest} tokens, not {longest + 1}"):
        model.generate([1] * (longest + 1), GoldenEngine(config=TINY), 1)


def with_ends(folder: Path, ends: object) -> Gpt2:
    """A model whose checkpoint names ends of a text."""
    write(folder, CONFIG)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    return Gpt2(load(folder))


def test_generation_ends_with_the_text(model: Gpt2, tmp_path: Path) -> None:
    ids = IDS[1, :5]
    whole = model.generate(ids, ReferenceEngine(), 10).tolist()
    end = next(index for index in range(2, 10) if whole[index] not in whole[:index])
    for ends in (whole[end], [300, whole[end]], [whole[-1], whole[end]]):
        seen: list[int] = []
        ended = with_ends(tmp_path / "ends", ends)
        assert ended.generate(ids, ReferenceEngine(), 10, on_token=seen.append).tolist() == whole[: end + 1]
        assert seen == whole[: end + 1]
        assert ended.generate(ids, ReferenceEngine(), 10, ignore_eos=True).tolist() == whole
    assert with_ends(tmp_path / "first", whole[0]).generate(ids, ReferenceEngine(), 10).tolist() == whole[:1]
    for never in (None, [], 300):
        assert with_ends(tmp_path / "never", never).generate(ids, ReferenceEngine(), 10).tolist() == whole


def test_the_command_continues_a_text_to_its_end(model: Gpt2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "x" * 20
    whole = model.generate(model.encode(text).ids, ReferenceEngine(), 5)
    end = int(whole[1])
    assert end != whole[0]
    with_ends(tmp_path / "ends", end)

    def generate(text: str, *options: str) -> str:
        arguments = [text, "--model", str(tmp_path / "ends"), "--engine", "float", *options]
        ended = run_spatten("generate", *arguments)
        if ended.status:
            raise ValueError(ended.errors)
        return ended.output.replace("\n", "")

    assert generate(text, "--tokens", "5") == (text + model.decode(whole[:1])).replace("\n", "")
    assert generate(text, "--tokens", "5", "--ignore-eos") == (text + model.decode(whole)).replace("\n", "")
    assert generate("x" * 24, "--tokens", "1").startswith("x" * 24)
    # before an engine is made, which may take minutes
    monkeypatch.setattr(engines, "make_engine", None)
    with pytest.raises(ValueError, match="the sequence has 25 tokens, and the model allows 24"):
        generate("x" * 24, "--tokens", "2")


def test_engine_that_drops_the_last_prompt_token(model: Gpt2) -> None:
    engine = ScriptedEngine([range(10), range(9), range(9)], everything(3))
    with pytest.raises(RuntimeError, match="layer 1: kept_tokens must include the last prompt token 9"):
        model.run_prompt(IDS[0, :10], engine.start(model.shape, 10))


@pytest.mark.parametrize("stage", ["prompt", "step"])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (
            lambda output: output[:, :, :8],
            "layer 0: the attention output must have shape ({rows}, 3, 16), not ({rows}, 3, 8)",
        ),
        (lambda output: output * np.inf, "layer 0: the attention output holds values that are not finite"),
    ],
    ids=["shape", "finite"],
)
def test_engine_with_an_unusable_output(
    model: Gpt2, monkeypatch: pytest.MonkeyPatch, stage: str, spoil: Any, text: str
) -> None:
    whole = getattr(ScriptedSequence, stage)

    def spoiled(self: ScriptedSequence, *args: Any) -> LayerResult:
        result = whole(self, *args)
        return replace(result, output=spoil(result.output))

    monkeypatch.setattr(ScriptedSequence, stage, spoiled)
    with pytest.raises(RuntimeError, match=re.escape(text.format(rows=10 if stage == "prompt" else 1))):
        model.generate(IDS[0, :10], ScriptedEngine(everything(10), everything(3)), 2)


def test_logits_that_overflow(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    tensors["ln_f.weight"][:] = 3e38
    model = Gpt2(load(write(tmp_path, CONFIG, tensors)))
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="the model's logits are not finite"):
        model.generate([1, 2], ReferenceEngine(), 1)
