"""Train the small GPT-2 language model of this repository, once, from texts that every CPython carries.

The corpus is English technical prose: the reference pages in ``pydoc_data.topics`` and the docstrings and block
comments of the standard library's source files.  The files are parsed, never imported.  Whole documents are held
out by hash; every training paragraph that shares a run of words with them is dropped.  The result is a folder in
Hugging Face's GPT-2 layout (``config.json``, ``model.safetensors``, ``tokenizer.json``) with the held-out text
and the measured figures beside it.

    spatten train             # train: needs PyTorch (pip install -e .[train])
    spatten train --check     # measure the saved weights again, with NumPy alone
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sysconfig
import tempfile
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from spatten.host import files
from spatten.host.models.checkpoint import load
from spatten.spec.errors import SpattenError

MODEL_DIR = Path(__file__).resolve().parent / "models" / "pydoc-gpt2"
END = "<|endoftext|>"  # GPT-2's own separator; as a special token it survives encoding heldout.txt in one call
END_ID = 0  # the trainer numbers special tokens first
MAX_WEIGHT_BYTES = 8 * 1024 * 1024
THREADS_MAX = 1024

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Shingle = tuple[str, ...]


class Precision(StrEnum):
    """Arithmetic of the matrix products while training; weights and optimizer state are always float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class TrainingError(SpattenError, RuntimeError):
    """Training failed, or its result is not good enough: the model that was saved before stays."""

    exit_status = 1


class TrainingInputError(SpattenError, ValueError):
    """Training, or the measurement of its result, cannot begin with what is there."""


@dataclass(frozen=True)
class Shape:
    """Size of the model; ``width`` must be ``heads`` times the head dimension."""

    layers: int = 4
    heads: int = 4
    width: int = 256
    context: int = 512
    vocab: int = 2000
    epsilon: float = 1e-5


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, apart from the corpus."""

    seed: int
    steps: int
    tokens_per_step: int = 2048
    short_context: int = 128
    short_share: float = 0.5  # share of the steps run with the short context, which is faster
    peak_lr: float = 1e-3
    final_lr: float = 5e-5
    warmup: int = 200
    weight_decay: float = 0.1
    dropout: float = 0.1
    clip: float = 1.0
    validate_every: int = 250

    def __post_init__(self) -> None:
        for name, value, least in (("seed", self.seed, 0), ("steps", self.steps, 1)):
            if not least <= value < 1 << 32:
                raise TrainingInputError(f"{name} must be {least} to {(1 << 32) - 1}, not {value}")


# ---------------------------------------------------------------------------------------------------- corpus


@dataclass(frozen=True)
class Document:
    """One reference page, or the prose of one source file in source order."""

    name: str
    kind: str  # "topic", "library" or "test"
    text: str


# Articles, prepositions, pronouns and auxiliaries: their share tells sentences from commented-out code.
_FUNCTION_WORDS = (
    "a an the of to in on at by for from with as is are was were be been it its this that these those and or not no if "
    "when which we you can will would should may must has have had do does but so than then there into only also any "
    "all one"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def is_prose(text: str, minimum: float = 0.18) -> bool:
    """Say whether at least ``minimum`` of the words are function words, and most characters are letters."""
    words = re.findall(r"[a-z]+", text.lower())
    if len(words) < 8 or sum(c.isalpha() or c.isspace() for c in text) < 0.75 * len(text):
        return False
    return sum(w in FUNCTION_WORDS for w in words) >= minimum * len(words)


def clean(text: str) -> str:
    """Strip trailing blanks, rule lines and runs of empty lines; keep the line breaks as they were written."""
    lines = [line.rstrip() for line in text.expandtabs().splitlines()]
    lines = [line for line in lines if not line or any(c.isalnum() for c in line) or len(line.strip()) < 4]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line number, dedented text) of every module, class and function docstring."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def block_comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, text without the marks) of every run of two or more comment lines."""
    run: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        stripped = line.strip()
        if stripped.startswith("#"):
            run.append(stripped.lstrip("#"))
            continue
        if len(run) >= 2:
            yield number - len(run), textwrap.dedent("\n".join(run))
        run = []


def read_documents(stdlib: Path) -> list[Document]:
    """Read every document below the standard library folder, in a fixed order."""
    topics_file = stdlib / "pydoc_data" / "topics.py"
    if not topics_file.is_file():
        raise TrainingError(f"{stdlib} holds no pydoc_data/topics.py: this Python came without its own documentation")
    found: list[Document] = []
    assignment = ast.parse(topics_file.read_text(encoding="utf-8")).body[0]
    if not isinstance(assignment, (ast.Assign, ast.AnnAssign)) or assignment.value is None:
        raise TrainingError(f"{topics_file} does not begin with the assignment of the topics")
    for name, text in sorted(ast.literal_eval(assignment.value).items()):
        found.append(Document(f"topic {name}", "topic", clean(text)))
    for path in sorted(stdlib.rglob("*.py")):
        relative = path.relative_to(stdlib)
        if "site-packages" in relative.parts or "dist-packages" in relative.parts or path == topics_file:
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue  # the library ships files that are broken on purpose, for its own tests
        kind = "test" if any(part in ("test", "tests", "idle_test") for part in relative.parts) else "library"
        pieces = [(line, text) for line, text in docstrings(tree) if kind == "library" or is_prose(text)]
        pieces += [(line, text) for line, text in block_comments(source) if is_prose(text)]
        text = "\n\n".join(piece for _, raw in sorted(pieces) if len(piece := clean(raw)) >= 40)
        if text:
            found.append(Document(relative.as_posix(), kind, text))
    return found


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, for comparing texts whatever their punctuation and line breaks."""
    return re.findall(r"[a-z0-9_]+", text.lower())


def shingles(text: str, length: int) -> set[Shingle]:
    """Every run of ``length`` words in the text."""
    words = words_of(text)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def paragraphs(text: str) -> list[str]:
    """Split at empty lines."""
    return [p for p in re.split(r"\n\s*\n", text) if p.strip()]


SHARED_RUN = 8  # words in a row that two unrelated paragraphs hardly ever share


def without_shared(document: Document, forbidden: set[Shingle]) -> Document:
    """Drop each paragraph that has a run of 8 words (or, if shorter, all of its 5 to 7 words) in ``forbidden``."""
    kept: list[str] = []
    for paragraph in paragraphs(document.text):
        words = words_of(paragraph)
        length = min(SHARED_RUN, len(words))
        if length < 5 or forbidden.isdisjoint(shingles(paragraph, length)):
            kept.append(paragraph)
    return Document(document.name, document.kind, "\n\n".join(kept))


def runs_of(documents: Iterable[Document]) -> set[Shingle]:
    """Every run of 5 to 8 words in the documents, without runs across paragraphs."""
    return {
        run
        for document in documents
        for paragraph in paragraphs(document.text)
        for length in range(5, SHARED_RUN + 1)
        for run in shingles(paragraph, length)
    }


def take(documents: Sequence[Document], characters: int, smallest: int, largest: int) -> list[Document]:
    """Take long prose documents in the given order, alternating pages and files, until ``characters`` are reached.

    A candidate that repeats a tenth of what was already taken is passed over: some pages include others whole.
    """
    queues = [
        [d for d in documents if d.kind == kind and smallest <= len(d.text) <= largest and is_prose(d.text, 0.25)]
        for kind in ("topic", "library")
    ]
    taken: list[Document] = []
    seen: set[Shingle] = set()
    total = 0
    while total < characters and any(queues):
        for queue in queues:
            while queue and total < characters:
                candidate = queue.pop(0)
                own = shingles(candidate.text, SHARED_RUN)
                if len(own & seen) <= 0.1 * len(own):
                    taken.append(candidate)
                    seen |= own
                    total += len(candidate.text)
                    break
    if total < characters:
        raise TrainingError(f"only {total} of {characters} characters of long prose documents were found")
    return taken


@dataclass(frozen=True)
class Corpus:
    """Three disjoint sets of documents; ``dropped`` counts the paragraphs removed from training."""

    train: list[Document]
    validation: list[Document]
    heldout: list[Document]
    dropped: int


def split_corpus(documents: Sequence[Document], seed: int) -> Corpus:
    """Split by the hash of seed and name, then remove from training what the other two sets say as well."""
    order = sorted(documents, key=lambda d: hashlib.sha256(f"{seed}:{d.name}".encode()).digest())
    heldout = take(order, characters=90_000, smallest=4_000, largest=16_000)
    rest = [d for d in order if d not in heldout]
    heldout_runs = runs_of(heldout)
    validation = take(rest, characters=60_000, smallest=4_000, largest=16_000)
    rest = [d for d in rest if d not in validation]
    validation = [without_shared(d, heldout_runs) for d in validation]
    forbidden = heldout_runs | runs_of(validation)
    train: list[Document] = []
    seen: set[str] = set()
    before = after = 0
    for document in sorted(rest, key=lambda d: (d.kind != "topic", d.name)):
        before += len(paragraphs(document.text))
        kept: list[str] = []
        for paragraph in paragraphs(without_shared(document, forbidden).text):
            key = " ".join(words_of(paragraph))
            # Licence notices and pages quoted in other pages would otherwise be learnt by heart.
            if len(key) < 40 or key not in seen:
                seen.add(key)
                kept.append(paragraph)
        after += len(kept)
        if kept:
            train.append(Document(document.name, document.kind, "\n\n".join(kept)))
    return Corpus(train, validation, heldout, before - after)


def train_tokenizer(documents: Sequence[Document], vocab: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's word pattern; number 0 is the end of text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([d.text for d in documents], trainer=trainer)
    if tokenizer.get_vocab_size() != vocab or tokenizer.token_to_id(END) != END_ID:
        raise TrainingError(f"the tokenizer has {tokenizer.get_vocab_size()} entries instead of {vocab}")
    return tokenizer


def joined(documents: Sequence[Document]) -> str:
    """One text of all documents, with the end-of-text mark after each."""
    return "".join(d.text + END for d in documents)


def windows(tokens: IntArray, context: int) -> IntArray:
    """Cut a stream of tokens [n] into whole windows [n // context, context]; the rest is left out."""
    count = len(tokens) // context
    return tokens[: count * context].reshape(count, context)


# ------------------------------------------------------------------------------------------------- baselines


class CountModel:
    """Interpolated Kneser-Ney model of order 2 or 3 over token numbers."""

    def __init__(self, tokens: Sequence[int], order: int, vocab: int) -> None:
        self.order = order
        self.vocab = vocab
        # counts[n][history of n tokens][next token]
        self.counts: list[dict[tuple[int, ...], Counter[int]]] = [defaultdict(Counter) for _ in range(order)]
        for i in range(order - 1, len(tokens)):
            self.counts[order - 1][tuple(tokens[i - order + 1 : i])][tokens[i]] += 1
        for n in range(order - 1, 0, -1):
            # A shorter history counts in how many different contexts a token follows it, not how often.
            for history, following in self.counts[n].items():
                for token in following:
                    self.counts[n - 1][history[1:]][token] += 1
        self.totals = [{h: sum(c.values()) for h, c in level.items()} for level in self.counts]

    def probability(self, history: tuple[int, ...], token: int, discount: float) -> float:
        """Probability of ``token`` after ``history``, which holds at most ``order - 1`` tokens."""
        level = len(history)
        shorter = self.probability(history[1:], token, discount) if level else 1.0 / self.vocab
        following = self.counts[level].get(history)
        if following is None:
            return shorter
        total = self.totals[level][history]
        return (max(following[token] - discount, 0.0) + discount * len(following) * shorter) / total

    def perplexity(self, cut: IntArray, discount: float) -> float:
        """Perplexity of the tokens 1.. of every window [count, context], each from what its window holds before."""
        loss = 0.0
        for row in cut.tolist():
            for t in range(1, len(row)):
                loss -= math.log(self.probability(tuple(row[max(0, t - self.order + 1) : t]), row[t], discount))
        return math.exp(loss / (cut.shape[0] * (cut.shape[1] - 1)))


def unigram_perplexity(tokens: IntArray, cut: IntArray, vocab: int) -> float:
    """Perplexity of the tokens 1.. of every window [count, context] under add-one token frequencies."""
    counts = np.bincount(tokens, minlength=vocab) + 1.0
    return float(np.exp(-np.log(counts / counts.sum())[cut[:, 1:]].mean()))


def baselines(train: IntArray, validation: IntArray, heldout: IntArray, vocab: int) -> dict[str, float]:
    """Held-out perplexities of the counting models; their discounts are tuned on the validation windows."""
    found = {"unigram": unigram_perplexity(train, heldout, vocab)}
    for order, name in ((2, "bigram"), (3, "trigram")):
        model = CountModel(train.tolist(), order, vocab)
        discount = min((0.5, 0.6, 0.7, 0.8, 0.9, 0.95), key=lambda d: model.perplexity(validation, d))
        found[name] = model.perplexity(heldout, discount)
        found[f"{name}_discount"] = discount
    return found


# ------------------------------------------------------------------------------- the saved model, with NumPy


def numpy_logits(weights: dict[str, FloatArray], shape: Shape, tokens: IntArray) -> FloatArray:
    """Logits [length, vocab] of GPT-2 in float32 for one window of tokens [length]."""

    def norm(x: FloatArray, name: str) -> FloatArray:
        centred = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(shape.epsilon))
        return np.asarray(centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"], np.float32)

    def linear(x: FloatArray, name: str) -> FloatArray:
        return np.asarray(x @ weights[f"{name}.weight"] + weights[f"{name}.bias"], np.float32)

    length = len(tokens)
    head = shape.width // shape.heads
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][:length]
    future = np.triu(np.ones((length, length), bool), 1)
    for i in range(shape.layers):
        joint = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        q, k, v = (part.reshape(length, shape.heads, head).swapaxes(0, 1) for part in np.split(joint, 3, axis=-1))
        scores = np.where(future, -np.inf, q @ k.swapaxes(1, 2) / np.float32(math.sqrt(head)))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        merged = (shares @ v).swapaxes(0, 1).reshape(length, shape.width)
        x = x + linear(merged, f"h.{i}.attn.c_proj")
        hidden = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        x = x + linear(hidden, f"h.{i}.mlp.c_proj")
    return np.asarray(norm(x, "ln_f") @ weights["wte.weight"].T, np.float32)


def saved_perplexity(folder: Path) -> tuple[float, int]:
    """Held-out perplexity of the saved weights, computed with NumPy, and the number of predicted tokens."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(
        layers=config["n_layer"],
        heads=config["n_head"],
        width=config["n_embd"],
        context=config["n_positions"],
        vocab=config["vocab_size"],
        epsilon=config["layer_norm_epsilon"],
    )
    weights = {name: value.astype(np.float32) for name, value in load_file(folder / "model.safetensors").items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = (folder / "heldout.txt").read_text(encoding="utf-8")
    cut = windows(np.array(tokenizer.encode(text).ids, np.int64), shape.context)
    loss = 0.0
    for row in cut:
        logits = numpy_logits(weights, shape, row[:-1]).astype(np.float64)
        peak = logits.max(-1)
        normaliser = peak + np.log(np.exp(logits - peak[:, None]).sum(-1))
        loss += float((normaliser - logits[np.arange(len(row) - 1), row[1:]]).sum())
    predicted = cut.shape[0] * (cut.shape[1] - 1)
    if predicted == 0:
        raise TrainingInputError(f"{folder / 'heldout.txt'} is shorter than the model's {shape.context} positions")
    return math.exp(loss / predicted), predicted


def check(folder: Path, console: Console) -> None:
    """Compare the saved weights' perplexity with ``training.json``. Raises `TrainingError` beyond half a percent."""
    for name in ("config.json", "model.safetensors", "tokenizer.json", "heldout.txt", "training.json"):
        if not (folder / name).is_file():
            raise TrainingInputError(f"{folder / name} is missing: train the model first")
    load(folder).require("gpt2")
    try:
        stated = float(json.loads((folder / "training.json").read_text(encoding="utf-8"))["heldout_perplexity"])
        measured, predicted = saved_perplexity(folder)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise TrainingInputError(f"{folder} does not hold what training leaves: {error!r}") from error
    if not 0 < stated < math.inf:
        raise TrainingInputError(f"{folder / 'training.json'}: heldout_perplexity must be above 0, not {stated}")
    good = abs(measured / stated - 1) <= 0.005
    found = (
        f"held-out perplexity of the saved weights: {measured:.4f} over {predicted} tokens; training.json says "
        f"{stated:.4f}"
    )
    if not good:
        raise TrainingError(found)
    console.print(found, style="green")


# -------------------------------------------------------------------------------------------------- training


def config_of(shape: Shape, dropout: float) -> dict[str, Any]:
    """``config.json`` as Hugging Face's GPT2Config writes it."""
    return {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.0,
        "bos_token_id": END_ID,
        "embd_pdrop": dropout,
        "eos_token_id": END_ID,
        "initializer_range": 0.02,
        "layer_norm_epsilon": shape.epsilon,
        "model_type": "gpt2",
        "n_ctx": shape.context,
        "n_embd": shape.width,
        "n_head": shape.heads,
        "n_inner": None,
        "n_layer": shape.layers,
        "n_positions": shape.context,
        "resid_pdrop": dropout,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": shape.vocab,
    }


def import_torch() -> Any:
    """Return the torch module. Raises `TrainingInputError` where it is not installed."""
    try:
        import torch
    except ImportError:
        raise TrainingInputError("training needs PyTorch: pip install -e .[train]") from None
    return torch


class Trainer:
    """GPT-2's parameters under Hugging Face's names, with the forward pass and one training step."""

    def __init__(self, torch: Any, shape: Shape, recipe: Recipe, bfloat16: bool) -> None:
        self.torch = torch
        self.shape = shape
        self.recipe = recipe
        self.bfloat16 = bfloat16
        torch.manual_seed(recipe.seed)
        width = shape.width
        sizes: dict[str, tuple[int, ...]] = {
            "wte.weight": (shape.vocab, width),
            "wpe.weight": (shape.context, width),
        }
        for i in range(shape.layers):
            # Linear weights are [inputs, outputs], as in Hugging Face's Conv1D.
            for name, inputs, outputs in (
                ("attn.c_attn", width, 3 * width),
                ("attn.c_proj", width, width),
                ("mlp.c_fc", width, 4 * width),
                ("mlp.c_proj", 4 * width, width),
            ):
                sizes[f"h.{i}.{name}.weight"] = (inputs, outputs)
                sizes[f"h.{i}.{name}.bias"] = (outputs,)
        for norm in [f"h.{i}.ln_{j}" for i in range(shape.layers) for j in (1, 2)] + ["ln_f"]:
            sizes[f"{norm}.weight"] = sizes[f"{norm}.bias"] = (width,)
        self.weights: dict[str, Any] = {}
        for name, size in sizes.items():
            if name.endswith("bias"):
                value = torch.zeros(size)
            elif ".ln_" in name or name.startswith("ln_f"):
                value = torch.ones(size)
            else:
                # GPT-2 shrinks what is added to the residual stream by the number of additions.
                shrink = math.sqrt(2 * shape.layers) if "c_proj" in name else 1.0
                value = torch.randn(size) * (0.02 / shrink)
            self.weights[name] = value.requires_grad_(True)
        matrices = [w for w in self.weights.values() if w.ndim == 2]
        vectors = [w for w in self.weights.values() if w.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=recipe.peak_lr,
            betas=(0.9, 0.99),
            fused=True,
        )

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which matrix products run in the chosen arithmetic."""
        if not self.bfloat16:
            return nullcontext()
        context: AbstractContextManager[Any] = self.torch.autocast("cpu", self.torch.bfloat16)
        return context

    def loss(self, rows: IntArray, first: int, training: bool) -> Any:
        """Mean cross-entropy in nats of rows [batch, length + 1], whose inputs stand at positions ``first``.. ."""
        torch, shape, w = self.torch, self.shape, self.weights
        f = torch.nn.functional
        rate = self.recipe.dropout
        tokens = torch.from_numpy(rows[:, :-1])
        targets = torch.from_numpy(np.ascontiguousarray(rows[:, 1:]))
        batch, length = tokens.shape
        head = shape.width // shape.heads

        def norm(x: Any, name: str) -> Any:
            return f.layer_norm(x, (shape.width,), w[f"{name}.weight"], w[f"{name}.bias"], shape.epsilon)

        def linear(x: Any, name: str) -> Any:
            return f.linear(x, w[f"{name}.weight"].t(), w[f"{name}.bias"])

        with self.precision():
            x = w["wte.weight"][tokens] + w["wpe.weight"][first : first + length]
            x = f.dropout(x, rate, training)
            for i in range(shape.layers):
                joint = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
                q, k, v = (
                    part.view(batch, length, shape.heads, head).transpose(1, 2)
                    for part in joint.split(shape.width, dim=2)
                )
                mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True)
                merged = mixed.transpose(1, 2).reshape(batch, length, shape.width)
                x = x + f.dropout(linear(merged, f"h.{i}.attn.c_proj"), rate, training)
                hidden = f.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
                x = x + f.dropout(linear(hidden, f"h.{i}.mlp.c_proj"), rate, training)
            logits = f.linear(norm(x, "ln_f"), w["wte.weight"])
        return f.cross_entropy(logits.float().view(-1, shape.vocab), targets.view(-1))

    def step(self, rows: IntArray, first: int, rate: float) -> float:
        """One update at learning rate ``rate`` from rows [batch, length + 1]; return the loss in nats."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(rows, first, training=True)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def perplexity(self, cut: IntArray) -> float:
        """Perplexity of the tokens 1.. of every window [count, context]."""
        with self.torch.no_grad():
            losses = [
                float(self.loss(cut[i : i + 4], 0, training=False)) * len(cut[i : i + 4]) for i in range(0, len(cut), 4)
            ]
        return math.exp(sum(losses) / len(cut))

    def float16(self) -> dict[str, npt.NDArray[np.float16]]:
        """A copy of the parameters rounded to float16; an overflow is an error."""
        copy = {name: w.detach().numpy().astype(np.float16) for name, w in self.weights.items()}
        for name, value in copy.items():
            if not np.isfinite(value).all():
                raise TrainingError(f"{name} does not fit float16, or training diverged")
        return copy

    def load(self, weights: dict[str, npt.NDArray[np.float16]]) -> None:
        """Overwrite the parameters with the given ones."""
        with self.torch.no_grad():
            for name, value in weights.items():
                self.weights[name].copy_(self.torch.from_numpy(value.astype(np.float32)))


def batches(documents: Sequence[IntArray], recipe: Recipe, shape: Shape) -> Iterator[tuple[IntArray, int, float]]:
    """Yield (rows [batch, length + 1], first position, passes over the corpus so far) for ever.

    Each pass joins the documents in a new order, so that the cuts fall elsewhere.  Short rows begin at a random
    position: every position embedding learns from the first step on.
    """
    generator = np.random.default_rng(recipe.seed)
    total = sum(len(d) for d in documents)
    switch = round(recipe.steps * recipe.short_share)
    step = 0
    used = 0
    while True:
        length = recipe.short_context if step < switch else shape.context
        batch = recipe.tokens_per_step // length
        order = generator.permutation(len(documents))
        stream = np.concatenate([documents[i] for i in order])[generator.integers(length) :]
        count = (len(stream) - 1) // length
        starts = generator.permutation(count) * length
        for i in range(0, count - batch + 1, batch):
            rows = np.stack([stream[s : s + length + 1] for s in starts[i : i + batch]])
            yield rows, int(generator.integers(shape.context - length + 1)), used / total
            used += batch * length
            step += 1
            if step == switch:
                break  # the long rows begin with a new pass


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine down to the final rate."""
    if step < recipe.warmup:
        return recipe.peak_lr * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.final_lr + 0.5 * (recipe.peak_lr - recipe.final_lr) * (1 + math.cos(math.pi * share))


def choose_precision(torch: Any, shape: Shape, recipe: Recipe, rows: IntArray, wanted: Precision) -> bool:
    """Say whether to train in bfloat16: as `wanted`, or whichever is faster here over a few steps on rows."""
    if wanted is not Precision.auto:
        return wanted is Precision.bfloat16
    seconds: dict[bool, float] = {}
    for bfloat16 in (False, True):
        trial = Trainer(torch, shape, recipe, bfloat16)
        trial.step(rows, 0, 1e-4)
        times: list[float] = []
        for _ in range(4):
            begin = time.perf_counter()
            trial.step(rows, 0, 1e-4)
            times.append(time.perf_counter() - begin)
        seconds[bfloat16] = min(times)  # the least disturbed time
    return seconds[True] < seconds[False]


def provenance(figures: dict[str, Any]) -> str:
    """``PROVENANCE.md``: how the model was made, in figures that this script measured."""
    lines = [
        "# Provenance of this model",
        "",
        f"Made by `{figures['command']}` from the texts of the Python {figures['python']} standard library:",
        "the reference pages of `pydoc_data.topics`, and the docstrings and block comments of its source files.",
        "No pretrained weights were used. All figures are those of `training.json`, written by the same run.",
        "",
        "| | |",
        "|---|---|",
    ]
    rows = {
        "Architecture": f"GPT-2, {figures['layers']} layers, {figures['heads']} heads of "
        f"{figures['width'] // figures['heads']}, context {figures['context']}, vocabulary {figures['vocab']}",
        "Parameters": f"{figures['parameters']:,} (float16, {figures['weight_bytes']:,} bytes)",
        "Seed": figures["seed"],
        "Training text": f"{figures['train_documents']:,} documents, {figures['train_characters']:,} characters, "
        f"{figures['train_tokens']:,} tokens",
        "Validation text": f"{figures['validation_documents']} documents, {figures['validation_tokens']:,} tokens "
        "(chooses the checkpoint and tunes the counting models)",
        "Held-out text": f"{figures['heldout_documents']} documents, {figures['heldout_tokens']:,} tokens "
        "(`heldout.txt`; measured once, after training)",
        "Training": f"{figures['steps']:,} steps of {figures['tokens_per_step']:,} tokens "
        f"({figures['passes']:.1f} passes), best validation at step {figures['best_step']:,}, "
        f"{figures['precision']} products, {figures['minutes']:.1f} minutes on {figures['threads']} threads",
        "Versions": f"torch {figures['torch']}, tokenizers {figures['tokenizers']}, numpy {figures['numpy']}",
    }
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += [
        "",
        "## Held-out perplexity (per token)",
        "",
        f"The held-out tokens are cut into {figures['heldout_windows']} windows of {figures['context']}. In each",
        "window every token but the first is predicted from those before it:",
        f"{figures['heldout_predicted']:,} predictions, the same for every model.",
        "",
        "| Model | Perplexity |",
        "|---|---|",
        f"| **this model, float16 weights as saved** | **{figures['heldout_perplexity']:.2f}** |",
        f"| trigram, interpolated Kneser-Ney | {figures['trigram']:.2f} |",
        f"| bigram, interpolated Kneser-Ney | {figures['bigram']:.2f} |",
        f"| unigram, add-one | {figures['unigram']:.2f} |",
        "",
        "## Splits",
        "",
        "Whole documents are held out, in the order of a hash of seed and name. A document is one reference page, or",
        "the prose of one source file.",
        f"{figures['dropped_paragraphs']:,} paragraphs were dropped from training: repetitions, and those with a run",
        f"of {SHARED_RUN} words that the held-out or validation documents contain too.",
        "The tokenizer saw the training text only.",
        "",
        "Held out: " + ", ".join(f"`{name}`" for name in figures["heldout_names"]) + ".",
        "",
        "## Licence of the texts",
        "",
        "The texts, `heldout.txt` among them, are part of CPython: Copyright (c) 2001 Python Software Foundation; All",
        "Rights Reserved. They are used under the Python Software Foundation License Version 2 (PSF-2.0,",
        "<https://docs.python.org/3/license.html>, which also lists the notices of incorporated software).",
        "`heldout.txt` is changed from the original: rule lines are removed, and comments stand without their marks.",
    ]
    return "\n".join(lines) + "\n"


def install(temporary: Path, out: Path) -> None:
    """Put the finished folder in place of the old one by renaming, so that no reader sees half of it."""
    aside = temporary.with_name(temporary.name + ".old")
    if out.exists():
        out.rename(aside)
    try:
        temporary.rename(out)
    except BaseException:
        if aside.exists() and not out.exists():
            aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def train(out: Path, recipe: Recipe, threads: int, wanted: Precision, command: str, console: Console) -> None:
    """Do everything from corpus to the finished folder; an interrupt leaves ``out`` as it was."""
    if not 1 <= threads <= THREADS_MAX:
        raise TrainingInputError(f"threads must be 1 to {THREADS_MAX}, not {threads}")
    out = Path(os.path.abspath(out))  # as it is written: links are replaced, not followed
    if not out.name or (out.exists() and not out.is_dir()):
        raise TrainingInputError(f"{out} must be a folder that can be replaced, or not exist yet")
    files.require_writable(out.with_name(f"{out.name}.old"))
    torch = import_torch()
    torch.set_num_threads(threads)
    shape = Shape()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True) as folder:
        temporary = Path(folder) / out.name
        temporary.mkdir()
        with console.status("reading the standard library"):
            corpus = split_corpus(read_documents(Path(sysconfig.get_path("stdlib"))), recipe.seed)
        with console.status("training the tokenizer"):
            tokenizer = train_tokenizer(corpus.train, shape.vocab)
            tokenizer.save(str(temporary / "tokenizer.json"))
            (temporary / "heldout.txt").write_text(joined(corpus.heldout), encoding="utf-8")
            documents = [np.array(tokenizer.encode(d.text + END).ids, np.int64) for d in corpus.train]
            tokens = np.concatenate(documents)
            streams = {
                name: np.array(tokenizer.encode(joined(part)).ids, np.int64)
                for name, part in (("validation", corpus.validation), ("heldout", corpus.heldout))
            }
        validation = windows(streams["validation"], shape.context)
        heldout = windows(streams["heldout"], shape.context)
        with console.status("counting bigrams and trigrams"):
            counted = baselines(tokens, validation, heldout, shape.vocab)
        console.print(
            f"{len(corpus.train)} documents, {len(tokens):,} tokens to train on; {streams['validation'].size:,} to "
            f"validate, {streams['heldout'].size:,} held out; bigram perplexity {counted['bigram']:.1f}, trigram "
            f"{counted['trigram']:.1f}"
        )

        source = batches(documents, recipe, shape)
        bfloat16 = choose_precision(torch, shape, recipe, validation[:4], wanted)
        console.print(f"training with {'bfloat16' if bfloat16 else 'float32'} products")
        trainer = Trainer(torch, shape, recipe, bfloat16)
        best, best_step = math.inf, 0
        best_weights = trainer.float16()
        curve: list[dict[str, float]] = []
        mean = math.log(shape.vocab)
        passes = 0.0
        begin = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("training", total=recipe.steps)
            for step in range(recipe.steps):
                rows, first, passes = next(source)
                loss = trainer.step(rows, first, learning_rate(step, recipe))
                if not math.isfinite(loss):
                    raise TrainingError(f"training diverged: the loss at step {step} is {loss}")
                mean += 0.02 * (loss - mean)
                done = step + 1
                if done % recipe.validate_every == 0 or done == recipe.steps:
                    measured = trainer.perplexity(validation)
                    curve.append({"step": done, "train_loss": round(mean, 4), "validation_perplexity": measured})
                    if measured < best:
                        best, best_step, best_weights = measured, done, trainer.float16()
                        save_file(best_weights, temporary / "model.safetensors", metadata={"format": "pt"})
                    if not console.is_terminal:
                        minutes = (time.perf_counter() - begin) / 60
                        console.print(
                            f"step {done}/{recipe.steps}, {minutes:.1f} min: loss {mean:.3f}, validation "
                            f"perplexity {measured:.2f}"
                        )
                shown = f", validation perplexity {curve[-1]['validation_perplexity']:.1f}" if curve else ""
                progress.update(task, completed=done, description=f"loss {mean:.2f}{shown}")
        minutes = (time.perf_counter() - begin) / 60

        # The figure that counts is that of the rounded weights, in float32 arithmetic.
        trainer.load(best_weights)
        trainer.bfloat16 = False
        perplexity = trainer.perplexity(heldout)
        (temporary / "config.json").write_text(
            json.dumps(config_of(shape, recipe.dropout), indent=2) + "\n", encoding="utf-8"
        )
        (temporary / "model.safetensors").chmod(0o644)  # safetensors writes for the owner only
        weight_bytes = (temporary / "model.safetensors").stat().st_size
        if weight_bytes > MAX_WEIGHT_BYTES:
            raise TrainingError(f"model.safetensors has {weight_bytes} bytes, more than {MAX_WEIGHT_BYTES}")
        figures: dict[str, Any] = {
            "command": command,
            "python": platform.python_version(),
            "torch": version("torch"),
            "tokenizers": version("tokenizers"),
            "numpy": np.__version__,
            **asdict(shape),
            **asdict(recipe),
            "precision": "bfloat16" if bfloat16 else "float32",
            "threads": threads,
            "minutes": round(minutes, 1),
            "passes": round(passes, 2),
            "parameters": sum(w.size for w in best_weights.values()),
            "weight_bytes": weight_bytes,
            "train_documents": len(corpus.train),
            "train_characters": sum(len(d.text) for d in corpus.train),
            "train_tokens": len(tokens),
            "validation_documents": len(corpus.validation),
            "validation_tokens": len(streams["validation"]),
            "heldout_documents": len(corpus.heldout),
            "heldout_characters": sum(len(d.text) for d in corpus.heldout),
            "heldout_tokens": len(streams["heldout"]),
            "heldout_windows": len(heldout),
            "heldout_predicted": heldout.shape[0] * (heldout.shape[1] - 1),
            "heldout_names": [d.name for d in corpus.heldout],
            "validation_names": [d.name for d in corpus.validation],
            "dropped_paragraphs": corpus.dropped,
            "best_step": best_step,
            "best_validation_perplexity": best,
            "heldout_perplexity": perplexity,
            **counted,
            "curve": curve,
        }
        (temporary / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        (temporary / "PROVENANCE.md").write_text(provenance(figures), encoding="utf-8")
        check(temporary, console)
        table = Table("model", "held-out perplexity per token")
        for name in ("unigram", "bigram", "trigram"):
            table.add_row(name, f"{counted[name]:.2f}")
        table.add_row("[bold]GPT-2[/bold]", f"[bold]{perplexity:.2f}[/bold]")
        console.print(table)
        if perplexity >= counted["bigram"]:
            raise TrainingError(f"not better than a bigram model: {out} is left as it was")
        install(temporary, out)
    console.print(f"wrote {out}", style="green", markup=False)
