"""Local V pruning (SpAtten section III-C): of one head's probabilities only the k largest fetch their V rows.

Generation only: there a head has one row, so V rows that it does not need are not fetched at all. The probabilities
that stay are not normalised again, and importance is accumulated from all probabilities, before this pruning.
"""

from __future__ import annotations

from spatten.golden import BoolArray, IntArray
from spatten.golden.topk import keep_mask


def kept_values(prob: IntArray, keep: int) -> BoolArray:
    """[h, n] True for the V rows that each head fetches, `keep` a head; keep >= n fetches all."""
    return keep_mask(prob, min(keep, prob.shape[-1]))
