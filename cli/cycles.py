"""`spatten cycles`: what the cycle model predicts."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from spatten.sim.measure.cycles import targets


def main() -> None:
    """Print the predictions, one by one as they are made."""
    console = Console()
    table = Table(
        "figure", "must be", "predicted", "", title="cycle model of the paper configuration", title_justify="left"
    )
    with Progress(transient=True, console=console) as progress:
        task = progress.add_task("predicting", total=12)
        for target in targets():
            bound = ("<= " if target.at_most else ">= ") + f"{target.limit:,}"
            value = f"{target.predicted:,}" if isinstance(target.predicted, int) else f"{target.predicted:.3f}"
            table.add_row(target.name, bound, f"{value} {target.unit}", "yes" if target.reached else "[red]no[/red]")
            progress.advance(task)
    console.print(table)
