"""The activations against float64, over the range that float32 resolves."""

from __future__ import annotations

import math

import numpy as np

from spatten.host.models import layers


def test_gelu_is_exact_to_float32() -> None:
    x = np.concatenate([np.linspace(-12, 12, 100_001), [-1e30, -1e4, 1e4, 1e30]]).astype(np.float32)
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype(np.float64)])
    error = np.abs(layers.gelu(x) - exact)
    assert (error <= np.maximum(1.3e-7, np.spacing(np.abs(x)) * 0.65)).all()
    assert error.max() > 0


def test_gelu_new_and_relu() -> None:
    x = np.linspace(-12, 12, 100_001).astype(np.float32)
    wide = x.astype(np.float64)
    exact = wide / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(layers.gelu_new(x), exact, rtol=0, atol=7e-7)
    np.testing.assert_array_equal(layers.relu(x), np.maximum(x, 0))
