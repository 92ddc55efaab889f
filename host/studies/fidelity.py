"""What the integers cost: softmax against float64, MiniLM's embeddings, and a language model's perplexity.

`measure` writes `fidelity.json` and four plots. Every language model row is measured on the same held-out tokens,
each of them generated token by token (teacher-forced) after a prompt, so that progressive quantization, local V
pruning and cascade pruning across generation steps all take part.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from spatten.golden import IntArray
from spatten.golden.schedule import Ratios
from spatten.golden.softmax import softmax
from spatten.host import files
from spatten.host.engines.engine import AttentionEngine, LayerResult, ReferenceEngine
from spatten.host.engines.golden_engine import GoldenEngine, Settings
from spatten.host.models import zoo
from spatten.host.models.bert import Bert
from spatten.host.models.checkpoint import load
from spatten.host.models.gpt2 import Gpt2
from spatten.host.studies import plots
from spatten.host.workers import require_jobs, workers
from spatten.spec.config import LSB_BITS, PAPER
from spatten.spec.job import ScoreScale

Row = dict[str, Any]
FloatArray = NDArray[np.float64]

# -- Softmax ----------------------------------------------------------------------------------------------------------

SOFTMAX_LENGTHS = (1, 2, 3, 5, 8, 16, 47, 64, 128, 200, 384, 512, 910, 993, 1024)
SOFTMAX_STEPS = (0.02, 0.05, 0.1, 0.3, 0.7)
SOFTMAX_ROWS = 64
ALLOWED_RATIO = 1.1
ALLOWED_LSB = 0.02


def _normal(random: np.random.Generator, n: int, step: float) -> FloatArray:
    return random.normal(0, 2.5, (SOFTMAX_ROWS, n)) / step


def _uniform(random: np.random.Generator, n: int, step: float) -> FloatArray:
    return random.uniform(-8, 8, (SOFTMAX_ROWS, n)) / step


def _peaked(random: np.random.Generator, n: int, step: float) -> FloatArray:
    score = random.uniform(0, 2, (SOFTMAX_ROWS, n)) / step
    score[np.arange(SOFTMAX_ROWS), random.integers(0, n, SOFTMAX_ROWS)] += random.uniform(3, 14, SOFTMAX_ROWS) / step
    return score


def _equal(random: np.random.Generator, n: int, step: float) -> FloatArray:
    return np.repeat(random.integers(-5000, 5000, (SOFTMAX_ROWS, 1)), n, axis=1).astype(np.float64)


def _saturated(random: np.random.Generator, n: int, step: float) -> FloatArray:
    largest = float(1 << (PAPER.score_bits - 2))
    return np.where(random.random((SOFTMAX_ROWS, n)) < random.uniform(0.05, 0.95, (SOFTMAX_ROWS, 1)), largest, -largest)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int, float], FloatArray]] = {
    "normal": _normal,
    "uniform": _uniform,
    "peaked": _peaked,
    "all-equal": _equal,
    "saturated": _saturated,
}


def softmax_case(n: int, distribution: str, score_step: float) -> Row:
    """Errors, in LSB of a probability, of the golden softmax and of float64 rounded to the same width."""
    random = np.random.default_rng([n, list(DISTRIBUTIONS).index(distribution), round(score_step * 1000)])
    score = np.floor(DISTRIBUTIONS[distribution](random, n, score_step)).astype(np.int64)
    scale = ScoreScale.from_step(score_step)
    one = 1 << PAPER.prob_bits
    exponential = np.exp2((score - score.max(axis=1, keepdims=True)) * scale.log2_step)
    exact = exponential / exponential.sum(axis=1, keepdims=True) * one
    ideal = np.abs(np.minimum(np.floor(exact + 0.5), PAPER.prob_one) - exact)
    golden = np.abs(softmax(PAPER, score, scale.mantissa, scale.shift) - exact)
    return {
        "n": n,
        "distribution": distribution,
        "score_step": score_step,
        "mean_abs": float(golden.mean()),
        "ideal_mean_abs": float(ideal.mean()),
        "max_abs": float(golden.max()),
        "ideal_max_abs": float(ideal.max()),
    }


def _softmax_cases() -> list[Row]:
    return [softmax_case(n, name, step) for n in SOFTMAX_LENGTHS for name in DISTRIBUTIONS for step in SOFTMAX_STEPS]


# -- MiniLM -----------------------------------------------------------------------------------------------------------

SENTENCES = 240


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A labelled row of a report."""

    label: str
    settings: Settings
    token_keep: float = 1.0
    head_keep: float = 1.0


def _bits(query: int, key: int, value: int, **more: Any) -> Settings:
    return Settings(query_bits=query, key_bits=key, value_bits=value, **more)


def _end(keep: float) -> Ratios:
    """Prune linearly, from nothing at the first layer that may prune to `keep` at the last."""
    return Ratios(0.0, 1 - keep)


MINILM_SETTINGS = (
    *(Setting(label=f"{bits}-bit", settings=_bits(bits, bits, bits)) for bits in (12, 10, 8, 6, 4)),
    *(
        Setting(label=f"8-bit, tokens to {keep:.0%}", settings=_bits(8, 8, 8, tokens=_end(keep)), token_keep=keep)
        for keep in (0.75, 0.5, 0.25)
    ),
    *(
        Setting(label=f"8-bit, heads to {keep:.0%}", settings=_bits(8, 8, 8, heads=_end(keep)), head_keep=keep)
        for keep in (0.75, 0.5)
    ),
    Setting(
        label="8-bit, tokens to 50%, heads to 75%",
        settings=_bits(8, 8, 8, tokens=_end(0.5), heads=_end(0.75)),
        token_keep=0.5,
        head_keep=0.75,
    ),
)


def sentences(text: str, count: int) -> list[str]:
    """`count` different sentences of 6 to 40 words without code in them, spread evenly over a text."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n|<\|endoftext\|>", text))
    candidates = (sentence for part in paragraphs for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", part))
    prose = re.compile(r"[A-Z][^|<>=`{}\[\]\\]*[a-z)\"”][.!?]")
    found = list(dict.fromkeys(s for s in candidates if prose.fullmatch(s) and 6 <= len(s.split()) <= 40))
    if len(found) < count:
        raise ValueError(f"the text has {len(found)} sentences of prose; {count} are needed")
    return [found[i * len(found) // count] for i in range(count)]


@cache
def _minilm() -> tuple[Bert, list[IntArray]]:
    bert = Bert(load(zoo.minilm()))
    return bert, [bert.encode(sentence).ids for sentence in sentences(zoo.pydoc_gpt2_heldout(), SENTENCES)]


def _engine(setting: Setting | None) -> AttentionEngine:
    return ReferenceEngine() if setting is None else GoldenEngine(setting.settings)


def _embeddings(engine: AttentionEngine) -> FloatArray:
    bert, ids = _minilm()
    return np.stack([bert.run(one, engine).embedding() for one in ids]).astype(np.float64)


def _minilm_row(setting: Setting | None) -> FloatArray:
    """[SENTENCES, hidden] embeddings; the setting None is dense float."""
    return _embeddings(_engine(setting))


def rank_correlation(first: FloatArray, second: FloatArray) -> float:
    """Spearman's correlation of two samples [n] without regard to ties (similarities hardly ever tie)."""
    ranks = [np.argsort(np.argsort(sample)).astype(np.float64) for sample in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _compare_embeddings(setting: Setting, found: FloatArray, dense: FloatArray) -> Row:
    cosine = (found * dense).sum(axis=1)
    pairs = np.triu_indices(len(dense), k=1)
    return {
        "setting": setting.label,
        "token_keep": setting.token_keep,
        "head_keep": setting.head_keep,
        "bits": setting.settings.key_bits,
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "rank_correlation": rank_correlation((found @ found.T)[pairs], (dense @ dense.T)[pairs]),
    }


# -- Language model ---------------------------------------------------------------------------------------------------

WINDOWS = 16
PROMPT = 256
GENERATED = 128
PARTS = 2
"""Each setting is measured in so many parts, so that processes share the work evenly."""


def _static(bits: int, **more: Any) -> Settings:
    return _bits(12, bits, bits, **more)


def _progressive(msb: int, threshold: float, **more: Any) -> Settings:
    return _bits(12, msb, msb + 4, lsb=True, threshold=threshold, **more)


LM_SETTINGS = (
    *(Setting(label=f"static {bits}", settings=_static(bits)) for bits in (4, 6, 8, 10, 12)),
    *(
        Setting(label=f"progressive {msb}+4 at {threshold}", settings=_progressive(msb, threshold))
        for msb in (4, 6, 8)
        for threshold in (0.05, 0.1, 0.2)
    ),
    *(
        Setting(label=f"12-bit, tokens -{cut:.0%}", settings=_static(12, tokens=Ratios(cut, cut)))
        for cut in (0.1, 0.25, 0.5, 0.75)
    ),
    Setting(
        label="12-bit, none pinned, tokens -25%",
        settings=_static(12, tokens=Ratios(0.25, 0.25), pin_first=0, pin_recent=0),
    ),
    *(
        Setting(label=f"12-bit, heads -{cut:.0%}", settings=_static(12, heads=Ratios(cut, cut)), head_keep=1 - cut)
        for cut in (0.25, 0.5)
    ),
    *(
        Setting(label=f"12-bit, local V {keep:.0%}", settings=_static(12, value_keep=keep))
        for keep in (0.9, 0.75, 0.5, 0.3, 0.2)
    ),
    Setting(
        label="6+4 at 0.1, tokens -50%, local V 75%",
        settings=_progressive(6, 0.1, tokens=Ratios(0.5, 0.5), value_keep=0.75),
    ),
)
"""Ratios here are constant over the layers that prune; `token_keep` of a row is what was measured."""


@cache
def _language_model() -> tuple[Gpt2, IntArray]:
    """The model and [WINDOWS, PROMPT + GENERATED] held-out vocabulary ids, evenly spread over the text."""
    model = Gpt2(load(zoo.pydoc_gpt2()))
    ids = model.encode(zoo.pydoc_gpt2_heldout()).ids
    length = PROMPT + GENERATED
    if len(ids) < WINDOWS * length:
        raise ValueError(f"the held-out text has {len(ids)} tokens; {WINDOWS} windows of {length} are needed")
    starts = [i * (len(ids) - length) // (WINDOWS - 1) for i in range(WINDOWS)]
    return model, np.stack([ids[start : start + length] for start in starts])


@dataclass
class Tally:
    """K and V rows of the generation stage, each summed over heads, layers, steps and windows."""

    rows: int = 0
    """Query rows."""
    recomputed: int = 0
    """Query rows that fetched their LSBs."""
    key_rows: int = 0
    lsb_rows: int = 0
    value_rows: int = 0
    dense_rows: int = 0
    """K rows there would be without token pruning."""

    def add(self, window: int, position: int, layer: int, result: LayerResult) -> None:
        """Count one layer, unless it belongs to a prompt."""
        if len(result.output) > 1:
            return
        length = result.value_rows_live // result.rows
        self.rows += result.rows
        self.recomputed += result.rows_recomputed
        self.key_rows += result.value_rows_live
        self.lsb_rows += result.rows_recomputed * length
        self.value_rows += result.value_rows
        self.dense_rows += result.rows * (position + 1)

    def __iadd__(self, other: Tally) -> Tally:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


def _lm_part(setting: Setting | None, part: int) -> tuple[float, Tally]:
    """Log-likelihood of a part of the windows, and the rows it took; the setting None is dense float."""
    model, windows = _language_model()
    tally = Tally()
    scores = model.score_windows(windows[part::PARTS], _engine(setting), PROMPT, on_layer=tally.add)
    return float(scores.sum()), tally


def _perplexity(log_likelihood: float) -> float:
    return float(np.exp(-log_likelihood / (WINDOWS * GENERATED)))


def _lm_row(setting: Setting, log_likelihood: float, tally: Tally, dense: float) -> Row:
    settings = setting.settings
    bits = settings.key_bits * tally.key_rows + LSB_BITS * tally.lsb_rows + settings.value_bits * tally.value_rows
    return {
        "setting": setting.label,
        "perplexity": _perplexity(log_likelihood),
        "dense_float_perplexity": dense,
        "effective_bits": bits / (tally.key_rows + tally.value_rows),
        "lsb_fraction": tally.recomputed / tally.rows,
        "v_keep": tally.value_rows / tally.key_rows,
        "token_keep": tally.key_rows / tally.dense_rows,
        "head_keep": setting.head_keep,
        "tokens": WINDOWS * GENERATED,
    }


# -- All of it --------------------------------------------------------------------------------------------------------


def measure(out: Path, jobs: int, console: Console) -> Path:
    """Measure everything with `jobs` processes; writes `fidelity.json` and the plots into `out`.

    Raises `CheckpointError` where a model is missing and `WriteError` where `out` cannot be written, before any work.
    """
    require_jobs(jobs)
    path = out / "fidelity.json"
    files.require_writable(path)
    _minilm()
    _language_model()
    # one thread each: the processes share the cores, and small matrices gain nothing from more
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    sums: dict[Setting | None, tuple[float, Tally]] = {}
    tasks = 1 + len((None, *MINILM_SETTINGS)) + PARTS * len((None, *LM_SETTINGS))
    with Progress(*columns, console=console) as progress, workers(jobs, tasks) as pool:

        def gather(name: str, futures: dict[Future[Any], Any]) -> Iterable[tuple[Any, Any]]:
            task = progress.add_task(name, total=len(futures))
            for future in as_completed(futures):
                result = future.result()
                progress.advance(task)
                yield futures[future], result

        softmax_future = {pool.submit(_softmax_cases): None}
        minilm_futures: dict[Future[Any], Any] = {pool.submit(_minilm_row, s): s for s in (None, *MINILM_SETTINGS)}
        lm_futures: dict[Future[Any], Any] = {
            pool.submit(_lm_part, setting, part): setting for setting in (None, *LM_SETTINGS) for part in range(PARTS)
        }
        cases = next(found for _, found in gather("softmax", softmax_future))
        embeddings = dict(gather("MiniLM", minilm_futures))
        for setting, (log_likelihood, tally) in gather("language model", lm_futures):
            so_far, total = sums.get(setting, (0.0, Tally()))
            total += tally
            sums[setting] = (so_far + log_likelihood, total)
    minilm = [_compare_embeddings(setting, embeddings[setting], embeddings[None]) for setting in MINILM_SETTINGS]
    perplexity = _perplexity(sums[None][0])
    results = {
        "softmax": {
            "cases": cases,
            "worst_ratio": max(c["mean_abs"] / (c["ideal_mean_abs"] + ALLOWED_LSB) for c in cases),
            "worst_mean_excess": max(c["mean_abs"] - c["ideal_mean_abs"] for c in cases),
            "worst_max_excess": max(c["max_abs"] - c["ideal_max_abs"] for c in cases),
        },
        "minilm": {"sentences": SENTENCES, "rows": minilm},
        "lm": {"rows": [_lm_row(setting, *sums[setting], perplexity) for setting in LM_SETTINGS]},
    }
    files.write_text(path, json.dumps(results, indent=1) + "\n")
    report(results, console)
    for plot in plots.draw(results, out):
        console.print(f"wrote {plot}", markup=False)
    console.print(f"wrote {path}", markup=False)
    return path


def report(results: Row, console: Console) -> None:
    """Print the figures as tables."""
    softmax_result = results["softmax"]
    console.print(
        f"softmax, {len(softmax_result['cases'])} cases: mean error at most "
        f"{softmax_result['worst_mean_excess']:.4f} LSB above the ideal's and "
        f"{softmax_result['worst_ratio']:.3f} x (ideal + {ALLOWED_LSB} LSB); maximum error at most "
        f"{softmax_result['worst_max_excess']:.3f} LSB above the ideal's"
    )
    minilm = Table(title=f"MiniLM, {SENTENCES} sentences, against dense float", box=box.SIMPLE, title_justify="left")
    minilm.add_column("setting")
    for name in ("mean cosine", "least", "rank corr."):
        minilm.add_column(name, justify="right", no_wrap=True)
    for row in results["minilm"]["rows"]:
        minilm.add_row(
            row["setting"], f"{row['cosine_mean']:.5f}", f"{row['cosine_min']:.5f}", f"{row['rank_correlation']:.4f}"
        )
    console.print(minilm)
    dense = results["lm"]["rows"][0]["dense_float_perplexity"]
    title = f"language model, {WINDOWS * GENERATED} generated held-out tokens; dense float {dense:.3f}"
    lm = Table(title=title, box=box.SIMPLE, title_justify="left")
    lm.add_column("setting")
    for name in ("perpl.", "to float", "bits", "LSBs", "tokens", "V"):
        lm.add_column(name, justify="right", no_wrap=True)
    for row in results["lm"]["rows"]:
        lm.add_row(
            row["setting"],
            f"{row['perplexity']:.3f}",
            f"{row['perplexity'] / row['dense_float_perplexity'] - 1:+.2%}",
            f"{row['effective_bits']:.2f}",
            f"{row['lsb_fraction']:.1%}",
            f"{row['token_keep']:.1%}",
            f"{row['v_keep']:.1%}",
        )
    console.print(lm)
