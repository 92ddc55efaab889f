"""Cascade state against sets: a rule-based machine drives both through layers, steps and prunings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatten.golden import BoolArray
from spatten.golden.cascade import Context
from spatten.spec.config import TINY, Config
from tests.golden.reference import Cascade, Machine

T, H = TINY.tokens_max, TINY.heads_max


def machine(config: Config) -> Machine:
    return Machine(
        operand_bits=config.operand_bits,
        prob_bits=config.prob_bits,
        head_dim_max=config.head_dim_max,
        token_bits=config.token_importance_bits,
        head_bits=config.head_importance_bits,
    )


def bitmap(ids: set[int], size: int) -> BoolArray:
    mask = np.zeros(size, np.bool_)
    mask[list(ids)] = True
    return mask


def assert_same(context: Context, naive: Cascade) -> None:
    assert context.token_importance.tolist() == [naive.token_importance[i] for i in range(T)]
    assert context.head_importance.tolist() == [naive.head_importance[i] for i in range(H)]
    assert set(np.flatnonzero(context.kept_tokens).tolist()) == naive.tokens
    assert set(np.flatnonzero(context.kept_heads).tolist()) == naive.heads
    assert context.saturated == naive.saturated


IDS = st.sets(st.integers(0, T - 1), min_size=1)


@settings(max_examples=200)
@given(st.data())
def test_random_sequences(data: st.DataObject) -> None:
    """Steps of several layers on two interleaved contexts, which never touch each other."""
    contexts = [(Context(TINY), Cascade(machine(TINY), T, H)) for _ in range(2)]
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    for _ in range(data.draw(st.integers(1, 3))):  # steps
        context, naive = contexts[data.draw(st.integers(0, 1))]
        if data.draw(st.booleans()):
            context.restart()
            naive.restart()
        if data.draw(st.integers(0, 5)) == 0:
            context.clear()
            naive.clear()
        gone_tokens: set[int] = set(range(T)) - naive.tokens
        gone_heads: set[int] = set(range(H)) - naive.heads
        for _ in range(data.draw(st.integers(1, 4))):  # layers
            has_kv, pinned = data.draw(IDS), data.draw(st.one_of(st.just(set()), IDS))
            heads = data.draw(st.sets(st.integers(0, H - 1), min_size=1))
            live = context.live_tokens(bitmap(has_kv, T))
            live_heads = context.live_heads(bitmap(heads, H))
            assert live.tolist() == sorted(naive.tokens & has_kv)
            assert live_heads.tolist() == sorted(naive.heads & heads)
            assert not gone_tokens & set(live.tolist()), "pruned tokens never reappear"
            assert not gone_heads & set(live_heads.tolist()), "nor do heads"
            if len(live) == 0 or len(live_heads) == 0:
                break
            shift = data.draw(st.sampled_from([0, 0, 0, 1, 3, 31]))
            context.age(shift)
            naive.age(shift)
            largest = data.draw(st.sampled_from([3, 1 << 10, 1 << (TINY.token_importance_bits - 1)]))
            sums = random.integers(0, largest, len(live))
            head_sums = random.integers(0, min(largest, 1 << (TINY.head_importance_bits - 1)), len(live_heads))
            context.add_tokens(live, sums)
            context.add_heads(live_heads, head_sums)
            for i, addend in zip(live.tolist(), sums.tolist(), strict=True):
                naive.add(naive.token_importance, i, addend, TINY.token_importance_bits)
            for i, addend in zip(live_heads.tolist(), head_sums.tolist(), strict=True):
                naive.add(naive.head_importance, i, addend, TINY.head_importance_bits)
            keep, keep_heads = data.draw(st.integers(1, T)), data.draw(st.integers(1, H))
            kept = context.prune_tokens(live, keep, bitmap(pinned, T))
            kept_heads = context.prune_heads(live_heads, keep_heads)
            assert kept.tolist() == naive.prune_tokens(live.tolist(), keep, pinned)
            assert kept_heads.tolist() == naive.prune_heads(live_heads.tolist(), keep_heads)
            assert len(kept) == min(len(live), max(keep, len(pinned & set(live.tolist()))))
            assert pinned & set(live.tolist()) <= set(kept.tolist())
            assert (np.diff(kept) > 0).all(), "original order"
            for pair in contexts:
                assert_same(*pair)
            gone_tokens |= set(range(T)) - set(kept.tolist())
            gone_heads |= set(range(H)) - set(kept_heads.tolist())


def test_a_new_context_has_everything_live() -> None:
    context = Context(TINY)
    assert context.live_tokens(np.ones(T, np.bool_)).tolist() == list(range(T))
    assert context.live_heads(np.ones(H, np.bool_)).tolist() == list(range(H))
    assert not context.token_importance.any()
    assert context.live_tokens(bitmap({9, 2, 5}, T)).tolist() == [2, 5, 9]


def test_ties_go_to_the_lower_index() -> None:
    context = Context(TINY)
    live = np.array([1, 4, 6, 9, 12])
    context.add_tokens(live, np.array([5, 7, 5, 7, 5]))
    assert context.prune_tokens(live, 3, np.zeros(T, np.bool_)).tolist() == [1, 4, 9]
    heads = np.array([0, 2, 3])
    assert context.prune_heads(heads, 2).tolist() == [0, 2]


def test_pinned_before_all_others_even_at_the_end_of_the_range() -> None:
    context = Context(TINY)
    live = np.arange(6)
    top = (1 << TINY.token_importance_bits) - 1
    context.add_tokens(live, np.array([0, top, top, top, 0, 1]))
    assert context.prune_tokens(live, 3, bitmap({0, 4}, T)).tolist() == [0, 1, 4]
    context.restart()
    assert context.prune_tokens(live, 1, bitmap({0, 4, 5}, T)).tolist() == [0, 4, 5], "more pinned than kept"
    context.restart()
    assert context.prune_tokens(live, 2, bitmap({9, 15}, T)).tolist() == [1, 2], "pinned but not live: nothing"


def test_importance_persists_and_restart_does_not_touch_it() -> None:
    context = Context(TINY)
    live = np.arange(4)
    context.add_tokens(live, np.array([4, 3, 2, 1]))
    context.add_heads(np.array([0, 2]), np.array([8, 9]))
    context.prune_tokens(live, 2, np.zeros(T, np.bool_))
    context.prune_heads(np.array([0, 2]), 1)
    assert context.live_tokens(np.ones(T, np.bool_)).tolist() == [0, 1]
    context.restart()
    assert context.live_tokens(np.ones(T, np.bool_)).tolist() == list(range(T))
    assert context.token_importance[:4].tolist() == [4, 3, 2, 1]
    assert context.head_importance.tolist() == [8, 0, 9, 0]
    context.age(1)
    assert context.token_importance[:4].tolist() == [2, 1, 1, 0], "floor"
    assert context.head_importance.tolist() == [4, 0, 4, 0]
    context.clear()
    assert not context.token_importance.any()
    assert not context.head_importance.any()


@pytest.mark.parametrize("what", ["tokens", "heads"])
def test_saturation_is_sticky_until_cleared(what: str) -> None:
    context = Context(TINY)
    bits = TINY.token_importance_bits if what == "tokens" else TINY.head_importance_bits
    add = context.add_tokens if what == "tokens" else context.add_heads
    add(np.array([1, 3]), np.array([(1 << bits) - 1, 5]))
    assert context.saturated == 0
    add(np.array([1, 3]), np.array([1, 5]))
    assert context.saturated == 1
    context.restart()
    context.age(2)
    add(np.array([1]), np.array([1]))
    assert context.saturated == 1, "no new one"
    context.clear()
    assert context.saturated == 0


def test_heads_that_saturate_are_marked_until_their_scores_change_otherwise() -> None:
    context = Context(TINY)
    top = (1 << TINY.head_importance_bits) - 1
    context.add_heads(np.array([0, 2]), np.array([top, top + 1]))
    assert context.heads_saturated.tolist() == [False, False, True, False], "the end itself is no loss"
    context.add_heads(np.array([0]), np.array([1]))
    context.add_heads(np.array([2]), np.array([0]))
    assert context.heads_saturated.tolist() == [True, False, True, False]
    context.restart()
    context.age(0)
    assert context.heads_saturated.tolist() == [True, False, True, False]
    context.age(1)
    assert not context.heads_saturated.any()
    context.add_heads(np.array([1]), np.array([top + 1]))
    context.clear()
    assert not context.heads_saturated.any()
