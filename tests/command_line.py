"""Runs a command line in this process, as `cli.main.run_app` ends it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import pytest
import typer

from cli.main import run_app


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    status: int
    output: str
    """What it wrote to stdout."""
    errors: str
    """What it wrote to stderr."""


def command_line(app: typer.Typer, *arguments: str) -> Ended:
    """Run `app` with `arguments`. An exception that it lets through comes out here."""
    # UTF-8, but not able to take every string: as a terminal is.
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True) for _ in range(2))
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        run_app(app, "python -m something", arguments)
    status = ended.value.code
    assert isinstance(status, int)
    texts = [stream.buffer.getvalue().decode("utf-8") for stream in (output, errors)]  # type: ignore[attr-defined]
    return Ended(status, *texts)
