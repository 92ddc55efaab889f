"""The whole circuit of an FPGA on a board: clock, pads and the board's core."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Flow

from spatten.hw.board.board_core import BoardCore
from spatten.hw.board.board_reset import BoardReset
from spatten.hw.board.boards import Board

__all__ = ["CORE", "BoardTop"]

CORE = "spatten_board"
"""The module of the board's core, whose Verilog goes beside that of the top."""


class BoardTop(wiring.Component):
    """Pads and clock of a board around its core, which is an instance of the module `CORE`.

    The core's text is made by `hw.emit.verilog.convert`, so that what is simulated and what goes on the board are the
    same. Elaborated for the board's platform.

    - Domain "power": the PLL's first output, in reset until the PLL has locked. Domain "sync": the same clock, in reset
      with it, and for some cycles when the reset button is pressed.
    - Every pin of the SDRAM has its register in the pad. The SDRAM's clock pin is driven by a DDR register in domain
      "sdram", the PLL's second output, which is later by the board's phase (docs/board.md has the budget).

    Parameters
    ----------
    board : Board
    """

    def __init__(self, *, board: Board) -> None:
        self.board = board
        self.core = BoardCore(config=board.config, part=board.part, clock_hz=board.pll.frequency_hz)
        super().__init__({})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board_reset = self._clocks(m, platform)
        ports: dict[str, Any] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        signals: dict[str, Value] = {}
        for path, member, value in self.core.signature.flatten(self.core):
            name = "__".join(map(str, path))
            signals[name] = signal = Signal.like(value, name=name)
            ports[f"{'i' if member.flow == Flow.In else 'o'}_{name}"] = signal
        m.submodules.core = Instance(CORE, **ports)
        m.d.comb += [board_reset.ready.eq(signals["ready"]), signals["warm"].eq(board_reset.warm)]
        self._pads(m, platform, signals)
        for name, number in self.board.leds.items():
            m.submodules[f"{name}_led"] = led = io.Buffer("o", platform.request("led", number, dir="-"))
            m.d.comb += led.o.eq(signals[name])
        return m

    def _clocks(self, m: Module, platform: Any) -> BoardReset:
        pll = self.board.pll
        m.domains.power = power = ClockDomain()
        m.domains.sync = sync = ClockDomain()
        m.domains.sdram = sdram = ClockDomain(reset_less=True)
        m.submodules.clock_pad = clock = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        button, number = self.board.reset_button
        m.submodules.reset_pad = pressed = io.Buffer("i", platform.request(button, number, dir="-"))
        locked = Signal()
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
            o_CLKOS=sdram.clk,
            o_LOCK=locked,
        )
        board_reset = BoardReset()
        m.submodules.board_reset = DomainRenamer("power")(board_reset)
        m.submodules.power_reset = ResetSynchronizer(~locked, domain="power")
        m.d.comb += [power.clk.eq(sync.clk), board_reset.pressed.eq(pressed.i), sync.rst.eq(board_reset.reset)]
        platform.add_clock_constraint(sync.clk, pll.frequency_hz)
        platform.add_clock_constraint(sdram.clk, pll.frequency_hz)
        return board_reset

    def _pads(self, m: Module, platform: Any, signals: dict[str, Value]) -> None:
        uart = platform.request("uart", 0, dir={"rx": "-", "tx": "-", "rts": "-", "dtr": "-"})
        m.submodules.rx_pad = rx = io.Buffer("i", uart.rx)
        m.submodules.tx_pad = tx = io.Buffer("o", uart.tx)
        m.d.comb += [signals["rx"].eq(rx.i), tx.o.eq(signals["tx"])]
        names = ("clk", "clk_en", "cs", "we", "ras", "cas", "ba", "a", "dq", "dqm")
        sdram = platform.request("sdram", 0, dir=dict.fromkeys(names, "-"))
        # The pads of pins with a bar invert, so they are given what is true.
        for pad, value in (
            ("clk_en", signals["pins__cke"]),
            ("cs", ~signals["pins__cs_n"]),
            ("ras", ~signals["pins__ras_n"]),
            ("cas", ~signals["pins__cas_n"]),
            ("we", ~signals["pins__we_n"]),
            ("ba", signals["pins__ba"]),
            ("a", signals["pins__a"]),
            ("dqm", signals["pins__dqm"]),
        ):
            m.submodules[f"{pad}_pad"] = output = io.FFBuffer("o", getattr(sdram, pad))
            m.d.comb += output.o.eq(value)
        m.submodules.dq_pad = dq = io.FFBuffer("io", sdram.dq)
        m.d.comb += [
            dq.o.eq(signals["pins__dq_o"]),
            dq.oe.eq(signals["pins__dq_oe"]),
            signals["pins__dq_i"].eq(dq.i),
        ]
        m.submodules.clk_pad = clock = io.DDRBuffer("o", sdram.clk, o_domain="sdram")
        m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
