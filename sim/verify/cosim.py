"""Run a circuit's generated Verilog against a cocotb test module, from pytest or any other program."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from amaranth.lib import wiring

from spatten.hw.emit.verilog import convert
from spatten.sim import cache
from spatten.sim.verify.build import SIMULATORS, SimulatorError, build, cocotb_package, launch, tail, waves_wanted
from spatten.sim.verify.records import MEASURED
from spatten.sim.verify.transformations import stop_at_assertions, strip_initial_values
from spatten.spec.errors import SpattenError

_PARAMETERS = "COSIM_PARAMETERS"
_SEEDS = (1, 2, 3, 5, 8, 13, 21, 34)
_START = {"COCOTB_REWRITE_ASSERTION_FILES": "sim/verify/*.py tests/*.py", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""For a start in a third of the time: pytest explains the assertions of testbenches, not those of their libraries."""


def runs() -> Path:
    """The folder of the runs: those that end well are removed from it."""
    return cache.folder("run")


class CosimulationError(SpattenError, AssertionError):
    """A cocotb test failed: the message has every failing test with its assertion."""

    exit_status = 1


def seeds(count: int = 2) -> list[int]:
    """The seeds to parametrise a test with: the first `count` of a fixed list, or only the environment's SEED.

    >>> @pytest.mark.parametrize("seed", seeds())
    """
    if "SEED" in os.environ:
        try:
            return [int(os.environ["SEED"], 0)]
        except ValueError as error:
            raise ValueError(f"SEED must be an integer, not {os.environ['SEED']!r}") from error
    if not 1 <= count <= len(_SEEDS):
        raise ValueError(f"count must be 1 to {len(_SEEDS)}, not {count!r}")
    return list(_SEEDS[:count])


def parameters() -> dict[str, Any]:
    """Inside a cocotb test module: the `parameters` of `cosimulate`, and its `seed`."""
    result: dict[str, Any] = json.loads(Path(os.environ[_PARAMETERS]).read_text(encoding="utf-8"))
    return result


def cosimulate(
    component: wiring.Component,
    *,
    test_module: str,
    simulator: str = "verilator",
    parameters: Mapping[str, Any] | None = None,
    strip_initial: bool = False,
    seed: int = _SEEDS[0],
    top: str = "top",
    timeout_seconds: float = 120,
    build_args: tuple[str, ...] = (),
    measured: Path | None = None,
    verilog: str | None = None,
    stop_at_failure: bool = False,
) -> list[str]:
    """Run every cocotb test of `test_module` on `component`; the names of the tests, all of which passed.

    Parameters
    ----------
    component : wiring.Component
        The circuit; its ports are the top module's, streams as `<name>__payload`, `__valid` and `__ready`.
    test_module : str
        Importable from the root of the project, such as "spatten.sim.verify.benches.topk".
    simulator : "verilator" or "icarus"
    parameters : mapping or None
        What the test module gets from `parameters()`; must survive JSON. `seed` is added.
    strip_initial : bool
        Start every register and writable memory word as X (Icarus) or at random, by `seed` (Verilator).
    seed : int
        Seeds the testbench's random sources.
    timeout_seconds : float
        Wall-clock time the run may take, compiling aside; simulated time is limited by `sim.verify.stream.Bench`.
    build_args : tuple of str
        Further arguments of the simulator's compiler.
    measured : Path or None
        File to which the test module's `sim.verify.records.record` adds its figures.
    verilog : str or None
        Verilog to simulate in place of the component's own, such as a mutant of it.
    stop_at_failure : bool
        End the run with the first test that fails; the others count as not run.

    The environment's WAVES=1 keeps a waveform in the folder `waves` of the cache.

    Raises `CosimulationError` if a test or an assertion of the circuit fails, and `SimulatorError` if the simulator is
    missing, does not compile, runs no test, ends without results, crashes, or takes too long.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    if not isinstance(test_module, str):
        raise TypeError(f"test_module must be a string, not {test_module!r}")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer, not {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed!r}")
    if timeout_seconds <= 0:
        raise ValueError(f"timeout_seconds must be above 0, not {timeout_seconds!r}")
    try:
        parameters_text = json.dumps({**(parameters or {}), "seed": seed})
    except TypeError as error:
        raise TypeError(f"parameters must be what JSON can hold, not {parameters!r}") from error

    if verilog is None:
        verilog = convert(component, name=top, assertions=True)
    verilog = stop_at_assertions(verilog)
    if strip_initial:
        verilog = strip_initial_values(verilog)
    compiled = build(verilog, simulator=simulator, top=top, build_args=build_args)

    what = f"{test_module} on {top} ({type(component).__name__}) in {simulator}, seed {seed}"
    print(f"{what}, build {compiled.folder.name}")
    folder = Path(tempfile.mkdtemp(dir=runs(), prefix=f"{test_module.rpartition('.')[2]}-{simulator}-{seed}-"))
    (folder / "parameters.json").write_text(parameters_text, encoding="utf-8")
    test_args: list[str] = []
    plusargs: list[str] = []
    if simulator == "verilator" and strip_initial:
        plusargs += ["+verilator+rand+reset+2", f"+verilator+seed+{seed % 2**31 + 1}"]
    wave = f"wave.{'vcd' if simulator == 'verilator' else 'fst'}"
    kept = cache.folder("waves") / f"{folder.name}{Path(wave).suffix}" if waves_wanted() else None
    if kept is not None:
        print(f"waveform: {kept}")
        # In the folder that the simulator runs in, since Icarus cannot take every path.
        if simulator == "verilator":
            test_args += ["--trace-file", wave]
        else:
            plusargs += [f"+dumpfile_path={wave}"]
    environment = {_PARAMETERS: str(folder / "parameters.json"), **_START}
    if measured is not None:
        environment[MEASURED] = str(measured.resolve())
    if stop_at_failure:
        environment["COCOTB_MAX_FAILURES"] = "1"
    results = folder / "results.xml"
    log = folder / "run.log"
    job = {
        "simulator": simulator,
        "top": top,
        "test_module": test_module,
        "build_folder": str(compiled.folder),
        "folder": str(folder),
        "results": str(results),
        "seed": seed,
        "test_args": test_args,
        "plusargs": plusargs,
        "waves": compiled.waves,
        "cocotb": str(cocotb_package()),
        "environment": environment,
    }
    try:
        status = launch("run", job, folder, log, timeout_seconds=timeout_seconds)
    finally:
        if kept is not None and (folder / wave).is_file():
            shutil.move(folder / wave, kept)
    passed = _judge(results, status, log, what)
    shutil.rmtree(folder)
    return passed


def _judge(results: Path, status: int, log: Path, what: str) -> list[str]:
    """Names of the tests that ran, if all passed and the simulator ended well; else raise what happened."""
    if not results.is_file():
        raise SimulatorError(f"{what}: ended with status {status} and without results; {log} ends:\n{tail(log)}")
    try:
        cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    except ElementTree.ParseError as error:
        raise SimulatorError(
            f"{what}: ended with status {status} and broken results ({error}):\n{tail(log)}"
        ) from error
    failures = []
    passed = []
    for case in cases:
        name = case.get("name", "?")
        problems = [*case.iter("failure"), *case.iter("error")]
        if problems:
            failures.append(f"{name}: " + "\n".join(_reason(problem) for problem in problems))
        elif case.find("skipped") is None:
            passed.append(name)
    if failures:
        count = f"{len(failures)} of {len(failures) + len(passed)} tests failed"
        if status != 0:
            # An assertion of the circuit ends the simulation, and all tests with it; only the log says which.
            text = log.read_text(encoding="utf-8", errors="replace")
            failures[:0] = re.findall(r"assertion failed: .*", text)
        raise CosimulationError(f"{what}: {count} ({log})\n" + "\n".join(failures))
    if status != 0:
        raise SimulatorError(f"{what}: tests passed, but the simulator ended with status {status}:\n{tail(log)}")
    if not passed:
        raise SimulatorError(f"{what}: no cocotb test ran; {log} ends:\n{tail(log)}")
    return passed


def _reason(problem: ElementTree.Element) -> str:
    return problem.get("message") or (problem.text or "").strip() or "failed without a message"
