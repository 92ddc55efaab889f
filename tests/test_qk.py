"""Exact scores, against sums of Python integers and at the widths' ends."""

from __future__ import annotations

import numpy as np
import pytest

from golden.qk import scores
from hw.config import NAMED, PAPER, Config
from tests.reference import fits

MACHINES = [*NAMED.values(), PAPER.replace(operand_bits=16)]


@pytest.mark.parametrize("seed", [1, 2])
def test_scores_are_dot_products(seed: int) -> None:
    random = np.random.default_rng(seed)
    query, key = random.integers(-2048, 2048, (3, 4, 16)), random.integers(-2048, 2048, (3, 5, 16))
    expected = [
        [[sum(a * b for a, b in zip(q, k, strict=True)) for k in head_k] for q in head_q]
        for head_q, head_k in zip(query.tolist(), key.tolist(), strict=True)
    ]
    assert scores(query, key).tolist() == expected


@pytest.mark.parametrize("config", MACHINES, ids=lambda config: f"{config.name}{config.operand_bits}")
def test_the_widest_scores_fit(config: Config) -> None:
    low, high = -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1
    dim = config.head_dim_max
    query = np.array([[low] * dim, [high] * dim, [low, high] * (dim // 2)], np.int64)
    key = np.array([[low] * dim, [high] * dim, [0] * dim, [high, low] * (dim // 2)], np.int64)
    score = scores(query, key)
    assert score.max() == dim * low * low
    assert score.min() == dim * low * high
    assert all(fits(int(s), config.score_bits) for s in score.flat)
    differences = score.max(axis=-1) - score.min(axis=-1)
    assert int(differences.max()) == -dim * low * (high - low)
    assert all(fits(int(d), config.difference_bits, signed=False) for d in differences)
    assert not fits(int(differences.max()), config.difference_bits - 1, signed=False), "no wider than needed"
