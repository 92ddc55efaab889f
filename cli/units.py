"""`spatten units`: every unit measured, into build/units.json."""

from __future__ import annotations

import json
import os
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from spatten.cli.progress import counted
from spatten.host import files
from spatten.host.workers import require_jobs, workers
from spatten.hw.units import UNITS, require_units
from spatten.sim import requirements
from spatten.sim.measure.synth import Facts, read_library
from spatten.sim.measure.units import (
    CONFIGURATIONS,
    FIGURES,
    PAGE,
    is_current,
    latency,
    measure_unit,
    throughput,
    topk_rows,
    write_page,
)
from spatten.sim.verify.build import MissingSimulatorError
from spatten.spec.config import NAMED, PAPER


def main(
    only: Annotated[list[str] | None, typer.Option("--only", metavar="UNIT", help="measure this unit again")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="measure what is missing or has changed since")] = False,
    liberty: Annotated[Path | None, typer.Option("--liberty", help="standard cells, for area and slack")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="units at a time")] = os.cpu_count() or 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="where to write the figures; default build/units.json")
    ] = None,
) -> None:
    """Measure every unit, into OUT and, once the usual file has all of them, the tables of a checkout's
    docs/units.md."""
    require_units(only or (), PAPER)
    require_jobs(jobs)
    figures = FIGURES if out is None else out
    writes_page = out is None and PAGE.is_file()
    for path in (figures, PAGE) if writes_page else (figures,):
        files.require_writable(path)
    needed = requirements.needed("units", [] if liberty is None else ["--liberty"])
    requirements.require("units", needed, MissingSimulatorError)
    if liberty is not None:
        read_library(liberty)  # its errors come now rather than after the first simulation
    console = Console()
    goes_on = (only or changed) and figures.is_file()
    before = files.read_json(figures)["units"] if goes_on else []
    found = {(row["unit"], row["configuration"]): row for row in before}
    order = [(unit, config.name) for unit in UNITS for config in CONFIGURATIONS]
    work = [key for key in order if not only or key[0] in only]
    if changed:
        with console.status("circuits"):
            work = [key for key in work if not is_current(found.get(key), NAMED[key[1]], liberty)]
    rows = [found[key] for key in order if key in found]
    with counted(console) as progress, workers(jobs, len(work)) as pool:
        task = progress.add_task("units", total=len(work))
        futures: dict[Future[Facts], tuple[str, str]] = {
            pool.submit(measure_unit, unit, name, liberty, figures.parent / "synth"): (unit, name)
            for unit, name in work
        }
        for future in as_completed(futures):
            found[futures[future]] = future.result()
            rows = [found[key] for key in order if key in found]
            files.write_text(figures, json.dumps({"units": rows, "topk": topk_rows(rows)}, indent=2) + "\n")
            progress.update(task, advance=1, description=" ".join(futures[future]))
    _print(console, rows)
    console.print(str(figures), style="dim", markup=False, highlight=False)
    if len(rows) == len(order) and writes_page:
        write_page(PAGE, rows)
        console.print(str(PAGE), style="dim", markup=False, highlight=False)


def _print(console: Console, rows: list[Facts]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="Units", title_justify="left")
    for heading in ("unit", "size", "latency", "throughput"):
        table.add_column(heading, no_wrap=heading != "throughput")
    for heading in ("mm2", "slack ns", "LUT4", "DSP", "BRAM"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        asic, fpga = row.get("asic"), row.get("ecp5")
        slack = asic["slack_ns"]["register_to_register"] if asic else None
        table.add_row(
            row["unit"],
            row["configuration"],
            latency(row["records"]),
            throughput(row["records"]),
            f"{(asic['area_um2'] + asic['memory_area_um2']) / 1e6:.3f}" if asic else "",
            "" if slack is None else f"[{'red' if slack < 0 else 'green'}]{slack:+.2f}[/]",
            *(f"{fpga[kind]:,}" if fpga else "" for kind in ("lut4", "multipliers", "block_rams")),
        )
    console.print(table)
