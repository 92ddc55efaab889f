"""`spatten synth`: units in standard cells, or on an FPGA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spatten.host import files
from spatten.hw.emit.verilog import convert
from spatten.hw.units import UNITS, require_units
from spatten.sim import requirements
from spatten.sim.board.ecp5 import map_verilog
from spatten.sim.board.paths import WIRE_NS, longest_paths
from spatten.sim.measure.synth import RESULTS, MissingToolError, check_clock, read_library, synthesise, table
from spatten.sim.requirements import DEFAULT_LIBERTY
from spatten.spec import config as configuration


def main(
    units: Annotated[list[str] | None, typer.Argument(help="units of hw/units.py", show_default=False)] = None,
    which: Annotated[str, typer.Option("--config", help="paper, eighth, ulx3s, tiny or a TOML file")] = "paper",
    changes: Annotated[list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE")] = None,
    liberty: Annotated[Path, typer.Option("--liberty", help="standard cells, .gz or not")] = DEFAULT_LIBERTY,
    clock_ns: Annotated[float | None, typer.Option("--clock-ns", help="[default: 1 at 45 nm, scaled]")] = None,
    fpga: Annotated[
        bool, typer.Option("--ecp5", help="count the cells of a Lattice ECP5 instead, and estimate the longest path")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="folder for the folders of configurations")] = RESULTS,
) -> None:
    """Map units to standard cells and time them, into OUT/<configuration>/<unit>-<library>.json."""
    config = configuration.load(which, changes or ())
    require_units(units or [""], config)
    if clock_ns is not None:
        check_clock(clock_ns)
    console = Console()
    folder = out / config.name
    files.require_writable(folder / f"{(units or [''])[0]}.json")
    rows: list[dict[str, Any]] = []
    ends = {}
    if not fpga:
        needed = requirements.needed("synth") if liberty == DEFAULT_LIBERTY else [requirements.OPENSTA]
        requirements.require("synthesis", needed, MissingToolError)
    library = None if fpga else read_library(liberty)
    for unit in units or []:
        with console.status(f"{unit}, configuration {config.name}"):
            component = UNITS[unit].make(config)
            if library is None:
                netlist = map_verilog(convert(component, name=unit), top=unit)
                longest = longest_paths(netlist)[0]
                rows.append({"unit": unit, **netlist.counts(), "path_ns": round(longest.delay_ns, 1)})
                ends[unit] = f"{longest.levels} cells from {longest.start} to {longest.end}"
                files.write_text(folder / f"{unit}-ecp5.json", json.dumps(rows[-1], indent=2) + "\n")
            else:
                rows.append(synthesise(component, name=unit, library=library, clock_ns=clock_ns, results=folder))
    if library is None:
        counts = Table(*rows[0], box=box.SIMPLE_HEAD, title="Lattice ECP5 after synthesis", title_justify="left")
        for row in rows:
            counts.add_row(str(row["unit"]), *(f"{count:,}" for kind, count in row.items() if kind != "unit"))
        console.print(counts)
        for unit, path in ends.items():
            console.print(escape(f"{unit}: {path}; a wire is taken as {WIRE_NS} ns"), highlight=False)
    else:
        console.print(table(rows))
        for row in rows:
            if row["path"] is not None:
                path = "{unit}: {path[gates]} gates from {path[start]} to {path[end]}".format_map(row)
                console.print(escape(path), highlight=False)
    console.print(str(folder), style="dim", markup=False, highlight=False)
