"""Walks through the components that a component is made of."""

from __future__ import annotations

from collections.abc import Iterator

from amaranth.hdl import Module
from amaranth.lib import wiring

from spatten.spec.config import Config

__all__ = ["components", "parameters_of"]


def components(top: wiring.Component, name: str = "") -> Iterator[tuple[str, wiring.Component]]:
    """A component and all that are in it, each with its path, whose names are joined by dots.

    The components are elaborated, so `top` must be used for nothing else.
    """
    yield name, top
    module = top.elaborate(None)
    if not isinstance(module, Module):
        return  # a memory
    for part, (submodule, _) in module._named_submodules.items():
        # DomainRenamer and its like wrap what they change.
        inner = getattr(submodule, "_elaboratable_", submodule)
        if isinstance(inner, wiring.Component):
            yield from components(inner, f"{name}.{part}" if name else part)


def parameters_of(component: wiring.Component) -> dict[str, object]:
    """What tells apart two components of the same class: their ports, and the parameters that they keep."""
    kept = {
        name: value
        for name, value in vars(component).items()
        if not name.startswith("_") and isinstance(value, (int, str, tuple, Config))
    }
    return {"class": type(component).__qualname__, "ports": component.signature, **kept}
