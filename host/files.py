"""Writing results whole or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spatten.spec.errors import SpattenError

__all__ = [
    "PageError",
    "ReadError",
    "WriteError",
    "fill_tables",
    "read_json",
    "read_text",
    "replacing",
    "require_writable",
    "write_text",
]


class WriteError(SpattenError):
    """A place that cannot be written."""


class ReadError(SpattenError):
    """A file of this project's own that it cannot read back."""


class PageError(SpattenError, ValueError):
    """A page of the documents that has no place for what was measured."""


def read_json(path: Path) -> Any:
    """What `path`, which a command line wrote, holds. Raises `ReadError` if somebody has damaged it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReadError(f"cannot read {path}: {error}; remove it, and it is made anew") from error


def read_text(path: Path) -> str:
    """What a text file holds, whatever is no UTF-8 in it replaced. Raises `ReadError` unless `path` is a file."""
    if not path.is_file():
        raise ReadError(f"cannot read {path}: it is no file")
    return path.read_text(encoding="utf-8", errors="replace")


def require_writable(path: Path) -> None:
    """Raise `WriteError` unless a file can be put at `path`: asked before the work whose result goes there."""
    if "\0" in str(path):
        raise WriteError(f"cannot write {str(path)!r}: no name has a NUL in it")
    try:
        if path.exists() and not path.is_file():
            raise WriteError(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'not a file'}")
        place = next(place for place in path.absolute().parents if place.exists())
        if not place.is_dir():
            raise WriteError(f"cannot write {path}: {place} is not a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise WriteError(f"cannot write {path}: no permission to write in {place}")
    except OSError as error:  # too long a name, a loop of links
        raise WriteError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces `path` when the block ends well, and is removed when it does not.

    Raises `WriteError` for a place that cannot be written, or a disk that is full.
    """
    require_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:100]}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)  # mkstemp makes files private; others may read results
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, line ends as they are, in place of whatever `path` held."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def fill_tables(page: Path, tables: Mapping[str, str]) -> None:
    """Put each table between its markers in `page`, `<!-- name -->` and `<!-- end -->`. Raises `PageError`."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        found = re.search(rf"(<!-- {name} -->\n).*?(<!-- end -->)", text, re.DOTALL)
        if found is None:
            raise PageError(f"{page} has no table {name}: it needs <!-- {name} --> and <!-- end -->")
        text = text[: found.end(1)] + table.rstrip("\n") + "\n" + text[found.start(2) :]
    write_text(page, text)
