"""Every file and key of a checkpoint folder that is known, and what is done about it: obeyed, refused or ignored.

The reader (`host/models/checkpoint.py`) asks this table what a value may be and what an absent key means.
docs/checkpoints.md shows it; `spatten checkpoints` prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Any

from spatten.host.models.checkpoint_files import INDEX, WEIGHTS, CheckpointError
from spatten.host.models.layers import ACTIVATIONS

BOTH = ("bert", "gpt2")
BERT = ("bert",)
GPT2 = ("gpt2",)

CONFIG = "config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MODULES = "modules.json"
POOLING = "1_Pooling/config.json"
"""Stands for `config.json` in whatever folder `modules.json` names for Pooling."""
NORMALIZE = "2_Normalize/config.json"
"""Stands for `config.json` in whatever folder `modules.json` names for Normalize."""
SENTENCE = "sentence_bert_config.json"
SENTENCE_TRANSFORMERS = "config_sentence_transformers.json"


class Done(StrEnum):
    """What is done about a file or a key."""

    OBEYED = "obeyed"
    REFUSED = "refused"
    """The file is refused, or any value of the key but those that change nothing."""
    IGNORED = "ignored"


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A file, or all files whose names fit a pattern."""

    name: str
    done: Done
    note: str
    """Why this is done, or what for; of a refused file, also the end of the message."""
    models: tuple[str, ...] = BOTH
    instead_of: str = ""
    """The needed file in whose place it may lie: it is refused only where that one is missing."""


@dataclass(frozen=True, kw_only=True)
class KeyRow:
    """A key of a JSON file, or a tensor."""

    file: str
    name: str
    done: Done
    note: str
    models: tuple[str, ...] = BOTH
    aliases: tuple[str, ...] = ()
    """Other names of the same key."""
    wanted: str = ""
    """What a value must be, for messages: "must be ..."."""
    accepts: Callable[[Any], bool] = lambda value: True
    default: Any = None
    """What an absent key means."""
    field: str = ""
    """Field of `ModelConfig` that takes the value."""


# -- What values may be -----------------------------------------------------------------------------------------------


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _or_null(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _is_inner_folder(value: object) -> bool:
    return isinstance(value, str) and not Path(value).is_absolute() and ".." not in Path(value).parts


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_token_ids(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_integer(item, 0) for item in value)
    return _is_integer(value, 0)


def _is_modes(value: object) -> bool:
    modes = [value] if isinstance(value, str) else value
    return isinstance(modes, list) and len(modes) > 0 and all(mode in ("cls", "max", "mean") for mode in modes)


def _is_prompts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str | None) for text in value.values())


def _is_added_tokens(value: object) -> bool:
    return isinstance(value, dict) and all(
        number.isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str)
        for number, token in value.items()
    )


def _is_text_modality(value: object) -> bool:
    forward = {"method": "forward", "method_output_name": "last_hidden_state"}
    return isinstance(value, dict) and value.get("text", forward) == forward


_INTEGER: dict[str, Any] = {"wanted": "a positive integer", "accepts": lambda value: _is_integer(value, 1)}
_FLAG: dict[str, Any] = {"wanted": "true or false", "accepts": lambda value: isinstance(value, bool)}
_EPSILON: dict[str, Any] = {
    "wanted": "a number above 0 and below 1",
    "accepts": lambda value: isinstance(value, float) and 0 < value < 1,
}
_ACTIVATION: dict[str, Any] = {
    "wanted": f"one of {', '.join(ACTIVATIONS)}",
    "accepts": lambda value: isinstance(value, str) and value in ACTIVATIONS,
}
_TOKEN_IDS: dict[str, Any] = {
    "wanted": "a token id of at least 0, a list of them, or null",
    "accepts": _or_null(_is_token_ids),
}


def _only(*values: Any) -> dict[str, Any]:
    """What a key must be that may have only `values`; messages name the first of them."""
    return {"wanted": repr(values[0]) if values[0] is not None else "null", "accepts": lambda value: value in values}


# -- Files ------------------------------------------------------------------------------------------------------------

_WITH_PYTORCH = (
    "weights are read from safetensors only; with transformers, "
    "AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER) writes them"
)
_WITH_TOKENIZER = (
    "tokenizers are read from tokenizer.json only; with transformers, "
    "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
)

FILES: tuple[FileRow, ...] = (
    FileRow(name=CONFIG, done=Done.OBEYED, note="needed"),
    FileRow(name=WEIGHTS, done=Done.OBEYED, note="needed, or its index"),
    FileRow(name=INDEX, done=Done.OBEYED, note="weights in several files; not read where `model.safetensors` is there"),
    FileRow(name=TOKENIZER, done=Done.OBEYED, note="needed"),
    FileRow(name=TOKENIZER_CONFIG, done=Done.OBEYED, note="where it is there"),
    FileRow(name=GENERATION, done=Done.OBEYED, models=GPT2, note="where it is there"),
    FileRow(
        name=MODULES,
        done=Done.OBEYED,
        note="of sentence-transformers. Without it an embedding is the mean over all tokens, of length 1, and a folder "
        "`*_Pooling` of BERT is refused",
    ),
    FileRow(name=POOLING, done=Done.OBEYED, models=BERT, note="needed by `modules.json`, which names its folder"),
    FileRow(name=NORMALIZE, done=Done.OBEYED, models=BERT, note="where it is there; `modules.json` names its folder"),
    FileRow(name=SENTENCE, done=Done.OBEYED, models=BERT, note="where it is there"),
    FileRow(name=SENTENCE_TRANSFORMERS, done=Done.OBEYED, models=BERT, note="where it is there"),
    FileRow(
        name="adapter_config.json",
        done=Done.REFUSED,
        note="its weights change the model's; merge them first (merge_and_unload of PEFT)",
    ),
    *(
        FileRow(name=name, done=Done.REFUSED, instead_of=WEIGHTS, note=_WITH_PYTORCH)
        for name in ("pytorch_model*.bin", "*.pt", "tf_model.h5", "flax_model.msgpack", "*.ckpt*", "*.onnx", "*.gguf")
    ),
    FileRow(
        name="*.safetensors",
        done=Done.REFUSED,
        instead_of=WEIGHTS,
        note="weights are read from model.safetensors, or the files that model.safetensors.index.json names",
    ),
    *(
        FileRow(name=name, done=Done.REFUSED, instead_of=TOKENIZER, note=_WITH_TOKENIZER)
        for name in ("vocab.txt", "vocab.json", "merges.txt", "*.model")
    ),
    *(
        FileRow(name=name, done=Done.IGNORED, note="`tokenizer.json` holds the same")
        for name in ("special_tokens_map.json", "added_tokens.json")
    ),
    FileRow(name="any other file", done=Done.IGNORED, note="it is not opened"),
)


# -- Keys -------------------------------------------------------------------------------------------------------------


def _ignored(file: str, note: str, *names: str, models: tuple[str, ...] = BOTH) -> Iterable[KeyRow]:
    return (KeyRow(file=file, name=name, done=Done.IGNORED, models=models, note=note) for name in names)


def _refused(
    file: str, note: str, names: Mapping[str, tuple[Any, ...]], models: tuple[str, ...] = BOTH
) -> Iterable[KeyRow]:
    """Keys by name, each with the values that change nothing."""
    return (
        KeyRow(file=file, name=name, done=Done.REFUSED, models=models, note=note, **_only(*values))
        for name, values in names.items()
    )


def _obeyed(file: str, name: str, note: str, models: tuple[str, ...] = BOTH, **more: Any) -> KeyRow:
    return KeyRow(file=file, name=name, done=Done.OBEYED, models=models, note=note, **more)


_CONFIG_KEYS = (
    _obeyed(
        CONFIG,
        "model_type",
        "null or absent: `architectures` tells it",
        wanted="'bert' or 'gpt2'",
        accepts=_or_null(lambda value: value in BOTH),
    ),
    _obeyed(
        CONFIG,
        "architectures",
        "read without `model_type` only: Bert... or GPT2...; absent: the names of the tensors tell it",
        wanted="a list of names",
        accepts=_or_null(_is_texts),
    ),
    *(
        _obeyed(CONFIG, name, note, models, aliases=aliases, default=default, field=field, **_INTEGER)
        for field, note, rows in (
            ("vocabulary", "vocabulary", ((BERT, "vocab_size", 30522, ()), (GPT2, "vocab_size", 50257, ()))),
            (
                "positions",
                "longest sequence",
                (
                    (BERT, "max_position_embeddings", 512, ()),
                    (GPT2, "n_positions", 1024, ("max_position_embeddings",)),
                ),
            ),
            (
                "hidden",
                "width",
                ((BERT, "hidden_size", 768, ()), (GPT2, "n_embd", 768, ("hidden_size",))),
            ),
            (
                "layers",
                "layers",
                ((BERT, "num_hidden_layers", 12, ()), (GPT2, "n_layer", 12, ("num_hidden_layers",))),
            ),
            (
                "heads",
                "heads of a layer",
                ((BERT, "num_attention_heads", 12, ()), (GPT2, "n_head", 12, ("num_attention_heads",))),
            ),
        )
        for models, name, default, aliases in rows
    ),
    _obeyed(CONFIG, "intermediate_size", "width of the FFN", BERT, default=3072, field="ffn", **_INTEGER),
    _obeyed(
        CONFIG,
        "n_inner",
        "width of the FFN; null or absent: four times `n_embd`",
        GPT2,
        field="ffn",
        wanted="a positive integer or null",
        accepts=_or_null(lambda value: _is_integer(value, 1)),
    ),
    _obeyed(
        CONFIG,
        "type_vocab_size",
        "rows of that embedding; every token is of type 0",
        BERT,
        default=2,
        field="token_types",
        **_INTEGER,
    ),
    _obeyed(
        CONFIG,
        "hidden_act",
        "gelu_python is gelu, gelu_pytorch_tanh, gelu_python_tanh, gelu_fast and gelu_accurate are gelu_new",
        BERT,
        default="gelu",
        field="activation",
        **_ACTIVATION,
    ),
    _obeyed(
        CONFIG,
        "activation_function",
        "as `hidden_act`",
        GPT2,
        default="gelu_new",
        field="activation",
        **_ACTIVATION,
    ),
    _obeyed(CONFIG, "layer_norm_eps", "added to variances", BERT, default=1e-12, field="epsilon", **_EPSILON),
    _obeyed(CONFIG, "layer_norm_epsilon", "added to variances", GPT2, default=1e-5, field="epsilon", **_EPSILON),
    _obeyed(CONFIG, "head_dim", "must be width / heads", **_INTEGER),
    _obeyed(CONFIG, "embedding_size", "must be the width", BERT, **_INTEGER),
    _obeyed(
        CONFIG,
        "eos_token_id",
        f"`generate` ends after it; `{GENERATION}` comes first; null: nothing ends it; an id beyond the vocabulary "
        "never comes",
        GPT2,
        default=50256,
        **_TOKEN_IDS,
    ),
    *_refused(
        CONFIG,
        "the runners do not compute it",
        {
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False, None),
        },
        BERT,
    ),
    *_refused(
        CONFIG,
        "the runners do not compute it",
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False, None),
            "tie_word_embeddings": (True,),
        },
        GPT2,
    ),
    *_refused(
        CONFIG,
        "the runners do not compute it",
        {
            "add_cross_attention": (False, None),
            "is_encoder_decoder": (False, None),
            "rope_theta": (None,),
            "rope_scaling": (None,),
            "rope_parameters": (None,),
        },
    ),
    *_refused(CONFIG, "heads are missing in the weights", {"pruned_heads": ({}, None)}),
    *_refused(CONFIG, "the weights are not plain numbers", {"quantization_config": (None,)}),
    *_refused(CONFIG, "the folder brings its own program", {"auto_map": (None, {})}),
    *_refused(CONFIG, "goes before every text", {"prefix": (None, "")}, GPT2),
    *_ignored(
        CONFIG,
        "the language model head is not computed",
        "tie_word_embeddings",
        models=BERT,
    ),
    *_ignored(CONFIG, "BERT generates nothing", "eos_token_id", models=BERT),
    *_ignored(CONFIG, "`n_positions` counts; transformers reads this no more", "n_ctx", models=GPT2),
    *_ignored(CONFIG, "another order of the same additions", "reorder_and_upcast_attn", models=GPT2),
    *_ignored(CONFIG, "a head of another task", "summary_type", "summary_activation", "summary_use_proj", models=GPT2),
    *_ignored(CONFIG, "a head of another task", "classifier_dropout", models=BERT),
    *_ignored(
        CONFIG,
        "training only",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        models=BERT,
    ),
    *_ignored(CONFIG, "training only", "attn_pdrop", "embd_pdrop", "resid_pdrop", models=GPT2),
    *_ignored(CONFIG, "training only", "initializer_range"),
    *_ignored(CONFIG, "all weights become float32", "dtype", "torch_dtype"),
    *_ignored(CONFIG, "less memory for the same result", "chunk_size_feed_forward", "use_cache"),
    *_ignored(CONFIG, "nothing is padded", "pad_token_id"),
    *_ignored(CONFIG, "texts begin as the tokenizer begins them", "bos_token_id"),
    *_ignored(CONFIG, "`tokenizer.json` is the tokenizer", "tokenizer_class"),
    *_ignored(CONFIG, "settings of pipelines of transformers", "task_specific_params"),
    *_ignored(CONFIG, "transformers' files have dozens that change nothing here", "any other key"),
)

_GENERATION_KEYS = (
    _obeyed(
        GENERATION,
        "eos_token_id",
        f"`generate` ends after it; absent: that of `{CONFIG}` counts",
        GPT2,
        **_TOKEN_IDS,
    ),
    *(
        row
        for file in (GENERATION, CONFIG)
        for row in _refused(
            file,
            "`generate` would choose other tokens",
            {
                "repetition_penalty": (1.0, None),
                "encoder_repetition_penalty": (1.0, None),
                "no_repeat_ngram_size": (0, None),
                "bad_words_ids": (None, []),
                "force_words_ids": (None, []),
                "forced_bos_token_id": (None,),
                "forced_eos_token_id": (None,),
                "suppress_tokens": (None, []),
                "begin_suppress_tokens": (None, []),
                "sequence_bias": (None, {}, []),
                "min_length": (0, None),
                "min_new_tokens": (None, 0),
                "num_beams": (1, None),
                "num_beam_groups": (1, None),
                "penalty_alpha": (None, 0),
                "guidance_scale": (None, 1),
                "exponential_decay_length_penalty": (None,),
                "constraints": (None, []),
                "stop_strings": (None, []),
                "dola_layers": (None,),
                "token_healing": (False, None),
                "watermarking_config": (None,),
            },
            GPT2,
        )
    ),
    *(
        row
        for file in (GENERATION, CONFIG)
        for row in _ignored(
            file,
            "who calls `generate` says it: temperature 0 (the default) takes the likeliest token, above 0 it is drawn "
            "from the whole softmax",
            "do_sample",
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "top_h",
            "typical_p",
            "epsilon_cutoff",
            "eta_cutoff",
            models=GPT2,
        )
    ),
    *(
        row
        for file in (GENERATION, CONFIG)
        for row in _ignored(
            file, "who calls `generate` says it", "max_length", "max_new_tokens", "max_time", models=GPT2
        )
    ),
    *_ignored(GENERATION, "texts begin as the tokenizer begins them", "bos_token_id", models=GPT2),
    *_ignored(GENERATION, "nothing is padded", "pad_token_id", models=GPT2),
    *_ignored(GENERATION, "it changes no token", "use_cache", "any other key", models=GPT2),
)

_WEIGHT_KEYS = (
    _obeyed(WEIGHTS, "embeddings, layers, norms", "each must be there, of its shape and finite; F32, F16 or BF16"),
    _obeyed(WEIGHTS, "`bert.` or `transformer.` before names", "left out"),
    _obeyed(WEIGHTS, "`LayerNorm.gamma`, `LayerNorm.beta`", "old names of weight and bias", BERT),
    _obeyed(WEIGHTS, "`pooler.dense.*`", "computed where it is there", BERT),
    _obeyed(
        WEIGHTS,
        "`lm_head.weight`",
        "the same matrix as `wte.weight`: it stands for it where that is absent, and must equal it elsewhere",
        GPT2,
    ),
    _obeyed(
        WEIGHTS,
        "`cls.predictions.decoder.weight`",
        "stands for `embeddings.word_embeddings.weight` where that is absent",
        BERT,
    ),
    KeyRow(
        file=WEIGHTS,
        name="any other tensor",
        done=Done.REFUSED,
        note="the model would be another one",
    ),
    *_ignored(
        WEIGHTS,
        "a buffer that follows from the sizes",
        r"embeddings\.(position_ids|token_type_ids)",
        models=BERT,
    ),
    *_ignored(WEIGHTS, "a buffer that follows from the sizes", r"h\.\d+\.attn\.(bias|masked_bias)", models=GPT2),
    *_ignored(WEIGHTS, "a head of another task", r"(cls|classifier|qa_outputs)\..*", models=BERT),
    *_ignored(
        WEIGHTS, "a head of another task", r"(score|classifier|qa_outputs|multiple_choice_head)\..*", models=GPT2
    ),
    *_ignored(WEIGHTS, "names and shapes tell all", "`__metadata__`"),
    _obeyed(INDEX, "weight_map", "the files to read; each tensor must be in the one that is named, and in no other"),
    *_ignored(INDEX, "sizes for a progress bar", "metadata"),
)

_TOKENIZER_KEYS = (
    _obeyed(TOKENIZER, "model.vocab, added_tokens", "ids must lie in the vocabulary of the model; it may be larger"),
    _obeyed(
        TOKENIZER,
        "post_processor",
        "must put special tokens around a text, as [CLS] and [SEP], all tokens of type 0",
        BERT,
    ),
    _obeyed(TOKENIZER, "post_processor", "may add tokens", GPT2),
    _obeyed(TOKENIZER, "normalizer, pre_tokenizer, decoder", f"but for what `{TOKENIZER_CONFIG}` says"),
    *_refused(TOKENIZER, "the same text would not always be the same tokens", {"model.dropout": (None, 0.0)}),
    *_ignored(
        TOKENIZER,
        "a text is never cut: one that is too long is refused",
        "truncation",
    ),
    *_ignored(TOKENIZER, "texts are run one by one: none is padded", "padding"),
    _obeyed(
        TOKENIZER_CONFIG,
        "tokenizer_class",
        "only Bert... and GPT2... (or none), of their model, go by the next keys; others by `tokenizer.json`, as in "
        "transformers",
        wanted="a name",
        accepts=_or_null(lambda value: isinstance(value, str)),
    ),
    _obeyed(
        TOKENIZER_CONFIG,
        "do_lower_case",
        "comes before `tokenizer.json`, whose `BertNormalizer` is set; another normalizer must already do so",
        BERT,
        **_FLAG,
    ),
    *(
        _obeyed(
            TOKENIZER_CONFIG,
            name,
            "as `do_lower_case`",
            BERT,
            wanted="true, false or null",
            accepts=_or_null(lambda value: isinstance(value, bool)),
        )
        for name in ("strip_accents", "tokenize_chinese_chars")
    ),
    _obeyed(
        TOKENIZER_CONFIG,
        "add_prefix_space",
        "comes before `tokenizer.json`, whose `ByteLevel` is set; another pre-tokenizer must already do so",
        GPT2,
        **_FLAG,
    ),
    _obeyed(TOKENIZER_CONFIG, "add_bos_token", "true: `tokenizer.json` must do so", GPT2, default=False, **_FLAG),
    *_refused(TOKENIZER_CONFIG, "not done", {"add_eos_token": (False, None)}, GPT2),
    *_ignored(TOKENIZER_CONFIG, "`tokenizer.json` puts [CLS] and [SEP]", "add_bos_token", "add_eos_token", models=BERT),
    _obeyed(
        TOKENIZER_CONFIG,
        "model_max_length",
        f"longest text, if the model allows as much; `max_seq_length` of `{SENTENCE}` comes first",
        BERT,
        wanted="a number above 0 or null",
        accepts=_or_null(_is_number),
    ),
    *_ignored(TOKENIZER_CONFIG, "`n_positions` counts; transformers only warns", "model_max_length", models=GPT2),
    _obeyed(
        TOKENIZER_CONFIG,
        "added_tokens_decoder",
        "`tokenizer.json` must hold the same tokens under the same ids",
        default={},
        wanted="an object of tokens by id",
        accepts=_is_added_tokens,
    ),
    *_refused(TOKENIZER_CONFIG, "not done", {"split_special_tokens": (False, None)}),
    *_refused(TOKENIZER_CONFIG, "the folder brings its own program", {"auto_map": (None, {})}),
    *_ignored(
        TOKENIZER_CONFIG,
        "`tokenizer.json` says which tokens are special",
        "bos_token",
        "eos_token",
        "cls_token",
        "sep_token",
        "unk_token",
        "mask_token",
        "pad_token",
        "additional_special_tokens",
    ),
    *_ignored(
        TOKENIZER_CONFIG,
        "nothing is cut or padded",
        "padding_side",
        "truncation_side",
        "truncation_strategy",
        "max_length",
        "stride",
        "pad_to_multiple_of",
    ),
    *_ignored(TOKENIZER_CONFIG, "of the slow tokenizer, which is not used", "do_basic_tokenize", "never_split"),
    *_ignored(TOKENIZER_CONFIG, "texts come out as the tokens spell them", "clean_up_tokenization_spaces", "errors"),
    *_ignored(TOKENIZER_CONFIG, "texts are continued as they are", "chat_template"),
    *_ignored(TOKENIZER_CONFIG, "transformers' files have many that change nothing here", "any other key"),
)

_EMBEDDING_KEYS = (
    _obeyed(
        MODULES,
        "type",
        "Transformer, Pooling and perhaps Normalize of sentence_transformers, in this order; anything else (Dense, "
        "Router, ...) is refused. Of GPT-2 only the first is looked at: it makes no embeddings",
        wanted="a name",
        accepts=lambda value: isinstance(value, str),
    ),
    _obeyed(
        MODULES,
        "path",
        "folder of the module in this one; the first holds the model",
        default="",
        wanted="a folder in this one",
        accepts=lambda value: (
            isinstance(value, str) and not Path(value).is_absolute() and ".." not in Path(value).parts
        ),
    ),
    *_ignored(MODULES, "the order of the list counts", "idx", "name"),
    *_ignored(MODULES, "options of calls, and none is given", "kwargs"),
    _obeyed(
        POOLING,
        "word_embedding_dimension",
        "must be the width of the model",
        BERT,
        aliases=("embedding_dimension",),
        **_INTEGER,
    ),
    _obeyed(
        POOLING,
        "pooling_mode",
        "embeddings of a list of modes are joined, in its order; absent: the flags below tell it. With tokens pruned, "
        "mean and max are over those that stay, and cls needs the first to stay",
        BERT,
        wanted="cls, max or mean, or a list of them",
        accepts=_is_modes,
    ),
    *(
        _obeyed(
            POOLING,
            f"pooling_mode_{name}",
            "read without `pooling_mode` only; several are joined in this order; none: mean",
            BERT,
            default=False,
            **_FLAG,
        )
        for name in ("cls_token", "max_tokens", "mean_tokens")
    ),
    *_refused(
        POOLING,
        "not done",
        {
            "pooling_mode_mean_sqrt_len_tokens": (False,),
            "pooling_mode_weightedmean_tokens": (False,),
            "pooling_mode_lasttoken": (False,),
        },
        BERT,
    ),
    KeyRow(
        file=POOLING,
        name="any other key",
        done=Done.REFUSED,
        models=BERT,
        note="it could be another way of pooling",
    ),
    _obeyed(
        POOLING, "include_prompt", "false: refused where a prompt goes before every text", BERT, default=True, **_FLAG
    ),
    *_refused(
        NORMALIZE,
        "not done",
        {
            "module_input_name": ("sentence_embedding",),
            "module_output_name": ("sentence_embedding", None),
        },
        BERT,
    ),
    _obeyed(
        SENTENCE,
        "max_seq_length",
        f"longest text, if the model allows as much; null or absent: `model_max_length` of `{TOKENIZER_CONFIG}`. "
        "Longer ones are refused, where sentence-transformers cuts them",
        BERT,
        wanted="a positive integer or null",
        accepts=_or_null(lambda value: _is_integer(value, 1)),
    ),
    _obeyed(SENTENCE, "do_lower_case", "texts are made lower case first", BERT, default=False, **_FLAG),
    *_refused(
        SENTENCE,
        "another input or output",
        {
            "transformer_task": ("feature-extraction",),
            "module_output_name": ("token_embeddings", None),
            "query_length": (None,),
            "document_length": (None,),
            "query_expansion": (None,),
        },
        BERT,
    ),
    KeyRow(
        file=SENTENCE,
        name="modality_config",
        done=Done.REFUSED,
        models=BERT,
        note="another input or output",
        wanted="an object whose text goes through forward to last_hidden_state",
        accepts=_is_text_modality,
    ),
    *_refused(
        SENTENCE,
        "they could change tokens or sizes",
        {
            name: ({}, None)
            for name in (
                "processing_kwargs",
                "processor_kwargs",
                "tokenizer_args",
                "config_kwargs",
                "config_args",
            )
        },
        BERT,
    ),
    *_refused(SENTENCE, "another tokenizer", {"tokenizer_name_or_path": (None,)}, BERT),
    *_ignored(
        SENTENCE,
        "how PyTorch loads and runs the same weights",
        "model_kwargs",
        "model_args",
        "unpad_inputs",
        "backend",
        models=BERT,
    ),
    *_ignored(SENTENCE, "none is known that changes anything", "any other key", models=BERT),
    _obeyed(
        SENTENCE_TRANSFORMERS,
        "default_prompt_name",
        "that prompt goes before every text",
        BERT,
        wanted="a name or null",
        accepts=_or_null(lambda value: isinstance(value, str)),
    ),
    _obeyed(
        SENTENCE_TRANSFORMERS,
        "prompts",
        "of them only the default one is used",
        BERT,
        default={},
        wanted="an object of texts",
        accepts=_is_prompts,
    ),
    *_refused(SENTENCE_TRANSFORMERS, "another kind of embedding", {"model_type": ("SentenceTransformer", None)}, BERT),
    *_ignored(SENTENCE_TRANSFORMERS, "embeddings are compared by cosine", "similarity_fn_name", models=BERT),
    *_ignored(
        SENTENCE_TRANSFORMERS, "none is known that changes anything", "__version__", "any other key", models=BERT
    ),
)

KEYS: tuple[KeyRow, ...] = tuple(
    sorted(
        (*_CONFIG_KEYS, *_GENERATION_KEYS, *_WEIGHT_KEYS, *_TOKENIZER_KEYS, *_EMBEDDING_KEYS),
        key=lambda row: [file.name for file in FILES].index(row.file),
    )
)
"""All keys, in the order of `FILES`."""


# -- Reading by the table ---------------------------------------------------------------------------------------------


def obey(path: Path, file: str, values: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Values of the keys that are obeyed, by their first names; defaults for those that are absent.

    Args:
        path: Where the values were read, for messages.
        file: The file's name in the table.
        values: What the file holds; empty for a file that is absent.
        model: "bert" or "gpt2".

    Raises `CheckpointError` for a value that a key must not have.
    """
    found = {}
    for row in KEYS:
        if row.file != file or model not in row.models or row.done is Done.IGNORED:
            continue
        given = [(name, values[name]) for name in (row.name, *row.aliases) if name in values]
        for name, value in given:
            if not row.accepts(value):
                reason = f": {row.note}" if row.done is Done.REFUSED else ""
                raise CheckpointError(f"{path}: {name} must be {row.wanted}, not {_shown(value)}{reason}")
            if value != given[0][1]:
                raise CheckpointError(
                    f"{path}: {name} must equal {given[0][0]}, not {_shown(value)} and {_shown(given[0][1])}"
                )
        if row.done is Done.OBEYED:
            found[row.name] = given[0][1] if given else row.default
    return found


def fields(settings: Mapping[str, Any], file: str, model: str) -> dict[str, Any]:
    """What `obey` found, by fields of `ModelConfig`."""
    return {row.field: settings[row.name] for row in KEYS if row.field and row.file == file and model in row.models}


def known(file: str) -> set[str]:
    """All names of a file's keys in the table."""
    return {name for row in KEYS if row.file == file for name in (row.name, *row.aliases)}


def harmless_tensors(model: str) -> tuple[str, ...]:
    """Patterns of the names, without prefix, of tensors that are ignored."""
    return tuple(row.name for row in KEYS if row.file == WEIGHTS and row.done is Done.IGNORED and model in row.models)


def _shown(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


# -- The page ---------------------------------------------------------------------------------------------------------

_MODEL_NAMES = {BOTH: "", BERT: "BERT", GPT2: "GPT-2"}


def render() -> str:
    """The table in Markdown: files, then the keys of each file; neighbours that are treated alike share a row."""
    lines = ["### Files", "", "| file | | what is done |", "|---|---|---|"]
    for (done, note, models, instead_of), rows in groupby(
        FILES, key=lambda row: (row.done, row.note, row.models, row.instead_of)
    ):
        names = ", ".join(row.name if " " in row.name else f"`{row.name}`" for row in rows)
        what = f"{done} without `{instead_of}`" if instead_of else str(done)
        lines.append(f"| {names} | {_MODEL_NAMES[models]} | {what}: {note} |")
    for file, keys in groupby(KEYS, key=lambda row: row.file):
        lines += [
            "",
            f"### `{file}`",
            "",
            "| key | | a value must be | absent | what is done |",
            "|---|---|---|---|---|",
        ]
        for (models, wanted, absent, done, note), group in groupby(keys, key=_alike):
            names = ", ".join(_key_names(row) for row in group)
            lines.append(
                f"| {names} | {_MODEL_NAMES[models]} | {wanted} | {absent} | {done}: {note} |".replace("  ", " ")
            )
    return "\n".join(lines) + "\n"


def _alike(row: KeyRow) -> tuple[tuple[str, ...], str, str, Done, str]:
    absent = "" if row.default is None or row.default == {} else str(row.default).lower()
    wanted = {"True": "true", "False": "false"}.get(row.wanted, row.wanted)
    return row.models, wanted, absent, row.done, row.note


def _key_names(row: KeyRow) -> str:
    plain = " " in row.name or "`" in row.name
    names = [row.name if plain else f"`{row.name}`".replace("|", "\\|"), *(f"`{alias}`" for alias in row.aliases)]
    return " or ".join(names)
