"""A compiled simulation as a process of its own, which answers requests over pipes: what simulated machines share.

`compile_program` builds it, with Verilator, around a C++ source that includes `sim/machine/messages.h`; `Program` runs
it and speaks with it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from spatten.sim import cache
from spatten.sim.verify.build import SimulatorError, environment, require_tools, tail, toolchain
from spatten.sim.verify.transformations import stop_at_assertions
from spatten.spec.errors import SpattenError

__all__ = [
    "MESSAGES",
    "SLICE_MILLISECONDS",
    "CircuitError",
    "MachineEndedError",
    "MachineError",
    "Program",
    "check",
    "compile_program",
]

MESSAGES = Path(__file__).resolve().with_name("messages.h")
"""What every program's source includes."""
SLICE_MILLISECONDS = 250
"""Longest time that a program runs without an answer, so that time-outs and Ctrl-C are obeyed soon."""


class MachineError(SpattenError, RuntimeError):
    """Something went wrong with a machine; this class itself: it cannot serve a request now."""

    exit_status = 1


class CircuitError(MachineError):
    """An assertion of the circuit failed, or its simulation did; time stops until a reset."""


class MachineEndedError(MachineError):
    """The process is gone: closed, crashed, or stopped because it gave no answer."""


def check(name: str, value: object, low: int, high: int) -> None:
    """Raise unless `value` is an integer from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value!r}")


class Program:
    """A process that answers requests; a context manager that ends it.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    answer_seconds : float
        Real time after which a program without an answer is stopped.

    One thread may use it at a time.
    """

    def __init__(self, command: Sequence[str], *, answer_seconds: float) -> None:
        if answer_seconds <= 0:
            raise ValueError(f"answer_seconds must be above 0, not {answer_seconds!r}")
        self._answer_seconds = answer_seconds
        # Lives as long as the program; `_end` closes it.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        # Its own session keeps Ctrl-C from the process: that is for Python. It ends when its standard input is closed.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True, bufsize=0
        )
        self._process = process
        self._finalizer = weakref.finalize(self, _end, process, self._log)
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        self._ended: str | None = None

    def log(self) -> str:
        """What the circuit and its simulation printed, the last 64 KB."""
        if self._log.closed:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 1 << 16, max(0, size - (1 << 16))).decode(errors="replace")

    def close(self) -> None:
        """End the process; closing again does nothing."""
        self._ended = self._ended or "it was closed"
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, command: int, arguments: bytes = b"", bulk: memoryview | None = None) -> tuple[int, bytes]:
        """Send a request and wait for its answer, status and payload.

        An exception in between ends the process, which is of no use then. Raises `MachineEndedError`.
        """
        if self._ended is not None:
            raise MachineEndedError(f"the machine has ended: {self._ended}")
        try:
            return self._transfer(command, arguments, bulk)
        except MachineEndedError as error:
            self._ended = str(error)
            self.close()
            raise
        except BaseException:
            self._ended = "it was interrupted in the middle of an answer"
            self.close()
            raise

    def failed_assertion(self) -> list[str]:
        """The first assertion of the circuit that failed, if one did."""
        return re.findall(r"assertion failed: .*", self.log())[:1]

    def _transfer(self, command: int, arguments: bytes, bulk: memoryview | None) -> tuple[int, bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        length = 1 + len(arguments) + (0 if bulk is None else len(bulk))
        unsent = [memoryview(struct.pack("<IB", length, command) + arguments)]
        if bulk is not None:
            unsent.append(bulk)
        received = bytearray()
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        poll.register(stdin, select.POLLOUT)
        deadline = time.monotonic() + self._answer_seconds + SLICE_MILLISECONDS / 1000
        while len(received) < 4 or len(received) < 4 + int.from_bytes(received[:4], "little"):
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineEndedError(f"it gave no answer within {self._answer_seconds:g} s and was stopped")
            ready = dict(poll.poll(1000 * left))
            if unsent and stdin.fileno() in ready:
                try:
                    sent = os.write(stdin.fileno(), unsent[0])
                except BlockingIOError:
                    sent = 0
                except BrokenPipeError:
                    raise MachineEndedError(self._why_gone()) from None
                unsent[0] = unsent[0][sent:]
                if not unsent[0]:
                    unsent.pop(0)
                if not unsent:
                    poll.unregister(stdin)
            if stdout.fileno() in ready:
                try:
                    got = os.read(stdout.fileno(), 1 << 20)
                except BlockingIOError:
                    continue
                if not got:
                    raise MachineEndedError(self._why_gone())
                received += got
        if unsent or len(received) != 4 + int.from_bytes(received[:4], "little"):
            raise MachineEndedError("it gave an answer that was not asked for")
        return received[4], bytes(memoryview(received)[5:])

    def _why_gone(self) -> str:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its pipes"
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"its process ended with {name}:\n" + "\n".join(self.log().splitlines()[-20:])


def _end(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """End a program's process whatever it does, and wait for it."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        process.wait(timeout=2)
    except BaseException:
        process.kill()
        process.wait()
    finally:
        log.close()


# -- Building ---------------------------------------------------------------------------------------------------------

_VERILATOR_ARGUMENTS = (
    "--cc", "--exe", "--prefix", "Vtop", "-Mdir", "compiled", "-O3", "--x-assign", "fast", "--x-initial", "unique",
    "--no-timing", "-Wno-fatal", "--output-split", "20000", "--output-split-cfuncs", "5000",
)  # fmt: skip
_CXX_FLAGS = "-std=c++17 -Wall -DVL_USER_STOP -DVL_USER_FINISH -DVL_USER_FATAL"


def compile_program(
    name: str,
    verilog: str,
    *,
    top: str,
    sources: Sequence[Path],
    headers: Mapping[str, str],
    waves: bool = False,
    optimize: int = 1,
    threads: int = 1,
    progress: bool | None = None,
) -> Path:
    """The program `name` around the module `top`, compiled or found in the cache.

    The first of `sources` is its C++ source, the others are headers, as are the texts of `headers`, by file name; the
    circuit's class is `Vtop`. `optimize` and `threads` are those of `sim.machine.machine.Machine`.

    Raises `SimulatorError` with the reason, or with the end of the compiler's log.
    """
    check("optimize", optimize, 0, 3)
    check("threads", threads, 1, 64)
    require_tools("verilator")
    arguments = [*_VERILATOR_ARGUMENTS, "--top-module", top, "--threads", str(threads)]
    if waves:
        arguments.append("--trace-vcd")
    make_arguments = [f"OPT_FAST=-O{optimize}", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2", "CFG_CXXFLAGS_PCH_I=-include"]
    files = (*sources, MESSAGES)
    texts = [path.read_text(encoding="utf-8") for path in files]
    key = cache.digest(
        verilog, dict(headers), texts, toolchain("verilator"), arguments, make_arguments, _CXX_FLAGS
    )  # fmt: skip
    folder = cache.folder("sim") / f"{name}-{key}"
    program = folder / name
    if cache.is_whole(folder):
        return program
    with cache.lock(folder.name), cache.work_folder() as work:
        if cache.is_whole(folder):
            return program
        (work / "spatten.v").write_text(stop_at_assertions(verilog), encoding="utf-8")
        for file, text in headers.items():
            (work / file).write_text(text, encoding="utf-8")
        for path in files:
            shutil.copy(path, work)
        compiled = work / "compiled"
        # Verilator's own headers are not free of warnings; as headers of the system they are quiet.
        include = Path(environment("verilator")["VERILATOR_ROOT"]) / "include"
        flags = f"{_CXX_FLAGS} -I{work} -isystem {include} -isystem {include / 'vltstd'}"
        verilate = ["verilator", *arguments, "-CFLAGS", flags, "spatten.v", sources[0].name]
        make = ["make", "-C", str(compiled), "-f", "Vtop.mk", f"-j{os.cpu_count() or 1}", *make_arguments]
        log = work / "build.log"
        with _Meter(f"compiling {top}", progress) as meter:
            _compile(verilate, work, log, top, lambda: None)
            total = (
                len(list(compiled.glob("*.cpp"))) + 4
            )  # the others are Verilator's run time and the program's source
            _compile(make, work, log, top, lambda: meter(len(list(compiled.glob("*.o"))), total))
        finished = work / "finished"
        finished.mkdir()
        (compiled / "Vtop").rename(finished / name)
        for file in ("build.log", "spatten.v", *headers):
            (work / file).rename(finished / file)
        cache.publish(finished, folder)
    return program


class _Meter:
    """A progress bar on stderr, if that is wanted; called with how much is done, and of how much."""

    def __init__(self, what: str, wanted: bool | None) -> None:
        console = Console(stderr=True)
        self._shown = console.is_terminal if wanted is None else wanted
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f} of {task.total} files"),
            TimeElapsedColumn(), console=console, transient=True, disable=not self._shown,
        )  # fmt: skip
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=min(done, total), total=total)


def _compile(command: list[str], folder: Path, log: Path, top: str, tick: Callable[[], Any]) -> None:
    """Run a step of the build, at most an hour, with `tick` called now and then."""
    settings: Mapping[str, str] = {**environment("verilator"), "MAKEFLAGS": ""}
    deadline = time.monotonic() + 3600
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=settings, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise SimulatorError(f"{command[0]} did not finish {top} within an hour:\n{tail(log)}")
                tick()
                try:
                    process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                # The process leads its own session, so this reaches the compilers it started, and no others.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode != 0:
        errors = re.findall(r"^.*\berror\b.*$", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE | re.I)
        reason = "\n".join(errors[:10]) or tail(log)
        raise SimulatorError(f"{command[0]} could not compile {top} (exit status {process.returncode}):\n{reason}")
