"""`spatten mutate`: whether the testbenches notice faults."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import spatten.sim.verify.build
from spatten.host.files import fill_tables, read_json, require_writable, write_text
from spatten.host.workers import require_jobs
from spatten.sim import requirements
from spatten.sim.verify.mutate import (
    COUNT,
    COUNT_MAX,
    PAGE,
    REPORT,
    Mutant,
    MutationError,
    MutationInputError,
    MutationProblemsError,
    MutationResult,
    explained,
    mutate,
    mutation_run,
    results_table,
    survivors_table,
    units,
)


def main(
    unit: Annotated[list[str] | None, typer.Argument(help="Units by name; all if none is given.")] = None,
    count: Annotated[int, typer.Option(help="Mutants of each unit.")] = COUNT,
    seed: Annotated[int | None, typer.Option(help="Draws other mutants than those of the page.", min=0)] = None,
    jobs: Annotated[int, typer.Option(help="Runs side by side.")] = os.cpu_count() or 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write what was found; default build/mutate.json, with a seed build/mutate-SEED.json."
        ),
    ] = None,
) -> None:
    """Plant faults in the units' netlists, and see whether their testbenches notice."""
    known = units()
    chosen = unit or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise MutationInputError(
            f"unit must be one of those with a mutation_run, {', '.join(known)}, not {', '.join(map(repr, unknown))}"
        )
    if not 1 <= count <= COUNT_MAX:
        raise MutationInputError(f"count must be 1 to {COUNT_MAX}, not {count}")
    require_jobs(jobs)
    requirements.require("mutate", requirements.needed("mutate"), spatten.sim.verify.build.MissingSimulatorError)
    report = out or (REPORT if seed is None else REPORT.with_stem(f"{REPORT.stem}-{seed}"))
    writes_page = out is None and seed is None and PAGE.is_file()
    for path in (report, PAGE) if writes_page else (report,):
        require_writable(path)
    # `mutate` redirects sys.stdout during its runs; this console keeps the stream as it is now.
    console = Console(file=sys.stdout)
    explanations = explained()
    results = []
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        for name in chosen:
            task = bar.add_task(name, total=count)
            try:
                result = mutate(
                    name,
                    mutation_run(name),
                    count=count,
                    seed=seed,
                    explanations=explanations.get(name),
                    jobs=jobs,
                    progress=lambda task=task: bar.advance(task),  # type: ignore[misc]
                )
            except MutationError as error:
                result = MutationResult(unit=name, problems=[str(error)])
            results.append(result)
            for problem in result.problems:
                bar.console.print(f"{name}: {problem}", style="red", highlight=False, markup=False)
            _save(report, result)
    table = Table("unit", "killed", "survived", "equivalent", "share", "seconds")
    for result in results:
        numbers = [str(result.count(outcome)) for outcome in ("killed", "survived", "equivalent")]
        style = "red" if result.problems else None
        table.add_row(result.unit, *numbers, f"{result.share:.0%}", f"{result.seconds:.0f}", style=style)
    console.print(table)
    if failing := [result.unit for result in results if result.problems]:
        raise MutationProblemsError(f"there are problems with the mutants of {', '.join(failing)}")
    if writes_page:
        found = _reported()
        if found.keys() >= set(known):
            fill_tables(PAGE, {"mutants": results_table(found, known), "survivors": survivors_table(explanations)})
            console.print(str(PAGE), style="dim", markup=False, highlight=False)
        else:
            text = f"{PAGE} stays as it is: {REPORT} has {len(found)} of {len(known)} units"
            console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def _save(place: Path, result: MutationResult) -> None:
    """Put a unit's result into the report at `place`, in place of the unit's earlier result."""
    report: dict[str, Any] = {}
    if place.is_file():
        report = read_json(place)
    numbers = {outcome: result.count(outcome) for outcome in ("killed", "survived", "equivalent")}
    report[result.unit] = {**numbers, "share": result.share, **asdict(result)}
    write_text(place, json.dumps(report, indent=1, sort_keys=True) + "\n")


def _reported() -> dict[str, MutationResult]:
    """The units that the report has without a problem, with no fewer mutants than usual."""
    report: dict[str, Any] = read_json(REPORT)
    results = {}
    for unit, entry in report.items():
        if not entry["problems"] and len(entry["mutants"]) >= COUNT:
            mutants = [Mutant(**mutant) for mutant in entry["mutants"]]
            results[unit] = MutationResult(unit=unit, mutants=mutants, seconds=entry["seconds"])
    return results
