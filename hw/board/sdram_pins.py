"""The pins of an SDRAM, and the registers of their pads."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_timing import DQ_BITS

__all__ = ["ADDRESS_PINS", "ALL_BANKS", "PAD_CYCLES", "SdramPads", "sdram_pins"]

ADDRESS_PINS = 13
ALL_BANKS = 10
"""The address pin that says of PRECHARGE that it is for all banks."""
PAD_CYCLES = 2
"""What the pads add to the time from a READ to its data: the register of an output and that of an input."""


def sdram_pins() -> wiring.Signature:
    """The pins of an SDRAM as its controller sees them; the clock is not among them."""
    return wiring.Signature(
        {
            "cke": Out(1, init=1),
            "cs_n": Out(1, init=1),
            "ras_n": Out(1, init=1),
            "cas_n": Out(1, init=1),
            "we_n": Out(1, init=1),
            "ba": Out(2),
            "a": Out(ADDRESS_PINS),
            "dqm": Out(DQ_BITS // 8, init=3),
            "dq_o": Out(DQ_BITS),
            "dq_oe": Out(1),
            "dq_i": In(DQ_BITS),
        }
    )


class SdramPads(wiring.Component):
    """A register for each pin, as those of an FPGA's I/O cells: what a simulation has in the place of these cells.

    Ports
    -----
    i : `sdram_pins`, in: those of the controller
    o : `sdram_pins`, out: those of the part

    Latency: 1 cycle each way. CKE, the commands and the enable of the data pins begin as after a reset.
    """

    def __init__(self) -> None:
        super().__init__({"i": In(sdram_pins()), "o": Out(sdram_pins())})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for name, member in sdram_pins().members.items():
            source, sink = (self.i, self.o) if member.flow == Out else (self.o, self.i)
            register = Signal(
                member.shape, init=member.init, name=f"{name}_pad", reset_less=name in ("a", "ba", "dq_o", "dq_i")
            )
            m.d.sync += register.eq(getattr(source, name))
            m.d.comb += getattr(sink, name).eq(register)
        return m
