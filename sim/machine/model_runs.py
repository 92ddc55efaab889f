"""Real models through the simulated Verilog: `make run`, or `spatten run`.

MiniLM reads a sentence; the GPT-2 of this repository continues a text with cascade pruning of tokens and heads, local V
pruning and progressive quantization. Every job's result is compared with the golden model's, bit for bit.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

import numpy as np
from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from spatten.golden import GoldenError, IntArray
from spatten.golden.schedule import Ratios
from spatten.golden.traffic import Traffic
from spatten.host.driver.device import Device
from spatten.host.engines.checked_engine import CheckedEngine
from spatten.host.engines.device_engine import DeviceEngine
from spatten.host.engines.engine import ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine
from spatten.host.engines.quantized_engine import Computed, LayerWork, Settings
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import check_text
from spatten.host.models.gpt2 import Gpt2
from spatten.host.models.pooling import cosine
from spatten.spec.config import SECTOR_BYTES, Config
from spatten.spec.job import Mode

DEFAULT_PROMPT = (
    "Every object has an identity, a type and a value. An object's type determines the operations that the object "
    "supports, and also defines the possible values for objects of that type. If the object"
)
BERT_SETTINGS = Settings(
    query_bits=8, key_bits=8, value_bits=8, tokens=Ratios(0.125, 0.75), heads=Ratios(1 / 24, 0.25)
)  # fmt: skip
"""The settings of `make demo`."""
GPT2_SETTINGS = Settings(
    query_bits=12,
    key_bits=6,
    lsb=True,
    threshold=0.1,
    value_bits=8,
    tokens=Ratios(0.1, 0.5),
    heads=Ratios(0.25, 0.25),
    value_keep=0.75,
    pin_recent=16,
)
"""All kinds of pruning and quantization at once."""


class Model(StrEnum):
    """Which of the models to run."""

    MINILM = "minilm"
    GPT2 = "pydoc-gpt2"
    ALL = "all"


@dataclass(kw_only=True)
class Figures:
    """What jobs of one layer did, summed up."""

    layer: int
    jobs: int = 0
    live_tokens: list[int] = field(default_factory=list)
    kept_tokens: list[int] = field(default_factory=list)
    live_heads: list[int] = field(default_factory=list)
    kept_heads: list[int] = field(default_factory=list)
    rows: int = 0
    recomputed: int = 0
    values_fetched: int = 0
    values_live: int = 0
    cycles: int = 0
    """Cycles in which the accelerator was busy."""
    multiplications: int = 0
    """Multiplications that the results needed, with the LSBs of flat rows."""
    traffic: Traffic = field(default_factory=Traffic)
    other_read: int = 0
    """Bytes of bitmaps, and of states that were loaded."""
    written: int = 0
    """Bytes written, saved states included."""

    def add(self, work: LayerWork, computed: Computed) -> None:
        """Add one job."""
        live, counters = work.live, computed.counters
        self.jobs += 1
        self.live_tokens.append(len(live.tokens))
        self.kept_tokens.append(len(computed.kept_tokens))
        self.live_heads.append(len(live.heads))
        self.kept_heads.append(len(computed.kept_heads))
        self.rows += len(live.heads) * len(live.rows)
        self.recomputed += computed.recomputed
        self.values_fetched += computed.values_fetched
        self.values_live += len(live.heads) * len(live.tokens)
        self.cycles += counters["busy"]
        self.multiplications += work.multiplications + computed.recomputed * len(live.tokens) * work.job.head_dim
        self.traffic += computed.traffic
        self.other_read += counters["other_sectors"] * SECTOR_BYTES
        self.written += counters["output_sectors"] * SECTOR_BYTES

    @classmethod
    def total(cls, parts: Iterable[Self]) -> Self:
        """The sums over all layers."""
        whole = cls(layer=-1)
        for part in parts:
            for name in ("live_tokens", "kept_tokens", "live_heads", "kept_heads"):
                getattr(whole, name).extend(getattr(part, name))
            for name in ("jobs", "rows", "recomputed", "values_fetched", "values_live", "cycles", "multiplications",
                         "other_read", "written"):  # fmt: skip
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
            whole.traffic += part.traffic
        return whole

    @property
    def read(self) -> int:
        """Bytes read."""
        return self.traffic.fetched + self.other_read

    def mac_utilisation(self, config: Config) -> float:
        """Multiplications / (multipliers x cycles)."""
        return self.multiplications / ((config.qk_multipliers + config.pv_multipliers) * self.cycles)

    def bandwidth_fraction(self, config: Config) -> float:
        """Bytes moved / what the channels could move."""
        return (self.read + self.written) / (config.channels * config.channel_bits // 8 * self.cycles)


class Watch:
    """Sums up jobs as they end, and moves the progress bar."""

    def __init__(self, console: Console, what: str, jobs: int) -> None:
        self.prompt: dict[int, Figures] = {}
        self.generation: dict[int, Figures] = {}
        self.kept: dict[bool, dict[int, IntArray]] = defaultdict(dict)
        """By whether a job generates and by layer, the tokens that the last such job kept."""
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("jobs"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task(what, total=jobs)
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self.seconds = time.monotonic() - self._began

    def __call__(self, work: LayerWork, computed: Computed) -> None:
        generates = work.job.mode is Mode.GENERATION
        figures = self.generation if generates else self.prompt
        figures.setdefault(work.layer, Figures(layer=work.layer)).add(work, computed)
        self.kept[generates][work.layer] = computed.kept_tokens
        self._progress.advance(self._task)

    @property
    def jobs(self) -> int:
        return sum(figures.jobs for figures in (*self.prompt.values(), *self.generation.values()))


def engine(device: Device, settings: Settings, watch: Watch) -> CheckedEngine:
    """The accelerator, compared with the golden model job by job."""
    return CheckedEngine(
        DeviceEngine(device, settings, name="rtl"), GoldenEngine(settings, device.config), on_layer=watch
    )


def check_bert(bert: Bert, text: str, config: Config, settings: Settings = BERT_SETTINGS) -> None:
    """Raise `GoldenError` or `TextError` for a sentence that cannot be run."""
    check_text(text)
    GoldenEngine(settings, config).check(bert.shape, len(bert.encode(text).ids))


def run_bert(bert: Bert, text: str, device: Device, console: Console, settings: Settings = BERT_SETTINGS) -> Watch:
    """A sentence through BERT; prints what came of it."""
    check_bert(bert, text, device.config, settings)
    tokens = bert.encode(text)
    with Watch(console, "BERT", bert.shape.layers) as watch:
        result = bert.run(tokens.ids, engine(device, settings, watch))
    dense = bert.run(tokens.ids, ReferenceEngine())
    console.print(Text(text, style="italic"))
    console.print(
        f"{len(tokens.ids)} tokens, {bert.shape.layers} layers of {bert.shape.heads} heads of {bert.shape.head_dim}; "
        f"{_bits(settings)}",
        highlight=False,
    )
    console.print()
    console.print(_survivors(tokens.strings, watch.kept[False]))
    console.print()
    console.print(_tables(watch.prompt, device.config, "layer by layer"))
    console.print(
        f"cosine {cosine(result.embedding(), dense.embedding()):.4f} to the unpruned float embedding", highlight=False
    )
    _verdict(console, watch)
    return watch


def check_count(count: int) -> None:
    if count < 2:
        raise GoldenError(f"tokens must be at least 2, for one to be generated from another, not {count}")


def check_gpt2(gpt2: Gpt2, text: str, count: int, config: Config, settings: Settings = GPT2_SETTINGS) -> None:
    """Raise `GoldenError` or `TextError` for a text that cannot be continued by `count` tokens."""
    check_count(count)
    check_text(text)
    length = len(gpt2.encode(text).ids) + count - 1  # the last token is not attended to
    if length > gpt2.positions:
        raise GoldenError(
            f"the text and the first {count - 1} of {count} tokens are {length}, and the model allows {gpt2.positions}"
        )
    GoldenEngine(settings, config).check(gpt2.shape, length)


def run_gpt2(
    gpt2: Gpt2, text: str, count: int, device: Device, console: Console, settings: Settings = GPT2_SETTINGS
) -> Watch:
    """Continue a text by `count` tokens; prints what came of it."""
    check_gpt2(gpt2, text, count, device.config, settings)
    prompt = gpt2.encode(text)
    with Watch(console, "GPT-2", gpt2.shape.layers * count) as watch:
        ids = gpt2.generate(prompt.ids, engine(device, settings, watch), count, ignore_eos=True)
    console.print(Text(text, style="italic") + Text(gpt2.decode(ids), style="bold green"))
    console.print(
        f"{len(prompt.ids)} tokens, {gpt2.shape.layers} layers of {gpt2.shape.heads} heads of {gpt2.shape.head_dim}, "
        f"{count} tokens generated, the last {count - 1} of them each in a step of every layer; {_bits(settings)}",
        highlight=False,
    )
    console.print()
    pieces = [gpt2.decode([one]).replace("\n", "\\n").strip() or "_" for one in (*prompt.ids, *ids[:-1])]
    console.print("prompt")
    console.print(_survivors(pieces[: len(prompt.ids)], watch.kept[False]))
    console.print()
    console.print("the last step")
    console.print(_survivors(pieces, watch.kept[True]))
    console.print()
    console.print(_tables(watch.prompt, device.config, "prompt"))
    console.print(_tables(watch.generation, device.config, f"{count - 1} generation steps, summed"))
    steps = Figures.total(watch.generation.values())
    console.print(
        f"{steps.recomputed} of {steps.rows} generated rows were flat and took their LSBs; "
        f"{steps.values_fetched:,} of {steps.values_live:,} live V rows were fetched",
        highlight=False,
    )
    _verdict(console, watch)
    return watch


def _verdict(console: Console, watch: Watch) -> None:
    console.print(
        f"[green]equal[/green]: outputs, survivors, importance and bytes of all {watch.jobs} jobs are the golden "
        f"model's, bit for bit; simulated in {watch.seconds:.0f} s",
        highlight=False,
    )
    console.print()


def _bits(settings: Settings) -> str:
    return f"Q {settings.query_bits}, K {settings.bits_label}, V {settings.value_bits} bits"


def _survivors(strings: Sequence[str], kept: dict[int, IntArray]) -> Table:
    """Layer by layer the tokens that stay; a dot stands for each letter of one that has left."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("after")
    table.add_column("tokens that stay")
    table.add_column("", justify="right", no_wrap=True)
    for layer, ids in kept.items():
        line = Text()
        stays = np.isin(np.arange(len(strings)), ids)
        for text, is_kept in zip(strings, stays, strict=True):
            line.append(text if is_kept else "·" * len(text), style="green" if is_kept else "bright_black").append(" ")
        table.add_row(f"layer {layer}", line, f"{len(ids)}/{len(strings)}")
    return table


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}-{high}"


def _tables(figures: dict[int, Figures], config: Config, title: str) -> Group:
    """Figures layer by layer: what was computed, and what was moved."""
    computed = _empty_table("layer", "tokens", "heads", "rows", "flat", "cycles", "MAC", "DRAM")
    moved = _empty_table("layer", "Q", "K", "K LSB", "V", "bitmaps", "written")
    total = Figures.total(figures.values())
    for one in (*figures.values(), total):
        is_total = one is total
        if is_total:
            computed.add_section()
            moved.add_section()
        name = "all" if is_total else f"{one.layer}"
        computed.add_row(
            name,
            "" if is_total else f"{_span(one.live_tokens)} > {_span(one.kept_tokens)}",
            "" if is_total else f"{_span(one.live_heads)} > {_span(one.kept_heads)}",
            f"{one.rows:,}",
            f"{one.recomputed:,}",
            f"{one.cycles:,}",
            f"{one.mac_utilisation(config):.1%}",
            f"{one.bandwidth_fraction(config):.1%}",
        )
        traffic = one.traffic
        sizes = (traffic.query, traffic.key, traffic.lsb, traffic.value, one.other_read, one.written)
        moved.add_row(name, *(f"{size:,}" for size in sizes))
    return Group(
        Text(title, style="bold") + Text(" (live > kept; shares of multipliers and channels)", style="not bold dim"),
        computed,
        Text("bytes read, by class, and written (output and cascade state)", style="dim"),
        moved,
    )


def _empty_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
