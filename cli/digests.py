"""`spatten digests`: whether the Verilog of the named configurations is what it was."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spatten.host import files
from spatten.sim.machine.device import accelerator_verilog
from spatten.spec.config import NAMED
from spatten.spec.errors import SpattenError

__all__ = ["DigestError", "main"]


class DigestError(SpattenError):
    """The Verilog of a configuration is not what a list of digests says."""

    exit_status = 1


def main(
    against: Annotated[
        Path | None, typer.Option(help="A list to compare with: hw/verilog.sha256 of a checkout.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the list.")] = None,
) -> None:
    """Print the SHA-256 of the Verilog of every named configuration, or compare it with a list.

    A change that must not touch the circuit keeps the list; a change of the circuit writes it anew, and the list's own
    history says which configurations it touched.
    """
    expected = None if against is None else _read(against)
    if out is not None:
        files.require_writable(out)
    found = {}
    console = Console(stderr=True)
    for name, config in NAMED.items():
        with console.status(f"converting {name}"):
            found[name] = hashlib.sha256(accelerator_verilog(config).encode()).hexdigest()
        typer.echo(f"{found[name]}  {name}")
    if out is not None:
        files.write_text(out, "".join(f"{digest}  {name}\n" for name, digest in found.items()))
    if expected is not None and found != expected:
        names = (
            ", ".join(name for name in NAMED if found[name] != expected.get(name)) or "a name that is no longer there"
        )
        raise DigestError(f"the Verilog is not that of {against}: {names}")


def _read(path: Path) -> dict[str, str]:
    lines = (line.split() for line in files.read_text(path).splitlines())
    return {words[1]: words[0] for words in lines if len(words) == 2}
