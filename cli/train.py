"""`spatten train`: the small language model, trained again or checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spatten.host.studies.train_lm import MODEL_DIR, Precision, Recipe, check, train


def main(
    out: Annotated[Path, typer.Option(help="Folder of the model; replaced as a whole at the end.")] = MODEL_DIR,
    only_check: Annotated[bool, typer.Option("--check", help="Only measure the saved weights, with NumPy.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of split, weights, dropout and order.")] = 2021,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 5500,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 2,
    precision: Annotated[Precision, typer.Option(help="Matrix products; auto takes the faster.")] = Precision.auto,
) -> None:
    """Train the language model from Python's own documentation, or check the saved one.

    An interrupt leaves the saved one as it was.
    """
    console = Console()
    if only_check:
        check(out, console)
        return
    command = " ".join(["spatten train", *sys.argv[1:]])
    train(out, Recipe(seed=seed, steps=steps), threads, precision, command, console)
