"""Every row of the table of checkpoint files and keys: what it says is what the reader does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, processors

from spatten.host.engines.engine import ReferenceEngine
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import Checkpoint, CheckpointError, load
from spatten.host.models.checkpoint_files import INDEX, WEIGHTS
from spatten.host.models.checkpoint_keys import (
    BERT,
    CONFIG,
    FILES,
    GENERATION,
    GPT2,
    KEYS,
    MODULES,
    NORMALIZE,
    POOLING,
    SENTENCE,
    SENTENCE_TRANSFORMERS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    Done,
    KeyRow,
    obey,
    render,
)
from spatten.host.models.gpt2 import Gpt2
from spatten.host.models.pooling import Pooling
from tests.checkout import ROOT
from tests.host.models.test_checkpoint import BERT_CONFIG, GPT2_CONFIG, byte_tokenizer, random_tensors, says, write

CONFIGS: dict[str, dict[str, Any]] = {"bert": BERT_CONFIG, "gpt2": GPT2_CONFIG}
TYPE = "sentence_transformers.models."
MODULE_LIST = [
    {"idx": 0, "name": "0", "path": "", "type": f"{TYPE}Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{TYPE}Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{TYPE}Normalize"},
]
ABSENT = object()
"""Stands for a key that is taken out."""


class Folder:
    """A complete checkpoint folder whose files a case changes."""

    def __init__(self, path: Path, model: str) -> None:
        self.path, self.model = path, model
        write(path, CONFIGS[model])
        self.set(TOKENIZER_CONFIG)
        if model == "bert":
            (path / MODULES).write_text(json.dumps(MODULE_LIST), encoding="utf-8")
            for file in (POOLING, NORMALIZE, SENTENCE, SENTENCE_TRANSFORMERS):
                self.set(file)
        else:
            self.set(GENERATION)

    def set(self, file: str, **values: Any) -> Folder:
        """Change keys of a JSON object; a list of modules has them changed in its last entry."""
        path = self.path / file
        path.parent.mkdir(exist_ok=True)
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        target = content[-1] if isinstance(content, list) else content
        for name, value in values.items():
            target[name] = value
            if value is ABSENT:
                del target[name]
        path.write_text(json.dumps(content), encoding="utf-8")
        return self

    def tensors(
        self, change: Callable[[dict[str, np.ndarray]], object], metadata: dict[str, str] | None = None
    ) -> None:
        tensors = load_file(self.path / WEIGHTS)
        change(tensors)
        save_file(tensors, self.path / WEIGHTS, metadata)

    def tokenizer(self, change: Callable[[Tokenizer], object]) -> Folder:
        tokenizer = Tokenizer.from_file(str(self.path / TOKENIZER))
        change(tokenizer)
        tokenizer.save(str(self.path / TOKENIZER))
        return self

    def shard(self, metadata: object = None) -> None:
        """Store the weights in two files."""
        tensors = load_file(self.path / WEIGHTS)
        (self.path / WEIGHTS).unlink()
        names, where = sorted(tensors), {}
        for part, some in enumerate((names[:7], names[7:])):
            save_file({name: tensors[name] for name in some}, self.path / f"model-{part}.safetensors")
            where |= dict.fromkeys(some, f"model-{part}.safetensors")
        (self.path / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": where}), encoding="utf-8")

    def load(self) -> Checkpoint:
        return load(self.path)

    def ids(self, text: str) -> list[int]:
        return self.load().encode(text).ids.tolist()  # type: ignore[no-any-return]

    def refuses(self, text: str) -> None:
        with says(text):
            self.load()


def behaviour(checkpoint: Checkpoint) -> list[Any]:
    """All that a checkpoint makes a model do, of a short text."""
    told = [checkpoint.config, checkpoint.prompt, checkpoint.longest, checkpoint.pooling, checkpoint.ends]
    ids = checkpoint.encode("a b").ids
    if checkpoint.config.model_type == "bert":
        return [*told, ids.tolist(), Bert(checkpoint).run(ids, ReferenceEngine()).embedding().tolist()]
    model = Gpt2(checkpoint)
    return [*told, ids.tolist(), model.generate(ids, ReferenceEngine(), 4).tolist(), model.decode(ids)]


def rows(done: Done) -> list[Any]:
    """Rows of keys with each model that they are of."""
    return [
        pytest.param(row, model, id=f"{row.file}-{row.name}-{model}")
        for row in KEYS
        if row.done is done
        for model in row.models
    ]


def test_a_key_of_a_file_has_one_row_a_model() -> None:
    names = [(row.file, model, name) for row in KEYS for model in row.models for name in (row.name, *row.aliases)]
    assert sorted(names) == sorted(set(names))


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    assert page.endswith(render()), "docs/checkpoints.md must end with what `spatten checkpoints` prints"


# -- Obeyed -----------------------------------------------------------------------------------------------------------

Case = Callable[[Folder], object]
OBEYED: dict[tuple[str, str, str], Case] = {}
"""By file, key and model."""


def obeyed(file: str, *names: str, models: tuple[str, ...] = (*BERT, *GPT2)) -> Callable[[Case], Case]:
    def note(case: Case) -> Case:
        for name in names:
            for model in models:
                OBEYED[file, name, model] = case
        return case

    return note


@pytest.mark.parametrize(("row", "model"), rows(Done.OBEYED))
def test_obeyed(row: KeyRow, model: str, tmp_path: Path) -> None:
    OBEYED[row.file, row.name, model](Folder(tmp_path, model))


def test_every_case_is_of_a_row() -> None:
    assert OBEYED.keys() == {
        (row.file, row.name, model) for row in KEYS if row.done is Done.OBEYED for model in row.models
    }


@pytest.mark.parametrize("model", CONFIGS)
def test_absent_sizes_are_those_of_transformers(model: str) -> None:
    expected = {
        "bert": {
            "vocab_size": 30522,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
        },
        "gpt2": {
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_inner": None,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "eos_token_id": 50256,
        },
    }[model]
    found = obey(Path(CONFIG), CONFIG, {}, model)
    assert {name: found[name] for name in expected} == expected


@obeyed(CONFIG, "model_type")
def _(folder: Folder) -> None:
    folder.set(CONFIG, architectures=["XyzModel"])
    assert folder.load().config.model_type == folder.model
    folder.set(CONFIG, model_type="t5").refuses("config.json: model_type must be 'bert' or 'gpt2', not 't5'")


@obeyed(CONFIG, "architectures")
def _(folder: Folder) -> None:
    """Without `model_type` they tell the model, and without them the names of the tensors."""
    for model_type in (None, ABSENT):
        folder.set(CONFIG, model_type=None).set(CONFIG, model_type=model_type)
        for name in {"bert": ("BertModel", "BertForMaskedLM"), "gpt2": ("GPT2Model", "GPT2LMHeadModel")}[folder.model]:
            folder.set(CONFIG, architectures=[name])
            assert folder.load().config.model_type == folder.model
        for nothing in (None, [], ABSENT):
            folder.set(CONFIG, architectures=nothing)
            assert folder.load().config.model_type == folder.model
        folder.set(CONFIG, architectures=["RobertaModel"])
        folder.refuses("model_type is missing, and architectures must be of BERT or GPT-2, not ['RobertaModel']")
        folder.set(CONFIG, architectures="BertModel").refuses("architectures must be a list of names, not 'BertModel'")
        folder.set(CONFIG, model_type=folder.model, architectures=None)


SIZES = {
    "vocab_size": 13,
    "max_position_embeddings": 30,
    "n_positions": 30,
    "hidden_size": 96,
    "n_embd": 64,
    "num_hidden_layers": 2,
    "n_layer": 3,
    "num_attention_heads": 1,
    "n_head": 1,
    "intermediate_size": 41,
    "n_inner": 41,
    "type_vocab_size": 3,
}


def size(name: str, model: str) -> None:
    @obeyed(CONFIG, name, models=(model,))
    def _(folder: Folder) -> None:
        changed = CONFIGS[model] | {name: SIZES[name] if name != "vocab_size" else 300}
        for other in ("hidden_size", "n_embd"):  # one head of 16 or more for every width
            if name in ("num_attention_heads", "n_head") and other in changed:
                changed[other] = 32
        write(folder.path, changed)
        checkpoint = folder.load()
        ours = next(row.field for row in KEYS if row.name == name and model in row.models)
        assert getattr(checkpoint.config, ours) == changed[name]
        behaviour(checkpoint)
        for bad in (0, -1, 2.0, "2", True, [2]):
            folder.set(CONFIG, **{name: bad}).refuses(f"config.json: {name} must be a positive integer")
        if name == "n_inner":
            folder.set(CONFIG, n_inner=None).refuses("must have shape")  # four times the width, and not 41


for size_row in KEYS:
    if size_row.file == CONFIG and size_row.name in SIZES:
        for size_model in size_row.models:
            size(size_row.name, size_model)


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("n_embd", "hidden_size"),
        ("n_layer", "num_hidden_layers"),
        ("n_head", "num_attention_heads"),
        ("n_positions", "max_position_embeddings"),
    ],
)
def test_aliases_of_sizes(tmp_path: Path, name: str, alias: str) -> None:
    folder = Folder(tmp_path, "gpt2")
    expected = behaviour(folder.load())
    folder.set(CONFIG, **{alias: GPT2_CONFIG[name]})
    assert behaviour(folder.load()) == expected, "both, and equal"
    folder.set(CONFIG, **{name: ABSENT})
    assert behaviour(folder.load()) == expected
    folder.set(CONFIG, **{name: 16}).refuses(f"config.json: {alias} must equal {name}, not {GPT2_CONFIG[name]} and 16")


@obeyed(CONFIG, "hidden_act", models=BERT)
@obeyed(CONFIG, "activation_function", models=GPT2)
def _(folder: Folder) -> None:
    name = "hidden_act" if folder.model == "bert" else "activation_function"
    found = {}
    for value in ("gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "relu"):
        checkpoint = folder.set(CONFIG, **{name: value}).load()
        model = Bert(checkpoint) if folder.model == "bert" else None
        if model is not None:
            found[value] = model.run([2, 4, 5, 3], ReferenceEngine()).hidden
        else:
            gpt2 = Gpt2(checkpoint)
            found[value] = gpt2.run_prompt([1, 2, 3], ReferenceEngine().start(gpt2.shape, 3)).logits
    np.testing.assert_array_equal(found["gelu_python"], found["gelu"])
    for same in ("gelu_fast", "gelu_accurate", "gelu_pytorch_tanh"):
        np.testing.assert_array_equal(found[same], found["gelu_new"])
    assert not np.array_equal(found["gelu"], found["gelu_new"])
    assert not np.allclose(found["gelu"], found["relu"], atol=1e-3)
    for bad in ("gelu_10", "quick_gelu", "silu", "swish", "tanh", "relu6", None, ["gelu"]):
        folder.set(CONFIG, **{name: bad}).refuses(f"config.json: {name} must be one of gelu, gelu_python, ")


@obeyed(CONFIG, "layer_norm_eps", models=BERT)
@obeyed(CONFIG, "layer_norm_epsilon", models=GPT2)
def _(folder: Folder) -> None:
    name = "layer_norm_eps" if folder.model == "bert" else "layer_norm_epsilon"
    small = behaviour(folder.load())
    assert folder.set(CONFIG, **{name: 0.5}).load().config.epsilon == 0.5
    assert behaviour(folder.load()) != small
    for bad in (0, 0.0, 1, -1e-12, "1e-12", None, True):
        folder.set(CONFIG, **{name: bad}).refuses(f"config.json: {name} must be a number above 0 and below 1, not")


@obeyed(CONFIG, "head_dim")
def _(folder: Folder) -> None:
    folder.set(CONFIG, head_dim=16).load()
    folder.set(CONFIG, head_dim=32).refuses("config.json: head_dim must be 16 with the other sizes, not 32")


@obeyed(CONFIG, "embedding_size", models=BERT)
def _(folder: Folder) -> None:
    folder.set(CONFIG, embedding_size=48).load()
    folder.set(CONFIG, embedding_size=16).refuses("config.json: embedding_size must be 48 with the other sizes, not 16")


@obeyed(CONFIG, "eos_token_id", models=GPT2)
@obeyed(GENERATION, "eos_token_id", models=GPT2)
def _(folder: Folder) -> None:
    assert folder.load().ends == {50256}, "transformers' default"
    for value, ends in ((7, {7}), ([7, 9], {7, 9}), (None, set()), ([], set()), (300, {300})):
        assert folder.set(CONFIG, eos_token_id=value).load().ends == ends
    folder.set(CONFIG, eos_token_id=7)
    for value, ends in ((8, {8}), ([8, 9], {8, 9}), (None, set())):
        assert folder.set(GENERATION, eos_token_id=value).load().ends == ends
    folder.set(GENERATION, eos_token_id=ABSENT)
    for file in (CONFIG, GENERATION):
        for bad in (-1, 7.0, "7", [7, "8"], True):
            folder.set(file, eos_token_id=bad).refuses(f"{file}: eos_token_id must be a token id of at least 0, a list")
        folder.set(file, eos_token_id=ABSENT)


@obeyed(WEIGHTS, "embeddings, layers, norms")
def _(folder: Folder) -> None:
    for name in list(load_file(folder.path / WEIGHTS)):
        if not name.startswith("pooler"):
            tensors = random_tensors(CONFIGS[folder.model])
            del tensors[name]
            save_file(tensors, folder.path / WEIGHTS)
            folder.refuses(f"tensors: {name}")


@obeyed(WEIGHTS, "`bert.` or `transformer.` before names")
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())
    prefix = {"bert": "bert.", "gpt2": "transformer."}[folder.model]

    def rename(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    folder.tensors(rename)
    assert behaviour(folder.load()) == expected


@obeyed(WEIGHTS, "`LayerNorm.gamma`, `LayerNorm.beta`", models=BERT)
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())

    def rename(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    folder.tensors(rename)
    assert behaviour(folder.load()) == expected


@obeyed(WEIGHTS, "`pooler.dense.*`", models=BERT)
def _(folder: Folder) -> None:
    assert Bert(folder.load()).run([2, 4, 3], ReferenceEngine()).pooled is not None
    folder.tensors(lambda tensors: [tensors.pop(f"pooler.dense.{part}") for part in ("weight", "bias")])
    assert Bert(folder.load()).run([2, 4, 3], ReferenceEngine()).pooled is None


@obeyed(WEIGHTS, "`lm_head.weight`", models=GPT2)
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())
    folder.tensors(lambda tensors: tensors.update({"lm_head.weight": tensors["wte.weight"]}))
    assert behaviour(folder.load()) == expected
    folder.tensors(lambda tensors: tensors.pop("wte.weight"))
    assert behaviour(folder.load()) == expected, "as safetensors writes a tied model"
    folder.tensors(lambda tensors: tensors.update({"wte.weight": tensors["lm_head.weight"] + 1}))
    folder.refuses("lm_head.weight must equal wte.weight: the language model head is tied")


@obeyed(WEIGHTS, "`cls.predictions.decoder.weight`", models=BERT)
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())
    name = "embeddings.word_embeddings.weight"
    folder.tensors(lambda tensors: tensors.update({"cls.predictions.decoder.weight": tensors.pop(name)}))
    assert behaviour(folder.load()) == expected
    folder.tensors(lambda tensors: tensors.update({name: tensors["cls.predictions.decoder.weight"] + 1}))
    assert behaviour(folder.load()) != expected, "the embedding comes first, and the head may differ from it"


@obeyed(INDEX, "weight_map")
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())
    folder.shard()
    assert behaviour(folder.load()) == expected


@obeyed(TOKENIZER, "model.vocab, added_tokens")
def _(folder: Folder) -> None:
    folder.tokenizer(lambda tokenizer: tokenizer.add_tokens(["one more"]))
    largest = CONFIGS[folder.model]["vocab_size"]
    folder.refuses(f"tokenizer.json makes token ids up to {largest}, and the model's vocabulary has {largest}")
    write(folder.path, CONFIGS[folder.model] | {"vocab_size": 300})
    folder.load()


@obeyed(TOKENIZER, "post_processor", models=BERT)
def _(folder: Folder) -> None:
    special = [("[CLS]", 2), ("[SEP]", 3)]
    for template in ("[CLS] $A", "$A", "[CLS]:1 $A [SEP]"):
        processor = processors.TemplateProcessing(single=template, special_tokens=special)
        folder.tokenizer(lambda tokenizer, processor=processor: setattr(tokenizer, "post_processor", processor))
        folder.refuses("tokenizer.json must put special tokens of type 0 before and after a text, such as [CLS] and")
    processor = processors.TemplateProcessing(single="[SEP] $A [SEP]", special_tokens=special)
    folder.tokenizer(lambda tokenizer: setattr(tokenizer, "post_processor", processor))
    assert folder.ids("a") == [3, 4, 3]


@obeyed(TOKENIZER, "post_processor", models=GPT2)
def _(folder: Folder) -> None:
    processor = processors.TemplateProcessing(single="! $A", special_tokens=[("!", 0)])
    folder.tokenizer(lambda tokenizer: setattr(tokenizer, "post_processor", processor))
    assert folder.ids("!!") == [0, 0, 0]


@obeyed(TOKENIZER, "normalizer, pre_tokenizer, decoder")
def _(folder: Folder) -> None:
    upper = normalizers.Replace("x", "a")
    assert folder.tokenizer(lambda tokenizer: setattr(tokenizer, "normalizer", upper)).ids("x") == folder.ids("a")


@obeyed(TOKENIZER_CONFIG, "tokenizer_class")
def _(folder: Folder) -> None:
    if folder.model == "bert":
        folder.tokenizer(lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.BertNormalizer()))
        key, text, other = "do_lower_case", "A", "a"
    else:
        key, text, other = "add_prefix_space", "a", " a"
    plain = folder.ids(text)
    ours = "BertTokenizer" if folder.model == "bert" else "GPT2Tokenizer"
    setting = folder.model == "gpt2"
    for name, counts in ((ours, True), (f"{ours}Fast", True), (None, True), ("PreTrainedTokenizerFast", False)):
        folder.set(TOKENIZER_CONFIG, tokenizer_class=name, **{key: setting})
        assert (folder.ids(text) != plain) == counts, name
    assert folder.ids(other) == folder.ids(text) or folder.model == "gpt2"
    folder.set(TOKENIZER_CONFIG, tokenizer_class=3).refuses("tokenizer_class must be a name, not 3")


@obeyed(TOKENIZER_CONFIG, "do_lower_case", models=BERT)
def _(folder: Folder) -> None:
    a, unknown = [2, 4, 3], [2, 1, 3]
    folder.set(TOKENIZER_CONFIG, do_lower_case=True)
    folder.refuses("tokenizer.json: the normalizer must do what tokenizer_config.json says: do_lower_case is True")
    folder.set(TOKENIZER_CONFIG, do_lower_case=False)
    assert folder.ids("A") == unknown, "no normalizer makes nothing lower case"
    for lower in (False, True):
        normalizer = normalizers.BertNormalizer(lowercase=lower)
        folder.tokenizer(lambda tokenizer, normalizer=normalizer: setattr(tokenizer, "normalizer", normalizer))
        assert folder.set(TOKENIZER_CONFIG, do_lower_case=ABSENT if lower else False).ids("A") == (
            a if lower else unknown
        )
        assert folder.set(TOKENIZER_CONFIG, do_lower_case=True).ids("A") == a
        assert folder.set(TOKENIZER_CONFIG, do_lower_case=False).ids("A") == unknown
    folder.set(TOKENIZER_CONFIG, do_lower_case="no").refuses("do_lower_case must be true or false, not 'no'")


@obeyed(TOKENIZER_CONFIG, "strip_accents", "tokenize_chinese_chars", models=BERT)
def _(folder: Folder) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "e", "é", "中", "中中"]

    def change(tokenizer: Tokenizer) -> None:
        vocab = {word: index for index, word in enumerate(words)}
        tokenizer.model = models.WordPiece(vocab=vocab, unk_token="[UNK]")
        tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=None)

    folder.tokenizer(change)
    assert folder.ids("é") == [2, 4, 3]
    assert folder.ids("中中") == [2, 6, 6, 3]
    assert folder.set(TOKENIZER_CONFIG, strip_accents=None, tokenize_chinese_chars=None).ids("é 中中") == [
        2,
        4,
        6,
        6,
        3,
    ]
    assert folder.set(TOKENIZER_CONFIG, strip_accents=False).ids("é") == [2, 5, 3]
    assert folder.set(TOKENIZER_CONFIG, tokenize_chinese_chars=False).ids("中中") == [2, 7, 3]
    for name in ("strip_accents", "tokenize_chinese_chars"):
        folder.set(TOKENIZER_CONFIG, **{name: 1}).refuses(f"{name} must be true, false or null, not 1")
        folder.set(TOKENIZER_CONFIG, **{name: None})
    folder.set(TOKENIZER_CONFIG, tokenize_chinese_chars=True)
    folder.tokenizer(lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.Lowercase()))
    folder.refuses("the normalizer must do what tokenizer_config.json says: tokenize_chinese_chars is True")


@obeyed(TOKENIZER_CONFIG, "add_prefix_space", models=GPT2)
def _(folder: Folder) -> None:
    plain, spaced = folder.ids("a"), folder.ids(" a")
    assert folder.set(TOKENIZER_CONFIG, add_prefix_space=True).ids("a") == spaced
    assert folder.set(TOKENIZER_CONFIG, add_prefix_space=False).ids("a") == plain
    folder.set(TOKENIZER_CONFIG, add_prefix_space=None).refuses("add_prefix_space must be true or false, not None")
    folder.tokenizer(lambda tokenizer: setattr(tokenizer, "pre_tokenizer", None))
    folder.set(TOKENIZER_CONFIG, add_prefix_space=True)
    folder.refuses("the pre-tokenizer must do what tokenizer_config.json says: add_prefix_space is True")


@obeyed(TOKENIZER_CONFIG, "add_bos_token", models=GPT2)
def _(folder: Folder) -> None:
    folder.set(TOKENIZER_CONFIG, add_bos_token=False).load()
    folder.set(TOKENIZER_CONFIG, add_bos_token=True).refuses(
        "tokenizer.json must put a token before a text, as add_bos"
    )
    processor = processors.TemplateProcessing(single="! $A", special_tokens=[("!", 0)])
    folder.tokenizer(lambda tokenizer: setattr(tokenizer, "post_processor", processor)).load()


@obeyed(TOKENIZER_CONFIG, "model_max_length", models=BERT)
@obeyed(SENTENCE, "max_seq_length", models=BERT)
def _(folder: Folder) -> None:
    assert folder.load().longest == 24
    for given, longest in ((1e30, 24), (24, 24), (None, 24), (9, 9)):
        assert folder.set(TOKENIZER_CONFIG, model_max_length=given).load().longest == longest
    assert Bert(folder.load()).encode("a " * 7).ids.size == 9
    with pytest.raises(ValueError, match=re.escape("has 10 tokens, and the model allows 9 (model_max_length of token")):
        Bert(folder.load()).encode("a " * 8)
    for length, longest in ((12, 12), (5, 5), (100, 24), (None, 9), (ABSENT, 9)):
        assert folder.set(SENTENCE, max_seq_length=length).load().longest == longest
    folder.set(SENTENCE, max_seq_length=5)
    with pytest.raises(ValueError, match=re.escape("has 6 tokens, and the model allows 5 (max_seq_length of sentence")):
        Bert(folder.load()).encode("a " * 4)
    folder.set(SENTENCE, max_seq_length=0).refuses("max_seq_length must be a positive integer or null, not 0")
    folder.set(SENTENCE, max_seq_length=5)
    folder.set(TOKENIZER_CONFIG, model_max_length="9").refuses("model_max_length must be a number above 0 or null")


@obeyed(TOKENIZER_CONFIG, "added_tokens_decoder")
def _(folder: Folder) -> None:
    token = Tokenizer.from_file(str(folder.path / TOKENIZER)).id_to_token(5)
    folder.set(TOKENIZER_CONFIG, added_tokens_decoder={"5": {"content": token, "special": True}}).load()
    folder.set(TOKENIZER_CONFIG, added_tokens_decoder={"6": {"content": token}})
    folder.refuses(f"tokenizer.json must hold the token {token!r} with id 6, as tokenizer_config.json says")
    folder.set(TOKENIZER_CONFIG, added_tokens_decoder={"5": "x"}).refuses("must be an object of tokens by id")


@obeyed(MODULES, "type", "path", models=BERT)
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())
    folder.set(MODULES, type="sentence_transformers.base.modules.normalize.Normalize")
    assert behaviour(folder.load()) == expected
    for kind in ("models.Dense", "models.Router", "models.LayerNorm", "models.WeightedLayerPooling"):
        folder.set(MODULES, type=f"sentence_transformers.{kind}")
        folder.refuses(f"a module must be a Transformer, Pooling or Normalize, not 'sentence_transformers.{kind}'")
    folder.set(MODULES, type="custom_code.Normalize").refuses("Pooling or Normalize, not 'custom_code.Normalize'")
    folder.set(MODULES, type=f"{TYPE}Pooling").refuses("in this order, not Transformer, Pooling, Pooling")
    folder.set(MODULES, type=ABSENT).refuses("modules.json: type is missing")
    folder.set(MODULES, type=f"{TYPE}Normalize")
    for bad in ("/elsewhere", "../elsewhere", 2, None):
        folder.set(MODULES, path=bad).refuses(f"modules.json: path must be a folder in this one, not {bad!r}")
    for content in ({}, [], [1], None):
        (folder.path / MODULES).write_text(json.dumps(content), encoding="utf-8")
        folder.refuses("modules.json must hold a list of JSON objects, one for each module")
    for some, text in (
        (MODULE_LIST[:1], "not Transformer"),
        (MODULE_LIST[1:], f"the first module must be a Transformer, not '{TYPE}Pooling'"),
        ([*MODULE_LIST, MODULE_LIST[2]], "not Transformer, Pooling, Normalize, Normalize"),
    ):
        (folder.path / MODULES).write_text(json.dumps(some), encoding="utf-8")
        folder.refuses(text)
    # the layout of the first releases: the model lies in a folder of its own
    (folder.path / MODULES).write_text(
        json.dumps([MODULE_LIST[0] | {"path": "0_Transformer"}, *MODULE_LIST[1:]]), encoding="utf-8"
    )
    (folder.path / "0_Transformer").mkdir()
    for file in (CONFIG, WEIGHTS, TOKENIZER, TOKENIZER_CONFIG, SENTENCE):
        (folder.path / file).rename(folder.path / "0_Transformer" / file)
    assert behaviour(folder.load()) == expected


@obeyed(MODULES, "type", "path", models=GPT2)
def _(folder: Folder) -> None:
    expected = behaviour(folder.load())
    dense = {"path": "", "type": f"{TYPE}Dense"}
    (folder.path / MODULES).write_text(json.dumps([MODULE_LIST[0], dense]), encoding="utf-8")
    assert behaviour(folder.load()) == expected


def embedding(folder: Folder) -> np.ndarray:
    return Bert(folder.load()).run([2, 4, 5, 3], ReferenceEngine()).embedding()


@obeyed(POOLING, "pooling_mode", models=BERT)
def _(folder: Folder) -> None:
    (folder.path / MODULES).write_text(json.dumps(MODULE_LIST[:2]), encoding="utf-8")
    hidden = Bert(folder.load()).run([2, 4, 5, 3], ReferenceEngine()).hidden
    expected = {"cls": hidden[0], "max": hidden.max(axis=0), "mean": hidden.mean(axis=0)}
    for mode, vector in expected.items():
        folder.set(POOLING, pooling_mode=mode, pooling_mode_cls_token=True)
        np.testing.assert_array_equal(embedding(folder), vector, mode)
    folder.set(POOLING, pooling_mode=["mean", "cls"])
    np.testing.assert_array_equal(embedding(folder), np.concatenate([expected["mean"], expected["cls"]]))
    for bad in ("weightedmean", "lasttoken", "mean_sqrt_len_tokens", "", None, [], ["mean", "lasttoken"], True):
        folder.set(POOLING, pooling_mode=bad).refuses("pooling_mode must be cls, max or mean, or a list of them, not")


@obeyed(POOLING, "pooling_mode_cls_token", "pooling_mode_max_tokens", "pooling_mode_mean_tokens", models=BERT)
def _(folder: Folder) -> None:
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean"}
    for chosen in range(8):
        flags = {name: bool(chosen >> bit & 1) for bit, name in enumerate(names)}
        modes = tuple(mode for name, mode in names.items() if flags[name])
        assert folder.set(POOLING, **flags).load().pooling.modes == (modes or ("mean",))
    for name in names:
        folder.set(POOLING, **{name: 1}).refuses(f"{name} must be true or false, not 1")
        folder.set(POOLING, **{name: False})


@obeyed(POOLING, "word_embedding_dimension", models=BERT)
def _(folder: Folder) -> None:
    for name in ("word_embedding_dimension", "embedding_dimension"):
        folder.set(POOLING, **{name: 48}).load()
        folder.set(POOLING, **{name: 32}).refuses("the embedding dimension must be 48, the width of the model, not 32")
        folder.set(POOLING, **{name: ABSENT})


@obeyed(POOLING, "include_prompt", models=BERT)
@obeyed(SENTENCE_TRANSFORMERS, "default_prompt_name", "prompts", models=BERT)
def _(folder: Folder) -> None:
    prompts = {"query": "c d ", "none": "", "null": None}
    folder.set(SENTENCE_TRANSFORMERS, prompts=prompts)
    assert folder.ids("a") == [2, 4, 3], "no prompt is the default one"
    for name in ("none", "null", None):
        assert folder.set(SENTENCE_TRANSFORMERS, default_prompt_name=name).ids("a") == [2, 4, 3]
    assert folder.set(SENTENCE_TRANSFORMERS, default_prompt_name="query").ids("a") == [2, 6, 7, 4, 3]
    folder.set(POOLING, include_prompt=False).refuses(
        "default_prompt_name must be null where the pooling leaves out the"
    )
    folder.set(SENTENCE_TRANSFORMERS, default_prompt_name=None).load()
    folder.set(POOLING, include_prompt=None).refuses("include_prompt must be true or false, not None")
    folder.set(POOLING, include_prompt=True)
    folder.set(SENTENCE_TRANSFORMERS, default_prompt_name="q")
    folder.refuses("default_prompt_name must be one of ['query', 'none', 'null'], not 'q'")
    folder.set(SENTENCE_TRANSFORMERS, default_prompt_name=1).refuses(
        "default_prompt_name must be a name or null, not 1"
    )
    folder.set(SENTENCE_TRANSFORMERS, prompts=["a"], default_prompt_name=None).refuses("must be an object of texts")


@obeyed(SENTENCE, "do_lower_case", models=BERT)
def _(folder: Folder) -> None:
    assert folder.ids("A b") == [2, 1, 5, 3]
    assert folder.set(SENTENCE, do_lower_case=True).ids("A b") == [2, 4, 5, 3]
    folder.set(SENTENCE, do_lower_case=None).refuses("do_lower_case must be true or false, not None")


# -- Refused ----------------------------------------------------------------------------------------------------------

REFUSED: dict[tuple[str, str], list[Any]] = {
    (CONFIG, "position_embedding_type"): ["relative_key", "relative_key_query", "alibi"],
    (CONFIG, "is_decoder"): [True],
    (CONFIG, "scale_attn_weights"): [False, None],
    (CONFIG, "scale_attn_by_inverse_layer_idx"): [True],
    (CONFIG, "tie_word_embeddings"): [False],
    (CONFIG, "add_cross_attention"): [True],
    (CONFIG, "is_encoder_decoder"): [True],
    (CONFIG, "rope_theta"): [1e4],
    (CONFIG, "rope_scaling"): [{"type": "linear"}],
    (CONFIG, "rope_parameters"): [{"rope_theta": 1e4}],
    (CONFIG, "pruned_heads"): [{"0": [1]}],
    (CONFIG, "quantization_config"): [{"quant_method": "gptq"}, {}],
    (CONFIG, "auto_map"): [{"AutoModel": "modeling.Model"}],
    (CONFIG, "prefix"): ["A text: "],
    (TOKENIZER_CONFIG, "add_eos_token"): [True],
    (TOKENIZER_CONFIG, "split_special_tokens"): [True],
    (TOKENIZER_CONFIG, "auto_map"): [{"AutoTokenizer": ["tokenization.Tokenizer", None]}],
    (POOLING, "pooling_mode_mean_sqrt_len_tokens"): [True],
    (POOLING, "pooling_mode_weightedmean_tokens"): [True],
    (POOLING, "pooling_mode_lasttoken"): [True],
    (NORMALIZE, "module_input_name"): ["token_embeddings", None],
    (NORMALIZE, "module_output_name"): ["token_embeddings"],
    (SENTENCE, "transformer_task"): ["fill-mask", None],
    (SENTENCE, "module_output_name"): ["sentence_embedding"],
    (SENTENCE, "query_length"): [32],
    (SENTENCE, "document_length"): [180],
    (SENTENCE, "query_expansion"): [{"length": 32}],
    (SENTENCE, "modality_config"): [{"text": {"method": "forward", "method_output_name": "pooler_output"}}, None],
    (SENTENCE, "processing_kwargs"): [{"text": {"padding": "max_length"}}],
    (SENTENCE, "processor_kwargs"): [{"add_prefix_space": True}],
    (SENTENCE, "tokenizer_args"): [{"do_lower_case": False}],
    (SENTENCE, "config_kwargs"): [{"hidden_act": "relu"}],
    (SENTENCE, "config_args"): [{"hidden_act": "relu"}],
    (SENTENCE, "tokenizer_name_or_path"): ["another"],
    (SENTENCE_TRANSFORMERS, "model_type"): ["SparseEncoder", "CrossEncoder", ""],
}
_GENERATION_REFUSED: dict[str, list[Any]] = {
    "repetition_penalty": [1.2],
    "encoder_repetition_penalty": [0.5],
    "no_repeat_ngram_size": [3],
    "bad_words_ids": [[[5]]],
    "force_words_ids": [[[5]]],
    "forced_bos_token_id": [5, 0],
    "forced_eos_token_id": [5],
    "suppress_tokens": [[5]],
    "begin_suppress_tokens": [[5]],
    "sequence_bias": [[[[5], 1.0]]],
    "min_length": [10],
    "min_new_tokens": [10],
    "num_beams": [4],
    "num_beam_groups": [2],
    "penalty_alpha": [0.6],
    "guidance_scale": [1.5],
    "exponential_decay_length_penalty": [[5, 1.1]],
    "constraints": [[1]],
    "stop_strings": [["."], "."],
    "dola_layers": ["high"],
    "token_healing": [True],
    "watermarking_config": [{}],
}
for generation_name, generation_values in _GENERATION_REFUSED.items():
    for generation_file in (CONFIG, GENERATION):
        REFUSED[generation_file, generation_name] = generation_values

BY_HAND: dict[tuple[str, str], Case] = {}
"""Rows whose keys are not in a JSON object."""


def by_hand(file: str, name: str) -> Callable[[Case], Case]:
    def note(case: Case) -> Case:
        BY_HAND[file, name] = case
        return case

    return note


@pytest.mark.parametrize(("row", "model"), rows(Done.REFUSED))
def test_refused(row: KeyRow, model: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path, model)
    if (row.file, row.name) in BY_HAND:
        BY_HAND[row.file, row.name](folder)
        return
    for bad in REFUSED[row.file, row.name]:
        folder.set(row.file, **{row.name: bad})
        with says(f"{tmp_path / row.file}: {row.name} must be {row.wanted}, not ") as caught:
            folder.load()
        assert row.note in str(caught.value)
        assert "\n" not in str(caught.value)


HAVE_VALUES = [case for case in rows(Done.REFUSED) if case.values[0].wanted and case.values[0].file != TOKENIZER]


@pytest.mark.parametrize(("row", "model"), HAVE_VALUES)
def test_values_that_change_nothing_are_not_refused(row: KeyRow, model: str, tmp_path: Path) -> None:
    good = {"a": "b"} if row.name == "modality_config" else {"null": None, "{}": {}}.get(row.wanted, ...)
    if good is ...:
        good = {"True": True, "False": False, "0": 0, "1": 1, "1.0": 1.0}.get(row.wanted, row.wanted.strip("'"))
    folder = Folder(tmp_path, model)
    expected = behaviour(folder.load())
    assert behaviour(folder.set(row.file, **{row.name: good}).load()) == expected


@by_hand(WEIGHTS, "any other tensor")
def _(folder: Folder) -> None:
    folder.tensors(lambda tensors: tensors.update({"more.weight": np.zeros(3, np.float32)}))
    folder.refuses("holds 1 tensors the model has no use for: more.weight")


@by_hand(TOKENIZER, "model.dropout")
def _(folder: Folder) -> None:
    bpe = models.BPE(vocab=byte_tokenizer().get_vocab(), merges=[], dropout=0.1)
    folder.tokenizer(lambda tokenizer: setattr(tokenizer, "model", bpe))
    folder.refuses("tokenizer.json: model.dropout must be null, not 0.1")


@by_hand(POOLING, "any other key")
def _(folder: Folder) -> None:
    folder.set(POOLING, pooling_mode_attention=True)
    folder.refuses("config.json: pooling_mode_attention is not a known key: it could be another way of pooling")


# -- Ignored ----------------------------------------------------------------------------------------------------------

SAMPLES = {
    r"embeddings\.(position_ids|token_type_ids)": ("embeddings.position_ids", "embeddings.token_type_ids"),
    r"h\.\d+\.attn\.(bias|masked_bias)": ("h.0.attn.bias", "h.11.attn.masked_bias"),
    r"(cls|classifier|qa_outputs)\..*": ("cls.predictions.bias", "classifier.weight", "qa_outputs.bias"),
    r"(score|classifier|qa_outputs|multiple_choice_head)\..*": (
        "score.weight",
        "classifier.bias",
        "qa_outputs.weight",
        "multiple_choice_head.summary.bias",
    ),
}
JUNK: tuple[Any, ...] = ("weird", {"a": [1.5]})


@pytest.mark.parametrize(("row", "model"), rows(Done.IGNORED))
def test_ignored(row: KeyRow, model: str, tmp_path: Path) -> None:
    folder = Folder(tmp_path, model)
    if row.file in (INDEX, WEIGHTS, TOKENIZER):
        expected = behaviour(folder.load())
        BY_HAND.get((row.file, row.name), _sample_tensors(row))(folder)
        assert behaviour(folder.load()) == expected
        return
    if row.file == MODULES and model == "gpt2":
        (tmp_path / MODULES).write_text(json.dumps(MODULE_LIST), encoding="utf-8")
    expected = behaviour(folder.load())
    for junk in JUNK:
        folder.set(row.file, **{"unheard_of" if row.name == "any other key" else row.name: junk})
        assert behaviour(folder.load()) == expected


def _sample_tensors(row: KeyRow) -> Case:
    return lambda folder: folder.tensors(
        lambda tensors: tensors.update({name: np.zeros((2, 3), np.uint8) for name in SAMPLES[row.name]})
    )


@by_hand(WEIGHTS, "`__metadata__`")
def _(folder: Folder) -> None:
    folder.tensors(lambda tensors: None, {"format": "tf"})


@by_hand(INDEX, "metadata")
def _(folder: Folder) -> None:
    folder.shard(["weird"])


@by_hand(TOKENIZER, "truncation")
def _(folder: Folder) -> None:
    folder.tokenizer(lambda tokenizer: tokenizer.enable_truncation(3))
    assert len(folder.ids("a b c d e")) >= 7


@by_hand(TOKENIZER, "padding")
def _(folder: Folder) -> None:
    folder.tokenizer(lambda tokenizer: tokenizer.enable_padding(length=20))
    assert len(folder.ids("a")) <= 3


# -- Files ------------------------------------------------------------------------------------------------------------

FILE_CASES: dict[str, Case] = {}


def needed(name: str) -> Case:
    def case(folder: Folder) -> None:
        (folder.path / name).unlink()
        folder.refuses(f"{folder.path / name} is missing")

    return case


def optional(name: str) -> Case:
    """Neither its presence nor its absence is an error; that it is obeyed, the cases of its keys show."""

    def case(folder: Folder) -> None:
        folder.load()
        (folder.path / name).unlink()
        folder.load()
        (folder.path / name).symlink_to("nowhere")
        folder.refuses(f"{folder.path / name} cannot be read: No such file or directory")
        (folder.path / name).unlink()
        (folder.path / name).write_text("[", encoding="utf-8")
        folder.refuses(f"{name} is not a JSON file")

    return case


def unread(name: str) -> Case:
    def case(folder: Folder) -> None:
        expected = behaviour(folder.load())
        (folder.path / name).write_text("[", encoding="utf-8")
        assert behaviour(folder.load()) == expected

    return case


def alone(name: str, needed: str, text: str) -> Case:
    """Ignored beside the file that is needed, refused in its place."""

    def case(folder: Folder) -> None:
        unread(name)(folder)
        (folder.path / needed).unlink()
        folder.refuses(f"{needed} is missing, and {name} cannot stand for it: {text}")

    return case


for needed_name in (CONFIG, WEIGHTS, TOKENIZER, POOLING):
    FILE_CASES[needed_name] = needed(needed_name)
for optional_name in (TOKENIZER_CONFIG, GENERATION, NORMALIZE, SENTENCE, SENTENCE_TRANSFORMERS):
    FILE_CASES[optional_name] = optional(optional_name)
for unread_name in ("special_tokens_map.json", "added_tokens.json"):
    FILE_CASES[unread_name] = unread(unread_name)
FILE_CASES["any other file"] = unread("README.md")
for pattern, example in {
    "pytorch_model*.bin": "pytorch_model-00001-of-00002.bin",
    "*.pt": "model.pt",
    "tf_model.h5": "tf_model.h5",
    "flax_model.msgpack": "flax_model.msgpack",
    "*.ckpt*": "bert_model.ckpt.index",
    "*.onnx": "model.onnx",
    "*.gguf": "model-q4.gguf",
}.items():
    FILE_CASES[pattern] = alone(example, WEIGHTS, "weights are read from safetensors only; with transformers")
FILE_CASES["*.safetensors"] = alone("model.fp16.safetensors", WEIGHTS, "weights are read from model.safetensors, or")
for tokenizer_name in ("vocab.txt", "vocab.json", "merges.txt", "*.model"):
    FILE_CASES[tokenizer_name] = alone(
        tokenizer_name.replace("*", "spiece"), TOKENIZER, "tokenizers are read from tokenizer.json only; with"
    )


def file_case(name: str) -> Callable[[Case], Case]:
    def note(case: Case) -> Case:
        FILE_CASES[name] = case
        return case

    return note


@pytest.mark.parametrize(
    ("name", "model"),
    [pytest.param(row.name, model, id=f"{row.name}-{model}") for row in FILES for model in row.models],
)
def test_files(name: str, model: str, tmp_path: Path) -> None:
    FILE_CASES[name](Folder(tmp_path, model))


@file_case(INDEX)
def _(folder: Folder) -> None:
    """Not looked at where one file holds all."""
    (folder.path / INDEX).write_text("[", encoding="utf-8")
    folder.load()
    (folder.path / WEIGHTS).unlink()
    folder.refuses(f"{INDEX} is not a JSON file")


@file_case(MODULES)
def _(folder: Folder) -> None:
    """Without it, BERT makes embeddings as all-MiniLM-L6-v2 does."""
    if folder.model == "gpt2":
        (folder.path / MODULES).write_text(json.dumps(MODULE_LIST[:1]), encoding="utf-8")
        folder.load()
        return
    folder.set(POOLING, pooling_mode="cls")
    assert folder.load().pooling == Pooling(modes=("cls",), normalize=True)
    (folder.path / MODULES).unlink()
    folder.refuses(f"{folder.path / MODULES} is missing, and must say what 1_Pooling is for")
    shutil.rmtree(folder.path / "1_Pooling")
    assert folder.load().pooling == Pooling(modes=("mean",), normalize=True)


@file_case("adapter_config.json")
def _(folder: Folder) -> None:
    (folder.path / "adapter_config.json").write_text("{}", encoding="utf-8")
    folder.refuses("adapter_config.json must not be there: its weights change the model's; merge them first")


def test_a_model_type_that_cannot_be_told(tmp_path: Path) -> None:
    """RoBERTa's tensors bear BERT's names, but for the rows of token types."""
    config = BERT_CONFIG | {"type_vocab_size": 1}
    write(tmp_path, config)
    load(tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if k != "model_type"}), encoding="utf-8")
    with says("neither architectures nor the names of the tensors tell whether the model is 'bert' or 'gpt2'"):
        load(tmp_path)
    save_file({"some.weight": np.zeros(3, np.float32)}, tmp_path / WEIGHTS)
    with says("neither architectures nor the names of the tensors tell whether the model is 'bert' or 'gpt2'"):
        load(tmp_path)


def test_refusals_are_short(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "bert").set(CONFIG, quantization_config={"key": "x" * 10000})
    with pytest.raises(CheckpointError) as caught:
        folder.load()
    assert len(str(caught.value)) < 400
