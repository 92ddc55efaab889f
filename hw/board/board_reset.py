"""The reset of what is on a board, by its button."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RESET_CYCLES", "BoardReset"]

RESET_CYCLES = 16
"""Cycles of a reset."""


class BoardReset(wiring.Component):
    """Makes a short reset of a button that is pressed for long, since nobody refreshes the SDRAM in a reset.

    Stands in a domain that is reset by the power supply only.

    Ports
    -----
    pressed : in, the button, in any relation to the clock's edges
    ready : in, the SDRAM has been initialised
    reset : out, from a register: set for `RESET_CYCLES` from the power supply's reset on, and from each time that the
        button is pressed on
    warm : out, the SDRAM has been initialised since the power supply came

    Latency: 3 to 4 cycles from the button to `reset`.
    """

    def __init__(self) -> None:
        super().__init__({"pressed": In(1), "ready": In(1), "reset": Out(1, init=1), "warm": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        seen = Signal(3)
        left = Signal(range(RESET_CYCLES), init=RESET_CYCLES - 1)
        m.d.sync += [seen.eq(seen << 1 | self.pressed), self.reset.eq(left.any())]
        with m.If(seen[1] & ~seen[2]):
            m.d.sync += [left.eq(RESET_CYCLES - 1), self.reset.eq(1)]
        with m.Elif(left.any()):
            m.d.sync += left.eq(left - 1)
        with m.If(self.ready):
            m.d.sync += self.warm.eq(1)
        return m
