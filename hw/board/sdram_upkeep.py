"""Initialises an SDRAM, and refreshes it from then on."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_commands import Command, command, give
from spatten.hw.board.sdram_pins import ALL_BANKS
from spatten.hw.board.sdram_timing import SdramTiming

__all__ = ["SdramUpkeep", "settling_cycles"]


def settling_cycles(timing: SdramTiming) -> int:
    """Cycles from a warm reset to the first command: every command of before the reset has come to its end by then."""
    ends = timing.t_ras + timing.t_rfc + timing.t_wr + timing.t_mrd + timing.cas_latency
    return max(3, min(ends, timing.power_up - 2))


class SdramUpkeep(wiring.Component):
    """Asks for the SDRAM and gives the commands of its initialisation, and of a batch of refreshes in each period.

    `power_up` cycles after a reset: PRECHARGE of all banks, a batch of REFRESH (the standard wants two, Alliance
    eight), LOAD MODE REGISTER. Every `refresh_period` cycles from then on: PRECHARGE of all banks, a batch of
    REFRESH. A warm reset, which finds the SDRAM initialised and rows of it open, waits only until every command of
    before has come to its end: no row may be open for `power_up`.

    Parameters
    ----------
    timing : SdramTiming

    Ports
    -----
    warm : in, the SDRAM was initialised before this reset; does not change from the reset to the end of the
        initialisation
    wants : out, set while the SDRAM is wanted or used: nobody else may begin a command
    grant : in, set if nobody else gives commands and every bank may be closed; is then set until `wants` falls
    o : out, the command of this cycle, NOP included; means something only while `wants`
    closes : out, set in the cycle in which all banks are closed

    A batch takes t_rp + batch x t_rfc + 1 cycles from `grant` to the first cycle without `wants`; at initialisation
    t_mrd cycles more. All outputs come from registers and a few gates.
    """

    def __init__(self, *, timing: SdramTiming) -> None:
        self.timing = timing
        super().__init__({"warm": In(1), "wants": Out(1, init=1), "grant": In(1), "o": Out(command), "closes": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        timing = self.timing
        # One counter: until the first command, and then from batch to batch.
        until = Signal(range(max(timing.power_up, timing.refresh_period)), init=timing.power_up - 1)
        is_due = Signal()
        is_started = Signal()
        is_settled = ~is_started & self.warm & (until == timing.power_up - settling_cycles(timing) + 1)
        m.d.sync += until.eq(Mux(is_due, timing.refresh_period - 1, until - 1))
        m.d.sync += is_due.eq((until == 1) | is_settled)

        pause = Signal(range(max(timing.t_rp, timing.t_rfc, timing.t_mrd)))
        left = Signal(range(timing.batch + 1))
        m.d.comb += give(self.o, Command.NOP, bank=0, address=0)
        with m.If(pause.any()):
            m.d.sync += pause.eq(pause - 1)
        with m.FSM():
            with m.State("wait"), m.If(is_due):
                m.d.sync += self.wants.eq(1)
                m.next = "close"
            with m.State("close"), m.If(self.grant):
                m.d.comb += [self.closes.eq(1), *give(self.o, Command.PRECHARGE, bank=0, address=1 << ALL_BANKS)]
                m.d.sync += [pause.eq(timing.t_rp - 1), left.eq(timing.batch)]
                m.next = "refresh"
            with m.State("refresh"), m.If(~pause.any()):
                with m.If(left.any()):
                    m.d.comb += give(self.o, Command.REFRESH, bank=0, address=0)
                    m.d.sync += [pause.eq(timing.t_rfc - 1), left.eq(left - 1)]
                with m.Elif(~is_started):
                    m.d.comb += give(self.o, Command.LOAD_MODE, bank=0, address=timing.mode)
                    m.d.sync += [pause.eq(timing.t_mrd - 1), is_started.eq(1)]
                with m.Else():
                    m.d.sync += self.wants.eq(0)
                    m.next = "wait"
        return m
