"""Progressive quantization: what the second pass computes is exact wherever the operands hold all bits."""

from __future__ import annotations

import numpy as np
import pytest

from golden.convert import narrow
from golden.progressive import msb_scores, recompute_excess, recomputed_scores
from hw.config import LSB_BITS, PAPER, PLANE_BITS, Config
from tests.reference import clip, times_power

WIDE = PAPER.replace(operand_bits=16)


def operands(config: Config, key_bits: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random Q [2, 3, 16] and K codes [2, 7, 16] with the extremes of both among them."""
    random = np.random.default_rng(seed)
    low, high = -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1
    query = random.integers(low, high + 1, (2, 3, 16))
    query[0, 0], query[0, 1] = low, high
    low, high = -(1 << (key_bits - 1)), (1 << (key_bits - 1)) - 1
    key = random.integers(low, high + 1, (2, 7, 16))
    key[0, 0], key[0, 1], key[1, 0] = low, high, -1
    return query, key


@pytest.mark.parametrize("msb_bits", PLANE_BITS)
@pytest.mark.parametrize("config", [PAPER, WIDE], ids=["12", "16"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_second_pass(msb_bits: int, config: Config, seed: int) -> None:
    key_bits = msb_bits + LSB_BITS
    query, key = operands(config, key_bits, seed)
    first = msb_scores(query, key)
    assert first.tolist() == np.einsum("hrd,hnd->hrn", query, key // 16).tolist()
    second = recomputed_scores(config, first, query, key, key_bits)
    fits = key_bits <= config.operand_bits
    assert fits == (config is WIDE or msb_bits <= 8)
    if fits:
        assert recompute_excess(config, key_bits) == 0
        assert np.array_equal(second, np.einsum("hrd,hnd->hrn", query, key)), "exact"
        assert not np.array_equal(second, first << 4), "the LSBs count"
    else:
        excess = key_bits - config.operand_bits
        assert recompute_excess(config, key_bits) == excess
        rounded = [clip(times_power(code, -excess), config.operand_bits) for code in key.ravel().tolist()]
        expected = np.einsum("hrd,hnd->hrn", query, np.reshape(rounded, key.shape))
        assert np.array_equal(second, expected)
        assert np.array_equal(expected, np.einsum("hrd,hnd->hrn", query, narrow(key, key_bits, config.operand_bits)))


def test_12_plus_4_at_12_bits_rounds_where_the_first_pass_floors() -> None:
    """The unit is 16 in both passes; the second is closer to the full code."""
    query, key = operands(PAPER, 16, 7)
    exact = query @ key.swapaxes(-1, -2)
    first = msb_scores(query, key) * 16
    second = recomputed_scores(PAPER, msb_scores(query, key), query, key, 16) * 16
    assert recompute_excess(PAPER, 16) == 4

    def spread(score: np.ndarray) -> float:
        error = score - exact
        return float(np.abs(error - error.mean(axis=-1, keepdims=True)).mean())

    assert 0 < spread(second) < 1.5 * spread(first)
    assert np.abs(second - exact)[1].mean() < np.abs(first - exact)[1].mean()


def test_first_pass_floor_is_common_to_the_row_on_average() -> None:
    """An MSB-only key is low by 7.5 units on average: a score shift of 7.5 x sum(q) that softmax does not see."""
    random = np.random.default_rng(3)
    query, key = random.integers(0, 100, (1, 1, 64)), random.integers(-2048, 2048, (1, 4000, 64))
    lost = (query @ key.swapaxes(-1, -2) - 16 * msb_scores(query, key)).mean()
    assert abs(lost / (7.5 * query.sum()) - 1) < 0.02
