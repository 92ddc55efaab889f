"""Sentence embeddings as sentence-transformers' files ask for them: which modules there are, and how they pool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spatten.golden import GoldenError
from spatten.host.engines.engine import FloatArray, IntArray
from spatten.host.models.checkpoint_files import CheckpointError, is_there, read_json, read_object
from spatten.host.models.checkpoint_keys import MODULES, NORMALIZE, POOLING, known, obey

_MODULE = re.compile(r"sentence_transformers\.(?:\w+\.)*(Transformer|Pooling|Normalize)")
_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean"}
"""The flag of each mode, in the order in which sentence-transformers joins the modes' vectors."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How the hidden states of a sentence become one vector."""

    modes: tuple[str, ...] = ("mean",)
    """Some of "cls", "max" and "mean"; the vectors of several modes are joined."""
    normalize: bool = True
    """Make the vector's length 1."""
    include_prompt: bool = True
    """False: leave out the tokens of the prompt; a checkpoint that has a prompt is refused then."""

    def __call__(self, hidden: FloatArray, kept_tokens: IntArray) -> FloatArray:
        """[modes * hidden] from the hidden states [n, hidden] of the tokens [n] that pruning has left.

        Mean and maximum are over these tokens. Raises `GoldenError` for "cls" where the first token was pruned.
        """
        parts = []
        for mode in self.modes:
            if mode == "cls":
                if kept_tokens[0] != 0:
                    raise GoldenError(
                        "cls pooling needs the first token, and it was pruned: pin_first must be at least 1"
                    )
                parts.append(hidden[0])
            else:
                parts.append(hidden.max(axis=0) if mode == "max" else hidden.mean(axis=0))
        vector: FloatArray = np.concatenate(parts)
        if self.normalize:
            vector /= max(float(np.linalg.norm(vector)), 1e-12)
        return vector


def cosine(first: FloatArray, second: FloatArray) -> float:
    """The cosine of the angle between two embeddings [n]."""
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


class Module(NamedTuple):
    """An entry of `modules.json`."""

    kind: str
    """Transformer, Pooling or Normalize; empty for any other module, which is refused."""
    type: str
    """The type as the file spells it."""
    folder: Path


def read_modules(folder: Path) -> tuple[Module, ...]:
    """The modules that `folder` names, the first a Transformer; none where it has no `modules.json`.

    Raises `CheckpointError`.
    """
    path = folder / MODULES
    if not is_there(path):
        return ()
    entries = read_json(path)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{path} must hold a list of JSON objects, one for each module")
    modules = []
    for entry in entries:
        if "type" not in entry:
            raise CheckpointError(f"{path}: type is missing")
        settings = obey(path, MODULES, entry, "bert")
        match = _MODULE.fullmatch(settings["type"])
        modules.append(Module(match[1] if match else "", settings["type"], folder / settings["path"]))
    if modules[0].kind != "Transformer":
        raise CheckpointError(f"{path}: the first module must be a Transformer, not {modules[0].type!r}")
    return tuple(modules)


def read_pooling(path: Path, modules: tuple[Module, ...], width: int) -> Pooling:
    """What the modules of `path` after the first ask for, of a model of hidden states [n, width].

    Raises `CheckpointError`.
    """
    if not modules:
        for orphan in path.parent.glob("*_Pooling"):
            raise CheckpointError(f"{path} is missing, and must say what {orphan.name} is for")
        return Pooling()
    for module in modules:
        if not module.kind:
            raise CheckpointError(f"{path}: a module must be a Transformer, Pooling or Normalize, not {module.type!r}")
    kinds = [module.kind for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{path}: the modules must be Transformer, Pooling and perhaps Normalize, in this order, "
            f"not {', '.join(kinds)}"
        )
    if len(modules) == 3 and is_there(normalize := modules[2].folder / "config.json"):
        obey(normalize, NORMALIZE, read_object(normalize), "bert")
    pooling = modules[1].folder / "config.json"
    if not is_there(pooling):
        raise CheckpointError(f"{pooling} is missing: {MODULES} names its folder")
    values = read_object(pooling)
    unknown = values.keys() - known(POOLING)
    if unknown:
        raise CheckpointError(f"{pooling}: {min(unknown)} is not a known key: it could be another way of pooling")
    settings = obey(pooling, POOLING, values, "bert")
    if settings["word_embedding_dimension"] not in (None, width):
        raise CheckpointError(
            f"{pooling}: the embedding dimension must be {width}, the width of the model, "
            f"not {settings['word_embedding_dimension']}"
        )
    mode = settings["pooling_mode"]
    if mode is None:
        modes = tuple(name for flag, name in _FLAGS.items() if settings[flag]) or ("mean",)
    else:
        modes = (mode,) if isinstance(mode, str) else tuple(mode)
    return Pooling(modes=modes, normalize=len(modules) == 3, include_prompt=settings["include_prompt"])
