"""`spatten bench-board`: what the board is worth, into build/bench-board.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from spatten.host import files
from spatten.hw.board.boards import require_board
from spatten.sim import requirements
from spatten.sim.measure.board_bench import (
    CONTEXTS,
    PAGE,
    RESULTS,
    SHARE_LEAST,
    BoardBench,
    BoardFigure,
    figures,
    report,
    require_contexts,
    shares,
    write_page,
)
from spatten.sim.verify.build import MissingSimulatorError


def main(
    board: Annotated[str, typer.Option("--board", help="ulx3s")] = "ulx3s",
    contexts: Annotated[str, typer.Option(help="keys of a generated token")] = ",".join(map(str, CONTEXTS)),
    output: Annotated[Path, typer.Option(help="where to write the figures")] = RESULTS,
) -> None:
    """Run layers on the simulated board, dense against pruned and progressive."""
    which = require_board(board)
    lengths = require_contexts(contexts, which.config)
    requirements.require("bench-board", requirements.needed("bench-board"), MissingSimulatorError)
    writes_page = output == RESULTS and PAGE.is_file()
    for path in (output, PAGE) if writes_page else (output,):
        files.require_writable(path)
    console = Console()
    found: list[BoardFigure] = []
    names = ("layers of", "keys", "setting", "cycles", "ms", "of the peak", "line, ms")
    table = Table(*names, title=f"{which.title}, simulated", title_justify="left")
    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True) as progress:
        progress.add_task("building the simulated board, then running layers on it")
        bench = BoardBench(which)
        for one in figures(bench, lengths):
            found.append(one)
            row = (one.model, str(one.keys), one.setting, f"{one.cycles:,}", f"{one.milliseconds:.2f}")
            table.add_row(*row, f"{one.peak_fraction:.1%}", f"{one.line_milliseconds:.1f}")
            console.print(f"{one.model}, {one.keys} keys, {one.setting}: {one.cycles:,} cycles", highlight=False)
            files.write_text(output, json.dumps(report(board, found), indent=1) + "\n")
        bench.close()
    console.print(table)
    for dense, share in zip(found[::2], shares(found), strict=True):
        verdict = "" if share >= SHARE_LEAST else f", which must be {SHARE_LEAST:.0%}"
        console.print(
            f"{dense.model}, {dense.keys} keys: {share:.0%} of the reduction in bytes is one in time{verdict}",
            highlight=False,
        )
    console.print(str(output), markup=False, highlight=False)
    if writes_page and lengths == list(CONTEXTS):
        write_page(PAGE, json.loads(output.read_text(encoding="utf-8")))
        console.print(str(PAGE), markup=False, highlight=False)
