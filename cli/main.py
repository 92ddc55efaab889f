"""How every command line ends: with what it was asked for, or in one line on stderr, never in a traceback.

| exit status | |
|---|---|
| 0 | it was done |
| 1 | it was done and the answer is no: a difference was found, or an accelerator, a simulator or another tool stopped |
| 2 | it cannot be done: bad input, a missing tool, a place that cannot be written; nothing was left half-written |
| 130 | it was interrupted (Ctrl-C) |
| 141 | whoever read the output stopped reading (`| head`); nothing is printed then |

Only a mistake in the program itself has a traceback. What a tool said before it stopped follows the line of status 1.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer.main import get_command

from spatten.spec.errors import SpattenError

__all__ = ["CANNOT", "INTERRUPTED", "NO_READER", "run_app"]

CANNOT = 2
"""Exit status where what was asked for cannot be done."""
INTERRUPTED = 130
"""Exit status of an interrupted command, as shells have it: 128 + SIGINT."""
NO_READER = 141
"""Exit status of a command whose output nobody reads any more, as shells have it: 128 + SIGPIPE."""

_PATH = (str, bytes, os.PathLike)


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line, and exit with its status.

    Parameters
    ----------
    app
        Its commands.
    name
        What a user types to call it, such as "spatten".
    arguments
        What follows `name`; by default the arguments of the process. A command line of several commands shows its help
        if there are none.
    """
    _show_what_cannot_be_shown()
    # Amaranth warns of circuits that are made only to look at their ports, or that an error leaves unused. Named by its
    # words, since most commands need no Amaranth.
    warnings.filterwarnings("ignore", message=".* created but never used")
    try:
        status = _invoke(app, name, list(sys.argv[1:] if arguments is None else arguments))
    except typer.TyperException as error:
        status = _end(CANNOT, f"error: {_usage(error)}")
    except SpattenError as error:
        status = _end(error.exit_status, f"error: {error}")
    except KeyboardInterrupt:
        status = _end(INTERRUPTED, "interrupted")
    except MemoryError as error:
        status = _end(CANNOT, f"error: there is not enough memory{f': {error}' if str(error) else ''}")
    except OSError as error:
        status = _system_status(error)
    except SystemExit:
        status = NO_READER  # how Rich ends a program whose output nobody reads; nothing else here exits
    sys.exit(status)


def _invoke(app: typer.Typer, name: str, arguments: list[str]) -> int:
    """Exit status of a command that ends by itself."""
    command = get_command(app)
    if not arguments and hasattr(command, "commands"):
        arguments = ["--help"]
    # Not command.main: it would answer errors itself, in boxes of several lines.
    status = 0
    try:
        with command.make_context(name, arguments, help_option_names=["-h", "--help"]) as context:
            command.invoke(context)
    except typer.Exit as error:
        status = error.exit_code
    if sys.stdout is not None:
        sys.stdout.flush()  # an error now, rather than when Python ends
    return status


def _show_what_cannot_be_shown() -> None:
    """Have a terminal or file that cannot take a character get another one in its place."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the arguments, and where the right ones are listed."""
    context = getattr(error, "ctx", None)
    where = f" (see {context.command_path} --help)" if context is not None else ""
    return f"{error.format_message()}{where}"


def _system_status(error: OSError) -> int:
    """End a command at an error of the system: a missing file, a place that cannot be written, a full disk."""
    reader_left = isinstance(error, BrokenPipeError) and _reader_left()
    _drop_output()
    if reader_left:
        return NO_READER
    places = [os.fsdecode(place) for place in (error.filename, error.filename2) if isinstance(place, _PATH)]
    why = error.strerror or str(error) or type(error).__name__
    return _end(CANNOT, f"error: {': '.join([*(places or ['input or output failed']), why])}")


def _reader_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLERR)
        return bool(poll.poll(0))
    except (AttributeError, OSError):  # closed, or a stand-in that is no file
        return False


def _drop_output() -> None:
    """Drop what stdout could not write, if that is why: Python would try again when it ends, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _end(status: int, text: str) -> int:
    """Say why a command ends with `status`, in one line; with status 1 a tool's words may follow this line."""
    if status != 1:
        text = " ".join(part.strip() for part in text.splitlines())
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)
    return status
