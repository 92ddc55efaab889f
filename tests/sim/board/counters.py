"""Small circuits with a clock and pads of a board, in the place of what takes an hour: they are placed in seconds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from amaranth.hdl import Cat, ClockDomain, Instance, Module, Value
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.board_top import CORE, BoardTop
from spatten.hw.board.boards import BOARDS
from spatten.hw.emit.verilog import convert
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


class Shifter(wiring.Component):
    """In the place of a board's core, with its ports: all inputs enter a chain of registers, which are the outputs."""

    def __init__(self, core: wiring.Component) -> None:
        super().__init__(core.signature)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        ports = [(member.flow, Value.cast(value)) for _, member, value in self.signature.flatten(self)]
        inputs = Cat(value for flow, value in ports if flow == In)
        outputs = Cat(value for flow, value in ports if flow == Out)
        m.d.sync += outputs.eq(Cat(inputs.xor() ^ outputs[-1], outputs))
        return m


def shifter(name: str = "shifter") -> Circuit:
    """The top of the board, with all its pads, clocks and resets, around next to nothing."""
    board = BOARDS["ulx3s"]
    top = BoardTop(board=board)
    return platform_circuit(
        top,
        name=name,
        platform=board.platform(),
        frequency_hz=board.pll.frequency_hz,
        modules=convert(Shifter(top.core), name=CORE),
    )
