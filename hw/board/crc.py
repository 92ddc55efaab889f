"""The CRC-32 of Ethernet and zlib."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CRC_BITS", "RESIDUE", "Crc32"]

CRC_BITS = 32
_POLYNOMIAL = 0xEDB88320
"""Bit 0 belongs to the highest power."""
RESIDUE = 0xDEBB20E3
"""The register after a message and its CRC, whatever the message was."""


class Crc32(wiring.Component):
    """Takes a byte in 8 cycles, a bit in each; the fastest line brings one in 40.

    Ports
    -----
    clear : in, begin a message; not together with `start` and not while `busy`
    start : in, take `byte`; not while `busy`
    byte : in
    busy : out, set for 8 cycles after `start`
    value : out, the register: the CRC is its complement, least significant byte first. To take the register's own
        low byte moves it on by a byte, so that the next one of the CRC is there.
    """

    def __init__(self) -> None:
        super().__init__({"clear": In(1), "start": In(1), "byte": In(8), "busy": Out(1), "value": Out(CRC_BITS)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value = Signal(CRC_BITS, reset_less=True)
        data = Signal(8, reset_less=True)
        left = Signal(8)
        """As many ones as bits are to be taken."""
        feedback = Signal()
        m.d.comb += [
            self.value.eq(value),
            self.busy.eq(left[0]),
            feedback.eq(value[0] ^ data[0]),
        ]
        with m.If(self.busy):
            m.d.sync += [
                value.eq((value >> 1) ^ (Const(_POLYNOMIAL, CRC_BITS) & feedback.replicate(CRC_BITS))),
                data.eq(data >> 1),
                left.eq(left >> 1),
            ]
        with m.Elif(self.start):
            m.d.sync += [data.eq(self.byte), left.eq(0xFF)]
        with m.If(self.clear):
            m.d.sync += value.eq(Cat(Const(1, 1).replicate(CRC_BITS)))
        return m
