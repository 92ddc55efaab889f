"""Hugging Face checkpoint folders of BERT and GPT-2, read without PyTorch or transformers.

A folder holds `config.json` (sizes), `model.safetensors` (weights) and `tokenizer.json`, perhaps with the files of
sentence-transformers around them. `host/models/checkpoint_keys.py` lists every file and key with what is done about it.
Everything a model runner relies on is checked here, so that `host/models/bert.py` and `host/models/gpt2.py` contain
arithmetic only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from spatten.host.engines.engine import FloatArray, IntArray, ModelShape
from spatten.host.models.checkpoint_files import (
    INDEX,
    WEIGHTS,
    CheckpointError,
    Weights,
    check_file,
    is_there,
    read_object,
)
from spatten.host.models.checkpoint_keys import (
    BOTH,
    CONFIG,
    FILES,
    GENERATION,
    MODULES,
    SENTENCE,
    SENTENCE_TRANSFORMERS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Done,
    fields,
    harmless_tensors,
    obey,
)
from spatten.host.models.pooling import Module, Pooling, read_modules, read_pooling
from spatten.spec.config import HEAD_DIMS
from spatten.spec.errors import SpattenError

__all__ = ["NEEDED", "Checkpoint", "CheckpointError", "ModelConfig", "TextError", "Tokens", "load"]

NEEDED = (CONFIG, WEIGHTS, TOKENIZER)
"""What a checkpoint folder must hold; an index and the files it names may stand for `model.safetensors`."""

_ARCHITECTURES = {
    "bert": re.compile(r"Bert(Model|LMHeadModel|For\w+)"),
    "gpt2": re.compile(r"GPT2(Model|LMHeadModel|DoubleHeadsModel|For\w+)"),
}
_TYPICAL = {"bert": "encoder.layer.0.attention.self.query.weight", "gpt2": "h.0.attn.c_attn.weight"}
"""For each kind of model, a tensor by which that kind is known."""
_PREFIX = {"bert": "bert.", "gpt2": "transformer."}
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_NORM_NAMES = {"gamma": "weight", "beta": "bias"}
_TIED = {
    "bert": ("embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    "gpt2": ("wte.weight", "lm_head.weight"),
}
"""The embedding, and the name of the head that is the same matrix: safetensors keeps one of the two names."""


class TextError(SpattenError, ValueError):
    """A text or token ids that the model cannot take."""


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
    prompt: str = ""
    """A text that goes before every other."""
    longest: int
    """Tokens of the longest text, at most `config.positions`."""
    longest_says: str = ""
    """What sets `longest`, where the number of positions does not."""
    pooling: Pooling = field(default_factory=Pooling)
    """How a sentence embedding is made."""
    ends: frozenset[int] = frozenset()
    """Token ids that end a generated text."""

    def require(self, model_type: str) -> None:
        """Raise `CheckpointError` unless the model is a `model_type`."""
        if self.config.model_type != model_type:
            raise CheckpointError(
                f"{self.folder} holds a {self.config.model_type!r} model where a {model_type!r} model is needed"
            )

    def encode(self, text: str) -> Tokens:
        """Tokenize `text`, after the checkpoint's prompt, with the special tokens of the tokenizer; of any length."""
        _check_unicode(text)
        encoding = self.tokenizer.encode(self.prompt + text)
        return Tokens(np.array(encoding.ids, dtype=np.int64), encoding.tokens)

    def check_ids(self, ids: Sequence[int] | NDArray[np.integer], *, reserve: int = 0) -> IntArray:
        """Validated vocabulary ids, [n].

        The model must have `reserve` positions more than ids; -1 where it is not given the last id, which needs none.
        """
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
        """Raise `TextError` where the model has no position for each of `tokens`."""
        if tokens > self.config.positions:
            raise TextError(f"the sequence has {tokens} tokens, and the model allows {self.config.positions}")

    def check_text(self, tokens: int) -> None:
        """Raise `TextError` where `tokens` are more than the checkpoint allows for a text."""
        self.check_length(tokens)
        if tokens > self.longest:
            raise TextError(
                f"the sequence has {tokens} tokens, and the model allows {self.longest} ({self.longest_says})"
            )


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
    if not folder.exists():
        raise CheckpointError(_missing(folder))
    if not folder.is_dir():
        raise CheckpointError(f"{folder} must be a folder, not a file: a checkpoint folder holds {', '.join(NEEDED)}")
    modules = read_modules(folder)
    home = modules[0].folder if modules else folder
    _check_files(home)
    path = home / CONFIG
    values = read_object(path)
    with Weights(home) as weights:
        model = _model_type(path, values, weights)
        settings = obey(path, CONFIG, values, model)
        config = _model_config(path, settings, model)
        tensors = _check_tensors(config, weights)
    tokenizer_settings = _optional(home / TOKENIZER_CONFIG, model)
    checkpoint = Checkpoint(
        folder=folder,
        config=config,
        tensors=tensors,
        tokenizer=_read_tokenizer(home / TOKENIZER, config, tokenizer_settings),
        longest=config.positions,
    )
    if model == "gpt2":
        return replace(checkpoint, ends=_read_ends(home / GENERATION, settings))
    sentence = _optional(home / SENTENCE, model)
    limits = {
        f"max_seq_length of {SENTENCE}": sentence["max_seq_length"],
        f"model_max_length of {TOKENIZER_CONFIG}": tokenizer_settings["model_max_length"],
    }
    return _for_sentences(checkpoint, modules, limits, lower_case=sentence["do_lower_case"])


def _for_sentences(
    checkpoint: Checkpoint, modules: tuple[Module, ...], limits: Mapping[str, float | None], *, lower_case: bool
) -> Checkpoint:
    """The checkpoint with all that its files say of sentences; the first of `limits`, by what sets it, counts."""
    folder, config, tokenizer = checkpoint.folder, checkpoint.config, checkpoint.tokenizer
    if lower_case:
        before = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    given = [(limit, says) for says, limit in limits.items() if limit is not None]
    longest, says = given[0] if given else (config.positions, "")
    prompt = _read_prompt(folder / SENTENCE_TRANSFORMERS)
    pooling = read_pooling(folder / MODULES, modules, config.hidden)
    if prompt and not pooling.include_prompt:
        raise CheckpointError(
            f"{folder / SENTENCE_TRANSFORMERS}: default_prompt_name must be null where the pooling leaves out the "
            f"prompt (include_prompt is false), not the name of {prompt!r}"
        )
    return replace(
        checkpoint, prompt=prompt, longest=int(min(longest, config.positions)), longest_says=says, pooling=pooling
    )


# -- Files ------------------------------------------------------------------------------------------------------------


def _missing(path: Path) -> str:
    link = f": it is a link to {path.readlink()}" if path.is_symlink() else ""
    return f"{path} is missing{link}: a checkpoint folder holds {', '.join(NEEDED)}"


def _check_files(home: Path) -> None:
    """Raise `CheckpointError` where a file is missing, or a file says that the model is another one."""
    for row in FILES:
        if row.done is Done.REFUSED and not row.instead_of and (home / row.name).exists():
            raise CheckpointError(f"{home / row.name} must not be there: {row.note}")
    for name in NEEDED:
        if (home / name).exists() or (name == WEIGHTS and (home / INDEX).exists()):
            continue
        for row in FILES:
            found = sorted(filter(Path.exists, home.glob(row.name))) if row.instead_of == name else []
            if found:
                raise CheckpointError(f"{home / name} is missing, and {found[0].name} cannot stand for it: {row.note}")
        raise CheckpointError(_missing(home / name))


def _given(path: Path) -> dict[str, Any]:
    """What a file that may be absent holds; empty if it is absent."""
    return read_object(path) if is_there(path) else {}


def _optional(path: Path, model: str) -> dict[str, Any]:
    """Settings of a file that may be absent."""
    return obey(path, path.name, _given(path), model)


# -- config.json and what is like it ----------------------------------------------------------------------------------


def _model_type(path: Path, values: Mapping[str, Any], weights: Weights) -> str:
    """The kind of model, bert or gpt2: `config.json` says it, or its `architectures` or the tensors' names tell."""
    given = values.get("model_type")
    if given is not None:
        if given not in BOTH:
            raise CheckpointError(f"{path}: model_type must be 'bert' or 'gpt2', not {given!r}")
        return str(given)
    names = values.get("architectures")
    if isinstance(names, list) and names:
        for model, pattern in _ARCHITECTURES.items():
            if all(isinstance(name, str) and pattern.fullmatch(name) for name in names):
                return model
        raise CheckpointError(f"{path}: model_type is missing, and architectures must be of BERT or GPT-2, not {names}")
    found = [model for model in BOTH if any(_canonical(name, model) == _TYPICAL[model] for name in weights.names)]
    # RoBERTa's tensors bear the names of BERT's, but it has one row of token types, and its positions begin at 2.
    types = "embeddings.token_type_embeddings.weight"
    if len(found) != 1 or (types in weights.names and weights.shape(types)[0] == 1):
        raise CheckpointError(
            f"{path}: model_type is missing, and neither architectures nor the names of the tensors tell whether the "
            "model is 'bert' or 'gpt2'"
        )
    return found[0]


def _model_config(path: Path, settings: Mapping[str, Any], model: str) -> ModelConfig:
    values = fields(settings, CONFIG, model)
    if values["ffn"] is None:
        values["ffn"] = 4 * values["hidden"]
    config = ModelConfig(model_type=model, **values)
    if config.hidden % config.heads or config.head_dim not in HEAD_DIMS:
        raise CheckpointError(
            f"{path}: the head dimension must be one of {', '.join(map(str, HEAD_DIMS))}, "
            f"not {config.hidden} / {config.heads} = {config.hidden / config.heads:g}"
        )
    for key, follows in (("head_dim", config.head_dim), ("embedding_size", config.hidden)):
        if settings.get(key) not in (None, follows):
            raise CheckpointError(f"{path}: {key} must be {follows} with the other sizes, not {settings[key]}")
    return config


def _read_ends(path: Path, settings: Mapping[str, Any]) -> frozenset[int]:
    """Ids that end a text: those of `generation_config.json` or, where it names none, of the settings of the model."""
    values = _given(path)
    found = obey(path, GENERATION, values, "gpt2")
    ends = (found if "eos_token_id" in values else settings)["eos_token_id"]
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _read_prompt(path: Path) -> str:
    """The text that goes before every other; empty where there is none."""
    settings = _optional(path, "bert")
    name: str | None = settings["default_prompt_name"]
    prompts: dict[str, str | None] = settings["prompts"]
    if name is None:
        return ""
    if name not in prompts:
        raise CheckpointError(f"{path}: default_prompt_name must be one of {list(prompts)}, not {name!r}")
    return prompts[name] or ""


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
    """`name` without the model's prefix, and with today's names for the layer norms of the first BERT releases."""
    name = name.removeprefix(_PREFIX[model_type])
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda match: f"LayerNorm.{_NORM_NAMES[match[1]]}", name)


def _some(names: Iterable[str], limit: int = 6) -> str:
    ordered = sorted(names)
    rest = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _check_tensors(config: ModelConfig, weights: Weights) -> dict[str, FloatArray]:
    """The tensors of `config` and, where present, BERT's pooler."""
    path, model = weights.path, config.model_type
    stored: dict[str, str] = {}
    for name in weights.names:
        canonical = _canonical(name, model)
        if canonical in stored:
            raise CheckpointError(f"{path} holds {canonical} twice: as {stored[canonical]} and as {name}")
        stored[canonical] = name
    if config.layers > len(stored):
        raise CheckpointError(f"{path} holds {len(stored)} tensors, too few for {config.layers} layers")
    embedding, head = _TIED[model]
    if embedding not in stored and head in stored:
        stored[embedding] = stored.pop(head)
    shapes = config.tensors()
    if model == "bert" and any(name in stored for name in _POOLER):
        shapes |= dict(zip(_POOLER, ((config.hidden, config.hidden), (config.hidden,)), strict=True))
    missing = shapes.keys() - stored.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {len(missing)} of {len(shapes)} tensors: {_some(missing)}")
    harmless = [re.compile(pattern) for pattern in harmless_tensors(model)]
    unused = [name for name in stored if name not in shapes and not any(known.fullmatch(name) for known in harmless)]
    extra = [name for name in unused if name != head]
    if extra:
        raise CheckpointError(f"{path} holds {len(extra)} tensors the model has no use for: {_some(extra)}")
    tensors = {}
    for name, expected in shapes.items():
        got = weights.shape(stored[name])
        if got != expected:
            raise CheckpointError(f"{path}: {name} must have shape {expected}, not {got}")
        tensors[name] = weights.read(stored[name])
    if head in unused and not np.array_equal(weights.read(stored[head]), tensors[embedding]):
        raise CheckpointError(f"{path}: {head} must equal {embedding}: the language model head is tied")
    return tensors


# -- tokenizer.json ---------------------------------------------------------------------------------------------------


def _read_tokenizer(path: Path, config: ModelConfig, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of a file, with what `tokenizer_config.json` asks for (`settings`)."""
    check_file(path, "tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise CheckpointError(f"{path} is not a tokenizer file: {error}") from error
    obey(path, TOKENIZER, {"model.dropout": getattr(tokenizer.model, "dropout", None)}, config.model_type)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= config.vocabulary:
        raise CheckpointError(
            f"{path} makes token ids up to {largest}, and the model's vocabulary has {config.vocabulary}"
        )
    for number, token in settings["added_tokens_decoder"].items():
        if tokenizer.token_to_id(token["content"]) != int(number):
            raise CheckpointError(
                f"{path} must hold the token {token['content']!r} with id {number}, as {TOKENIZER_CONFIG} says"
            )
    kind = settings["tokenizer_class"]
    if kind is None or kind.startswith("Bert" if config.model_type == "bert" else "GPT2"):
        if config.model_type == "bert":
            _normalize(path, tokenizer, settings)
        else:
            _prefix_space(path, tokenizer, settings["add_prefix_space"])
    around = tokenizer.encode("")
    if config.model_type == "bert" and (len(around.ids) < 2 or any(around.type_ids)):
        raise CheckpointError(
            f"{path} must put special tokens of type 0 before and after a text, such as [CLS] and [SEP], "
            f"not {around.tokens} of types {around.type_ids}"
        )
    if config.model_type == "gpt2" and settings["add_bos_token"] and not around.ids:
        raise CheckpointError(f"{path} must put a token before a text, as add_bos_token of {TOKENIZER_CONFIG} says")
    return tokenizer


def _normalize(path: Path, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
    """Make the normalizer of a BERT tokenizer do what `tokenizer_config.json` says."""
    normalizer = tokenizer.normalizer
    for key, attribute, sample, changed in (
        ("do_lower_case", "lowercase", "A", "a"),
        ("strip_accents", "strip_accents", "\u00e9", "e"),
        ("tokenize_chinese_chars", "handle_chinese_chars", "\u4e2d", " \u4e2d "),
    ):
        wanted = settings[key]
        if wanted is None:
            continue
        if isinstance(normalizer, normalizers.BertNormalizer):
            setattr(normalizer, attribute, wanted)
        elif ((normalizer.normalize_str(sample) if normalizer else sample) == changed) != wanted:
            raise CheckpointError(f"{path}: the normalizer must do what {TOKENIZER_CONFIG} says: {key} is {wanted}")
    tokenizer.normalizer = normalizer


def _prefix_space(path: Path, tokenizer: Tokenizer, wanted: bool | None) -> None:
    """Make a GPT-2 tokenizer put a space before a text, or not, as `tokenizer_config.json` says."""
    splitter = tokenizer.pre_tokenizer
    if wanted is None:
        return
    if isinstance(splitter, pre_tokenizers.ByteLevel):
        splitter.add_prefix_space = wanted
        tokenizer.pre_tokenizer = splitter
    elif (splitter is not None and splitter.pre_tokenize_str("a")[0][0] != "a") != wanted:
        raise CheckpointError(
            f"{path}: the pre-tokenizer must do what {TOKENIZER_CONFIG} says: add_prefix_space is {wanted}"
        )
