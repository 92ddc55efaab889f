"""Assertions that exist in simulation only: what a neighbour must hold to."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Signal, Value, ValueLike

from spatten.hw.lib.shared import Platform

__all__ = ["SIMULATION", "asserts", "check_stream"]

SIMULATION = Platform(assertions=True)
"""The platform to elaborate for when assertions are wanted: `component.elaborate(SIMULATION)`."""


def asserts(platform: Any) -> bool:
    """Whether a circuit that is elaborated for `platform` has assertions."""
    return isinstance(platform, Platform) and platform.assertions


def check_stream(m: Module, platform: Any, interface: Any, name: str, *, ends: ValueLike = 0) -> None:
    """In simulation, assert that an input stream keeps valid and payload while it is stalled.

    A reset may end a stream at any time, and so may the condition `ends`. `interface` is the stream as seen from
    inside the component that consumes it; `name` goes into the message. For a platform without assertions nothing is
    added.
    """
    if not asserts(platform):
        return
    payload = Value.cast(interface.payload)
    stalled = Signal(name=f"{name}_stalled")
    stalled_payload = Signal(len(payload), name=f"{name}_stalled_payload", reset_less=True)
    m.d.sync += [stalled.eq(interface.valid & ~interface.ready), stalled_payload.eq(payload)]
    m.d.sync += Assert(
        ResetSignal() | ends | ~stalled | (interface.valid & (payload == stalled_payload)),
        f"{name}: valid or payload changed while stalled\n",
    )
