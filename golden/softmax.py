"""Scale and softmax: exact scores to probabilities in integers (docs/numerics.md, section 5; SpAtten section IV-D).

Per row: subtract the maximum, scale to base-2 exponents, look up 2**-fraction as a 17-bit mantissa, sum with 24
fraction bits, one reciprocal, and one 17 x 18 bit product per key. All roundings are half up.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

from spatten.golden import BoolArray, IntArray
from spatten.golden.rounding import round_shift
from spatten.spec.config import SUM_FRACTION, Config

DIFFERENCE_BITS = 18
"""Unsigned width of a normalised difference: one side of an 18-bit multiplier."""
DIFFERENCE_POINT = 28
"""Differences are normalised so that mantissa x difference has this many fraction bits."""
EXPONENT_FRACTION = 12
"""Fraction bits of the base-2 exponent t."""
EXPONENT_BITS = 5 + EXPONENT_FRACTION
"""Width of t: it saturates just below 32, where an exponential is far below what the sum resolves."""
EXP_INDEX_BITS = 6
"""Leading fraction bits of t that index the exponential table; the others interpolate."""
MANTISSA_FRACTION = 16
"""Fraction bits of an exponential's mantissa, (0.5, 1.0]."""
RECIPROCAL_INDEX_BITS = 8
"""Leading fraction bits of the normalised sum that index the reciprocal table."""
RECIPROCAL_LOW_BITS = 10
"""Further fraction bits of the normalised sum, which interpolate."""
RECIPROCAL_FRACTION = 17
"""Fraction bits of the reciprocal, 0.5 to 1.0, both included."""
FLAT_LIMIT_FRACTION = 5
"""Fraction bits of the flatness limit."""


def exp_table() -> IntArray:
    """[65] round(2**16 x 2**(-i/64)): entry i and the step to entry i+1 make one line of the ROM."""
    segments = 1 << EXP_INDEX_BITS
    with localcontext() as context:
        context.prec = 40
        exact = [Decimal(2) ** (MANTISSA_FRACTION - Decimal(i) / segments) for i in range(segments + 1)]
        return np.array([int(value + Decimal("0.5")) for value in exact], np.int64)


def reciprocal_table() -> IntArray:
    """[257] round(2**17 / (1 + i/256)): entry i and the step to entry i+1 make one line of the ROM."""
    segments = 1 << RECIPROCAL_INDEX_BITS
    one = segments << RECIPROCAL_FRACTION
    return np.array([(2 * one + d) // (2 * d) for d in range(segments, 2 * segments + 1)], np.int64)


_EXP = exp_table()
_RECIPROCAL = reciprocal_table()


def _interpolate(table: IntArray, index: IntArray, low: IntArray, low_bits: int) -> IntArray:
    """Falling line between table[index] and table[index + 1]."""
    start = table[index]
    return start - round_shift((start - table[index + 1]) * low, low_bits)


@dataclass(frozen=True)
class Exponentials:
    """exp(score - row maximum) of a row's live keys, and their sum."""

    mantissa: IntArray
    """[..., n] 17 bits, 16 of them fraction; 0 for a key that is not live."""
    exponent: IntArray
    """[..., n] 5 bits: the exponential is mantissa x 2**-exponent."""
    total: IntArray
    """[...] sum with `SUM_FRACTION` fraction bits, at least 1.0."""


def exponentials(
    score: IntArray, scale_mantissa: IntArray | int, scale_shift: IntArray | int, live: BoolArray | None = None
) -> Exponentials:
    """Scores [..., n] of which `live` (default all; at least one per row) count; scale per row, [...] or scalar.

    `scale_shift` is the job's shift less what the operands' unit adds: 4 for scores of an MSB plane alone.
    """
    masked = score if live is None else np.where(live, score, np.iinfo(np.int64).min)
    difference = masked.max(axis=-1, keepdims=True) - (score if live is None else np.where(live, score, 0))
    if live is not None:
        difference = np.where(live, difference, 0)
    mantissa_scale = np.asarray(scale_mantissa, np.int64)[..., None]
    right = np.asarray(scale_shift, np.int64)[..., None] - DIFFERENCE_POINT
    largest = (1 << DIFFERENCE_BITS) - 1
    normalised = np.where(
        right >= 0,
        round_shift(difference, np.maximum(right, 0)),
        np.minimum(difference, largest) << np.maximum(-right, 0),
    )
    normalised = np.minimum(normalised, largest)
    t = round_shift(normalised * mantissa_scale, DIFFERENCE_POINT - EXPONENT_FRACTION)
    t = np.minimum(t, (1 << EXPONENT_BITS) - 1)
    low_bits = EXPONENT_FRACTION - EXP_INDEX_BITS
    fraction = t & ((1 << EXPONENT_FRACTION) - 1)
    mantissa = _interpolate(_EXP, fraction >> low_bits, fraction & ((1 << low_bits) - 1), low_bits)
    exponent = t >> EXPONENT_FRACTION
    if live is not None:
        mantissa = np.where(live, mantissa, 0)
    addend = round_shift(mantissa << (SUM_FRACTION - MANTISSA_FRACTION), exponent)
    return Exponentials(mantissa, exponent, addend.sum(axis=-1))


def is_flat(total: IntArray, flat_limit: int) -> BoolArray:
    """Whether max(prob) = 1/sum lies below the threshold 1/flat_limit (16 bits, 5 of them fraction)."""
    return total > (flat_limit << (SUM_FRACTION - FLAT_LIMIT_FRACTION))


def flat_limit(threshold: float) -> int:
    """The limit that stands for `max(prob) < threshold`: 1/threshold with 5 fraction bits, saturated to 16 bits."""
    one = 1 << FLAT_LIMIT_FRACTION
    return 0xFFFF if threshold * 0xFFFF <= one else int(one / threshold + 0.5)


def reciprocal(total: IntArray) -> tuple[IntArray, IntArray]:
    """1/sum as (mantissa of 18 bits with 17 fraction bits, z): the reciprocal is mantissa x 2**-z."""
    z = np.zeros_like(total)
    for step in (32, 16, 8, 4, 2, 1):  # floor(log2): a leading-zero count in the circuit
        z += np.where(total >> (z + step) > 0, step, 0)
    z -= SUM_FRACTION
    kept = RECIPROCAL_INDEX_BITS + RECIPROCAL_LOW_BITS
    fraction = (total >> (SUM_FRACTION - kept + z)) & ((1 << kept) - 1)
    low_mask = (1 << RECIPROCAL_LOW_BITS) - 1
    mantissa = _interpolate(_RECIPROCAL, fraction >> RECIPROCAL_LOW_BITS, fraction & low_mask, RECIPROCAL_LOW_BITS)
    return mantissa, z


def normalise(config: Config, exps: Exponentials) -> IntArray:
    """Probabilities [..., n], `config.prob_bits` wide: round(p x 2**bits), with 1.0 as all ones."""
    inverse, z = reciprocal(exps.total)
    product = exps.mantissa * inverse[..., None]
    point = MANTISSA_FRACTION + RECIPROCAL_FRACTION - config.prob_bits
    return np.minimum(round_shift(product, point + exps.exponent + z[..., None]), config.prob_one)


def softmax(
    config: Config,
    score: IntArray,
    scale_mantissa: IntArray | int,
    scale_shift: IntArray | int,
    live: BoolArray | None = None,
) -> IntArray:
    """Probabilities of scores [..., n]: `exponentials`, then `normalise`."""
    return normalise(config, exponentials(score, scale_mantissa, scale_shift, live))
