"""Linear symmetric quantization: from a host's floats to operands and scales (SpAtten section III-D).

One Q scale and one K scale per head, one V scale per layer. A code is floor(x / scale + 1/2), symmetric: its
range is -(2**(bits-1) - 1) .. 2**(bits-1) - 1, the most negative code is never made.
"""

from __future__ import annotations

import math

import numpy as np

from spatten.golden import FloatArray, GoldenError, IntArray
from spatten.spec.config import MULTIPLIER_FRACTION


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
