"""Assertions that exist in simulation only: what a neighbour must hold to."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Signal, Value

__all__ = ["SIMULATION", "check_stream"]

SIMULATION = "simulation"
"""The platform to elaborate for when assertions are wanted: `component.elaborate(SIMULATION)`."""


def check_stream(m: Module, platform: Any, interface: Any, name: str) -> None:
    """In simulation, assert that an input stream keeps valid and payload while it is stalled.

    A reset may end a stream at any time. `interface` is the stream as seen from inside the component that consumes it;
    `name` goes into the message. For any other platform than `SIMULATION` nothing is added.
    """
    if platform != SIMULATION:
        return
    payload = Value.cast(interface.payload)
    stalled = Signal(name=f"{name}_stalled")
    stalled_payload = Signal(len(payload), name=f"{name}_stalled_payload", reset_less=True)
    m.d.sync += [stalled.eq(interface.valid & ~interface.ready), stalled_payload.eq(payload)]
    m.d.sync += Assert(
        ResetSignal() | ~stalled | (interface.valid & (payload == stalled_payload)),
        f"{name}: valid or payload changed while stalled\n",
    )
