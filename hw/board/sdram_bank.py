"""What the controller of an SDRAM remembers of a bank: its open row, and when it may be closed."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_timing import SdramTiming

__all__ = ["SdramBank"]


class SdramBank(wiring.Component):
    """One bank of an SDRAM.

    Parameters
    ----------
    timing : SdramTiming

    Ports
    -----
    opens : in, set in the cycle of an ACTIVE for this bank, of row `i_row`
    writes : in, set in each cycle that has a word written to this bank
    closes : in, set in the cycle of a PRECHARGE for this bank; only while `may_close`
    is_open : out
    row : out, the row that was opened last
    may_close : out, set if `t_ras` cycles have passed from the last ACTIVE, and `t_wr` from the last word written

    All outputs come from registers but `may_close`, which is a comparison of one.
    """

    def __init__(self, *, timing: SdramTiming) -> None:
        self.timing = timing
        row = unsigned(timing.part.row_bits)
        super().__init__(
            {
                "opens": In(1),
                "i_row": In(row),
                "writes": In(1),
                "closes": In(1),
                "is_open": Out(1),
                "row": Out(row),
                "may_close": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        opened, written = self.timing.t_ras - 1, self.timing.t_wr - 1
        left = Signal(range(max(opened, written) + 1))
        row = Signal.like(self.row, reset_less=True)
        m.d.comb += [self.may_close.eq(~left.any()), self.row.eq(row)]
        later = Mux(left.any(), left - 1, 0)
        with m.If(self.opens):
            m.d.sync += [self.is_open.eq(1), row.eq(self.i_row), left.eq(opened)]
        with m.Elif(self.writes):
            m.d.sync += left.eq(Mux(left > written, later, written))
        with m.Else():
            m.d.sync += left.eq(later)
        with m.If(self.closes):
            m.d.sync += self.is_open.eq(0)
        return m
