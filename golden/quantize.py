"""Linear symmetric quantization: from a host's floats to operands and scales (SpAtten section III-D).

One Q scale and one K scale per head, one V scale per layer. A code is floor(x / scale + 1/2), symmetric: its
range is -(2**(bits-1) - 1) .. 2**(bits-1) - 1, the most negative code is never made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from golden import FloatArray, GoldenError, IntArray
from hw.config import MULTIPLIER_FRACTION, SCALE_MANTISSA_BITS, SCALE_SHIFT_MAX, SCALE_SHIFT_MIN


def largest_code(bits: int) -> int:
    """The largest code of a symmetric quantizer."""
    return (1 << (bits - 1)) - 1


def choose_scale(tensor: FloatArray, bits: int, axis: tuple[int, ...] | None = None) -> FloatArray:
    """Scale that maps the largest magnitude over `axis` (kept) to the largest code; 1.0 where all is zero.

    Raises `GoldenError` for a tensor that is empty or not finite.
    """
    _check_finite(tensor)
    peak = np.max(np.abs(tensor.astype(np.float64)), axis=axis, keepdims=axis is not None)
    scale = peak / largest_code(bits)
    return np.where(scale > 0, scale, 1.0)


def quantize(tensor: FloatArray, scale: FloatArray | float, bits: int) -> tuple[IntArray, int]:
    """Codes of `tensor` (any shape, `scale` broadcast) and how many were clipped to the range of `bits`.

    Raises `GoldenError` for values that are not finite and for scales that are not positive.
    """
    _check_finite(tensor)
    if not np.all(np.asarray(scale) > 0):
        raise GoldenError(f"a quantization scale must be positive, not {np.min(scale)}")
    peak = largest_code(bits)
    code = np.floor(tensor.astype(np.float64) / scale + 0.5)
    clipped = np.clip(code, -peak, peak)
    return clipped.astype(np.int64), int(np.count_nonzero(clipped != code))


@dataclass(frozen=True)
class ScoreScale:
    """What turns a head's exact integer scores into log2 of exponentials: mantissa x 2**-shift.

    It stands for Q scale x K scale / sqrt(D) x log2(e); the mantissa is normalised to 16 bits.
    """

    mantissa: int
    shift: int

    def __post_init__(self) -> None:
        low, high = 1 << (SCALE_MANTISSA_BITS - 1), (1 << SCALE_MANTISSA_BITS) - 1
        if not low <= self.mantissa <= high:
            raise GoldenError(f"score scale mantissa must be {low} to {high}, not {self.mantissa}")
        if not SCALE_SHIFT_MIN <= self.shift <= SCALE_SHIFT_MAX:
            raise GoldenError(f"score scale shift must be {SCALE_SHIFT_MIN} to {SCALE_SHIFT_MAX}, not {self.shift}")

    @property
    def log2_step(self) -> float:
        """Log2 units of one score unit."""
        return self.mantissa * 2.0**-self.shift

    @classmethod
    def from_step(cls, step: float) -> ScoreScale:
        """The closest scale to `step`, natural-log units of one integer score unit (Qs x Ks / sqrt(D)).

        Steps too small to matter (every score difference far below one) become the smallest scale.
        """
        if not (math.isfinite(step) and step > 0):
            raise GoldenError(f"a score step must be finite and positive, not {step}")
        fraction, exponent = math.frexp(step)
        mantissa = math.floor(fraction * math.log2(math.e) * (1 << SCALE_MANTISSA_BITS) + 0.5)
        if mantissa >= 1 << SCALE_MANTISSA_BITS:  # log2(e) lifts the fraction to 0.72 .. 1.44
            exponent += 1
            mantissa = math.floor(fraction * math.log2(math.e) * (1 << (SCALE_MANTISSA_BITS - 1)) + 0.5)
        shift = SCALE_MANTISSA_BITS - exponent
        if shift > SCALE_SHIFT_MAX:
            return cls(1 << (SCALE_MANTISSA_BITS - 1), SCALE_SHIFT_MAX)
        if shift < SCALE_SHIFT_MIN:
            raise GoldenError(
                f"a score step of {step} is too large: at most {2.0 ** (SCALE_MANTISSA_BITS - SCALE_SHIFT_MIN)} "
                "in log2 units per integer score unit"
            )
        return cls(mantissa, shift)


def importance_multiplier(value_scale: float, reference: float) -> int:
    """Multiplier that makes head magnitudes of layers with different V scales comparable.

    1.0 (32,768) stands for a layer whose V scale equals `reference`; larger ones saturate there.
    """
    ratio = value_scale / reference * (1 << MULTIPLIER_FRACTION)
    return int(min(max(math.floor(ratio + 0.5), 1), 1 << MULTIPLIER_FRACTION))


def _check_finite(tensor: FloatArray) -> None:
    if tensor.size == 0:
        raise GoldenError(f"cannot quantize an empty tensor of shape {tensor.shape}")
    if not np.all(np.isfinite(tensor)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(tensor))[0])
        raise GoldenError(f"cannot quantize {tensor[index]} at index {index}: tensors must be finite")
