"""Rows for the tests of the quick-select and of the top-k engine: what attention makes, and what would hurt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from spatten.golden import IntArray

RowType = TypeVar("RowType")


def uniform(source: np.random.Generator, n: int, width: int) -> IntArray:
    return source.integers(0, 1 << width, n)


def softmax_like(source: np.random.Generator, n: int, width: int) -> IntArray:
    """Probabilities with `width` fraction bits: few large ones, many small equal ones and zeros."""
    score = source.normal(size=n) * source.choice([1.0, 2.0, 4.0])
    weight = np.exp(score - score.max())
    return np.minimum(np.round(weight / weight.sum() * 2.0**width), (1 << width) - 1).astype(np.int64)


def importance_like(source: np.random.Generator, n: int, width: int) -> IntArray:
    """Sums of probabilities: log-normal, far below the top of their range, and some tokens pinned by the top bit."""
    centre = 2.0 ** min(width - 2, max(2, width * 5 // 8))
    value = np.minimum(np.round(centre * np.exp(source.normal(size=n))), (1 << width - 1) - 1).astype(np.int64)
    return value | ((source.random(n) < 0.02).astype(np.int64) << width - 1)


def rising(source: np.random.Generator, n: int, width: int) -> IntArray:
    return np.sort(uniform(source, n, width))


def falling(source: np.random.Generator, n: int, width: int) -> IntArray:
    return rising(source, n, width)[::-1].copy()


def organ_pipe(source: np.random.Generator, n: int, width: int) -> IntArray:
    row = rising(source, n, width)
    return np.concatenate([row[::2], row[1::2][::-1]])


def all_equal(source: np.random.Generator, n: int, width: int) -> IntArray:
    return np.full(n, source.choice([0, (1 << width) - 1, int(source.integers(0, 1 << width))]))


def two_values(source: np.random.Generator, n: int, width: int) -> IntArray:
    return source.choice(source.choice(1 << width, 2, replace=False), n)


def adversarial(source: np.random.Generator, n: int, width: int) -> IntArray:
    """All in one bin of every pass but the last, and in the top bin of the first, which leaves the most passes."""
    high = 3 << width - 2
    return high | source.integers(0, 2, n)


def few_leave(source: np.random.Generator, n: int, width: int) -> IntArray:
    """Each bit splits a few values off: every pass has something to compact, and finds almost all of it again."""
    steps = np.minimum(source.geometric(0.15, n), width)
    return np.where(source.random(n) < 0.3, (1 << width) - (1 << width - steps), (1 << width) - 1 - (steps > 2))


def at_edge(source: np.random.Generator, n: int, width: int, edge: int) -> tuple[IntArray, int]:
    """A row whose k-th largest is the first below `edge`, and k: one more at or above it would change the result."""
    k = int(source.integers(1, n + 1))
    row = np.concatenate([source.integers(edge, 1 << width, k - 1), source.integers(0, edge, n - k + 1)])
    return source.permutation(row), k


def at_edges(
    source: np.random.Generator, n_max: int, lanes: int, width: int, bins: list[tuple[int, int]]
) -> list[tuple[IntArray, int]]:
    """A row of `at_edge` for every bin of `first_digit`, the longest with a lane that is not live."""
    n = n_max - (n_max % lanes == 0)
    return [at_edge(source, n, width, edge) for edge, _ in bins if edge]


def beats_of(values: IntArray, lanes: int, width: int) -> tuple[IntArray, list[int]]:
    """A row in beats, and the live lanes of each; the others hold what must not matter: anything, often the most."""
    source = np.random.default_rng(len(values))
    count = -(-len(values) // lanes)
    padded = source.integers(0, 1 << width, count * lanes)
    padded |= ((1 << width) - 1) * source.integers(0, 2, count * lanes)
    padded[: len(values)] = values
    return padded.reshape(count, lanes), [lanes] * (count - 1) + [len(values) - (count - 1) * lanes]


KINDS = {
    "uniform": uniform,
    "softmax-like": softmax_like,
    "importance-like": importance_like,
    "sorted up": rising,
    "sorted down": falling,
    "organ pipe": organ_pipe,
    "all equal": all_equal,
    "two values": two_values,
    "adversarial": adversarial,
    "few leave": few_leave,
}
"""By name, the function of (source, n, width) that makes a row."""


def every_kind(
    source: np.random.Generator, *, count: int, n_max: int, lanes: int, width: int, bins: list[tuple[int, int]]
) -> list[tuple[IntArray, int]]:
    """Rows and their k, in random order: of every kind `count` rows of random lengths, rows of the extreme lengths with
    every extreme k, some of them above the length, the rows of `at_edges`, and one of the most values with the highest
    ranks that there are in the bins of its passes."""
    kinds = list(KINDS.values())
    rows = []
    for make in kinds:
        for n in map(int, source.integers(1, n_max + 1, count)):
            rows.append((make(source, n, width), int(source.integers(1, n + 1))))
    lengths = {1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes, n_max - 1, n_max}
    for n in sorted(length for length in lengths if 1 <= length <= n_max):
        for k in {1, n, min(n + 1, n_max), n_max, (n + 1) // 2}:
            rows.append((kinds[int(source.integers(len(kinds)))](source, n, width), k))
    rows += at_edges(source, n_max, lanes, width, bins)
    rows.append((adversarial(source, n_max, width), n_max))
    return [rows[number] for number in source.permutation(len(rows))]


def every_row(
    make: Callable[[IntArray, int, int], RowType],
    seed: int,
    *,
    count: int,
    n_max: int,
    lanes: int,
    width: int,
    bins: list[tuple[int, int]],
    header_bits: int,
) -> list[RowType]:
    """The rows of `every_kind`, made of their values, k and a header that counts up."""
    found = every_kind(np.random.default_rng(seed), count=count, n_max=n_max, lanes=lanes, width=width, bins=bins)
    return [make(values, k, (number + seed) % (1 << header_bits)) for number, (values, k) in enumerate(found)]


def row_beats(values: IntArray, k: int, lanes: int, width: int, **header: int) -> list[dict[str, Any]]:
    """The payloads of a row's beats, as `hw.datapath.quick_select.candidate_beat` has them."""
    beats, live = beats_of(values, lanes, width)
    return [
        {"values": beat.tolist(), "count": count, "last": int(n == len(live) - 1), "k": k, **header}
        for n, (beat, count) in enumerate(zip(beats, live, strict=True))
    ]
