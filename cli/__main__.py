"""The one command line: `spatten COMMAND`, or `python -m spatten COMMAND` in a checkout."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module

import typer

from spatten.cli.main import run_app
from spatten.sim import cache

__all__ = ["COMMANDS", "application", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "verilog": ("verilog", "verilog"),
    "show": ("verilog", "show"),
    "registers": ("verilog", "registers"),
    "digests": ("digests", "main"),
    "compare": ("compare", "main"),
    "demo": ("models", "demo"),
    "generate": ("models", "generate"),
    "checkpoints": ("models", "checkpoints"),
    "run": ("run", "main"),
    "soak": ("soak", "main"),
    "bench": ("bench", "main"),
    "bench-board": ("bench_board", "main"),
    "cycles": ("cycles", "main"),
    "synth": ("synth", "main"),
    "units": ("units", "main"),
    "features": ("features", "main"),
    "bitstream": ("bitstream", "bitstream"),
    "flash": ("bitstream", "flash"),
    "mutate": ("mutate", "main"),
    "fidelity": ("models", "fidelity"),
    "train": ("train", "main"),
}
"""By command, the module of this room and the function in it."""


def application(*names: str) -> typer.Typer:
    """A command line of the commands `names`; of all if none is given, which takes the time to import everything."""
    app = typer.Typer(add_completion=False, help="SpAtten: a sparse-attention accelerator, and its proof.")
    app.callback()(lambda: None)
    for name in names or COMMANDS:
        module, function = COMMANDS[name]
        app.command(name)(getattr(import_module(f"spatten.cli.{module}"), function))
    return app


def main() -> None:
    """Run the command that the arguments name."""
    first = sys.argv[1:2]
    cache.lend()  # before any package looks for a cache folder of its own
    run_app(application(*(name for name in first if name in COMMANDS)), "spatten")


if __name__ == "__main__":
    main()
