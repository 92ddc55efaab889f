"""Pruning schedules (SpAtten section V-A): how many tokens and heads stay live after each layer.

Interpolated: the front 15 % of the layers keep all tokens and the front 30 % keep all heads; over the remaining
layers the pruned fraction goes linearly from r_start to r_end, r_start + r_end = 2 r_avg. Explicit: a count per
layer. Entry l is what stays at the end of layer l, so layer l + 1 is the first to see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from spatten.golden import GoldenError

TOKEN_FRONT = Fraction(15, 100)
"""Leading fraction of the layers that keeps all tokens."""
HEAD_FRONT = Fraction(30, 100)
"""Leading fraction of the layers that keeps all heads."""


def exact_ceil(fraction: float | Fraction, n: int) -> int:
    """ceil(fraction x n) for the decimal fraction meant: 55 % of 100 are 55, though as floats 0.55 x 100 exceeds 55."""
    return ceil(Fraction(fraction).limit_denominator(10**9) * n)


def pruned_fraction(name: str, keep: float) -> float:
    """1 - `keep`, a fraction to keep that messages call `name`. Raises `GoldenError` for an impossible fraction."""
    if not 0 < keep <= 1:
        raise GoldenError(f"{name} must be above 0 and at most 1, not {keep}")
    if 1 - keep == 1:
        raise GoldenError(f"{name} must be at least 1e-15, or floats take what is pruned for everything, not {keep}")
    return 1 - keep


@dataclass(frozen=True)
class Ratios:
    """Pruned fraction after the first layer that prunes, and after the last; in between it is linear."""

    start: float
    end: float

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.end < 1):
            raise GoldenError(f"pruning ratios must satisfy 0 <= start <= end < 1, not {self.start} and {self.end}")

    @classmethod
    def average(cls, average: float, end: float) -> Ratios:
        """Ratios with the given average over two or more pruning layers: start = 2 average - end."""
        return cls(2 * average - end, end)

    def counts(self, n: int, layers: int, front: Fraction) -> list[int]:
        """How many of n stay after each of `layers` layers, never less than one and never rising."""
        unpruned = ceil(front * layers)
        pruning = layers - unpruned
        kept = [n] * unpruned
        for step in range(pruning):
            position = Fraction(step, pruning - 1) if pruning > 1 else Fraction(1)
            ratio = Fraction(self.start) + (Fraction(self.end) - Fraction(self.start)) * position
            kept.append(max(1, exact_ceil(1 - ratio, n)))
        return kept


NO_PRUNING = Ratios(0.0, 0.0)


def explicit(counts: Sequence[int], n: int, layers: int, of: int | None = None) -> list[int]:
    """Counts given per layer, or of a nominal length `of` (the released traces give counts of 1,024).

    Raises `GoldenError` unless there is one count a layer, they never rise and all lie in 1..n (or 1..of).
    """
    if len(counts) != layers:
        raise GoldenError(f"a schedule of {layers} layers needs {layers} counts, not {len(counts)}")
    limit = n if of is None else of
    for layer, count in enumerate(counts):
        if not 1 <= count <= limit:
            raise GoldenError(f"the count of layer {layer} must be 1 to {limit}, not {count}")
        if layer and count > counts[layer - 1]:
            raise GoldenError(
                f"the count of layer {layer} must not exceed that of layer {layer - 1}, {counts[layer - 1]}"
            )
    return list(counts) if of is None else [max(1, n * count // of) for count in counts]
