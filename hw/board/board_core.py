"""A board's circuit behind its pads and clock: accelerator, host link and SDRAM controller, joined."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from spatten.hw.board.axi_drain import AxiDrain
from spatten.hw.board.axi_join import AxiJoin
from spatten.hw.board.host_link import HostLink
from spatten.hw.board.sdram import Sdram
from spatten.hw.board.sdram_pins import sdram_pins
from spatten.hw.board.sdram_timing import DQ_BITS, SdramPart, SdramTiming
from spatten.hw.spatten import Spatten, channel_prefix
from spatten.spec.config import SECTOR_BYTES, Config
from spatten.spec.constants import AXI_ADDRESS_BITS
from spatten.spec.link_protocol import ACCESS_CYCLES, GAP_CYCLES, Identity

__all__ = ["BoardCore"]

_GLOW = 1 << 22
"""Cycles that the LED of the memory's traffic stays on: long enough to be seen."""


class BoardCore(wiring.Component):
    """An accelerator whose registers and memory a host reaches over a serial line.

        rx, tx <-> HostLink --AXI4-Lite--> Spatten --> AxiDrain --+
                      |                                           +--> AxiJoin --> Sdram <-> pins
                      +----------------------AXI4-----------------+

    The link resets the accelerator by way of `AxiDrain`, so that the SDRAM keeps its content.

    Parameters
    ----------
    config : Config
        The accelerator's, with one channel of 16 bits.
    part : SdramPart
    clock_hz : int
        Of the domain "sync", in which everything runs.
    divisor, gap_cycles, access_cycles : int
        As of `HostLink`.

    Ports
    -----
    rx, tx : the serial line, from and to the host
    pins : `sdram_pins`
    warm, ready : in, out, to and from `hw.board.board_reset.BoardReset`: the SDRAM was initialised before this reset;
        it is initialised
    alive : out, changes about once a second
    busy : out, the accelerator's memory traffic
    error : out, a frame came damaged or a command failed since the session began
    link : out, there is a session with a host

    Errors: `ValueError` for a configuration that the SDRAM cannot serve.
    """

    def __init__(
        self,
        *,
        config: Config,
        part: SdramPart,
        clock_hz: int,
        divisor: int | None = None,
        gap_cycles: int = GAP_CYCLES,
        access_cycles: int = ACCESS_CYCLES,
    ) -> None:
        if (config.channels, config.channel_bits) != (1, DQ_BITS):
            raise ValueError(
                f"config must have one channel of {DQ_BITS} bits, not {config.channels} of {config.channel_bits}"
            )
        memory_bytes = 1 << part.byte_bits
        if SECTOR_BYTES << config.sector_bits > memory_bytes:
            raise ValueError(
                f"config must reach no more than the SDRAM's {memory_bytes:,} bytes, "
                f"not {SECTOR_BYTES << config.sector_bits:,}"
            )
        self.config = config
        self.clock_hz = clock_hz
        self.identity = Identity.of(config, clock_hz=clock_hz, memory_bytes=memory_bytes)
        self._accelerator = Spatten(config=config)
        self._link = HostLink(
            identity=self.identity,
            address_bits=part.byte_bits,
            data_bits=DQ_BITS,
            divisor=divisor,
            gap_cycles=gap_cycles,
            access_cycles=access_cycles,
        )
        timing = SdramTiming.of(part, clock_mhz=clock_hz / 1e6)
        self._sdram = Sdram(timing=timing, address_bits=AXI_ADDRESS_BITS)
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1),
                "pins": Out(sdram_pins()),
                "warm": In(1),
                "ready": Out(1),
                **{name: Out(1) for name in ("alive", "busy", "error", "link")},
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.accelerator = accelerator = self._accelerator
        m.submodules.host_link = link = self._link
        m.submodules.sdram = sdram = self._sdram
        m.submodules.drain = drain = AxiDrain(address_bits=AXI_ADDRESS_BITS, data_bits=DQ_BITS)
        m.submodules.join = join = AxiJoin(address_bits=AXI_ADDRESS_BITS, data_bits=DQ_BITS)
        resets = Signal()
        m.d.sync += resets.eq(link.accelerator_reset)
        m.d.comb += [
            accelerator.clk.eq(ClockSignal()),
            accelerator.rst.eq(ResetSignal() | resets),
            drain.isolate.eq(link.accelerator_reset),
            link.drained.eq(drain.drained),
            link.irq.eq(accelerator.irq),
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            sdram.warm.eq(self.warm),
            self.ready.eq(sdram.is_ready),
        ]
        _join_ports(m, accelerator, "s_axi_", link.registers)
        _join_ports(m, accelerator, f"{channel_prefix(0)}_", drain.master)
        connect(m, drain.memory, join.masters[0])
        for name, member in link.memory.signature.members.items():
            # The link's addresses are those of the part, and narrower.
            ours, theirs = getattr(link.memory, name), getattr(join.masters[1], name)
            m.d.comb += theirs.eq(ours) if member.flow == Out else ours.eq(theirs)
        connect(m, join.memory, sdram.axi)
        connect(m, sdram.pins, flipped(self.pins))
        self._leds(m, drain)
        return m

    def _leds(self, m: Module, drain: AxiDrain) -> None:
        second = Signal(range(self.clock_hz))
        glow = Signal(range(_GLOW))
        m.d.sync += [second.eq(second + 1), self.busy.eq(glow.any())]
        with m.If(drain.master.arvalid | drain.master.awvalid):
            m.d.sync += glow.eq(_GLOW - 1)
        with m.Elif(glow.any()):
            m.d.sync += glow.eq(glow - 1)
        m.d.comb += [self.alive.eq(second[-1]), self.error.eq(self._link.failed), self.link.eq(self._link.active)]


def _join_ports(m: Module, component: Any, prefix: str, port: Any) -> None:
    """Join the accelerator's ports of a bus, which are single signals, with a port whose members have their names."""
    for name, member in port.signature.members.items():
        single, other = getattr(component, f"{prefix}{name}"), getattr(port, name)
        m.d.comb += other.eq(single) if member.flow == In else single.eq(other)
