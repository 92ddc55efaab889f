"""`spatten bitstream` and `spatten flash`, with a small circuit in the place of a board's, and without a board."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import spatten.cli.bitstream
from spatten.sim import requirements
from spatten.sim.board.bitstream import BITSTREAM, FILES, build
from tests.cli.command_line import run_spatten
from tests.sim.board.counters import counters, too_fast

PLACE = Path("build") / "ulx3s"


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spatten.cli.bitstream, "board_circuit", lambda _: counters())
    monkeypatch.setattr(spatten.cli.bitstream, "build", functools.partial(build, placer="heap"))


def test_a_bitstream_is_made_and_its_progress_shown() -> None:
    ended = run_spatten("bitstream", "--board", "ulx3s")
    assert (ended.status, ended.errors) == (0, "")
    assert {path.name for path in PLACE.iterdir()} == set(FILES)
    lines = ended.output.splitlines()
    assert lines[0].startswith("ulx3s: "), "how long it will take is said first"
    assert any(line.endswith("  circuit") for line in lines)
    assert any("synthesis: Yosys" in line for line in lines)
    assert any("must be 80.0" in line for line in lines)


def test_a_slow_clock_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatten.cli.bitstream, "board_circuit", lambda _: too_fast())
    ended = run_spatten("bitstream", "--out", "here")
    assert ended.status == 1
    assert ended.errors.startswith("error: there is no bitstream: clk runs at ")
    assert ended.errors.count("\n") == 1
    assert {path.name for path in Path("here").iterdir()} == set(FILES) - {BITSTREAM}
    flashed = run_spatten("flash", "--out", "here")
    assert flashed.status == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bitstream", "--board", "icebreaker"], "error: board must be one of ulx3s, not 'icebreaker'\n"),
        (["bitstream", "--seed", "0"], "error: seed must be 1 to 2147483647, not 0\n"),
        (["bitstream", "--seed", "one"], "error: Invalid value for '--seed': Input should be a valid integer"),
        (["bitstream", "--out", "file"], "error: cannot write file/bitstream.json: "),
        (["flash", "--board", ""], "error: board must be one of ulx3s, not ''\n"),
        (
            ["flash"],
            "error: there is no bitstream build/ulx3s/top.bit: make bitstream BOARD=ulx3s makes one\n",
        ),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], message: str) -> None:
    Path("file").touch()
    ended = run_spatten(*arguments)
    assert ended.status == 2
    assert ended.errors.startswith(message)


# -- Flash ------------------------------------------------------------------------------------------------------------

UNPLUGGED = "unable to open ftdi device: -3 (device not found)\\nJTAG init failed with: unable to open ftdi device\\n"


@pytest.fixture
def bitstream() -> None:
    PLACE.mkdir(parents=True)
    (PLACE / BITSTREAM).write_text("bits")


def openfpgaloader(monkeypatch: pytest.MonkeyPatch, errors: str, status: int) -> Path:
    """Put a program of that name on PATH, which keeps its arguments in a file."""
    folder = Path("programs").absolute()
    folder.mkdir()
    program = folder / "openFPGALoader"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --Version ]; then exit 0; fi\n'
        f"echo \"$@\" >'{folder}/arguments'\n"
        f"printf '{errors}' >&2\n"
        f"exit {status}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    requirements.loader.cache_clear()
    return folder / "arguments"


@pytest.fixture(autouse=True)
def _loader_is_looked_for_anew() -> Iterator[None]:
    yield
    requirements.loader.cache_clear()


@pytest.mark.usefixtures("bitstream")
@pytest.mark.parametrize(
    ("options", "how"), [([], "--write-sram"), (["--sram"], "--write-sram"), (["--flash"], "--write-flash")]
)
def test_a_bitstream_is_loaded(options: list[str], how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = openfpgaloader(monkeypatch, "", 0)
    ended = run_spatten("flash", *options)
    assert (ended.status, ended.errors) == (0, "")
    assert arguments.read_text().split() == ["--board", "ulx3s", how, str((PLACE / BITSTREAM).absolute())]


@pytest.mark.usefixtures("bitstream")
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (UNPLUGGED, "error: no ulx3s can be reached: plug its USB port US1 into this computer, and "),
        ("fail to erase\\n", "error: openFPGALoader: fail to erase\n"),
        ("", "error: openFPGALoader: exit status 3\n"),
    ],
)
def test_what_keeps_it_from_being_loaded(said: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    openfpgaloader(monkeypatch, said, 3)
    ended = run_spatten("flash")
    assert ended.status == 1
    assert ended.errors.startswith(message)
    assert ended.errors.count("\n") == 1


@pytest.mark.usefixtures("bitstream")
def test_without_openfpgaloader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_runs", lambda _: False)
    requirements.loader.cache_clear()
    ended = run_spatten("flash")
    assert ended.status == 2
    assert ended.errors == (
        "error: flash needs openFPGALoader, not found: install it (Debian: apt-get install openfpgaloader)\n"
    )
