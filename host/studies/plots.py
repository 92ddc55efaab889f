"""The plots of `make fidelity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from spatten.host import files

INK, GREEN, BLUE, ORANGE, GREY = "#1b2430", "#16a34a", "#2f6fd6", "#e07b1a", "#93a0b0"


def style() -> dict[str, Any]:
    """How every plot of the project looks, for matplotlib's `rc_context`."""
    return {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e6eaef",
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }


def draw(results: dict[str, Any], out: Path) -> list[Path]:
    """Draw all plots of a fidelity result into `out`; returns the files."""
    paths = []
    with plt.rc_context(style()):
        for name, drawing in (
            ("softmax", _softmax),
            ("minilm", _minilm),
            ("bits", _bits),
            ("pruning", _pruning),
        ):
            figure = drawing(results)
            path = out / f"fidelity-{name}.png"
            with files.replacing(path) as temporary:
                figure.savefig(temporary, dpi=150, format="png")
            plt.close(figure)
            paths.append(path)
    return paths


def _softmax(results: dict[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(7, 4.2))
    cases = results["softmax"]["cases"]
    colours = dict(
        zip(dict.fromkeys(case["distribution"] for case in cases), (BLUE, GREEN, ORANGE, GREY, INK), strict=True)
    )
    for name, colour in colours.items():
        chosen = [case for case in cases if case["distribution"] == name]
        axes.scatter(
            [case["ideal_mean_abs"] for case in chosen],
            [case["mean_abs"] for case in chosen],
            s=14,
            color=colour,
            label=name,
            alpha=0.8,
        )
    limit = max(case["ideal_mean_abs"] for case in cases) * 1.05
    axes.plot([0, limit], [0, limit], color=GREY, linewidth=1, label="float64, rounded")
    axes.plot([0, limit], [0.02, 1.1 * limit + 0.02], color=GREY, linewidth=1, linestyle="--", label="bound")
    axes.set(
        xlabel="mean |error| of float64 rounded to 12 bits (LSB)",
        ylabel="mean |error| of the integer softmax (LSB)",
        title="Softmax: the integers add next to nothing to the rounding",
    )
    axes.legend()
    return figure


def _minilm(results: dict[str, Any]) -> Any:
    rows = results["minilm"]["rows"]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    places = range(len(rows))
    axes.barh(places, [row["cosine_mean"] for row in rows], color=BLUE, height=0.6, label="mean cosine")
    axes.scatter([row["cosine_min"] for row in rows], places, color=ORANGE, zorder=3, s=20, label="least cosine")
    axes.scatter(
        [row["rank_correlation"] for row in rows],
        places,
        color=INK,
        marker="|",
        zorder=3,
        s=120,
        label="rank correlation",
    )
    axes.set_yticks(places, [row["setting"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0.4, 1.005), title="MiniLM embeddings against dense float")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _bits(results: dict[str, Any]) -> Any:
    rows = results["lm"]["rows"]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    static = [row for row in rows if row["setting"].startswith("static")]
    axes.plot(
        [row["effective_bits"] for row in static],
        [row["perplexity"] for row in static],
        marker="o",
        color=GREY,
        label="static",
    )
    for msb, colour in zip((4, 6, 8), (ORANGE, GREEN, BLUE), strict=True):
        progressive = [row for row in rows if row["setting"].startswith(f"progressive {msb}+4")]
        axes.plot(
            [row["effective_bits"] for row in progressive],
            [row["perplexity"] for row in progressive],
            marker="s",
            color=colour,
            label=f"progressive {msb}+4 (thresholds 0.05, 0.1, 0.2)",
        )
    dense = rows[0]["dense_float_perplexity"]
    axes.axhline(dense, color=INK, linewidth=1, linestyle=":", label="dense float")
    axes.set(
        xlabel="bits fetched per K or V element",
        ylabel="perplexity",
        title="Language model: bits against perplexity",
    )
    axes.legend()
    return figure


def _pruning(results: dict[str, Any]) -> Any:
    rows = results["lm"]["rows"]
    figure, axes = plt.subplots(figsize=(7, 4.2))
    dense = rows[0]["dense_float_perplexity"]
    for word, key, colour, label in (
        ("12-bit, tokens -", "token_keep", BLUE, "cascade token pruning"),
        ("12-bit, local V", "v_keep", GREEN, "local V pruning"),
    ):
        chosen = [row for row in rows if row["setting"].startswith(word)]
        points = sorted([(1.0, dense), *((row[key], row["perplexity"]) for row in chosen)])
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", color=colour, label=label)
    axes.axhline(dense, color=INK, linewidth=1, linestyle=":", label="dense float")
    axes.set(xlabel="fraction of rows kept", ylabel="perplexity", title="Language model: pruning against perplexity")
    axes.invert_xaxis()
    axes.legend()
    return figure
