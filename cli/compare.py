"""`spatten compare`: whether two Verilog files are one circuit under other names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spatten.host import files
from spatten.sim.verify.same_circuit import compare
from spatten.spec.errors import SpattenError

__all__ = ["DifferentError", "main"]

SHOWN = 12
"""Names that a message has at most."""


class DifferentError(SpattenError):
    """The two files are not the same circuit, or not obviously."""

    exit_status = 1


def main(
    first: Annotated[Path, typer.Argument(help="A Verilog file.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    top: Annotated[str, typer.Option(help="The module to compare.")] = "spatten",
) -> None:
    """Compare two Verilog files up to names, hierarchy and copies of the same thing.

    Where they are alike, both show the same in every cycle. Where they are not, they may still do the same by other
    logic.
    """
    texts = [files.read_text(path) for path in (first, second)]
    with Console(stderr=True).status("flattening both, and telling cells apart"):
        found = compare(*texts, top=top)
    cells = " and ".join(f"{count:,}" for count in found.cells)
    if not found.is_same:
        where = f"; it begins at {', '.join(found.first[:SHOWN])}" if found.first else ""
        more = f" and {len(found.differing) - SHOWN:,} more" if len(found.differing) > SHOWN else ""
        raise DifferentError(
            f"{len(found.differing):,} output bits differ, {', '.join(found.differing[:SHOWN])}{more}{where}"
        )
    typer.echo(f"{cells} cells, {found.kinds:,} of them different from each other: every output bit is alike")
