"""Hugging Face checkpoint folders of BERT and GPT-2, read without PyTorch or transformers.

A folder holds `config.json` (sizes), `model.safetensors` (weights) and `tokenizer.json`. Everything a model runner
relies on is checked here, so that `host/bert.py` and `host/gpt2.py` contain arithmetic only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from host.engine import FloatArray, IntArray, ModelShape
from hw.config import HEAD_DIMS
from hw.errors import SpattenError

FILES = ("config.json", "model.safetensors", "tokenizer.json")
"""What a checkpoint folder must hold."""
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""FFN activations the model runners compute."""

_CONFIG_KEYS = {
    "bert": {
        "vocabulary": "vocab_size",
        "positions": "max_position_embeddings",
        "hidden": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "token_types": "type_vocab_size",
        "activation": "hidden_act",
        "epsilon": "layer_norm_eps",
    },
    "gpt2": {
        "vocabulary": "vocab_size",
        "positions": "n_positions",
        "hidden": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "ffn": "n_inner",
        "activation": "activation_function",
        "epsilon": "layer_norm_epsilon",
    },
}
_ONLY_VALUES: dict[str, dict[str, Any]] = {
    "bert": {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
    "gpt2": {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
}
"""Settings that change the arithmetic, with the one value (also the default) that the runners implement."""
_PREFIX = {"bert": "bert.", "gpt2": "transformer."}
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_NORM_NAMES = {"gamma": "weight", "beta": "bias"}
_HARMLESS = {
    "bert": re.compile(r"embeddings\.(position_ids|token_type_ids)|(cls|classifier|qa_outputs)\..*"),
    "gpt2": re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|lm_head\.weight|(score|classifier)\..*"),
}
"""Buffers, and heads of other tasks, that the runners do not need."""


class TextError(SpattenError, ValueError):
    """A text or token ids that the model cannot take."""


class CheckpointError(SpattenError, ValueError):
    """A checkpoint that is missing, damaged or of a kind the runners do not implement; the message says which."""


class Tokens(NamedTuple):
    """A tokenized text."""

    ids: IntArray
    """[n] vocabulary ids, special tokens included."""
    strings: list[str]
    """The same tokens as the tokenizer spells them."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a model, under the same names for BERT and GPT-2."""

    model_type: str
    vocabulary: int
    positions: int
    hidden: int
    layers: int
    heads: int
    ffn: int
    token_types: int = 0
    activation: str
    epsilon: float

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def shape(self) -> ModelShape:
        """What an attention engine needs to know."""
        return ModelShape(
            layers=self.layers, heads=self.heads, head_dim=self.head_dim, causal=self.model_type == "gpt2"
        )

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names (without `bert.` or `transformer.`) and shapes of the tensors the model must have."""
        return _bert_tensors(self) if self.model_type == "bert" else _gpt2_tensors(self)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checked model: sizes, float32 weights by name without prefix, and its tokenizer."""

    folder: Path
    config: ModelConfig
    tensors: dict[str, FloatArray]
    tokenizer: Tokenizer

    def require(self, model_type: str) -> None:
        """Raise `CheckpointError` unless the model is a `model_type`."""
        if self.config.model_type != model_type:
            raise CheckpointError(
                f"{self.folder} holds a {self.config.model_type!r} model where a {model_type!r} model is needed"
            )

    def encode(self, text: str) -> Tokens:
        """Tokenize `text` with the special tokens of the tokenizer, of any length."""
        _check_unicode(text)
        encoding = self.tokenizer.encode(text)
        return Tokens(np.array(encoding.ids, dtype=np.int64), encoding.tokens)

    def check_ids(self, ids: Sequence[int] | NDArray[np.integer], *, reserve: int = 0) -> IntArray:
        """Validated vocabulary ids, [n], of which `reserve` more must fit the positions of the model."""
        array = np.asarray(ids)
        if array.size == 0:
            raise TextError("token ids must not be empty: a sequence has at least one token")
        if array.ndim != 1:
            raise TextError(f"token ids must be one sequence, not an array of shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"token ids must be integers, not {array.dtype}")
        self.check_length(array.size + reserve)
        outside = array[(array < 0) | (array >= self.config.vocabulary)]
        if outside.size:
            raise TextError(f"token ids must be 0 to {self.config.vocabulary - 1}, not {outside[0]}")
        return array.astype(np.int64, copy=False)

    def check_length(self, tokens: int) -> None:
        """Raise `ValueError` where the model has no position for each of `tokens`."""
        if tokens > self.config.positions:
            raise TextError(f"the sequence has {tokens} tokens, and the model allows {self.config.positions}")


def check_text(text: str) -> None:
    """Raise `TextError` for a text that no model can be given: one without a word, or one that is not valid Unicode."""
    _check_unicode(text)
    if not text.strip():
        raise TextError("the text is empty: give at least one word")


def _check_unicode(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, not {text!r}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(f"text must be valid Unicode: {error.reason} at character {error.start}") from error


def load(folder: Path | str) -> Checkpoint:
    """Read and check the checkpoint in `folder`.

    Weights may be float32, float16 or bfloat16 and become float32. Raises `CheckpointError`.
    """
    folder = Path(folder)
    for path in (folder, *(folder / name for name in FILES)):
        if not path.exists():
            raise CheckpointError(f"{path} is missing: a checkpoint folder holds {', '.join(FILES)}")
    config = _read_config(folder / "config.json")
    tensors = _read_tensors(folder / "model.safetensors", config)
    tokenizer = _read_tokenizer(folder / "tokenizer.json", config)
    return Checkpoint(folder=folder, config=config, tensors=tensors, tokenizer=tokenizer)


# -- config.json ------------------------------------------------------------------------------------------------------


def _read_config(path: Path) -> ModelConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(values).__name__}")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in _CONFIG_KEYS:
        raise CheckpointError(f"{path}: model_type must be 'bert' or 'gpt2', not {model_type!r}")
    if model_type == "gpt2" and values.get("n_inner") is None and isinstance(values.get("n_embd"), int):
        values["n_inner"] = 4 * values["n_embd"]
    fields = {}
    for field, key in _CONFIG_KEYS[model_type].items():
        if key not in values:
            raise CheckpointError(f"{path}: {key} is missing")
        wanted = _unlike(field, values[key])
        if wanted:
            raise CheckpointError(f"{path}: {key} must be {wanted}, not {values[key]!r}")
        fields[field] = values[key]
    for key, only in _ONLY_VALUES[model_type].items():
        if values.get(key, only) != only:
            raise CheckpointError(f"{path}: {key} must be {only!r}, not {values[key]!r}")
    config = ModelConfig(model_type=model_type, **fields)
    if config.hidden % config.heads or config.head_dim not in HEAD_DIMS:
        raise CheckpointError(
            f"{path}: the head dimension must be one of {', '.join(map(str, HEAD_DIMS))}, "
            f"not {config.hidden} / {config.heads} = {config.hidden / config.heads:g}"
        )
    return config


def _unlike(field: str, value: object) -> str:
    """What a field of `ModelConfig` must be where `value` is not; empty where it is."""
    if field == "activation":
        return "" if value in ACTIVATIONS else f"one of {', '.join(ACTIVATIONS)}"
    if field == "epsilon":
        return "" if isinstance(value, float) and 0 < value < 1 else "a number above 0 and below 1"
    return "" if isinstance(value, int) and not isinstance(value, bool) and value > 0 else "a positive integer"


# -- model.safetensors ------------------------------------------------------------------------------------------------


def _bert_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, ffn = config.hidden, config.ffn
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocabulary, hidden),
        "embeddings.position_embeddings.weight": (config.positions, hidden),
        "embeddings.token_type_embeddings.weight": (config.token_types, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(config.layers):
        for name, shape in (
            ("attention.self.query", (hidden, hidden)),
            ("attention.self.key", (hidden, hidden)),
            ("attention.self.value", (hidden, hidden)),
            ("attention.output.dense", (hidden, hidden)),
            ("attention.output.LayerNorm", (hidden,)),
            ("intermediate.dense", (ffn, hidden)),
            ("output.dense", (hidden, ffn)),
            ("output.LayerNorm", (hidden,)),
        ):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
    return shapes


def _gpt2_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, ffn = config.hidden, config.ffn
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (config.vocabulary, hidden),
        "wpe.weight": (config.positions, hidden),
        "ln_f.weight": (hidden,),
        "ln_f.bias": (hidden,),
    }
    for layer in range(config.layers):
        for name, shape in (
            ("ln_1", (hidden,)),
            ("attn.c_attn", (hidden, 3 * hidden)),
            ("attn.c_proj", (hidden, hidden)),
            ("ln_2", (hidden,)),
            ("mlp.c_fc", (hidden, ffn)),
            ("mlp.c_proj", (ffn, hidden)),
        ):
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    return shapes


def _canonical(name: str, model_type: str) -> str:
    """`name` without the model's prefix, and with today's names of the layer norm of the first BERT releases."""
    name = name.removeprefix(_PREFIX[model_type])
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda match: f"LayerNorm.{_NORM_NAMES[match[1]]}", name)


def _some(names: Iterable[str], limit: int = 6) -> str:
    ordered = sorted(names)
    rest = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {rest} more" if rest > 0 else "")


class _WeightFile:
    """Tensors of an open safetensors file as float32."""

    def __init__(self, path: Path, file: Any) -> None:
        self._path = path
        self._file = file
        self.names: list[str] = list(file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str) -> FloatArray:
        kind = self._file.get_slice(name).get_dtype()
        if kind == "BF16":
            tensor = self._read_bfloat16(name)
        elif kind in ("F32", "F16"):
            tensor = self._file.get_tensor(name).astype(np.float32, copy=False)
        else:
            raise CheckpointError(f"{self._path}: {name} must be F32, F16 or BF16, not {kind}")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{self._path}: {name} holds values that are not finite")
        return tensor

    def _read_bfloat16(self, name: str) -> FloatArray:
        """The library cannot: NumPy has no such type. It is the upper half of a float32."""
        shape = self.shape(name)
        with self._path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            first = json.loads(raw.read(length))[name]["data_offsets"][0]
        halves = np.fromfile(self._path, dtype="<u2", count=math.prod(shape), offset=8 + length + first)
        return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)


def _read_tensors(path: Path, config: ModelConfig) -> dict[str, FloatArray]:
    """The tensors of `config` and, where present, BERT's pooler."""
    try:
        with safe_open(path, framework="numpy") as file:
            return _check_tensors(path, config, _WeightFile(path, file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _check_tensors(path: Path, config: ModelConfig, file: _WeightFile) -> dict[str, FloatArray]:
    stored: dict[str, str] = {}
    for name in file.names:
        canonical = _canonical(name, config.model_type)
        if canonical in stored:
            raise CheckpointError(f"{path} holds {canonical} twice: as {stored[canonical]} and as {name}")
        stored[canonical] = name
    shapes = config.tensors()
    if config.model_type == "bert" and any(name in stored for name in _POOLER):
        shapes |= dict(zip(_POOLER, ((config.hidden, config.hidden), (config.hidden,)), strict=True))
    missing = shapes.keys() - stored.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} of {len(shapes)} tensors: {_some(missing)}")
    extra = [name for name in stored if name not in shapes and not _HARMLESS[config.model_type].fullmatch(name)]
    if extra:
        raise CheckpointError(f"{path} holds {len(extra)} tensors the model has no use for: {_some(extra)}")
    tensors = {}
    for name, expected in shapes.items():
        got = file.shape(stored[name])
        if got != expected:
            raise CheckpointError(f"{path}: {name} must have shape {expected}, not {got}")
        tensors[name] = file.read(stored[name])
    head = stored.get("lm_head.weight") if config.model_type == "gpt2" else None
    if head is not None and not np.array_equal(file.read(head), tensors["wte.weight"]):
        raise CheckpointError(f"{path}: lm_head.weight must equal wte.weight: the language model head is tied")
    return tensors


# -- tokenizer.json ---------------------------------------------------------------------------------------------------


def _read_tokenizer(path: Path, config: ModelConfig) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise CheckpointError(f"{path} is not a tokenizer file: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= config.vocabulary:
        raise CheckpointError(
            f"{path} makes token ids up to {largest}, and the model's vocabulary has {config.vocabulary}"
        )
    return tokenizer
