"""Runs of the units as they stand in an accelerator (`hw.instances`)."""

from __future__ import annotations

import inspect
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import wiring


def sizes(component: wiring.Component) -> dict[str, Any]:
    """The parameters that a component was made with. What it carries unread counts by its width only, so that a
    testbench can send numbers for the structs of the accelerator."""
    found: dict[str, Any] = {}
    for name in inspect.signature(type(component).__init__).parameters:
        if name != "self":
            value = getattr(component, name)
            is_shape = name in ("header", "shape") and value is not None
            found[name] = Shape.cast(value).width if is_shape else value
    return found


def instance_run(component: wiring.Component, run: dict[str, Any]) -> dict[str, Any]:
    """The run of a component of the same sizes, on this one."""
    return {**run, "component": component}
