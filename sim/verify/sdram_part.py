"""The model of an SDRAM, `sim/verify/sdram_model.v`, as a component; and a controller with pads and that model behind
it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram import Sdram
from spatten.hw.board.sdram_pins import SdramPads, sdram_pins
from spatten.hw.board.sdram_timing import DQ_BITS, SdramTiming
from spatten.hw.emit.verilog import convert
from spatten.hw.memory.axi import axi4
from spatten.sim.verify.transformations import stop_at_assertions, strip_initial_values

MODEL = Path(__file__).with_name("sdram_model.v")
RULES = (
    *("NONE", "POWER_UP", "INITIALISATION", "MODE_VALUE", "CLOSED_BANK", "OPEN_BANK", "T_RCD", "T_RP", "T_RAS"),
    *("T_RAS_MOST", "T_RC", "T_RRD", "T_WR", "T_MRD", "T_RFC", "NOT_IDLE", "WINDOW", "BUS_CONFLICT", "UNDRIVEN"),
    *("UNSUPPORTED", "UNKNOWN"),
)
"""The rules by their number in `breach`."""


class SdramModel(wiring.Component):
    """The part: `pins` as its controller sees them, and the first rule that was broken.

    `settings` are parameters of the Verilog module, such as T_RCD_PS; all others are those of the module itself.
    """

    def __init__(self, settings: Mapping[str, int]) -> None:
        self.settings = dict(settings)
        super().__init__(
            {
                "pins": In(sdram_pins()),
                "power_off": In(1),
                "breach": Out(8),
                "breach_edge": Out(32),
                "dq_driven": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pins = self.pins
        inputs = ("cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dqm")
        m.submodules.model = Instance(
            "sdram_model",
            *(("p", name, value) for name, value in self.settings.items()),
            *(("i", name, getattr(pins, name)) for name in inputs),
            i_clk=ClockSignal(),
            i_power_off=self.power_off,
            i_dq_i=pins.dq_o,
            i_dq_i_driven=pins.dq_oe,
            o_dq_o=pins.dq_i,
            o_dq_o_driven=self.dq_driven,
            o_breach=self.breach,
            o_breach_edge=self.breach_edge,
        )
        return m


class SdramBoard(wiring.Component):
    """A controller, its pads, and the part: AXI in front, the first rule that was broken behind.

    The part has the clock of the controller, so it takes a command at the edge after the one that put it on the pins:
    what a clock pin does that is late by nearly a period.
    """

    def __init__(self, *, timing: SdramTiming, settings: Mapping[str, int], address_bits: int = 40) -> None:
        self.timing = timing
        self.settings = dict(settings)
        self.address_bits = address_bits
        super().__init__(
            {
                "axi": In(axi4(address_bits, DQ_BITS)),
                "is_ready": Out(1),
                "warm": In(1),
                "power_off": In(1),
                "breach": Out(8),
                "breach_edge": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.sdram = sdram = Sdram(timing=self.timing, address_bits=self.address_bits)
        m.submodules.pads = pads = SdramPads()
        m.submodules.part = part = SdramModel(self.settings)
        wiring.connect(m, wiring.flipped(self.axi), sdram.axi)
        wiring.connect(m, sdram.pins, pads.i)
        wiring.connect(m, pads.o, part.pins)
        m.d.comb += [
            self.is_ready.eq(sdram.is_ready),
            sdram.warm.eq(self.warm),
            part.power_off.eq(self.power_off),
            self.breach.eq(part.breach),
            self.breach_edge.eq(part.breach_edge),
        ]
        return m


def verilog(component: wiring.Component, *, strip_initial: bool) -> str:
    """The Verilog of a component with an `SdramModel` inside, with the model, and with X for initial values of the
    circuit if asked for; the model keeps its own."""
    text = stop_at_assertions(convert(component, assertions=True))
    return (strip_initial_values(text) if strip_initial else text) + "\n" + MODEL.read_text(encoding="utf-8")
