"""Command line of the model runners: `python -m host demo`, `generate` and `fidelity`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from golden import GoldenError
from host.checkpoint import CheckpointError, TextError
from host.driver import DeviceError
from host.engines import EngineName
from host.transport import TransportError
from hw.config import ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

DEFAULT_SENTENCE = "As a visual treat, the film is almost perfect."


_ENGINE_HELP = "What computes the attention; rtl simulates the Verilog, which takes minutes to build."


@app.command()
def demo(
    sentence: Annotated[str, typer.Argument(help="The sentence to look at.")] = DEFAULT_SENTENCE,
    keep: Annotated[float, typer.Option(help="Fraction of the tokens left after the last layer.")] = 0.25,
    keep_heads: Annotated[float, typer.Option(help="Fraction of the heads left after the last layer.")] = 0.75,
    bits: Annotated[int, typer.Option(help="Bits of Q, K and V: 4, 6, 8, 10 or 12.")] = 8,
    config: Annotated[str, typer.Option(help="Configuration: a name or a TOML file.")] = "paper",
    model: Annotated[Path | None, typer.Option(help="A BERT checkpoint folder; default all-MiniLM-L6-v2.")] = None,
    engine: Annotated[EngineName, typer.Option(help=_ENGINE_HELP)] = EngineName.GOLDEN,
    html: Annotated[Path | None, typer.Option(help="Also write the same as one self-contained page.")] = None,
) -> None:
    """Show, layer by layer, which tokens and heads of a sentence survive cascade pruning."""
    from host import demo as module

    found = module.analyse(
        sentence, keep=keep, keep_heads=keep_heads, bits=bits, config=config, folder=model, engine=engine
    )
    module.show(found, Console())
    if html is not None:
        module.write_html(found, html)
        typer.echo(f"wrote {html}")


@app.command()
def generate(
    text: Annotated[str, typer.Argument(help="The text to continue.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 32,
    engine: Annotated[EngineName, typer.Option(help=_ENGINE_HELP)] = EngineName.GOLDEN,
    keep: Annotated[float, typer.Option(help="Fraction of the tokens left after the last layer.")] = 0.5,
    keep_heads: Annotated[float, typer.Option(help="Fraction of the heads left after the last layer.")] = 1.0,
    keep_values: Annotated[float, typer.Option(help="Fraction of the V rows that each head fetches.")] = 0.75,
    threshold: Annotated[float, typer.Option(help="A row with no probability above this takes K's LSBs.")] = 0.1,
    temperature: Annotated[float, typer.Option(help="0: always the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the choice above temperature 0.")] = 0,
    config: Annotated[str, typer.Option(help="Configuration: a name or a TOML file.")] = "paper",
    model: Annotated[Path | None, typer.Option(help="A GPT-2 checkpoint folder; default the one that is here.")] = None,
) -> None:
    """Continue a text with GPT-2: Q at 12 bits, K at 6 + 4 progressive, V at 8, tokens and V rows pruned."""
    from golden.schedule import Ratios
    from host import zoo
    from host.checkpoint import load
    from host.engines import make_engine
    from host.gpt2 import Gpt2
    from host.quantized_engine import Settings
    from hw import config as hw_config

    for name, fraction in (("keep", keep), ("keep-heads", keep_heads)):
        if not 0 < fraction <= 1:
            raise GoldenError(f"{name} must be above 0 and at most 1, not {fraction}")
    if not text:
        raise GoldenError("the text is empty: give at least one word")
    gpt2 = Gpt2(load(zoo.pydoc_gpt2() if model is None else model))
    settings = Settings(
        key_bits=6,
        lsb=True,
        threshold=threshold,
        tokens=Ratios((1 - keep) / gpt2.shape.layers, 1 - keep),
        heads=Ratios((1 - keep_heads) / gpt2.shape.layers, 1 - keep_heads),
        value_keep=keep_values,
    )
    prompt = gpt2.encode(text).ids
    # The last token that is generated is not attended to.
    length = max(len(prompt), len(prompt) + tokens - 1)
    with make_engine(engine, settings, hw_config.load(config), gpt2.shape, length) as chosen:
        ids = gpt2.generate(prompt, chosen, tokens, temperature=temperature, seed=seed)
    Console().print(Text(text, style="italic") + Text(gpt2.decode(ids), style="bold green"))


@app.command()
def fidelity(
    out: Annotated[Path, typer.Option(help="Where fidelity.json and the plots go.")] = Path("build"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes to use.")] = 2,
) -> None:
    """Measure what quantization and pruning cost: softmax, MiniLM embeddings, language model perplexity."""
    from sim import cache, files

    files.check_writable(out / "fidelity.json")
    cache.lend()  # before matplotlib looks for a place of its own
    from host import fidelity as module

    module.measure(out, jobs, Console())


def main() -> None:
    """Run the command line; bad input ends in one line and exit status 2, a failing accelerator in exit status 1."""
    try:
        app()
    except (CheckpointError, TextError, ConfigError, GoldenError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (DeviceError, TransportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
