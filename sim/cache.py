"""Where the project keeps what it can make again, and how its tools are shown paths that they cannot take.
`python -m spatten.sim.cache` prints the folder.

The cache folder is what the environment's `SPATTEN_CACHE` names. Without that it is the first of these that can be
written: `build/` of the checkout, if this is one; `spatten/` in the user's cache folder (`XDG_CACHE_HOME`, or
`~/.cache`); `spatten-<user number>/` in the folder for temporary files. To delete any of it, at any time, costs time
only.

An entry of the cache is a folder that is published whole: by one rename, with a list of what must be in it. An entry
that is not what its list says, such as after a power failure or on a full disk, counts as absent.

`make`, and so Verilator's makefiles, cannot take a space or a `$` in a path. Whatever they are given lies below
`plain_folder()`, or is a link from there (`plain`).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from spatten.spec.errors import SpattenError

PACKAGE = Path(__file__).resolve().parent.parent
"""The folder of the rooms: a checkout, or the installed package."""
CHECKOUT = PACKAGE if (PACKAGE / "spatten.py").is_file() else None
"""The checkout that this is, or None if it is an installed package."""
IMPORT_PATH = PACKAGE if CHECKOUT else PACKAGE.parent
"""The folder from which a separate Python process imports `spatten`."""
VARIABLE = "SPATTEN_CACHE"
_CONTENTS = ".contents.json"
"""A file in every entry, with the digests of the entry's other files."""
_PLAIN = re.compile(r"[A-Za-z0-9_./+@-]*", re.ASCII)
"""Paths that every tool takes: without what make, a shell or a search path gives a meaning to."""


class CacheError(SpattenError, OSError):
    """No folder can be written where the cache, or a link of it, must lie."""


def cache_folder() -> Path:
    """The cache folder, which exists and can be written. Raises `CacheError`."""
    return _cache_folder(os.environ.get(VARIABLE, ""), os.environ.get("XDG_CACHE_HOME", ""), tempfile.gettempdir())


def folder(name: str) -> Path:
    """The folder `name` of the cache, which exists. Raises `CacheError`."""
    result = cache_folder() / name
    if (reason := _refusal(result)) is not None:
        raise CacheError(f"the cache folder must be one that can be written, and {result} is not: {reason}")
    return result


@functools.cache
def _cache_folder(named: str, user_caches: str, temporary: str) -> Path:
    if named:
        chosen = Path(named).absolute()
        if (reason := _refusal(chosen)) is not None:
            raise CacheError(f"{VARIABLE} must be a folder that can be written, not {named!r}: {reason}")
        return chosen
    places = [] if CHECKOUT is None else [CHECKOUT / "build"]
    places += [_user_caches(user_caches) / "spatten", Path(temporary) / _temporary_name()]
    return _first(places, f"no cache folder can be written: set {VARIABLE} to a folder that can")


def _user_caches(named: str) -> Path:
    # A path that is not absolute counts as unset: https://specifications.freedesktop.org/basedir-spec
    return Path(named) if named.startswith("/") else Path(os.path.expanduser("~/.cache"))


def _temporary_name() -> str:
    return f"spatten-{os.getuid()}"


def _first(places: list[Path], problem: str) -> Path:
    reasons = []
    for place in places:
        if (reason := _refusal(place)) is None:
            return place
        reasons.append(f"{place}: {reason}")
    raise CacheError(f"{problem} ({'; '.join(reasons)})")


def _refusal(place: Path) -> str | None:
    """Why `place` cannot be a folder with files in it; None if it can, and then the folder exists."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
        # In the folder where all users keep temporary files, another user could have taken this name.
        if place.name == _temporary_name() and place.stat().st_uid != os.getuid():
            return "it is another user's"
    except OSError as error:
        return error.strerror or str(error)
    return None


# -- Paths that tools can take ----------------------------------------------------------------------------------------


def is_plain(path: Path) -> bool:
    """Whether every tool can take this path."""
    return _PLAIN.fullmatch(str(path)) is not None


def plain_folder() -> Path:
    """A folder for work in progress and for links, whose path every tool can take; in the cache if its path is such.

    Raises `CacheError`.
    """
    inside = folder("sim")
    if is_plain(inside):
        return inside
    return _plain_folder(tempfile.gettempdir())


@functools.cache
def _plain_folder(temporary: str) -> Path:
    folders = dict.fromkeys([temporary, "/tmp", "/var/tmp"])
    places = [Path(folder) / _temporary_name() for folder in folders if is_plain(Path(folder))]
    return _first(places, "tools need a folder for temporary files without spaces or signs in its path; set TMPDIR")


def plain(path: Path) -> Path:
    """`path`, or a link to it that every tool can take. Raises `CacheError`."""
    if is_plain(path):
        return path
    link = plain_folder() / "links" / digest(str(path))
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        # Another process may have made the link first.
        with contextlib.suppress(FileExistsError):
            link.symlink_to(path)
    return link


# -- Entries ----------------------------------------------------------------------------------------------------------


def digest(*parts: object) -> str:
    """A name for what is made of `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock `name` of the cache; the system releases it even if this process dies."""
    path = folder("sim") / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A temporary folder for what is being made, whose path every tool can take."""
    with tempfile.TemporaryDirectory(dir=plain_folder(), prefix="work-") as name:
        yield Path(name)


def publish(made: Path, entry: Path) -> None:
    """Move the folder `made` to `entry`, whole or not at all, unless another process was first."""
    contents = {file.name: _file_digest(file) for file in made.iterdir()}
    (made / _CONTENTS).write_text(json.dumps(contents, sort_keys=True), encoding="utf-8")
    if entry.is_dir() and not is_whole(entry):
        shutil.rmtree(entry)
    # The files go to a folder beside the entry first, as a rename is possible within a file system only.
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix="work-") as name:
        arrived = Path(name) / "entry"
        shutil.move(made, arrived)
        try:
            arrived.rename(entry)
        except OSError:
            if not is_whole(entry):
                raise


def is_whole(entry: Path) -> bool:
    """Whether `entry` has been published, and is as it was then."""
    try:
        contents = json.loads((entry / _CONTENTS).read_text(encoding="utf-8"))
        return all(_file_digest(entry / name) == value for name, value in contents.items())
    except (OSError, ValueError, AttributeError):
        return False


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- Caches of others -------------------------------------------------------------------------------------------------


def lend() -> None:
    """Let packages that insist on the user's cache folder use this cache, if that folder cannot be written.

    Yosys keeps its own compiled code there, and fails without such a place; matplotlib keeps its list of fonts.
    """
    _lend(os.environ.get("XDG_CACHE_HOME", ""))


@functools.cache
def _lend(user_caches: str) -> None:
    if _refusal(_user_caches(user_caches)) is None:
        return
    lent = folder("others")
    os.environ["XDG_CACHE_HOME"] = str(lent)
    # For what does not go by XDG_CACHE_HOME: Yosys on macOS, and matplotlib's settings.
    os.environ.setdefault("YOWASP_CACHE_DIR", str(lent / "YoWASP"))
    os.environ.setdefault("MPLCONFIGDIR", str(lent / "matplotlib"))


if __name__ == "__main__":
    try:
        print(cache_folder())
    except CacheError as problem:
        sys.exit(f"error: {problem}")
