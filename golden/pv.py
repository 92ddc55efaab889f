"""prob x V (SpAtten section IV-F): the head's output rows, and how V lies in the beats that bring it."""

from __future__ import annotations

import numpy as np

from spatten.golden import GoldenError, IntArray
from spatten.golden.rounding import round_shift, saturate
from spatten.spec.config import Config


def outputs(config: Config, prob: IntArray, value: IntArray) -> tuple[IntArray, int]:
    """prob [..., r, n] times aligned V [..., n, d]: output [..., r, d] and how many elements saturated.

    The sum is exact in `config.pv_accumulator_bits`, rounded once by `prob_bits`, saturated to `operand_bits`.
    """
    return saturate(round_shift(prob @ value, config.prob_bits), config.operand_bits)


def value_beats(value: IntArray, *, multipliers: int, slice_width: int, keys: int, dead: IntArray) -> IntArray:
    """V [n, d] as the operands of the multipliers, beat by beat: [beats, multipliers].

    `keys` keys share a beat, or d / `slice_width` beats where d exceeds `slice_width`. `dead` [beats, multipliers] has
    the operands of places without a key.
    """
    n, dim = value.shape
    slices = multipliers // slice_width
    parts = max(1, dim // slice_width)
    key, d = np.indices(value.shape)
    rank, part = key % keys, d // slice_width
    beat = key // keys * parts + part
    position = rank // slices * dim + d % slice_width
    beats = dead.copy()
    if beats.shape != (-(-n // keys) * parts, multipliers):
        raise GoldenError(f"dead must have shape {(-(-n // keys) * parts, multipliers)}, not {beats.shape}")
    if keys > max(1, slice_width // dim) * slices:
        raise GoldenError(f"{keys} keys of {dim} operands do not fit {slices} slices of {slice_width}")
    beats[beat, rank % slices * slice_width + position] = value
    return beats
