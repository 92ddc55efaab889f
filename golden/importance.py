"""Importance scores of tokens and heads (SpAtten section III-A, III-B).

Token: the sum of all final probabilities that a token received, over heads and rows, before local V pruning.
Head: the sum of the magnitudes of the head's output, per row times the job's multiplier and rounded once.
Both are unsigned and persist in a context. Those that reach the end of their range over generation steps saturate,
which is counted.
"""

from __future__ import annotations

import numpy as np

from spatten.golden import IntArray
from spatten.golden.rounding import round_shift
from spatten.spec.config import Config


def token_sums(prob: IntArray) -> IntArray:
    """prob [h, r, n] to what this job adds to each token, [n]."""
    return prob.sum(axis=(0, 1))


def head_sums(config: Config, output: IntArray, multiplier: int) -> IntArray:
    """output [h, r, d] to what this job adds to each head, [h]: each row is rounded on its own."""
    magnitude = np.abs(output).sum(axis=-1)
    return round_shift(magnitude * multiplier, config.head_importance_shift).sum(axis=-1)


def accumulate(score: IntArray, addend: IntArray, bits: int) -> tuple[IntArray, int]:
    """score + addend, saturated to `bits` unsigned; returns the new score and how many saturated."""
    total = score + addend
    limit = (1 << bits) - 1
    return np.minimum(total, limit), int(np.count_nonzero(total > limit))
