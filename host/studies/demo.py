"""What cascade pruning does to a sentence, on the golden model or the Verilog: the picture of the SpAtten slides."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spatten.golden.schedule import Ratios, pruned_fraction
from spatten.host import files
from spatten.host.engines.engine import ReferenceEngine
from spatten.host.engines.quantized_engine import Settings
from spatten.host.engines.registry import EngineName, make_engine
from spatten.host.models import zoo
from spatten.host.models.bert import Bert, BertResult
from spatten.host.models.checkpoint import check_text, load
from spatten.host.models.pooling import cosine
from spatten.spec import config as hw_config


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One token in one layer."""

    text: str
    live: bool
    """The token took part in the layer."""
    kept: bool
    """The token stays after the layer."""
    heat: float
    """The token's accumulated importance, 0 to 1 relative to the sentence's largest after the layer."""


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """One layer of the picture."""

    index: int
    cells: tuple[Cell, ...]
    heads_live: tuple[int, ...]
    heads_kept: tuple[int, ...]
    fetched: int
    """DRAM bytes read."""

    @property
    def tokens_kept(self) -> int:
        return sum(cell.kept for cell in self.cells)

    @property
    def tokens_live(self) -> int:
        return sum(cell.live for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything the picture shows."""

    sentence: str
    survivors: tuple[str, ...]
    layers: tuple[LayerView, ...]
    heads: int
    cosine: float
    """The cosine of the embedding to that of unpruned float attention."""
    fetched: int
    """DRAM bytes of Q, K and V read by all layers."""
    dense_8: int
    """DRAM bytes if all tokens and heads are read at 8 bits."""
    dense_32: int
    """DRAM bytes if all tokens and heads are read at 32 bits."""
    settings: Settings

    @property
    def reduction_8(self) -> float:
        return self.dense_8 / self.fetched

    @property
    def reduction_32(self) -> float:
        return self.dense_32 / self.fetched


def analyse(
    sentence: str,
    *,
    keep: float,
    keep_heads: float,
    bits: int,
    config: str = "paper",
    folder: Path | None = None,
    engine: EngineName = EngineName.GOLDEN,
    port: str | None = None,
) -> Analysis:
    """Run a sentence through BERT, once in float and once on `engine`, which prunes it unless it is the float engine.

    `port` is that of the engine `board`.

    Raises `CheckpointError`, `TextError`, `ConfigError` or `GoldenError` with what is wrong with the input.
    """
    # Check everything that can be wrong before the model is read, which takes longer.
    check_text(sentence)
    cut, cut_heads = pruned_fraction("keep", keep), pruned_fraction("keep-heads", keep_heads)
    settings = Settings(query_bits=bits, key_bits=bits, value_bits=bits)
    configuration = hw_config.load(config)
    bert = Bert(load(zoo.minilm() if folder is None else folder))
    layers = bert.shape.layers
    settings = replace(settings, tokens=Ratios(cut / layers, cut), heads=Ratios(cut_heads / layers, cut_heads))
    tokens = bert.encode(sentence)
    with make_engine(engine, settings, configuration, bert.shape, len(tokens.ids), port=port) as chosen:
        pruned = bert.run(tokens.ids, chosen)
    dense = bert.run(tokens.ids, ReferenceEngine())
    elements = 3 * bert.shape.layers * bert.shape.heads * bert.shape.head_dim * len(tokens.ids)
    return Analysis(
        sentence=sentence,
        survivors=tuple(tokens.strings[i] for i in pruned.layers[-1].kept_tokens),
        layers=_layers(tokens.strings, bert.shape.heads, pruned),
        heads=bert.shape.heads,
        cosine=cosine(pruned.embedding(), dense.embedding()),
        fetched=sum(layer.traffic.fetched for layer in pruned.layers),
        dense_8=elements,
        dense_32=4 * elements,
        settings=settings,
    )


def _layers(strings: list[str], heads: int, result: BertResult) -> tuple[LayerView, ...]:
    views = []
    live, live_heads = np.arange(len(strings)), np.arange(heads)
    for index, layer in enumerate(result.layers):
        importance = layer.token_importance
        # Float attention knows no importance: all tokens are alike.
        heat = np.ones(len(strings)) if importance is None else importance / importance.max()
        cells = tuple(
            Cell(text=text, live=i in live, kept=i in layer.kept_tokens, heat=float(heat[i]))
            for i, text in enumerate(strings)
        )
        views.append(
            LayerView(
                index=index,
                cells=cells,
                heads_live=tuple(live_heads.tolist()),
                heads_kept=tuple(layer.kept_heads.tolist()),
                fetched=layer.traffic.fetched,
            )
        )
        live, live_heads = layer.kept_tokens, layer.kept_heads
    return tuple(views)


def show(found: Analysis, console: Console) -> None:
    """Print the picture: colour in a terminal, plain text elsewhere (a dot stands for a pruned token)."""
    console.print(Text(found.sentence, style="italic"), highlight=False)
    console.print()
    words = Table(box=None, pad_edge=False, header_style="dim")
    words.add_column("after")
    words.add_column("tokens that stay")
    words.add_column("", justify="right", no_wrap=True)
    for layer in found.layers:
        line = Text()
        for cell in layer.cells:
            line.append(cell.text if cell.kept else "·" * len(cell.text), style=_style(cell)).append(" ")
        words.add_row(f"layer {layer.index}", line, f"{layer.tokens_kept}/{len(layer.cells)}")
    console.print(words)
    console.print()
    heads = Table(box=None, pad_edge=False, header_style="dim")
    heads.add_column("after")
    heads.add_column("heads that stay")
    heads.add_column("", justify="right")
    heads.add_column("fetched", justify="right")
    for layer in found.layers:
        line = Text()
        for head in range(found.heads):
            kept = head in layer.heads_kept
            line.append(f"{head} " if kept else "· ", style="cyan" if kept else "bright_black")
        heads.add_row(f"layer {layer.index}", line, f"{len(layer.heads_kept)}/{found.heads}", f"{layer.fetched:,} B")
    console.print(heads)
    console.print()
    console.print(Text("survive  ") + Text(" ".join(found.survivors), style="bold green"))
    console.print(f"cosine   {found.cosine:.4f} to the unpruned float embedding", highlight=False)
    if found.fetched == 0:
        return
    console.print(
        f"DRAM     {found.fetched:,} bytes of Q, K and V fetched: "
        f"{found.reduction_32:.1f}x less than dense 32-bit ({found.dense_32:,}), "
        f"{found.reduction_8:.1f}x less than dense 8-bit ({found.dense_8:,})",
        highlight=False,
    )


def _style(cell: Cell) -> str:
    if not cell.kept:
        return "bright_black"
    # from grey to green with importance, on a square-root scale: a few tokens take most of it
    level = math.sqrt(cell.heat)
    return f"bold rgb({int(200 - 140 * level)},{int(190 + 40 * level)},{int(200 - 110 * level)})"


def write_html(found: Analysis, path: Path) -> None:
    """Write the picture with its importance heat map as one page that needs nothing else."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files.write_text(path, environment.get_template("demo.html").render(found=found))
