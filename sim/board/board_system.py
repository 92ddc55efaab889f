"""What surrounds a board's core in simulation: the pads, the SDRAM, and a clock and a reset from outside."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.board_core import BoardCore
from spatten.hw.board.board_reset import BoardReset
from spatten.hw.board.board_top import CORE
from spatten.hw.board.sdram_pins import SdramPads, sdram_pins
from spatten.hw.board.sdram_timing import SdramPart
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.sdram_part import MODEL, SdramModel

__all__ = ["LEDS", "SYSTEM", "BoardSystem", "core_verilog", "model_settings", "system_verilog"]

SYSTEM = "board_system"
"""Name of the module of a `BoardSystem`."""
LEDS = ("alive", "busy", "error", "link")
"""The outputs of a board's core that its LEDs show."""


def model_settings(part: SdramPart, *, clock_hz: int) -> dict[str, int]:
    """Parameters of the SDRAM's model for a part at a clock: every rule of the part's own times."""
    times = ("t_rcd", "t_rp", "t_ras", "t_ras_most", "t_rc", "t_rrd", "t_wr", "t_rfc")
    return {
        "ROW_BITS": part.row_bits,
        "COLUMN_BITS": part.column_bits,
        "CAS_LATENCY": part.cas_latency,
        "CLOCK_PS": round(1e12 / clock_hz),
        **{f"{time.upper()}_PS": round(1000 * getattr(part, time)) for time in times},
        "MODE_CYCLES": part.mode_cycles,
        "WINDOW_NS": round(part.refresh_window),
        "POWER_UP_NS": round(part.power_up),
    }


class BoardSystem(wiring.Component):
    """A board's core, which is an instance of the module `CORE`, with pads and SDRAM.

    The core's text goes beside that of the system: generated from `BoardCore`, or any other with the same ports, such
    as a netlist of it. The SDRAM has the clock of the core, so it takes a command at the edge after the one that put it
    on the pins: what a clock pin does that is late by nearly a period.

    Parameters
    ----------
    part : SdramPart
    clock_hz : int

    Ports
    -----
    rx, tx : the serial line, from and to the host
    power_off : in, with a reset: the supply is away; the SDRAM's content stays all the same
    button : in, the reset button
    alive, busy, error, link : out, the LEDs
    breach : out, the number of the first rule of the SDRAM that was broken, in `sim.verify.sdram_part.RULES`; 0: none
    breach_edge : out, the edge of the clock since the supply came that it was broken at
    command : out, RAS, CAS and WE at the SDRAM's pins, bars and all; 7 where the part is not selected
    reads, writes : out, the SDRAM or the controller drives a word
    """

    def __init__(self, *, part: SdramPart, clock_hz: int) -> None:
        self.part = part
        self.clock_hz = clock_hz
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1),
                "power_off": In(1),
                "button": In(1),
                **{name: Out(1) for name in LEDS},
                "breach": Out(8),
                "breach_edge": Out(32),
                "command": Out(3),
                "reads": Out(1),
                "writes": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.pads = pads = SdramPads()
        m.submodules.part = part = SdramModel(model_settings(self.part, clock_hz=self.clock_hz))
        pins = {}
        for name, member in sdram_pins().members.items():
            flow = "o" if member.flow == Out else "i"
            pins[f"{flow}_pins__{name}"] = getattr(pads.i, name)
        # The domain "sync" is reset by the supply only; the core has a reset of its own, as on the board.
        m.submodules.board_reset = board_reset = BoardReset()
        m.d.comb += board_reset.pressed.eq(self.button)
        m.submodules.core = Instance(
            CORE,
            i_clk=ClockSignal(),
            i_rst=board_reset.reset,
            i_warm=board_reset.warm,
            o_ready=board_reset.ready,
            i_rx=self.rx,
            o_tx=self.tx,
            **pins,
            **{f"o_{name}": getattr(self, name) for name in LEDS},
        )
        wiring.connect(m, pads.o, part.pins)
        selected = Signal()
        m.d.comb += [
            part.power_off.eq(self.power_off),
            self.breach.eq(part.breach),
            self.breach_edge.eq(part.breach_edge),
            selected.eq(~part.pins.cs_n),
            self.command.eq(7),
            self.reads.eq(part.dq_driven),
            self.writes.eq(part.pins.dq_oe),
        ]
        with m.If(selected):
            m.d.comb += self.command.eq(part.pins.ras_n << 2 | part.pins.cas_n << 1 | part.pins.we_n)
        return m


def core_verilog(core: BoardCore) -> str:
    """The Verilog of a board's core, with assertions about what every unit's neighbours must keep to."""
    return convert(core, name=CORE, assertions=True)


def system_verilog(core: str, *, part: SdramPart, clock_hz: int) -> str:
    """The Verilog of a `BoardSystem`, with that of its core and of the SDRAM."""
    system = convert(BoardSystem(part=part, clock_hz=clock_hz), name=SYSTEM)
    return "\n".join([core, system, MODEL.read_text(encoding="utf-8")])
