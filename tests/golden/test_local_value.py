"""Local V pruning: the k largest probabilities of each head, on its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden import GoldenError
from spatten.golden.local_value import kept_values
from tests.golden.reference import survivors


@given(heads=st.integers(1, 4), n=st.integers(1, 30), keep=st.integers(1, 40), seed=st.integers(0, 1 << 30))
def test_each_head_keeps_its_own(heads: int, n: int, keep: int, seed: int) -> None:
    prob = np.random.default_rng(seed).integers(0, 9, (heads, n))
    mask = kept_values(prob, keep)
    assert mask.shape == (heads, n)
    for head in range(heads):
        assert np.flatnonzero(mask[head]).tolist() == survivors(prob[head].tolist(), min(keep, n))


def test_heads_differ() -> None:
    mask = kept_values(np.array([[9, 1, 5, 5], [0, 4, 4, 4]]), 2)
    assert mask.tolist() == [[True, False, True, False], [False, True, True, False]]


def test_keeping_none_is_refused() -> None:
    with pytest.raises(GoldenError, match="k must be 1 to n = 4, not 0"):
        kept_values(np.ones((1, 4), np.int64), 0)
