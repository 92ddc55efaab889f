"""The NumPy models against the implementation they claim to be, layer by layer.

Needs the extras `train` and `models`; run with `-s` to see the largest difference of every layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, normalizers

from spatten.host.engines.engine import (
    FloatArray,
    IntArray,
    LayerResult,
    ModelShape,
    ReferenceEngine,
    ReferenceSequence,
)
from spatten.host.models import zoo
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import CheckpointError, load
from spatten.host.models.checkpoint_keys import CONFIG, TOKENIZER_CONFIG, obey
from spatten.host.models.gpt2 import Gpt2
from spatten.host.models.layers import ACTIVATIONS
from tests.host.models.test_checkpoint import (
    BERT_CONFIG,
    GPT2_CONFIG,
    byte_tokenizer,
    random_tensors,
    word_tokenizer,
    write,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SENTENCES = [
    "Hello.",
    "Attention is all you need, but most of its tokens are not.",
    "The quick brown fox jumps over the lazy dog while two old turtles watch it from the far shore of the lake.",
    "Naïve café: 北京, emoji 🙂 and a-hyphenated-word! " * 10,
]


class RecordingEngine(ReferenceEngine):
    """Dense attention that keeps the Q, K and V of every prompt layer, each [n, hidden]."""

    def __init__(self) -> None:
        self.given: list[FloatArray] = []

    def start(self, shape: ModelShape, length: int) -> RecordingSequence:
        return RecordingSequence(shape, self.given)


class RecordingSequence(ReferenceSequence):
    def __init__(self, shape: ModelShape, given: list[FloatArray]) -> None:
        super().__init__(shape)
        self._given = given

    def prompt(
        self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, tokens: IntArray
    ) -> LayerResult:
        self._given.append(np.concatenate([part.transpose(1, 0, 2) for part in (query, key, value)], axis=1))
        return super().prompt(layer, query, key, value, tokens)


def difference(what: str, ours: Any, theirs: Any, limit: float) -> None:
    """Fail where they differ by more than `limit` anywhere; the difference itself is printed."""
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    largest = np.abs(ours - theirs).max()
    print(f"{what}: largest difference {largest:.1e} of values up to {np.abs(theirs).max():.1f}")
    assert largest < limit


def recorded(modules: list[Any]) -> list[Any]:
    """A list that fills with the outputs of `modules`, batch dimension removed."""
    outputs: list[Any] = []
    for module in modules:
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
    return outputs


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    torch.manual_seed(2021)
    with torch.inference_mode():
        yield


def pairs(engine: RecordingEngine) -> list[np.ndarray]:
    """Q, K and V of each layer as [n, 3 * hidden]."""
    return [given.reshape(given.shape[0], -1) for given in engine.given]


@pytest.mark.parametrize("text", SENTENCES, ids=["short", "medium", "long", "unicode"])
def test_minilm(text: str) -> None:
    try:
        folder = zoo.minilm()
    except CheckpointError as error:
        pytest.skip(str(error))
    model = Bert(load(folder))
    reference = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    attention = [layer.attention.self for layer in reference.encoder.layer]
    projections = recorded([part for layer in attention for part in (layer.query, layer.key, layer.value)])

    tokens = model.encode(text)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokens.ids.tolist() == tokenizer(text)["input_ids"]
    engine = RecordingEngine()
    result = model.run(tokens.ids, engine)
    expected = reference(torch.from_numpy(tokens.ids)[None])

    for layer, ours in enumerate(pairs(engine)):
        difference(f"layer {layer} Q, K, V", ours, torch.cat(projections[3 * layer : 3 * layer + 3], dim=1), 2e-5)
    difference("last hidden state", result.hidden, expected.last_hidden_state[0], 1e-5)
    assert result.pooled is not None
    difference("pooled", result.pooled, expected.pooler_output[0], 1e-5)
    mean = expected.last_hidden_state[0].mean(dim=0)
    difference("sentence embedding", result.embedding(), mean / mean.norm(), 1e-6)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_random_bert(tmp_path: Path, activation: str) -> None:
    config = transformers.BertConfig(
        vocab_size=256,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=96,
        max_position_embeddings=40,
        hidden_act=activation,
        initializer_range=0.2,
    )
    reference = transformers.BertForMaskedLM._from_config(config, attn_implementation="eager").eval()
    reference.save_pretrained(tmp_path)
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    ids = np.random.default_rng(7).integers(0, 256, 40)
    result = Bert(load(tmp_path)).run(ids, ReferenceEngine())
    expected = reference.bert(torch.from_numpy(ids)[None]).last_hidden_state[0]
    difference(f"last hidden state with {activation}", result.hidden, expected, 2e-5)
    assert result.pooled is None


def check_gpt2(folder: Path, ids: np.ndarray, *, prompt: int) -> None:
    """Prompt layer by layer, then every generation step, then what greedy generation chooses."""
    reference = transformers.GPT2LMHeadModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    projections = recorded([block.attn.c_attn for block in reference.transformer.h])
    model = Gpt2(load(folder))
    engine = RecordingEngine()
    logits = model.run_prompt(ids, engine.start(model.shape, ids.size)).logits
    expected = reference(torch.from_numpy(ids)[None]).logits[0]
    for layer, ours in enumerate(pairs(engine)):
        difference(f"layer {layer} Q, K, V", ours, projections[layer], 5e-5)
    difference("logits after the prompt", logits, expected[-1], 5e-5)

    sequence = ReferenceEngine().start(model.shape, prompt)
    rows = [model.run_prompt(ids[:prompt], sequence).logits]
    rows += [model.run_step(ids[at : at + 1], at, [sequence])[0] for at in range(prompt, ids.size)]
    difference("logits of generation steps", np.stack(rows), expected[prompt - 1 :], 5e-5)
    likelihood = torch.log_softmax(expected.double(), dim=1)[np.arange(prompt - 1, ids.size - 1), ids[prompt:]]
    difference("log-likelihoods", model.score_windows([ids], ReferenceEngine(), prompt)[0], likelihood, 5e-5)

    count = ids.size - prompt
    chosen = model.generate(ids[:prompt], ReferenceEngine(), count)
    start = torch.from_numpy(ids[:prompt])[None]
    theirs = reference.generate(
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert chosen.tolist() == theirs[0, prompt:].tolist()


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_random_gpt2(tmp_path: Path, kind: str) -> None:
    config = transformers.GPT2Config(
        vocab_size=256,
        n_positions=64,
        n_embd=128,
        n_layer=4,
        n_head=2,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
    )
    reference = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    reference.to(getattr(torch, kind)).save_pretrained(tmp_path)
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    check_gpt2(tmp_path, np.random.default_rng(7).integers(0, 256, 64), prompt=20)


def test_pydoc_gpt2() -> None:
    try:
        folder, text = zoo.pydoc_gpt2(), zoo.pydoc_gpt2_heldout()
    except CheckpointError as error:
        pytest.skip(str(error))
    check_gpt2(folder, Gpt2(load(folder)).encode(text).ids[:120], prompt=60)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_absent_keys_mean_what_they_mean_there(model: str) -> None:
    theirs = {"bert": transformers.BertConfig, "gpt2": transformers.GPT2Config}[model]()
    for name, value in obey(Path(CONFIG), CONFIG, {}, model).items():
        if name not in ("model_type", "architectures", "head_dim", "embedding_size"):
            assert value == getattr(theirs, name), name


@pytest.mark.parametrize("config", [BERT_CONFIG, GPT2_CONFIG], ids=["bert", "gpt2"])
def test_a_tied_matrix_under_the_name_of_the_head(tmp_path: Path, config: dict[str, Any]) -> None:
    """transformers reads such a file as well, and makes the same of it."""
    tensors = random_tensors(config)
    if config is BERT_CONFIG:
        tensors["cls.predictions.decoder.weight"] = tensors.pop("embeddings.word_embeddings.weight")
        tensors = {name if name.startswith("cls.") else f"bert.{name}": tensor for name, tensor in tensors.items()}
        tensors["cls.predictions.bias"] = np.zeros(config["vocab_size"], np.float32)
    else:
        tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
        tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    write(tmp_path, config)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ids = np.array([2, 5, 7, 3])
    if config is BERT_CONFIG:
        reference = transformers.BertForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
        expected = reference.bert(torch.from_numpy(ids)[None]).last_hidden_state[0]
        found = Bert(load(tmp_path)).run(ids, ReferenceEngine()).hidden
    else:
        reference = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
        expected = reference(torch.from_numpy(ids)[None]).logits[0, -1]
        gpt2 = Gpt2(load(tmp_path))
        found = gpt2.run_prompt(ids, ReferenceEngine().start(gpt2.shape, 4)).logits
    difference("with the matrix of the head only", found, expected, 5e-5)


def test_generation_ends_where_theirs_ends(tmp_path: Path) -> None:
    write(tmp_path, GPT2_CONFIG)
    start = [1, 2, 3]
    free = Gpt2(load(tmp_path)).generate(start, ReferenceEngine(), 10)
    reference = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    prompt = torch.tensor([start])
    for ends in (int(free[2]), [300, int(free[4])], None):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
        theirs = reference.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=10, eos_token_id=ends, pad_token_id=0
        )[0, 3:].tolist()
        assert Gpt2(load(tmp_path)).generate(start, ReferenceEngine(), 10).tolist() == theirs


@pytest.mark.parametrize("name", [None, "BertTokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("lower", [True, False])
def test_lower_case_as_theirs(tmp_path: Path, name: str | None, lower: bool) -> None:
    """Whichever of two files says so."""
    write(tmp_path, BERT_CONFIG)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not lower)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"do_lower_case": lower} | ({} if name is None else {"tokenizer_class": name})
    (tmp_path / TOKENIZER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)("A b É")["input_ids"]
    assert load(tmp_path).encode("A b É").ids.tolist() == theirs
