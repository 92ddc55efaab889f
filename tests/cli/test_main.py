"""How command lines end: exit status, one line on stderr, and nothing half-written."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import pytest
import typer

from spatten.host.files import WriteError, replacing, require_writable, write_text
from spatten.sim.verify.build import MissingSimulatorError, SimulatorError
from spatten.spec.config import ConfigError
from spatten.spec.errors import SpattenError
from tests.checkout import ROOT
from tests.cli.command_line import Ended, command_line


def test_every_error_of_this_project_is_an_expected_one() -> None:
    rooms = [
        path for room in ("spec", "golden", "hw", "host", "sim", "cli") for path in sorted((ROOT / room).rglob("*.py"))
    ]
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in rooms]
    run_by_others = ("sim.verify.benches.", "sim.verify.launch")
    modules = [f"spatten.{name.removesuffix('.__init__')}" for name in names if not name.startswith(run_by_others)]
    found = {
        one
        for module in modules
        for one in vars(importlib.import_module(module)).values()
        if isinstance(one, type) and issubclass(one, Exception) and one.__module__ in modules
    }
    assert len(found) > 30
    for error in found:
        assert issubclass(error, SpattenError), error
        assert error.exit_status in (1, 2), error
    assert (ConfigError.exit_status, SimulatorError.exit_status, MissingSimulatorError.exit_status) == (2, 1, 2)


def _raising(error: BaseException) -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    def main(number: int = 0) -> NoReturn:
        """Raise."""
        raise error

    return app


def _of_path(number: int, *paths: str) -> OSError:
    return OSError(number, os.strerror(number), *paths[:1], *((None, paths[1]) if paths[1:] else ()))


@pytest.mark.parametrize(
    ("error", "status", "errors"),
    [
        (SpattenError("it cannot be"), 2, "error: it cannot be\n"),
        (ConfigError("channels must be 1"), 2, "error: channels must be 1\n"),
        (WriteError("cannot write a\nb\r\x85c"), 2, "error: cannot write a b  c\n"),
        (SimulatorError("it could not compile:\nline 1\nline 2"), 1, "error: it could not compile:\nline 1\nline 2\n"),
        (FileNotFoundError(2, "No such file or directory", "/x/y"), 2, "error: /x/y: No such file or directory\n"),
        (_of_path(errno.EXDEV, "a", "b"), 2, "error: a: b: Invalid cross-device link\n"),
        (_of_path(errno.ENOSPC), 2, "error: input or output failed: No space left on device\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "error: input or output failed: Broken pipe\n"),
        (OSError("odd"), 2, "error: input or output failed: odd\n"),
        (MemoryError(), 2, "error: there is not enough memory\n"),
        (MemoryError("8 GB"), 2, "error: there is not enough memory: 8 GB\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ConfigError("name must be text, not \ud800"), 2, "error: name must be text, not \\ud800\n"),
        (typer.Exit(1), 1, ""),
    ],
)
def test_errors_that_are_expected(error: BaseException, status: int, errors: str) -> None:
    assert command_line(_raising(error)) == Ended(status, "", errors)


@pytest.mark.parametrize("error", [ValueError("a mistake"), KeyError(1), AssertionError(), RecursionError()])
def test_mistakes_of_the_program_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        command_line(_raising(error))
    assert caught.value is error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--number"], "Option '--number' requires an argument."),
        (["--number", "x"], "Invalid value for '--number'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["more"], "Got unexpected extra argument(s) (more)"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(arguments: list[str], message: str) -> None:
    ended = command_line(_raising(ConfigError("not reached")), *arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.errors.startswith(f"error: {message}")
    assert len(ended.errors.splitlines()) == 1


def _two() -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    def first(text: str) -> None:
        """Print a text."""
        print(text)

    @app.command()
    def second(path: Annotated[Path, typer.Option()] = Path("x")) -> None:
        """Do nothing."""

    return app


def test_help() -> None:
    for arguments in ([], ["-h"], ["--help"]):
        ended = command_line(_two(), *arguments)
        assert (ended.status, ended.errors) == (0, "")
        assert "Usage: python -m something [OPTIONS] COMMAND" in ended.output
    for option in ("-h", "--help"):
        assert "Usage: python -m something first [OPTIONS] {text}" in command_line(_two(), "first", option).output
    ended = command_line(_two(), "third")
    assert ended == Ended(2, "", "error: No such command 'third'. (see python -m something --help)\n")
    ended = command_line(_two(), "first")
    assert ended == Ended(2, "", "error: Missing argument 'text'. (see python -m something first --help)\n")


def test_what_cannot_be_shown_is_replaced() -> None:
    assert command_line(_two(), "first", "a\ud800b") == Ended(0, "a?b\n", "")


# -- In a process of its own ------------------------------------------------------------------------------------------

_PROGRAM = """
import sys, time, typer
from pathlib import Path
from spatten.cli.main import run_app
from spatten.host.files import replacing

app = typer.Typer(add_completion=False)

@app.command()
def lines():
    for number in range(100_000):
        print("línea", number)

@app.command()
def unused():
    from amaranth.hdl import Fragment
    from spatten.hw.lib.fifo import Fifo
    Fragment.get(Fifo(shape=4, depth=2), None)
    circuit = Fifo(shape=4, depth=2)
    open("/nowhere/file")

@app.command()
def wait(path: Path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(60)

run_app(app, "python -m program")
"""


def _start(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_an_interrupt_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with _start("wait", str(path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, b"interrupted\n")
    assert list(path.parent.iterdir()) == []


def test_a_reader_that_leaves_is_not_told() -> None:
    with _start("lines") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (141, b"")


def test_a_terminal_without_the_characters_gets_others() -> None:
    with _start("lines", PYTHONIOENCODING="ascii") as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, b"")
    assert output.splitlines()[7] == b"l?nea 7"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [["lines"], ["--help"]])
def test_an_output_that_is_full_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (2, b"error: input or output failed: No space left on device\n")


def test_circuits_that_are_not_used_any_more_are_no_second_line() -> None:
    with _start("unused") as process:
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, b"")
    assert errors == b"error: /nowhere/file: No such file or directory\n"


def test_a_closed_stderr_is_no_reason_to_fail() -> None:
    command = [sys.executable, "-c", _PROGRAM, "nonsense"]
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")


# -- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _folder(place: Path) -> Path:
    (place / "folder").mkdir()
    return place / "folder"


def _below_a_file(place: Path) -> Path:
    (place / "file").write_text("")
    return place / "file" / "more" / "x"


def _below_a_loop(place: Path) -> Path:
    (place / "loop").symlink_to(place / "loop")
    return place / "loop" / "x"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_folder, "cannot write {place}/folder: it is a folder"),
        (_below_a_file, "cannot write {place}/file/more/x: {place}/file is not a folder"),
        (_below_a_loop, "cannot write {place}/loop/x: "),
        (lambda place: place / ("x" * 300), "cannot write {place}/x.*: File name too long"),
        (lambda place: Path("/dev/null"), "cannot write /dev/null: it is not a file"),
        (lambda place: Path("/proc/x"), "cannot write /proc/x: "),
        (lambda place: place / "a\0b", r"cannot write '{place}/a\\x00b': no name has a NUL in it"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    path = make(tmp_path)
    with pytest.raises(WriteError, match=f"^{message.format(place=tmp_path)}"):
        write_text(path, "text")
    assert not list(tmp_path.rglob(".*")), "no temporary file is left"


def test_a_place_is_asked_for_without_a_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folder" / "file.txt")
    assert list(tmp_path.iterdir()) == []
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(WriteError, match="no permission to write in"):
            require_writable(tmp_path / "locked" / "file.txt")
