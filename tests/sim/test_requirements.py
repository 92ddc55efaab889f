"""What each command needs: the list, what is said of what is missing, and that the Makefile asks before it begins."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spatten.sim import requirements
from spatten.sim.requirements import environment_problem, main, needed
from spatten.sim.verify.build import MissingSimulatorError
from tests.checkout import ROOT
from tests.cli.command_line import make

COMPILER = ["g++", "make", "perl", "Verilator"]
COCOTB = ["cocotb", "libpython", requirements.PATHS.name]
LIBRARY = "the TSMC 0.18 um library"

pytest_plugins = ["pytester"]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any tool, on which nothing can be installed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(requirements, "DEFAULT_LIBERTY", tmp_path / "none.lib")


@pytest.mark.parametrize(
    ("target", "arguments", "names"),
    [
        ("verilog", [], []),
        ("demo", [], []),
        ("demo", ["--engine", "golden"], []),
        ("demo", ["--engine", "rtl"], COMPILER),
        ("generate", ["--engine=rtl"], COMPILER),
        ("fidelity", [], []),
        ("train", [], []),
        ("lint", [], []),
        ("run", [], COMPILER),
        ("soak", [], COMPILER),
        ("bench", [], [*COMPILER, *COCOTB]),
        ("mutate", [], ["iverilog", *COCOTB, "yices-smt2"]),
        ("formal", [], ["yices-smt2", requirements.PATHS.name]),
        ("synth", [], ["sta", LIBRARY]),
        ("synth", ["--liberty", "other.lib"], ["sta"]),
        ("synth", ["--ecp5"], []),
        ("units", [], [*COMPILER, *COCOTB]),
        ("units", ["--liberty=other.lib"], [*COMPILER, *COCOTB, "sta"]),
        ("features", [], []),
        ("features", ["--liberty", "other.lib"], ["sta"]),
        ("bitstream", [], []),
        ("flash", [], ["openFPGALoader"]),
        ("check", [], [*COMPILER, "iverilog", *COCOTB]),
        ("test", [], [*COMPILER, "iverilog", *COCOTB, "yices-smt2", "sta", LIBRARY]),
    ],
)
def test_each_target_needs_what_it_uses(target: str, arguments: list[str], names: list[str]) -> None:
    assert [requirement.name for requirement in needed(target, arguments)] == names


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"target must be one of verilog, demo, .*, not 'build'"):
        needed("build")
    assert main(["build"]) == 2
    assert main([]) == 2
    assert capsys.readouterr().err.count("usage: python -m spatten.sim.requirements verilog|demo|") == 2


@pytest.mark.usefixtures("bare")
def test_what_is_missing_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["verilog"]) == 0
    assert main(["run"]) == 2
    assert main(["synth"]) == 2
    assert main(["check"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "error: make run needs g++, make, perl, not found: install it (Debian: apt-get install g++ make perl)",
        "error: make synth needs sta, the TSMC 0.18 um library, not found: install it (Debian: apt-get install opensta "
        "qflow-tech-osu018), or name another library by LIBERTY=",
        *(
            f"note: a part of the tests, skipped here, needs {name}, not found: install it (Debian: apt-get install "
            f"{name})"
            for name in ("g++", "make", "perl", "iverilog")
        ),
    ]


def test_root_installs_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once; one by one if that fails, since apt-get installs all or none."""
    calls: list[list[str]] = []
    (tmp_path / "apt-get").write_text("#!/bin/sh\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        calls.append(command[1:])
        assert options == {"check": False}
        return subprocess.CompletedProcess(command, int(len(command) > 5))

    monkeypatch.setattr(requirements.subprocess, "run", run)
    assert main(["run"]) == 2
    install = ["install", "-y", "-q"]
    assert calls == [
        ["update", "-q"],
        [*install, "g++", "make", "perl"],
        *([*install, n] for n in ("g++", "make", "perl")),
    ]
    assert main(["verilog"]) == 0
    assert len(calls) == 5


def test_the_loader_is_the_first_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package's openFPGALoader is there, and does not run where libraries for USB are missing."""
    packaged, system = tmp_path / "package" / "bin" / "openFPGALoader", tmp_path / "openFPGALoader"
    packaged.parent.mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(requirements, "_package_folder", lambda _: tmp_path / "package")

    def found() -> str | None:
        requirements.loader.cache_clear()
        return requirements.loader()

    assert found() is None
    packaged.write_text("#!/bin/sh\nexit 127\n")
    packaged.chmod(0o755)
    assert found() is None
    system.write_text("#!/bin/sh\nexit 0\n")
    system.chmod(0o755)
    assert found() == str(system)
    packaged.write_text("#!/bin/sh\nexit 0\n")
    assert found() == str(system)
    system.unlink()
    assert found() == str(packaged)
    packaged.unlink()
    assert found() is None


def test_pinned_packages_count_before_they_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    requirements._libpython_found.cache_clear()
    assert requirements.begin("formal", [], installed=False) == 0
    assert requirements.begin("formal", [], installed=True) == 2
    monkeypatch.setattr(requirements, "has_simulators", lambda: False)
    assert requirements.begin("formal", [], installed=False) == 2
    assert requirements.begin("verilog", [], installed=False) == 0


def test_a_missing_tool_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(MissingSimulatorError("icarus needs iverilog", ("iverilog",))))
    assert (str(error), error.missing) == ("icarus needs iverilog", ("iverilog",))


@pytest.mark.parametrize("sign", list(requirements._SIGNS))
def test_paths_that_testbenches_cannot_have(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENV", "/home/me/it's my folder")
    assert requirements.PATHS.found()
    monkeypatch.setenv("VENV", f"/home/me/a{sign}b")
    assert not requirements.PATHS.found()


def test_where_the_virtual_environment_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my venv"
    assert environment_problem(folder) is None
    folder.mkdir()
    assert environment_problem(folder) is None
    (folder / "letter.txt").touch()
    assert environment_problem(folder) == (
        f"VENV must be a new folder, not '{folder}': it has something else in it, which would be removed"
    )
    (folder / ".ready").touch()
    assert environment_problem(folder) is None
    assert environment_problem(tmp_path / "a:b") == (
        "the path of the virtual environment must have no ':' in it: name another by VENV="
    )
    assert re.fullmatch(
        r"cannot make the virtual environment /proc/venv: .*: name another folder by VENV=",
        environment_problem(Path("/proc/venv")) or "",
    )
    monkeypatch.setattr(requirements.platform, "machine", lambda: "riscv64")
    assert environment_problem(folder) == (
        "Python's pinned packages are there for Linux x86_64, Linux aarch64, Darwin arm64, Darwin x86_64, "
        "not for Linux riscv64"
    )


def test_the_makefile_asks_for_every_target_that_needs_something() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^([\w-]+): ready.*\n((?:\t.*\n)+)", text, re.MULTILINE))
    assert recipes.keys() >= requirements.TARGETS.keys() - {"generate"}
    for target, recipe in recipes.items():
        some = target in requirements.TARGETS and needed(target, ["--engine=rtl", "--liberty=other.lib"])
        assert recipe.startswith(f"\t@$(NEEDS) {target}") == bool(some), target


@pytest.mark.needs("make")
def test_make_says_what_is_missing_first(tmp_path: Path) -> None:
    """Without OpenSTA, `make synth` stops at once, and names nothing that it does not use."""
    for tool in ("bash", "env", "id"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    environment = {"PATH": str(tmp_path), "LIBERTY": "my cells.lib"}
    command = ["/usr/bin/make", "-o", "ready", f"RUN='{sys.executable}'", "SHELL=/bin/bash", "synth", "UNIT=expander"]
    # On this machine apt-get may be able to install it, so it is hidden, too.
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "error: make synth needs sta, not found: install it (Debian: apt-get install opensta)\n"
    )
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (["VENV={folder}"], "error: VENV must be a new folder, not '{folder}': it has something else in it, "),
        (["PYTHON=no such python", "VENV={folder}"], "error: no such python is not there: set PYTHON= to Python 3.11 "),
        (["VENV=/proc/venv"], "error: cannot make the virtual environment /proc/venv: "),
    ],
)
@pytest.mark.needs("make")
def test_make_refuses_an_environment_that_it_cannot_make(tmp_path: Path, variables: list[str], message: str) -> None:
    """Before it removes or installs anything."""
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "letter.txt").touch()
    result = make("ready", *(variable.format(folder=folder) for variable in variables))
    assert result.returncode == 2
    assert result.stderr.startswith(message.format(folder=folder))
    assert (folder / "letter.txt").is_file()


def test_a_test_without_its_tool_is_skipped_and_counted(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(pytester.path))
    pytester.makeini("[pytest]\nmarkers = needs(*names)")
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    pytester.makepyfile(
        """
        import pytest
        from spatten.sim.requirements import MissingError

        @pytest.fixture
        def simulator():
            raise MissingError("icarus needs iverilog", ("iverilog",))

        def test_in_its_fixture(simulator):
            pass

        def test_in_itself():
            try:
                raise MissingError("synthesis needs sta", ("sta",))
            except MissingError as error:
                raise RuntimeError("units failed") from error

        def test_of_another_error():
            with pytest.raises(RuntimeError, match="does not compile"):
                raise MissingError("synthesis needs sta", ("sta",))

        @pytest.mark.needs("perl", "sta")
        def test_by_its_mark():
            raise ValueError

        @pytest.mark.needs("yices-smt2")
        def test_of_what_is_there_is_not_skipped():
            raise MissingError("a proof needs yices-smt2", ("yices-smt2",))

        def test_that_runs():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=4, failed=1)
    counts = ["2 tests: sta not found", "1 tests: iverilog not found", "1 tests: perl, sta not found"]
    result.stdout.fnmatch_lines(["*skipped for want of a tool*", *counts])
