"""An AXI4-Lite master that does one access at a time."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.front.axi_lite import AxiLite
from spatten.hw.lib.parameters import check_integer

__all__ = ["RegisterMaster", "register_access"]

_WORD_BITS = 32
_ALL_BYTES = 0b1111


def register_access(address_bits: int) -> wiring.Signature:
    """An access to a register, as who wants it sees it.

    `start` begins an access with `address`, `is_write` and `value`, which need not stay, and may be set only while
    `idle`. `done` is set for a cycle when it has ended, with its `response`, and `data` if it was a read.
    """
    return wiring.Signature(
        {
            "start": Out(1),
            "address": Out(address_bits),
            "is_write": Out(1),
            "value": Out(_WORD_BITS),
            "idle": In(1),
            "done": In(1),
            "response": In(2),
            "data": In(_WORD_BITS),
        }
    )


class RegisterMaster(wiring.Component):
    """Does accesses one after the other.

    Parameters
    ----------
    address_bits : int
        Width of a register's byte address, at least 2.

    Ports
    -----
    access : what is wanted: `register_access`
    bus : AXI4-Lite master
    forget : in, forget the access in flight: the slave is being reset

    Latency: 1 cycle from `start` to the bus, 1 from its response to `done`.
    """

    def __init__(self, *, address_bits: int) -> None:
        check_integer("address_bits", address_bits, 2)
        self.address_bits = address_bits
        super().__init__(
            {
                "access": In(register_access(address_bits)),
                "bus": Out(AxiLite(address_bits=address_bits)),
                "forget": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        access, bus = self.access, self.bus
        idle = Signal(init=1)
        address = Signal(self.address_bits, reset_less=True)
        value = Signal(_WORD_BITS, reset_less=True)
        m.d.comb += [
            access.idle.eq(idle),
            bus.awaddr.eq(address),
            bus.araddr.eq(address),
            bus.awprot.eq(0),
            bus.arprot.eq(0),
            bus.wdata.eq(value),
            bus.wstrb.eq(_ALL_BYTES),
            bus.bready.eq(~idle),
            bus.rready.eq(~idle),
        ]
        m.d.sync += access.done.eq(0)
        for channel in ("aw", "w", "ar"):
            with m.If(getattr(bus, f"{channel}ready")):
                m.d.sync += getattr(bus, f"{channel}valid").eq(0)
        with m.If(access.start):
            m.d.sync += [
                idle.eq(0),
                address.eq(access.address),
                value.eq(access.value),
                bus.awvalid.eq(access.is_write),
                bus.wvalid.eq(access.is_write),
                bus.arvalid.eq(~access.is_write),
            ]
        with m.If(bus.bvalid & ~idle):
            m.d.sync += [idle.eq(1), access.done.eq(1), access.response.eq(bus.bresp)]
        with m.If(bus.rvalid & ~idle):
            m.d.sync += [idle.eq(1), access.done.eq(1), access.response.eq(bus.rresp), access.data.eq(bus.rdata)]
        with m.If(self.forget):
            m.d.sync += [idle.eq(1), access.done.eq(0), bus.awvalid.eq(0), bus.wvalid.eq(0), bus.arvalid.eq(0)]
        return m
