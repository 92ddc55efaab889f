"""Cascade state of a sequence: importance scores, and which tokens and heads are live (SpAtten section III-A, III-B).

A context persists over the jobs (layers, generation steps) of one sequence. Within a step the live tokens of a
layer are those that the previous layer of the step kept and that have K and V in this layer; the first layer of a
step starts again from all tokens. Importance persists by original token id.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spatten.golden import BoolArray, IntArray
from spatten.golden.importance import accumulate
from spatten.golden.topk import keep_mask
from spatten.spec.config import Config, Feature


@dataclass
class Context:
    """State of one sequence, by original token id and head number."""

    config: Config
    token_importance: IntArray = field(init=False)
    """[tokens_max]"""
    head_importance: IntArray = field(init=False)
    """[heads_max]"""
    kept_tokens: BoolArray = field(init=False)
    """[tokens_max] tokens that the previous layer kept."""
    kept_heads: BoolArray = field(init=False)
    """[heads_max] heads that the previous layer kept."""
    heads_saturated: BoolArray = field(init=False)
    """[heads_max] heads whose importance reached the end of its range since it was last cleared, aged or restored."""
    saturated: int = 0
    """Importance scores that reached the end of their range; sticky until cleared."""
    tokens_saturated: int = 0
    """Importance scores of tokens among `saturated`."""

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start a sequence: no importance, everything live."""
        self.token_importance = np.zeros(self.config.tokens_max, np.int64)
        self.head_importance = np.zeros(self.config.heads_max, np.int64)
        self.heads_saturated = np.zeros(self.config.heads_max, np.bool_)
        self.saturated = self.tokens_saturated = 0
        self.restart()

    def restart(self) -> None:
        """Start a step (a prompt, a prompt chunk, a generated token) at its first layer: everything is live again."""
        self.kept_tokens = np.ones(self.config.tokens_max, np.bool_)
        self.kept_heads = np.ones(self.config.heads_max, np.bool_)

    def age(self, shift: int) -> None:
        """Halve all importance `shift` times (floor), so that old scores fade."""
        self.token_importance >>= shift
        self.head_importance >>= shift
        if shift:
            self.heads_saturated[:] = False

    def live_tokens(self, candidates: BoolArray) -> IntArray:
        """Ascending ids of the live tokens among `candidates` [tokens_max]: those with K and V in this layer."""
        return np.flatnonzero(self.kept_tokens & candidates).astype(np.int64)

    def live_heads(self, candidates: BoolArray) -> IntArray:
        """Ascending numbers of the live heads among `candidates` [heads_max]: those with K and V in this layer."""
        return np.flatnonzero(self.kept_heads & candidates).astype(np.int64)

    def add_tokens(self, tokens: IntArray, sums: IntArray) -> None:
        """Add a job's sums [n] to the importance of `tokens` [n]."""
        self.token_importance[tokens], saturated = accumulate(
            self.token_importance[tokens], sums, self.config.token_importance_bits
        )
        self.saturated += saturated
        self.tokens_saturated += saturated

    def add_heads(self, heads: IntArray, sums: IntArray) -> None:
        """Add a job's sums [h] to the importance of `heads` [h]; a machine without head pruning has none."""
        if not self.config.has(Feature.PRUNE_HEADS):
            return
        exact = self.head_importance[heads] + sums
        self.head_importance[heads], saturated = accumulate(
            self.head_importance[heads], sums, self.config.head_importance_bits
        )
        self.heads_saturated[heads] |= exact > self.head_importance[heads]
        self.saturated += saturated

    def token_keys(self, live: IntArray, pinned: BoolArray) -> IntArray:
        """[n] what the `live` tokens [n] are compared by: importance, with those that are `pinned` [n] above all."""
        return self.token_importance[live] + (pinned.astype(np.int64) << self.config.token_importance_bits)

    def prune_tokens(self, live: IntArray, keep: int, pinned: BoolArray) -> IntArray:
        """Keep the `keep` most important of the `live` tokens, pinned ones ([tokens_max]) before all others.

        Pinned tokens count towards `keep`; if more than `keep` are pinned, these all stay and no others. `keep` at or
        above the number of live tokens keeps all.
        """
        key = self.token_keys(live, pinned[live])
        count = min(len(live), max(keep, int(pinned[live].sum())))
        # among the pinned the order does not matter: all of them are within the count
        kept = live[keep_mask(key, count)]
        self.kept_tokens = np.zeros(self.config.tokens_max, np.bool_)
        self.kept_tokens[kept] = True
        return kept

    def prune_heads(self, live: IntArray, keep: int) -> IntArray:
        """Keep the `keep` most important of the `live` heads; `keep` at or above their number keeps all."""
        kept = live[keep_mask(self.head_importance[live], min(len(live), keep))]
        self.kept_heads = np.zeros(self.config.heads_max, np.bool_)
        self.kept_heads[kept] = True
        return kept
