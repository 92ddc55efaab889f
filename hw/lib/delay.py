"""Delay lines: what travels along a pipeline beside its arithmetic."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal, Value, ValueLike

__all__ = ["delayed", "delayed_valid", "register"]


def register(m: Module, value: ValueLike, name: str, *, shape: Shape | None = None) -> Signal:
    """Data one cycle later, in their own shape, or in `shape`, which they are known to fit; not reset."""
    data = Value.cast(value)
    late = Signal(data.shape() if shape is None else shape, name=name, reset_less=True)
    m.d.sync += late.eq(data)
    return late


def delayed(m: Module, value: ValueLike, cycles: int, name: str) -> Value:
    """Data `cycles` cycles later, in registers that are not reset: `name`_1, `name`_2 and so on."""
    late = Value.cast(value)
    for cycle in range(cycles):
        late = register(m, late, f"{name}_{cycle + 1}")
    return late


def delayed_valid(m: Module, valid: Value, cycles: int, name: str) -> Value:
    """A valid bit `cycles` cycles later, in registers that are reset: a reset empties the pipeline."""
    for cycle in range(cycles):
        late = Signal(name=f"{name}_{cycle + 1}")
        m.d.sync += late.eq(valid)
        valid = late
    return valid
