"""Streams that cannot be held up."""

from __future__ import annotations

from amaranth.hdl import ShapeLike
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

__all__ = ["unstalled"]


def unstalled(shape: ShapeLike) -> wiring.Signature:
    """A stream whose taker is always ready: `payload` of `shape`, and `valid` while there is one."""
    return wiring.Signature({"valid": Out(1), "payload": Out(shape)})
