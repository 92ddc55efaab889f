"""`spatten bitstream` and `spatten flash`: a board's bitstream, into build/<board>/, and from there onto the board."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spatten.host import files
from spatten.hw.board.boards import require_board
from spatten.sim.board.bitstream import (
    FILES,
    board_circuit,
    build,
    forecast,
    require_seed,
)
from spatten.sim.board.flash import flash as load
from spatten.sim.board.place import PLACERS

Board = Annotated[str, typer.Option("--board", help="a board: ulx3s")]
Out = Annotated[Path | None, typer.Option("--out", help="folder of the files; default build/BOARD")]


def bitstream(
    board: Board = "ulx3s",
    seed: Annotated[int, typer.Option("--seed", help="where the placer begins: another one, another clock")] = 1,
    out: Out = None,
) -> None:
    """Make a board's bitstream, with reports of its timing and of what each unit takes."""
    require_board(board)
    require_seed(seed)
    folder = out or Path("build") / board
    for name in FILES:
        files.require_writable(folder / name)
    console = Console()
    console.print(f"{board}: {forecast(board)}", highlight=False)
    with _Steps(console) as tell:
        tell("circuit")
        circuit = board_circuit(board)
        facts = build(circuit, out=folder, seed=seed, placer=PLACERS[0], tell=tell)
    _print(console, facts)
    console.print(str(folder), style="dim", markup=False, highlight=False)


def flash(
    board: Board = "ulx3s",
    keep: Annotated[
        bool, typer.Option("--flash/--sram", help="into the flash, for good, or into the FPGA until it is switched off")
    ] = False,
    out: Out = None,
) -> None:
    """Load a board's bitstream onto the board."""
    require_board(board)
    load(board, out or Path("build") / board, keep=keep)


class _Steps:
    """Shows where the work is: in a line that changes on a terminal, and elsewhere in a line for each step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")
        self._begun = time.monotonic()
        self._step = ""

    def __enter__(self) -> _Steps:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def __call__(self, text: str) -> None:
        step, _, _ = text.partition(":")
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        line = f"{minutes:3}:{seconds:02}  {text}"
        # Each iteration of the router takes minutes, and whether it ends well shows in its figures.
        lasts = step in ("routing", "timing")
        if lasts or (step != self._step and not self._console.is_terminal):
            self._console.print(line, markup=False, highlight=False)
        self._status.update(escape(line))
        self._step = step


def _print(console: Console, facts: dict[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title=f"{facts['board']}, seed {facts['seed']}", title_justify="left")
    for heading in ("unit", "places", "flip-flops", "multipliers", "block RAMs"):
        table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    for row in facts["units"]:
        counts = (row[kind] for kind in ("places", "flip_flops", "multipliers", "block_rams"))
        table.add_row(escape(row["unit"]), *(f"{count:,}" for count in counts))
    console.print(table)
    for clock in facts["clocks"]:
        console.print(
            f"{clock['name']}: {clock['mhz']:.1f} MHz, must be {clock['needed_mhz']:.1f}", markup=False, highlight=False
        )
