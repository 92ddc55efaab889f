"""Gives away the places for what is stashed of rows that may have to be computed again."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Const, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.logic import first_set, index_shape
from spatten.spec.constants import STASH_SLOTS

__all__ = ["StashSlots"]


class StashSlots(wiring.Component):
    """Which stash slots are taken; the free one with the lowest number is given away next.

    Ports
    -----
    has_free, slot : out, whether a slot is free, and which is next
    taken : out, a bit for each slot: it is taken
    takes : in, that slot is taken; only while one is free
    freed : in, a bit for each slot: the slot is free again; only of slots that are taken

    A slot that is freed is to be had from the next cycle on; any number may be freed in a cycle. An assertion checks
    both assumptions in simulation.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "has_free": Out(1),
                "slot": Out(index_shape(STASH_SLOTS)),
                "taken": Out(STASH_SLOTS),
                "takes": In(1),
                "freed": In(STASH_SLOTS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        taken = Signal(STASH_SLOTS)
        taken_next = Signal(STASH_SLOTS)
        has_free = Signal(init=1)
        m.d.comb += [
            self.taken.eq(taken),
            self.has_free.eq(has_free),
            self.slot.eq(first_set(~taken)),
            taken_next.eq((taken & ~self.freed) | Mux(self.takes, Const(1, STASH_SLOTS) << self.slot, 0)),
        ]
        m.d.sync += [taken.eq(taken_next), has_free.eq(~taken_next.all())]
        if asserts(platform):
            m.d.sync += [
                Assert(ResetSignal() | ~(self.freed & ~taken).any(), "a stash slot is freed that is not taken\n"),
                Assert(ResetSignal() | ~self.takes | self.has_free, "a stash slot is taken while none is free\n"),
            ]
        return m
