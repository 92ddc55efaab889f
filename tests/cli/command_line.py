"""Runs a command line in this process, as `cli.main.run_app` ends it, or `make`; and a stand-in for long work."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest
import typer

from spatten.cli.__main__ import application
from spatten.cli.main import run_app
from tests.checkout import ROOT


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


def run_spatten(command: str, *arguments: str) -> Ended:
    """Run `spatten command` with `arguments`."""
    return command_line(application(command), command, *arguments)


VARIABLES = {"ARGS", "CONFIG", "SET", "TEXT", "UNIT", "LIBERTY", "CLOCK_NS", "N", "BOARD"}
"""What the Makefile takes from its command line or from the environment."""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make` in the checkout, without what a `make` that runs the tests hands on: its options and its variables."""
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={
            name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in VARIABLES
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Nothing:
    """Takes the place of a machine and its device."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def output_hash(self, **_: Any) -> int:
        return 0
