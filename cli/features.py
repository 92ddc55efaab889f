"""`spatten features`: what each feature of the machine costs, into build/features.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from spatten.cli.progress import counted
from spatten.host import files
from spatten.host.workers import Workers, require_jobs, workers
from spatten.sim import requirements
from spatten.sim.measure.features import (
    BOARD,
    CHIP,
    FIGURES,
    HEADING,
    Circuit,
    asked,
    compare,
    cost,
    find_circuit,
    flow,
    measure,
    read_figures,
    table,
    table_rows,
    to_measure,
)
from spatten.sim.measure.synth import MissingToolError
from spatten.sim.measure.units import PAGE

SHOWN = ("feature", "LUT4", "flip-flops", "DP16KD", "cells, mm2", "memories, mm2")
"""Columns of the page's table that fit a terminal. The file has the costs of each unit."""


def main(
    liberty: Annotated[Path | None, typer.Option("--liberty", help="standard cells, for area")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="circuits at a time")] = os.cpu_count() or 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="where to keep the figures; default build/features.json")
    ] = None,
) -> None:
    """Measure what each feature costs, as far as OUT lacks it, into OUT and, with a library and OUT the usual file, the
    table of a checkout's docs/units.md."""
    require_jobs(jobs)
    kept = FIGURES if out is None else out
    writes_page = out is None and liberty is not None and PAGE.is_file()
    for path in (kept, PAGE) if writes_page else (kept,):
        files.require_writable(path)
    needed = requirements.needed("features", [] if liberty is None else ["--liberty"])
    requirements.require("features", needed, MissingToolError)
    machines = {BOARD: None} if liberty is None else {BOARD: None, CHIP: liberty}
    flows = {machine: flow(library) for machine, library in machines.items()}
    figures = read_figures(kept)
    console = Console()
    units = [unit for machine in machines for unit in asked(machine)]
    with counted(console) as progress, workers(jobs, len(units)) as pool:
        found = _each(pool, progress, "circuits", find_circuit, {unit: unit for unit in units})
        circuits: list[Circuit] = [circuit for _, circuit in found]
        changes = {machine: compare(machine, circuits) for machine in machines}
        work = {
            key: (circuit, library, kept.parent / "synth")
            for machine, library in machines.items()
            for key, circuit in to_measure(changes[machine], flows[machine]).items()
            if key not in figures
        }
        for key, measured in _each(pool, progress, "syntheses", measure, work):
            figures[key] = measured
            _write(kept, figures, [])
    rows = [cost(change, flows[machine], figures) for machine in machines for change in changes[machine]]
    _write(kept, figures, rows)
    _print(console, rows)
    console.print(str(kept), style="dim", markup=False, highlight=False)
    if writes_page:
        files.fill_tables(PAGE, {"features": table(rows)})
        console.print(str(PAGE), style="dim", markup=False, highlight=False)


def _each(
    pool: Workers, progress: Progress, what: str, function: Callable[..., Any], work: Mapping[Any, tuple[Any, ...]]
) -> Iterator[tuple[Any, Any]]:
    """What `function` makes of each tuple of arguments, with the tuple's key, in the order in which they are done."""
    task = progress.add_task(what, total=len(work))
    futures: dict[Future[Any], Any] = {pool.submit(function, *arguments): key for key, arguments in work.items()}
    for future in as_completed(futures):
        yield futures[future], future.result()
        progress.advance(task)


def _write(path: Path, figures: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    """Keep the figures of circuits by their keys, and the costs of features unit by unit, once all are there."""
    files.write_text(path, json.dumps({"features": rows, "figures": figures}, indent=2) + "\n")


def _print(console: Console, rows: list[dict[str, Any]]) -> None:
    shown = Table(box=box.SIMPLE_HEAD, title="Features", title_justify="left")
    columns = [HEADING.index(heading) for heading in SHOWN]
    for n in columns:
        shown.add_column(HEADING[n], justify="left" if n == 0 else "right", no_wrap=n == 0)
    for row in table_rows(rows):
        shown.add_row(*(row[n].strip("`") for n in columns))
    console.print(shown)
