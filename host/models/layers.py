"""The float layers outside attention that BERT and GPT-2 share, and the checks of what an engine returns.

Shapes: n = live token rows, h = live heads, d = head dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spatten.host.engines.engine import FloatArray, IntArray, LayerResult

_LOG_TAIL = (
    -1.38067986e-06,
    2.02898188e-05,
    -9.57155462e-05,
    -1.75668639e-04,
    5.00202004e-03,
    -3.64616556e-02,
    -3.18273928e-01,
    -7.97888463e-01,
    -6.93147114e-01,
)
"""log(erfc(z / sqrt(2)) / 2) on 0 <= z <= 6, highest power first: the polynomial with the least maximum error of
z erfc(z / sqrt(2)) / 2, 1e-8 in exact arithmetic."""


def gelu(x: FloatArray) -> FloatArray:
    """x erfc(-x / sqrt(2)) / 2, elementwise in float32: within 1.3e-7, or 0.65 ulp of x, of the exact function.

    Written as max(x, 0) - |x| erfc(|x| / sqrt(2)) / 2, which has no cancellation and needs no second branch.
    """
    z = np.abs(x)
    np.minimum(z, np.float32(6), out=z)  # beyond, the second term is below 6e-9
    tail = z * np.float32(_LOG_TAIL[0])
    for coefficient in _LOG_TAIL[1:-1]:
        tail += np.float32(coefficient)
        tail *= z
    tail += np.float32(_LOG_TAIL[-1])
    np.exp(tail, out=tail)
    tail *= z
    return np.subtract(np.maximum(x, np.float32(0)), tail, out=tail)


def gelu_new(x: FloatArray) -> FloatArray:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2, elementwise in float32."""
    gate = x * x
    gate *= np.float32(0.044715 * np.sqrt(2 / np.pi))
    gate += np.float32(np.sqrt(2 / np.pi))
    gate *= x
    np.tanh(gate, out=gate)
    gate += np.float32(1)
    gate *= x
    gate *= np.float32(0.5)
    return gate


def relu(x: FloatArray) -> FloatArray:
    """max(x, 0), elementwise."""
    return np.maximum(x, np.float32(0))


ACTIVATIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "gelu_python_tanh": gelu_new,
    "gelu_fast": gelu_new,
    "gelu_accurate": gelu_new,
    "relu": relu,
}
"""By their names in transformers, which has several names for programs of the same function."""


class LayerNorm:
    """Normalises rows to mean 0 and variance 1, then applies weight and bias, each [hidden]."""

    def __init__(self, weight: FloatArray, bias: FloatArray, epsilon: float) -> None:
        self._weight, self._bias, self._epsilon = weight, bias, np.float32(epsilon)

    def __call__(self, x: FloatArray) -> FloatArray:
        """[n, hidden] to [n, hidden]."""
        count = np.float32(x.shape[-1])
        y = x - np.add.reduce(x, axis=-1, keepdims=True) / count
        variance = np.einsum("ij,ij->i", y, y)[:, None] / count
        y /= np.sqrt(variance + self._epsilon)
        y *= self._weight
        y += self._bias
        return y


class FeedForward:
    """The two dense layers outside attention; weights are [in, out]."""

    def __init__(
        self, w_in: FloatArray, b_in: FloatArray, w_out: FloatArray, b_out: FloatArray, activation: str
    ) -> None:
        self._w_in, self._b_in, self._w_out, self._b_out = w_in, b_in, w_out, b_out
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: FloatArray) -> FloatArray:
        """[n, hidden] to [n, hidden]."""
        inner = x @ self._w_in
        inner += self._b_in
        y = self._activation(inner) @ self._w_out
        y += self._b_out
        return y


class Projections:
    """The dense layers around attention, with the columns and rows of dead heads left out.

    Weights: `w_in` [hidden, 3, heads, d] and `b_in` [3, heads, d] make Q, K and V; `w_out` [heads, d, hidden] and
    `b_out` [hidden] take the attention output back. The slices of the last set of heads are kept, since the set
    seldom changes between steps.
    """

    def __init__(self, w_in: FloatArray, b_in: FloatArray, w_out: FloatArray, b_out: FloatArray) -> None:
        self._whole = np.ascontiguousarray(w_in), b_in, np.ascontiguousarray(w_out)
        self._b_out = b_out
        self._heads = np.arange(w_out.shape[0], dtype=np.int64)
        self._sliced = self._whole

    def _slices(self, heads: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        if not np.array_equal(heads, self._heads):
            w_in, b_in, w_out = self._whole
            whole = np.array_equal(heads, np.arange(w_out.shape[0]))
            self._sliced = self._whole if whole else (w_in.take(heads, 2), b_in.take(heads, 1), w_out.take(heads, 0))
            self._heads = heads.copy()
        return self._sliced

    def inputs(self, x: FloatArray, heads: IntArray) -> FloatArray:
        """Q, K and V of `heads`, stacked [3, h, n, d], from [n, hidden]."""
        w_in, b_in, _ = self._slices(heads)
        y = x @ w_in.reshape(x.shape[1], -1)
        y += b_in.reshape(-1)
        return y.reshape(x.shape[0], *b_in.shape).transpose(1, 2, 0, 3)

    def output(self, attended: FloatArray, heads: IntArray) -> FloatArray:
        """[n, h, d] of `heads` to [n, hidden]."""
        _, _, w_out = self._slices(heads)
        y = attended.reshape(attended.shape[0], -1) @ w_out.reshape(-1, w_out.shape[2])
        y += self._b_out
        return y


def check_result(result: LayerResult, *, rows: int, heads: int, head_dim: int, layer: int) -> None:
    """Raise `RuntimeError` unless an engine's output is finite and of the shape the layer asked for."""
    expected = (rows, heads, head_dim)
    if result.output.shape != expected:
        raise RuntimeError(f"layer {layer}: the attention output must have shape {expected}, not {result.output.shape}")
    if not np.isfinite(result.output).all():
        raise RuntimeError(f"layer {layer}: the attention output holds values that are not finite")


def surviving_rows(result: LayerResult, tokens: IntArray, *, layer: int) -> IntArray:
    """Indices into `tokens` of the rows that an engine keeps, ascending.

    Raises `RuntimeError` for an engine that keeps nothing, or tokens that were not live.
    """
    rows = np.searchsorted(tokens, result.kept_tokens)
    ascending = rows.size > 0 and rows[-1] < tokens.size and bool((rows[1:] > rows[:-1]).all())
    if not ascending or not np.array_equal(tokens[rows], result.kept_tokens):
        raise RuntimeError(
            f"layer {layer}: kept_tokens must be some of the live tokens {tokens.tolist()} in ascending order, "
            f"not {result.kept_tokens.tolist()}"
        )
    return rows
