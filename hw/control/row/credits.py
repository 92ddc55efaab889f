"""Counts the free places at the end of a pipeline that cannot be stopped."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts

__all__ = ["Credits"]


class Credits(wiring.Component):
    """A place is taken when something is sent into a pipeline, and returned when it has left the pipeline's end.

    Parameters
    ----------
    places : int
        Places that there are; all are free at first.

    Ports
    -----
    has_one : out, a place is free
    takes : in, a place is taken; only while one is free
    returns : in, a place that was taken is free from the next cycle on

    Assertions check in simulation that no place is taken or returned beyond `places`.
    """

    def __init__(self, *, places: int) -> None:
        self.places = places
        super().__init__({"has_one": Out(1), "takes": In(1), "returns": In(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        free = Signal(range(self.places + 1), init=self.places)
        # Whether one is free comes from a register, which follows from how many are and what happens.
        has_one = Signal(init=1)
        m.d.comb += self.has_one.eq(has_one)
        with m.If(self.returns & ~self.takes):
            m.d.sync += [free.eq(free + 1), has_one.eq(1)]
        with m.If(self.takes & ~self.returns):
            m.d.sync += [free.eq(free - 1), has_one.eq(free != 1)]
        if asserts(platform):
            m.d.sync += [
                Assert(ResetSignal() | ~self.takes | self.has_one, "a place is taken while none is free\n"),
                Assert(ResetSignal() | ~self.returns | (free != self.places), "a place is returned that was free\n"),
            ]
        return m
