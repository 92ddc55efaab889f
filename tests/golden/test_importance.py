"""Importance: sums, rounding per row, and widths that exactly one prompt fills."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden.importance import accumulate, head_sums, token_sums
from spatten.spec.config import NAMED, PAPER, Config
from tests.golden.reference import fits, times_power

MACHINES = [*NAMED.values(), PAPER.replace(prob_bits=8, operand_bits=16, heads_max=12), PAPER.replace(operand_bits=4)]


def name(config: Config) -> str:
    return f"{config.name}-{config.prob_bits}-{config.operand_bits}-{config.heads_max}"


def test_token_sums_are_over_heads_and_rows() -> None:
    prob = np.random.default_rng(1).integers(0, 4096, (3, 4, 6))
    expected = [sum(int(prob[h, r, t]) for h in range(3) for r in range(4)) for t in range(6)]
    assert token_sums(prob).tolist() == expected
    assert len(set(expected)) == 6


@given(operand_bits=st.sampled_from([4, 12, 16]), multiplier=st.integers(1, 1 << 15), seed=st.integers(0, 1 << 30))
def test_head_sums_round_each_row(operand_bits: int, multiplier: int, seed: int) -> None:
    config = PAPER.replace(operand_bits=operand_bits)
    low = -(1 << (operand_bits - 1))
    output = np.random.default_rng(seed).integers(low, -low, (2, 3, 16))
    expected = [
        sum(times_power(sum(map(abs, row)) * multiplier, -config.head_importance_shift) for row in head)
        for head in output.tolist()
    ]
    assert head_sums(config, output, multiplier).tolist() == expected


def test_rounding_is_per_row_not_per_head() -> None:
    """Two rows of half a unit each: 1 + 1, not round(1/2 + 1/2) = 1; and just below, 0 + 0."""
    shift = PAPER.head_importance_shift
    assert shift == 18
    output = np.zeros((1, 2, 16), np.int64)
    output[0, :, 0] = -4
    assert head_sums(PAPER, output, 1 << 15).tolist() == [2]
    output[0, :, 0] = 3
    assert head_sums(PAPER, output, 1 << 15).tolist() == [0]


@pytest.mark.parametrize("config", MACHINES, ids=name)
def test_one_prompt_never_saturates_token_importance(config: Config) -> None:
    """A token that gets probability 1.0 from every row of every head in every layer; and a second such prompt."""
    bits = config.token_importance_bits
    layer = token_sums(np.full((config.heads_max, config.tokens_max, 1), config.prob_one))
    score = np.zeros(1, np.int64)
    for _ in range(config.layers_max):
        score, saturated = accumulate(score, layer, bits)
        assert saturated == 0
    whole = config.prob_one * config.tokens_max * config.heads_max * config.layers_max
    assert score[0] == whole
    assert fits(whole, bits, signed=False)
    assert not fits(whole, bits - 1, signed=False), "no wider than needed"
    for _ in range(config.layers_max):
        score, saturated = accumulate(score, layer, bits)
    assert score[0] == (1 << bits) - 1, "a second one saturates"
    assert saturated == 1, "and is counted"


@pytest.mark.parametrize("config", MACHINES, ids=name)
def test_one_prompt_never_saturates_head_importance(config: Config) -> None:
    bits = config.head_importance_bits
    low = -(1 << (config.operand_bits - 1))
    layer = head_sums(config, np.full((1, config.tokens_max, config.head_dim_max), low), 1 << 15)
    assert layer[0] == config.tokens_max << 15, "a row adds at most 2**15, whatever the operand width"
    score = np.zeros(1, np.int64)
    for _ in range(config.layers_max):
        score, saturated = accumulate(score, layer, bits)
        assert saturated == 0
    assert fits(int(score[0]), bits, signed=False)
    assert not fits(int(score[0]), bits - 1, signed=False), "no wider than needed"
    for _ in range(config.layers_max):
        score, saturated = accumulate(score, layer, bits)
    assert score[0] == (1 << bits) - 1
    assert saturated == 1


def test_paper_widths() -> None:
    assert PAPER.token_importance_bits == 32
    assert PAPER.head_importance_bits == 32


def test_saturation_at_its_edge() -> None:
    score, saturated = accumulate(np.array([250, 250, 250, 255, 0]), np.array([4, 5, 6, 0, 255]), 8)
    assert score.tolist() == [254, 255, 255, 255, 255]
    assert saturated == 1, "only what did not fit"
