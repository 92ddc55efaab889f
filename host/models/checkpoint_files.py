"""The files of a checkpoint folder: JSON objects and safetensors weights, and what a file is that is neither."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from spatten.spec.errors import SpattenError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""The file that names the others where weights are stored in several files."""

_MISTAKEN = (
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "it is a Git LFS pointer, which stands for the real file: run `git lfs pull` in the folder's repository, "
        "or download the file",
    ),
    (re.compile(rb".{0,80}/annex/objects/", re.DOTALL), "it is a git-annex pointer: run `git annex get` on it"),
    (re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE), "it is a web page: the download failed, repeat it"),
    (re.compile(rb"PK\x03\x04"), "it is a ZIP archive, as PyTorch writes: convert it with transformers"),
    (re.compile(rb"\x80[\x02-\x05]"), "it is a Python pickle, as PyTorch writes: convert it with transformers"),
    (re.compile(rb"\x1f\x8b"), "it is compressed by gzip: run `gunzip` on it"),
    (re.compile(rb"GGUF"), "it is a GGUF file of llama.cpp"),
    (re.compile(rb"\x89HDF\r\n"), "it is an HDF5 file, as TensorFlow writes"),
    (re.compile(rb"\Z"), "it is empty"),
)
"""How files of other kinds begin, which may stand in a file's place, and what the message says of each."""


class CheckpointError(SpattenError, ValueError):
    """A checkpoint that is missing, damaged or of a kind the runners do not implement; the message says which."""


def is_there(path: Path) -> bool:
    """Whether a file that may be absent was meant to be there: a link to nothing is an error, not an absent file."""
    return path.exists() or path.is_symlink()


def check_file(path: Path, kind: str) -> None:
    """Raise `CheckpointError` unless `path` can be read and does not begin like something other than a `kind` file."""
    if path.is_dir():
        raise CheckpointError(f"{path} must be a file, not a folder")
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    for pattern, reason in _MISTAKEN:
        if pattern.match(head):
            raise CheckpointError(f"{path} is not a {kind} file: {reason}")


# -- JSON -------------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises `CheckpointError`, also for what `json` lets pass although it is no JSON (NaN, Infinity) or says two things
    (a key given twice). A byte order mark is allowed.
    """
    check_file(path, "JSON")
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON file: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises `CheckpointError`."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# -- Weights ----------------------------------------------------------------------------------------------------------


class _Stored(NamedTuple):
    """Where a tensor lies."""

    path: Path
    file: Any
    """The open safetensors file."""
    offset: int
    """The place of the tensor's first byte in the file."""


class Weights:
    """The tensors of a folder's safetensors file or files, as float32. A context manager: it holds files open.

    Raises `CheckpointError` for a file that is damaged, and where an index and its files do not agree.
    """

    def __init__(self, folder: Path) -> None:
        self._stored: dict[str, _Stored] = {}
        self._files = ExitStack()
        try:
            self.path = folder / WEIGHTS
            """The file to name in messages."""
            if self.path.exists():
                self._open(self.path)
            else:
                self.path = folder / INDEX
                self._open_all(read_object(self.path).get("weight_map"))
        except BaseException:
            self._files.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    @property
    def names(self) -> Iterable[str]:
        """Names of all tensors."""
        return self._stored.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._stored[name].file.get_slice(name).get_shape())

    def read(self, name: str) -> NDArray[np.floating]:
        """A tensor as float32. Raises `CheckpointError` for one of another type, or that is not finite."""
        stored = self._stored[name]
        kind = stored.file.get_slice(name).get_dtype()
        if kind == "BF16":
            # The library cannot read a bfloat16, since NumPy has no such type. It is the upper half of a float32.
            shape = self.shape(name)
            halves = np.fromfile(stored.path, "<u2", int(np.prod(shape, dtype=np.int64)), offset=stored.offset)
            tensor = (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        elif kind in ("F32", "F16"):
            tensor = stored.file.get_tensor(name).astype(np.float32, copy=False)
        else:
            raise CheckpointError(f"{stored.path}: {name} must be F32, F16 or BF16, not {kind}")
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{stored.path}: {name} holds values that are not finite")
        return tensor

    def _open(self, path: Path) -> None:
        check_file(path, "safetensors")
        try:
            offsets = _offsets(path)
            file = self._files.enter_context(safe_open(path, framework="numpy"))
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
        for name in file.keys():  # noqa: SIM118 - not a dict
            if name in self._stored:
                raise CheckpointError(f"{name} is in two files: {self._stored[name].path} and {path}")
            self._stored[name] = _Stored(path, file, offsets[name])

    def _open_all(self, where: object) -> None:
        if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()) or not where:
            raise CheckpointError(f"{self.path}: weight_map must be an object of file names by tensor name")
        for name in sorted(set(where.values())):
            path = self.path.parent / name
            if Path(name).name != name:
                raise CheckpointError(f"{self.path}: weight_map must name files in its own folder, not {name!r}")
            if not path.exists():
                raise CheckpointError(f"{path} is missing: {INDEX} names it")
            self._open(path)
        for name, file in where.items():
            if name not in self._stored or self._stored[name].path.name != file:
                raise CheckpointError(f"{self.path}: {name} must be in {file}, and is not")
        unlisted = self._stored.keys() - where.keys()
        if unlisted:
            raise CheckpointError(f"{self.path}: weight_map must name every tensor; {min(unlisted)} is missing")


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor of a safetensors file begins. Raises `ValueError` for a file that ends too early."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > size:
            raise ValueError(
                f"its header must end at byte {start}, and the file has {size}: it is cut short or damaged"
            )
        header = json.loads(file.read(start - 8))
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    end = start + max((stop for _, stop in spans.values()), default=0)
    if end > size:
        raise ValueError(f"its tensors must end at byte {end}, and the file has {size}: it is cut short")
    return {name: start + first for name, (first, _) in spans.items()}
