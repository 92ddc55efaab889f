"""Q x K: exact integer scores (SpAtten section IV-C; the 1/sqrt(D) is part of the score scale)."""

from __future__ import annotations

from spatten.golden import IntArray


def scores(query: IntArray, key: IntArray) -> IntArray:
    """Q [..., r, d] times K [..., n, d]: exact scores [..., r, n], `Config.score_bits` wide at most."""
    return query @ key.swapaxes(-1, -2)
