"""Two engines side by side on the same inputs: an accelerator and the golden model, which must agree in every bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from spatten.golden import IntArray
from spatten.host.engines.engine import FloatArray, LayerResult, ModelShape
from spatten.host.engines.quantized_engine import Computed, LayerWork, QuantizedSequence, Settings
from spatten.spec.config import Config
from spatten.spec.errors import SpattenError

__all__ = ["CheckedEngine", "CheckedSequence", "LayerObserver", "MismatchError"]

LayerObserver = Callable[[LayerWork, Computed], None]
"""Called with each job and what came of it, once both engines agree on it."""


class MismatchError(SpattenError, RuntimeError):
    """An engine computed something else than the other; the message says where first."""

    exit_status = 1


class _Engine(Protocol):
    name: str

    @property
    def settings(self) -> Settings: ...

    @property
    def config(self) -> Config: ...

    def start(self, shape: ModelShape, length: int) -> QuantizedSequence: ...


class CheckedEngine:
    """Computes with `tested`, and raises `MismatchError` where `golden` computes anything else.

    Each engine has a sequence of its own throughout: scales, codes, jobs and cascade state of both are independent.
    """

    def __init__(self, tested: _Engine, golden: _Engine, *, on_layer: LayerObserver | None = None) -> None:
        if tested.settings != golden.settings:
            raise ValueError(f"both engines must have the same settings, not {tested.settings!r}, {golden.settings!r}")
        self.tested, self.golden = tested, golden
        self.name = tested.name
        self._on_layer = on_layer

    def start(self, shape: ModelShape, length: int) -> CheckedSequence:
        """Begin a sequence on both engines."""
        return CheckedSequence(self.tested.start(shape, length), self.golden.start(shape, length), self._on_layer)


class CheckedSequence:
    """One sequence on both engines."""

    def __init__(self, tested: QuantizedSequence, golden: QuantizedSequence, on_layer: LayerObserver | None) -> None:
        self.tested, self.golden = tested, golden
        self._on_layer = on_layer

    def heads(self, layer: int) -> IntArray:
        return self.tested.heads(layer)

    def prompt(
        self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, tokens: IntArray
    ) -> LayerResult:
        result = self.tested.prompt(layer, query, key, value, tokens)
        self.golden.prompt(layer, query, key, value, tokens)
        self._compare()
        return result

    def step(self, layer: int, query: FloatArray, key: FloatArray, value: FloatArray, token: int) -> LayerResult:
        result = self.tested.step(layer, query, key, value, token)
        self.golden.step(layer, query, key, value, token)
        self._compare()
        return result

    def _compare(self) -> None:
        work, got = self.tested.work, self.tested.computed
        other, wanted = self.golden.work, self.golden.computed
        assert work is not None
        assert got is not None
        assert other is not None
        assert wanted is not None
        where = f"layer {work.layer}, {work.job.mode.label} of token {int(work.live.rows[-1])}"
        for name in ("tokens", "heads", "rows"):
            _same(f"{where}: live {name}", getattr(work.live, name), getattr(other.live, name))
        if work.job != other.job:
            raise MismatchError(f"{where}: the job is {work.job}, not {other.job}")
        if got.output.shape != wanted.output.shape:
            raise MismatchError(f"{where}: the output has the shape {got.output.shape}, not {wanted.output.shape}")
        places = np.argwhere(got.output != wanted.output)
        if len(places):
            h, r, d = places[0]
            raise MismatchError(
                f"{where}: head {work.live.heads[h]}, row {work.live.rows[r]}, element {d} is "
                f"{got.output[h, r, d]}, not {wanted.output[h, r, d]}; {len(places)} of {got.output.size} differ"
            )
        for name in ("kept_tokens", "kept_heads"):
            _same(f"{where}: {name.replace('_', ' ')}", getattr(got, name), getattr(wanted, name))
        importance = ("token_importance", "head_importance") if self.tested.knows_importance else ()
        for name in (*importance, "kept_tokens", "kept_heads"):
            mine, theirs = getattr(self.tested.context, name), getattr(self.golden.context, name)
            wrong = np.flatnonzero(mine != theirs)
            if len(wrong):
                raise MismatchError(
                    f"{where}: the state's {name} of {wrong[0]} is {mine[wrong[0]]}, not {theirs[wrong[0]]}"
                )
        for name in ("recomputed", "values_fetched", "saturated", "traffic"):
            mine, theirs = getattr(got, name), getattr(wanted, name)
            if mine != theirs:
                raise MismatchError(f"{where}: {name} is {mine}, not {theirs}")
        if self._on_layer is not None:
            self._on_layer(work, got)


def _same(what: str, mine: IntArray, theirs: IntArray) -> None:
    if not np.array_equal(mine, theirs):
        raise MismatchError(f"{what} are {mine.tolist()}, not {theirs.tolist()}")
