"""`spatten demo`, `generate`, `fidelity` and `checkpoints`: the models, and what their attention costs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from spatten.host.engines.registry import EngineName, check_port
from spatten.host.models.zoo import DEFAULT_SENTENCE

_ENGINE_HELP = (
    "What computes the attention; rtl simulates the Verilog, which takes minutes to build; board is a board at --port."
)
_SIMULATED = "simulated"
"""The port that `sim.board.port` registers."""
_PORT_HELP = (
    f"Of the engine board: a serial device, such as /dev/ttyUSB0, or {_SIMULATED}, which takes minutes to build."
)
_CONFIG_HELP = "Configuration: a name or a TOML file; default paper, with --engine board ulx3s."


def _configuration(config: str | None, engine: EngineName) -> str:
    """The configuration that was named, or else the default of the engine."""
    if config is not None:
        return config
    return "ulx3s" if engine is EngineName.BOARD else "paper"


def _provide(engine: EngineName, port: str | None) -> None:
    """Import what registers engine and port: only what is simulated needs the simulator. Check that a port fits."""
    check_port(engine, port)
    if engine is EngineName.RTL:
        import_module("spatten.sim.machine.device")
    if port == _SIMULATED:
        import_module("spatten.sim.board.port")


_KEEP_HEADS_HELP = "Fraction of the heads left after the last layer; default 0.75, all where heads are not pruned."


def demo(
    sentence: Annotated[str, typer.Argument(help="The sentence to look at.")] = DEFAULT_SENTENCE,
    keep: Annotated[float, typer.Option(help="Fraction of the tokens left after the last layer.")] = 0.25,
    keep_heads: Annotated[float | None, typer.Option(help=_KEEP_HEADS_HELP)] = None,
    bits: Annotated[int, typer.Option(help="Bits of Q, K and V: 4, 6, 8, 10 or 12.")] = 8,
    config: Annotated[str | None, typer.Option(help=_CONFIG_HELP)] = None,
    model: Annotated[Path | None, typer.Option(help="A BERT checkpoint folder; default all-MiniLM-L6-v2.")] = None,
    engine: Annotated[EngineName, typer.Option(help=_ENGINE_HELP)] = EngineName.GOLDEN,
    port: Annotated[str | None, typer.Option(help=_PORT_HELP)] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the same as one self-contained page.")] = None,
) -> None:
    """Show, layer by layer, which tokens and heads of a sentence survive cascade pruning."""
    from spatten.host import files
    from spatten.host.studies import demo as module

    if html is not None:
        files.require_writable(html)
    _provide(engine, port)
    found = module.analyse(
        sentence,
        keep=keep,
        keep_heads=keep_heads,
        bits=bits,
        config=_configuration(config, engine),
        folder=model,
        engine=engine,
        port=port,
    )
    module.show(found, Console())
    if html is not None:
        module.write_html(found, html)
        typer.echo(f"wrote {html}")


_KEEP_VALUES_HELP = "Fraction of the V rows that each head fetches; default 0.75, all where V rows are not pruned."


def generate(
    text: Annotated[str, typer.Argument(help="The text to continue.")],
    tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 32,
    engine: Annotated[EngineName, typer.Option(help=_ENGINE_HELP)] = EngineName.GOLDEN,
    port: Annotated[str | None, typer.Option(help=_PORT_HELP)] = None,
    keep: Annotated[float, typer.Option(help="Fraction of the tokens left after the last layer.")] = 0.5,
    keep_heads: Annotated[float, typer.Option(help="Fraction of the heads left after the last layer.")] = 1.0,
    keep_values: Annotated[float | None, typer.Option(help=_KEEP_VALUES_HELP)] = None,
    threshold: Annotated[float, typer.Option(help="A row with no probability above this takes K's LSBs.")] = 0.1,
    temperature: Annotated[float, typer.Option(help="0: always the most likely token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the choice above temperature 0.")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end-of-text token.")] = False,
    config: Annotated[str | None, typer.Option(help=_CONFIG_HELP)] = None,
    model: Annotated[Path | None, typer.Option(help="A GPT-2 checkpoint folder; default the one that is here.")] = None,
) -> None:
    """Continue a text with GPT-2: Q at 12 bits, K at 6 + 4 progressive, V at 8, tokens and V rows pruned, as far as the
    configuration has these widths and prunes V rows."""
    from dataclasses import replace

    from spatten.golden.schedule import Ratios, pruned_fraction
    from spatten.host.engines.quantized_engine import Settings
    from spatten.host.engines.registry import make_engine
    from spatten.host.models import zoo
    from spatten.host.models.checkpoint import check_text, load
    from spatten.host.models.gpt2 import Gpt2, check_sampling
    from spatten.spec import config as hw_config

    # Check everything that can be wrong before the model is read, which takes longer.
    check_text(text)
    check_sampling(tokens, temperature, seed)
    cut, cut_heads = pruned_fraction("keep", keep), pruned_fraction("keep-heads", keep_heads)
    configuration = hw_config.load(_configuration(config, engine))
    if keep_values is None and configuration.has(hw_config.Feature.PRUNE_VALUES):
        keep_values = 0.75
    key_bits = max(bits for bits in configuration.plane_bits if bits <= 6)
    settings = Settings(key_bits=key_bits, lsb=True, threshold=threshold, value_keep=keep_values)
    check_port(engine, port)
    gpt2 = Gpt2(load(zoo.pydoc_gpt2() if model is None else model))
    layers = gpt2.shape.layers
    settings = replace(settings, tokens=Ratios(cut / layers, cut), heads=Ratios(cut_heads / layers, cut_heads))
    prompt = gpt2.encode(text).ids
    # The last token that is generated is not attended to.
    length = len(prompt) + tokens - 1
    gpt2.check_length(length)
    _provide(engine, port)
    with make_engine(engine, settings, configuration, gpt2.shape, length, port=port) as chosen:
        ids = gpt2.generate(prompt, chosen, tokens, temperature=temperature, seed=seed, ignore_eos=ignore_eos)
    if not ignore_eos and ids[-1] in gpt2.ends:
        ids = ids[:-1]
    Console().print(Text(text, style="italic") + Text(gpt2.decode(ids), style="bold green"))


def fidelity(
    out: Annotated[Path, typer.Option(help="Where fidelity.json and the plots go.")] = Path("build"),
    jobs: Annotated[int, typer.Option(help="Processes to use.")] = 2,
) -> None:
    """Measure what quantization and pruning cost: softmax, MiniLM embeddings, language model perplexity."""
    from spatten.host import files
    from spatten.sim import cache

    files.require_writable(out / "fidelity.json")
    cache.lend()  # before matplotlib looks for a place of its own
    from spatten.host.studies import fidelity as module

    module.measure(out, jobs, Console())


def checkpoints() -> None:
    """Print every file and key of a checkpoint folder, and what is done about it."""
    from spatten.host.models import checkpoint_keys

    print(checkpoint_keys.render(), end="")
