"""Token importance of a job from its start to its end (SpAtten sections III-A, III-B).

The cascade state of `golden.cascade` as the circuit works on it: a job gathers its live tokens, adds its
probabilities by rank in the live list, offers the top-k its candidates, and scatters the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatten.golden import BoolArray, IntArray
from spatten.golden.attention import Bitmaps, Live, begin, find_live
from spatten.golden.cascade import Context
from spatten.golden.importance import token_sums
from spatten.spec.job import Job


@dataclass(frozen=True, kw_only=True)
class Scattered:
    """What a job's end computed, by rank."""

    keys: IntArray
    """[n] what the top-k compares: importance, and above it whether the token is pinned."""
    kept: BoolArray
    """[n] which tokens stay."""
    saturated: int
    """Tokens whose importance saturated in this job."""


def gather(job: Job, context: Context, bitmaps: Bitmaps) -> Live:
    """Begin a job: clear, restart, age, and find what is live."""
    begin(job, context)
    return find_live(job, context, bitmaps)


def scatter(context: Context, live: Live, prob: IntArray, keep: int | None) -> Scattered:
    """End a job: add prob [h, r, n] to the live tokens, and keep the `keep` most important (None: all)."""
    before = context.saturated
    context.add_tokens(live.tokens, token_sums(prob))
    keys = context.token_importance[live.tokens]
    keys = keys + (live.pinned[live.tokens].astype(np.int64) << context.config.token_importance_bits)
    kept = context.prune_tokens(live.tokens, len(live.tokens) if keep is None else keep, live.pinned)
    return Scattered(keys=keys, kept=np.isin(live.tokens, kept), saturated=context.saturated - before)
