"""`spatten run`: real models through the simulated Verilog."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from spatten.golden import GoldenError
from spatten.host.models import zoo
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import check_text, load
from spatten.host.models.gpt2 import Gpt2
from spatten.host.models.zoo import DEFAULT_SENTENCE
from spatten.sim.machine.device import simulated_device
from spatten.sim.machine.machine import MODELS
from spatten.sim.machine.model_runs import (
    DEFAULT_PROMPT,
    Model,
    check_bert,
    check_count,
    check_gpt2,
    run_bert,
    run_gpt2,
)
from spatten.spec import config as hw_config


def main(
    model: Annotated[Model, typer.Option(help="Which model to run.")] = Model.ALL,
    config: Annotated[str, typer.Option(help="Configuration: a name or a TOML file.")] = "paper",
    changes: Annotated[list[str] | None, typer.Option("--set", help="parameter=value; may be repeated.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens that GPT-2 generates.")] = 24,
    text: Annotated[str | None, typer.Option(help="The sentence, and the text to continue.")] = None,
    memory: Annotated[str, typer.Option(help=f"Memory model: {' or '.join(MODELS)}.")] = "ideal",
) -> None:
    """Run real models through the simulated Verilog, every bit compared with the golden model."""
    console = Console()
    # Check everything that can be wrong before the models are read and before the build, which takes minutes.
    if memory not in MODELS:
        raise GoldenError(f"memory must be one of {', '.join(MODELS)}, not {memory!r}")
    chosen = hw_config.load(config, changes or ())
    sentence, prompt = (DEFAULT_SENTENCE, DEFAULT_PROMPT) if text is None else (text, text)
    check_text(sentence)
    if model is not Model.MINILM:
        check_count(tokens)
    bert = Bert(load(zoo.minilm())) if model is not Model.GPT2 else None
    gpt2 = Gpt2(load(zoo.pydoc_gpt2())) if model is not Model.MINILM else None
    if bert is not None:
        check_bert(bert, sentence, chosen)
    if gpt2 is not None:
        check_gpt2(gpt2, prompt, tokens, chosen)
    with simulated_device(chosen, memory=memory, console=console) as device:
        if bert is not None:
            run_bert(bert, sentence, device, console)
        if gpt2 is not None:
            run_gpt2(gpt2, prompt, tokens, device, console)
