"""Command line of the model runners: `python -m host demo` and `python -m host fidelity`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from golden import GoldenError
from host.checkpoint import CheckpointError, TextError
from hw.config import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

DEFAULT_SENTENCE = "As a visual treat, the film is almost perfect."


@app.command()
def demo(
    sentence: Annotated[str, typer.Argument(help="The sentence to look at.")] = DEFAULT_SENTENCE,
    keep: Annotated[float, typer.Option(help="Fraction of the tokens left after the last layer.")] = 0.25,
    keep_heads: Annotated[float, typer.Option(help="Fraction of the heads left after the last layer.")] = 0.75,
    bits: Annotated[int, typer.Option(help="Bits of Q, K and V: 4, 6, 8, 10 or 12.")] = 8,
    config: Annotated[str, typer.Option(help="Configuration: a name or a TOML file.")] = "paper",
    model: Annotated[Path | None, typer.Option(help="A BERT checkpoint folder; default all-MiniLM-L6-v2.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the same as one self-contained page.")] = None,
) -> None:
    """Show, layer by layer, which tokens and heads of a sentence survive cascade pruning."""
    from host import demo as module

    found = module.analyse(sentence, keep=keep, keep_heads=keep_heads, bits=bits, config=config, folder=model)
    module.show(found, Console())
    if html is not None:
        module.write_html(found, html)
        typer.echo(f"wrote {html}")


@app.command()
def fidelity(
    out: Annotated[Path, typer.Option(help="Where fidelity.json and the plots go.")] = Path("build"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 2,
) -> None:
    """Measure what quantization and pruning cost: softmax, MiniLM embeddings, language model perplexity."""
    from host import fidelity as module

    module.measure(out, jobs, Console())


def main() -> None:
    """Run the command line; bad input ends in one line and exit status 2."""
    try:
        app()
    except (CheckpointError, TextError, ConfigError, GoldenError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
