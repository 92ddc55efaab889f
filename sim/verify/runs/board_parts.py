"""How the testbenches of the parts of the host link are run, by the name of the part."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from spatten.hw.board.axi_drain import AxiDrain
from spatten.hw.board.crc import Crc32
from spatten.hw.board.frames import FrameReceiver, FrameTransmitter
from spatten.hw.board.host_link import HostLink
from spatten.hw.board.memory_master import MemoryMaster
from spatten.hw.board.register_master import RegisterMaster
from spatten.hw.board.session import Session
from spatten.hw.board.uart import LineWatch, UartReceiver, UartTransmitter
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import TINY
from spatten.spec.link_protocol import Identity

ADDRESS_BITS = 14
"""Of the memory behind a link under test: it is soon written everywhere."""
IDENTITY = Identity.of(TINY, clock_hz=80_000_000, memory_bytes=1 << ADDRESS_BITS)
GAP_CYCLES = 512
ACCESS_CYCLES = 1500
DIVISOR = 4
LONG = 16


class LinkUnderTest(wiring.Component):
    """The link with 4 cycles a bit and little patience; `stirs` is set while it wants something of the memory or the
    accelerator, so that a testbench need not look at all ports in every cycle.
    """

    def __init__(self) -> None:
        self._link = HostLink(
            identity=IDENTITY,
            address_bits=ADDRESS_BITS,
            data_bits=16,
            divisor=DIVISOR,
            gap_cycles=GAP_CYCLES,
            access_cycles=ACCESS_CYCLES,
        )
        super().__init__({**dict(self._link.signature.members.items()), "stirs": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.link = link = self._link
        for name in ("memory", "registers"):
            wiring.connect(m, getattr(link, name), wiring.flipped(getattr(self, name)))
        for name in ("rx", "irq", "drained"):
            m.d.comb += getattr(link, name).eq(getattr(self, name))
        for name in ("tx", "accelerator_reset", "active", "failed", "busy"):
            m.d.comb += getattr(self, name).eq(getattr(link, name))
        valids = [
            *(getattr(link.memory, f"{channel}valid") for channel in ("aw", "w", "ar")),
            *(getattr(link.registers, f"{channel}valid") for channel in ("aw", "w", "ar")),
        ]
        readies = [link.memory.bready, link.memory.rready, link.registers.bready, link.accelerator_reset]
        m.d.comb += self.stirs.eq(Cat(*valids, *readies).any())
        return m


def _run(component: wiring.Component, bench: str, **parameters: Any) -> dict[str, Any]:
    return {
        "component": component,
        "test_module": f"spatten.sim.verify.benches.{bench}",
        "parameters": {"seeds": seeds(1), **parameters},
        "timeout_seconds": 300,
    }


def _memory_master(*, data_bits: int, block: int) -> dict[str, Any]:
    sizes = {"address_bits": ADDRESS_BITS, "data_bits": data_bits, "block": block}
    return _run(MemoryMaster(**sizes), "memory_master", transfers=80, **sizes)


def board_runs() -> dict[str, dict[str, Any]]:
    """Arguments of `cosimulate` by the name of a part."""
    return {
        "uart_receiver": _run(UartReceiver(), "uart_receiver", bytes=40),
        "uart_transmitter": _run(UartTransmitter(), "uart_transmitter", bytes=40),
        "line_watch": _run(LineWatch(cycles=LONG), "line_watch", long=LONG, cycles=4000),
        "crc": _run(Crc32(), "crc", cycles=6000),
        "frame_receiver": _run(FrameReceiver(), "frame_receiver", frames=120),
        "frame_transmitter": _run(FrameTransmitter(), "frame_transmitter", frames=40),
        "session": _run(Session(), "session", cycles=12000),
        "register_master": _run(RegisterMaster(address_bits=12), "register_master", accesses=200),
        "memory_master": _memory_master(data_bits=16, block=64),
        "memory_master_32": _memory_master(data_bits=32, block=32),
        "axi_drain": _run(
            AxiDrain(address_bits=ADDRESS_BITS, data_bits=16, open_bursts=5), "axi_drain", bursts=150, open_bursts=5
        ),
        "host_link": _run(LinkUnderTest(), "host_link", batches=6, quick=True),
    }
