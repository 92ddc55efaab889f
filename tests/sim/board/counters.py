"""A small circuit with a clock and pads of a board, in the place of what takes an hour: it is placed in seconds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from amaranth.hdl import ClockDomain, Instance, Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import Out

from spatten.hw.board.boards import BOARDS
from spatten.sim.board.bitstream import Circuit, platform_circuit

WIDTHS = (24, 64)


class Counter(wiring.Component):
    def __init__(self, *, width: int) -> None:
        super().__init__({"o": Out(width)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.sync += self.o.eq(self.o + 1)
        return m


class Counters(wiring.Component):
    """Counters behind the board's PLL; each has its top bit on an LED."""

    def __init__(self) -> None:
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pll = BOARDS["ulx3s"].pll
        m.domains.sync = sync = ClockDomain(reset_less=True)
        m.submodules.clock_pad = clock = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        m.submodules.pll = Instance(
            "EHXPLLL",
            *(("p", name, value) for name, value in pll.parameters.items()),
            i_CLKI=clock.i,
            i_CLKFB=sync.clk,
            i_RST=0,
            i_STDBY=0,
            i_ENCLKOP=1,
            i_ENCLKOS=1,
            o_CLKOP=sync.clk,
        )
        platform.add_clock_constraint(sync.clk, pll.frequency_hz)
        for number, width in enumerate(WIDTHS):
            m.submodules[f"counter_{number}"] = counter = Counter(width=width)
            m.submodules[f"pad_{number}"] = pad = io.FFBuffer("o", platform.request("led", number, dir="-"))
            m.d.comb += pad.o.eq(counter.o[-1])
        return m


def too_fast() -> Circuit:
    """The same, with a clock that no counter of 64 bits can follow."""
    circuit = counters()
    constraints = re.sub(r"(FREQUENCY NET .*) [\d.]+ HZ;", r"\1 400000000.0 HZ;", circuit.constraints)
    assert constraints != circuit.constraints
    return replace(circuit, constraints=constraints, frequency_hz=400_000_000)


def counters(name: str = "counters") -> Circuit:
    board = BOARDS["ulx3s"]
    return platform_circuit(Counters(), name=name, platform=board.platform(), frequency_hz=board.pll.frequency_hz)
