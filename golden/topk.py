"""Top-k selection (SpAtten section IV-B): which k of n values survive, in original order.

The rule: a value survives if it is larger than the k-th largest; of the values equal to the k-th largest, those with
the lowest indices survive until k are kept. 1 <= k <= n, and k = n keeps all.
"""

from __future__ import annotations

import numpy as np

from spatten.golden import BoolArray, GoldenError, IntArray


def check_k(k: int, n: int) -> None:
    """Raise unless 1 <= k <= n."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"k must be an integer, not {k!r}")
    if not 1 <= k <= n:
        raise GoldenError(f"k must be 1 to n = {n}, not {k}")


def threshold(values: IntArray, k: int) -> tuple[IntArray, IntArray]:
    """The k-th largest of values [..., n] and how many of its equals to keep, each [...]."""
    n = values.shape[-1]
    check_k(k, n)
    kth = np.partition(values, n - k, axis=-1)[..., n - k]
    larger = np.count_nonzero(values > kth[..., None], axis=-1)
    return kth, k - larger


def keep_mask(values: IntArray, k: int) -> BoolArray:
    """[..., n] True for the k survivors of each row of values [..., n]."""
    kth, equals = threshold(values, k)
    equal = values == kth[..., None]
    return (values > kth[..., None]) | (equal & (np.cumsum(equal, axis=-1) <= equals[..., None]))


def topk(values: IntArray, k: int) -> IntArray:
    """Ascending indices [k] of the survivors of values [n]."""
    return np.flatnonzero(keep_mask(values, k)).astype(np.int64)
