"""`spatten bench`: how fast the accelerator is, into build/bench.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spatten.host import files
from spatten.sim import requirements
from spatten.sim.measure.bench import (
    CHANNELS_DECIDE,
    GROUPS,
    LENGTHS,
    MEMORY_MODELS,
    PAGE,
    RESULTS,
    BenchError,
    Figure,
    LayerBench,
    figures,
    processor_seconds,
    prompt_lengths,
    report,
    require_room,
    topk_latencies,
    write_page,
)
from spatten.sim.verify.build import MissingSimulatorError
from spatten.spec.config import NAMED


def main(
    config: Annotated[str, typer.Option(help="paper, eighth, ulx3s or tiny")] = "paper",
    lengths: Annotated[str, typer.Option(help="prompt lengths")] = ",".join(map(str, LENGTHS)),
    memory: Annotated[str, typer.Option(help="ideal, hbm2 or both")] = "both",
    only: Annotated[str, typer.Option(help="groups of figures")] = ",".join(GROUPS),
    output: Annotated[Path, typer.Option(help="where to write the figures")] = RESULTS,
) -> None:
    """Measure the accelerator's benchmark figures."""
    console = Console()
    groups = only.split(",")
    for name, values, known in (
        ("config", [config], list(NAMED)),
        ("memory", [memory], [*MEMORY_MODELS, "both"]),
        ("only", groups, list(GROUPS)),
    ):
        for value in values:
            if value not in known:
                raise BenchError(f"{name} must be of {', '.join(known)}, not {value!r}")
    prompts = prompt_lengths(lengths)
    writes_page = output == RESULTS and PAGE.is_file()
    require_room(NAMED[config], groups, prompts)
    requirements.require("bench", requirements.needed("bench"), MissingSimulatorError)
    for path in (output, PAGE) if writes_page else (output,):
        files.require_writable(path)
    found: list[Figure] = []
    table = Table("figure", "memory", "must be", "measured", "", "predicted", title=f"{config}", title_justify="left")
    simulated, seconds, build_seconds = 0, 0.0, 0.0
    topk: list[dict[str, Any]] = []
    simulation: dict[str, float] = {}

    def save() -> None:
        files.write_text(output, json.dumps(report(NAMED[config], found, topk, simulation), indent=1) + "\n")

    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task("measuring the quick-select")
        if "topk" in groups:
            topk = topk_latencies(NAMED[config])
            save()
        progress.update(task, description="building the simulation")
        for kind in ("ideal", "hbm2") if memory == "both" else (memory,):
            wanted = [group for group in groups if group != "topk" and (kind == "ideal" or group in CHANNELS_DECIDE)]
            if not wanted:
                continue
            bench = LayerBench(NAMED[config], memory=kind)
            build_seconds = max(build_seconds, bench.build_seconds)
            used = processor_seconds()
            progress.update(task, description=f"simulating, {kind} channels")
            for figure in figures(bench, prompts, wanted):
                found.append(figure)
                bound = "" if figure.limit is None else ("<= " if figure.at_most else ">= ") + f"{figure.limit:,}"
                value = f"{figure.measured:,}" if figure.unit == "cycles" else f"{figure.measured:.4f} {figure.unit}"
                verdict = {True: "yes", False: "[red]no[/]", None: ""}[figure.reached]
                error = "" if figure.model_error is None else f"{figure.model_error:+.1%}"
                table.add_row(figure.name, kind, bound, value, verdict, error)
                console.print(f"{figure.name}, {kind}: {value}  {bound}")
                save()
            simulated += bench.machine.cycles
            bench.close()
            seconds += processor_seconds() - used
            simulation = {"cycles_per_second": simulated / seconds, "build_seconds": build_seconds}
            save()
    console.print(table)
    console.print(str(output), markup=False, highlight=False)
    if writes_page and config == "paper" and memory == "both" and set(groups) == set(GROUPS):
        write_page(PAGE, json.loads(output.read_text(encoding="utf-8")))
        console.print(str(PAGE), markup=False, highlight=False)
