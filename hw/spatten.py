"""The accelerator: the module that `make verilog` emits, ready to be dropped into a design."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, ClockDomain, DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw import instances
from spatten.hw.core import Core
from spatten.hw.front.axi_lite import AxiLite
from spatten.hw.memory.axi import axi4
from spatten.spec.config import Config
from spatten.spec.constants import AXI_ADDRESS_BITS
from spatten.spec.register_map import ADDRESS_BITS, ErrorCode

__all__ = ["Spatten", "channel_prefix"]


def channel_prefix(channel: int) -> str:
    """The prefix of the names of a memory channel's ports."""
    return f"m{channel:02d}_axi"


class Spatten(wiring.Component):
    """The whole accelerator: registers and job queue behind AXI4-Lite, the core, and an AXI4 master for each channel.

    Parameters
    ----------
    config : Config

    Ports
    -----
    clk, rst : in; one clock for everything, and a synchronous reset, active high
    irq : out, level, active high: an enabled interrupt is pending
    s_axi_* : AXI4-Lite slave, 32 bits, 4 KiB: docs/registers.md
    m00_axi_*, m01_axi_*, ... : AXI4 masters, one for each memory channel, `channel_bits` wide, with addresses that are
        local to the channel: docs/integration.md

    A failure, or a soft reset, resets the core at once, while the channels finish what they began: see `Registers`.

    Source: SpAtten (HPCA 2021) Fig. 8.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._core = Core(config=config)
        self._registers = instances.registers(config)
        self._bus = AxiLite(address_bits=ADDRESS_BITS)
        self._memory = axi4(AXI_ADDRESS_BITS, config.channel_bits)
        ports: dict[str, Any] = {"clk": In(1), "rst": In(1), "irq": Out(1)}
        for name, member in self._bus.members.items():
            # The bus is declared as its master sees it.
            flow = In if member.flow == Out else Out
            ports[f"s_axi_{name}"] = flow(member.shape)
        for channel in range(config.channels):
            for name, member in self._memory.members.items():
                ports[f"{channel_prefix(channel)}_{name}"] = member
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        # There is one clock. The core has a reset of its own, since a failure resets it. Both domains are local, so
        # that a design in Amaranth can have the accelerator as a submodule beside domains of its own.
        frame_domain = ClockDomain("frame", local=True)
        core_domain = ClockDomain("core", local=True)
        frame_domain.clk, frame_domain.rst = self.clk, self.rst
        core_domain.clk = self.clk
        m.domains += [frame_domain, core_domain]
        in_frame, in_core = DomainRenamer({"sync": "frame"}), DomainRenamer({"sync": "core"})
        registers, core = self._registers, self._core
        m.submodules.registers = in_frame(registers)
        m.submodules.core = in_core(core)
        m.d.comb += [core_domain.rst.eq(self.rst | registers.core_reset), self.irq.eq(registers.irq)]
        for name, member in self._bus.members.items():
            port, inner = getattr(self, f"s_axi_{name}"), getattr(registers.s_axi, name)
            m.d.comb += inner.eq(port) if member.flow == Out else port.eq(inner)
        wiring.connect(m, registers.o_job, core.i_job)
        wiring.connect(m, core.o_report, registers.i_report)

        activities, idle, errors = [core.activity], [], []
        for channel in range(config.channels):
            reader, writer = instances.axi_reader(config), instances.axi_writer(config)
            m.submodules[f"reader{channel}"] = in_frame(reader)
            m.submodules[f"writer{channel}"] = in_frame(writer)
            for unit in (reader, writer):
                m.d.comb += [unit.base.eq(registers.base[channel]), unit.stop.eq(registers.stop)]
                activities.append(unit.activity)
                for name, member in unit.axi.signature.members.items():
                    port, inner = getattr(self, f"{channel_prefix(channel)}_{name}"), getattr(unit.axi, name)
                    m.d.comb += port.eq(inner) if member.flow == Out else inner.eq(port)
            wiring.connect(m, core.o_address[channel], reader.i)
            wiring.connect(m, reader.o, core.i_data[channel])
            wiring.connect(m, core.o_write[channel], writer.i)
            m.d.comb += core.acknowledged[channel].eq(writer.acknowledged)
            idle.append(reader.idle & writer.idle)
            errors += [(channel, 0, reader.error), (channel, 1, writer.error)]

        error = registers.channel_error
        m.d.comb += error.valid.eq(Cat(failure.valid for _, _, failure in errors).any())
        for channel, is_write, failure in reversed(errors):
            with m.If(failure.valid):
                m.d.comb += [
                    error.channel.eq(channel),
                    error.is_write.eq(is_write),
                    error.is_decode.eq(failure.is_decode),
                ]
        m.d.comb += [
            registers.channels_idle.eq(Cat(idle)),
            registers.core_error.valid.eq(core.nothing_live),
            registers.core_error.code.eq(ErrorCode.NOTHING_LIVE),
            registers.busy.eq(core.busy),
            registers.activity.eq(Cat(activities).any()),
            registers.i_events.eq(core.events),
        ]
        return m
