"""`spatten verilog`, `show` and `registers`: what is generated of a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.lib import wiring
from rich.console import Console
from rich.table import Table

from spatten.host import files
from spatten.hw.emit.sidecar import packaging, sidecar
from spatten.hw.emit.verilog import convert
from spatten.hw.spatten import Spatten
from spatten.hw.units import UNITS, require_units
from spatten.spec import config as configuration
from spatten.spec import register_documents

Which = Annotated[str, typer.Option("--config", help="paper, eighth, ulx3s, tiny or a TOML file")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE", help="change one parameter")]


def circuits(
    config: configuration.Config, units: Iterable[str] | None = None
) -> Iterator[tuple[str, wiring.Component]]:
    """The accelerator, or `units` of it, with their names, each made when its turn comes."""
    if not units:
        yield "spatten", Spatten(config=config)
    for name in units or ():
        yield name, UNITS[name].make(config)


def verilog(
    which: Which = "paper",
    changes: Changes = None,
    units: Annotated[
        list[str] | None, typer.Option("--unit", help="not the accelerator, but this unit of hw/units.py")
    ] = None,
    prefix: Annotated[
        str | None, typer.Option("--name", help="begin every module's name with this: `left` makes left_spatten")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="folder for the folders of configurations")] = Path("build"),
) -> None:
    """Write the accelerator of a configuration to OUT/<configuration>/spatten.v, or single units, with JSON sidecars.

    The constants of its registers come with it, as spatten.h and spatten.py; and what brings it into a design:
    spatten.core for FuseSoC, spatten.xml in IP-XACT.
    """
    config = configuration.load(which, changes or ())
    require_units(units or (), config)
    if prefix is not None and re.fullmatch(r"[A-Za-z]\w*", prefix, re.ASCII) is None:
        raise configuration.ConfigError(
            f"name must be letters, digits and '_', and begin with a letter, not {prefix!r}: it begins names of modules"
        )
    start = "" if prefix is None else f"{prefix}_"
    folder = out / config.name
    for circuit in units or ("spatten",):
        files.require_writable(folder / f"{start}{circuit}.v")
    for circuit, component in circuits(config, units):
        name = f"{start}{circuit}"
        text = convert(component, name=name)
        facts = sidecar(config, name, component, text)
        files.write_text(folder / f"{name}.v", text)
        typer.echo(f"{folder / name}.v  {len(text.encode()):,} bytes")
        beside = {"json": json.dumps(facts, indent=2) + "\n"}
        if not units:
            beside |= packaging(config, name, facts)
        for ending, content in beside.items():
            files.write_text(folder / f"{name}.{ending}", content)
            typer.echo(f"{folder / name}.{ending}")


def registers(
    which: Which = "paper",
    changes: Changes = None,
    out: Annotated[Path, typer.Option("--out", help="the page to write")] = Path("docs/registers.md"),
) -> None:
    """Write the page of the registers, which docs/ has of the configuration paper."""
    files.write_text(out, register_documents.markdown(configuration.load(which, changes or ())))
    typer.echo(str(out))


def show(which: Which = "paper", changes: Changes = None) -> None:
    """Print the parameters of a configuration and what follows from them."""
    config = configuration.load(which, changes or ())
    table = Table("parameter", "value", title=f"configuration {config.name}", title_justify="left")
    table.columns[1].justify = "right"
    for name, value in config.as_dict().items():
        if name != "name":
            table.add_row(name, _plain(value))
    table.add_section()
    for name, value in config.derived().items():
        table.add_row(name, _plain(value), style="cyan")
    Console().print(table)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)
