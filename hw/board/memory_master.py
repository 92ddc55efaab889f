"""An AXI4 master that reads and writes any number of bytes at any address, a byte at a time."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.frames import LENGTH_BITS
from spatten.hw.lib.parameters import check_integer
from spatten.hw.memory.axi import axi4

__all__ = ["MemoryMaster", "memory_access"]

_INCR = 1
_CACHE = 0b0011
_BAD_RESPONSE_BIT = 1


def memory_access(address_bits: int) -> wiring.Signature:
    """A transfer to or from memory, as who wants it sees it.

    `start` begins a transfer of `size` bytes from byte `address` on, a write if `is_write`; all three need not stay.
    It may be set only while `idle`. A write takes the byte `given_byte` with `given`, which may be set only while
    `wants`; a read hands over `got_byte` with `got`, which cannot be held up. `done` is set for a cycle at the end; the
    `response` then is the first bad one of the transfer's, or OKAY. `stop`: end the transfer without further bytes; it
    must stay until `idle`.
    """
    return wiring.Signature(
        {
            "start": Out(1),
            "address": Out(address_bits),
            "size": Out(LENGTH_BITS),
            "is_write": Out(1),
            "stop": Out(1),
            "wants": In(1),
            "given": Out(1),
            "given_byte": Out(8),
            "got": In(1),
            "got_byte": In(8),
            "idle": In(1),
            "done": In(1),
            "response": In(2),
        }
    )


class MemoryMaster(wiring.Component):
    """Does transfers one after the other, in bursts within blocks of `block` bytes, one burst at a time.

    Parameters
    ----------
    address_bits : int
        Width of a byte address, 12 to 32. Addresses wrap around at its end.
    data_bits : int
        Width of the bus, 16 to 128, a power of two.
    block : int
        Bytes of a block, a power of two, 2 to 256 beats: no burst crosses its boundary, so none crosses 4 KiB.

    Ports
    -----
    access : what is wanted: `memory_access`
    bus : AXI4 master. Bytes of a beat that are not written have no strobe. A stopped write is completed without
        strobes, a stopped read is thrown away.

    Throughput: a burst of n bytes takes n + 6 cycles and what the memory takes, at most a byte per cycle.
    """

    def __init__(self, *, address_bits: int, data_bits: int, block: int = 64) -> None:
        check_integer("address_bits", address_bits, 12, 32)
        check_integer("data_bits", data_bits)
        if data_bits not in (16, 32, 64, 128):
            raise ValueError(f"data_bits must be 16, 32, 64 or 128, not {data_bits!r}")
        check_integer("block", block)
        beat_bytes = data_bits // 8
        if block & (block - 1) or not 2 * beat_bytes <= block <= min(256 * beat_bytes, 4096):
            raise ValueError(f"block must be a power of two and 2 to 256 beats, not {block!r}")
        self.address_bits = address_bits
        self.data_bits = data_bits
        self.block = block
        super().__init__(
            {
                "access": In(memory_access(address_bits)),
                "bus": Out(axi4(address_bits, data_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        access, bus = self.access, self.bus
        beat_bytes = self.data_bits // 8
        lane_bits = beat_bytes.bit_length() - 1
        block_bits = self.block.bit_length() - 1

        address = Signal(self.address_bits, reset_less=True)
        """Of the next byte."""
        left = Signal(LENGTH_BITS, reset_less=True)
        """Bytes that are not transferred yet."""
        is_write = Signal(reset_less=True)
        end = Signal(block_bits, reset_less=True)
        """Place in its block of the burst's last byte."""
        beats = Signal(8, reset_less=True)
        """Beats of the burst, without the last."""
        offset = address[:block_bits]
        lane = address[:lane_bits]
        response = Signal(2, reset_less=True)
        data = Signal(self.data_bits)
        strobes = Signal(beat_bytes, reset_less=True)
        moves = Signal()
        """A byte is transferred."""
        fills = Signal()
        """It is the last of its beat."""
        ends = Signal()
        """It is the last of its burst."""
        m.d.comb += [
            ends.eq(offset == end),
            fills.eq(lane.all() | ends),
            access.response.eq(response),
            bus.awlen.eq(beats),
            bus.arlen.eq(beats),
            bus.wdata.eq(data),
            bus.wstrb.eq(strobes),
        ]
        # The address stays while it is on the bus, as bytes move only afterwards.
        for prefix in ("aw", "ar"):
            m.d.comb += [
                getattr(bus, f"{prefix}id").eq(0),
                getattr(bus, f"{prefix}addr")[lane_bits:].eq(address[lane_bits:]),
                getattr(bus, f"{prefix}size").eq(lane_bits),
                getattr(bus, f"{prefix}burst").eq(_INCR),
                getattr(bus, f"{prefix}cache").eq(_CACHE),
                getattr(bus, f"{prefix}prot").eq(0),
            ]
        with m.If(moves):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]

        reaches = Signal(LENGTH_BITS + 1, reset_less=True)
        m.d.sync += access.done.eq(0)
        with m.FSM() as fsm:
            m.d.comb += access.idle.eq(fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.sync += [
                    address.eq(access.address),
                    left.eq(access.size),
                    is_write.eq(access.is_write),
                    response.eq(0),
                    strobes.eq(0),
                ]
                with m.If(access.start):
                    m.next = "MORE"
            with m.State("MORE"):
                # Place of the transfer's last byte, as if its blocks were one.
                m.d.sync += reaches.eq(left + offset - 1)
                with m.If(left.any() & ~access.stop):
                    m.next = "BLOCK"
                with m.Else():
                    m.d.sync += access.done.eq(1)
                    m.next = "IDLE"
            with m.State("BLOCK"):
                m.d.sync += end.eq(reaches[:block_bits] | reaches[block_bits:].any().replicate(block_bits))
                m.next = "BEATS"
            with m.State("BEATS"):
                m.d.sync += beats.eq(end[lane_bits:] - offset[lane_bits:])
                with m.If(is_write):
                    m.d.sync += bus.awvalid.eq(1)
                with m.Else():
                    m.d.sync += bus.arvalid.eq(1)
                m.next = "ADDRESS"
            with m.State("ADDRESS"), m.If(Mux(is_write, bus.awready, bus.arready)):
                m.d.sync += [bus.awvalid.eq(0), bus.arvalid.eq(0)]
                with m.If(is_write):
                    m.next = "COLLECT"
                with m.Else():
                    m.next = "READ"
            with m.State("COLLECT"):
                m.d.comb += [access.wants.eq(~access.stop), moves.eq(access.given | access.stop)]
                with m.If(moves):
                    m.d.sync += [
                        strobes.bit_select(lane, 1).eq(~access.stop),
                        data.word_select(lane, 8).eq(access.given_byte),
                    ]
                    with m.If(fills):
                        m.d.sync += [bus.wvalid.eq(1), bus.wlast.eq(ends)]
                        m.next = "WRITE"
            with m.State("WRITE"), m.If(bus.wready):
                m.d.sync += [bus.wvalid.eq(0), strobes.eq(0)]
                with m.If(bus.wlast):
                    m.next = "RESPONSE"
                with m.Else():
                    m.next = "COLLECT"
            with m.State("RESPONSE"):
                m.d.comb += bus.bready.eq(1)
                with m.If(bus.bvalid):
                    with m.If(~response[_BAD_RESPONSE_BIT]):
                        m.d.sync += response.eq(bus.bresp)
                    m.next = "MORE"
            with m.State("READ"):
                m.d.comb += bus.rready.eq(1)
                m.d.sync += data.eq(bus.rdata)
                with m.If(bus.rvalid):
                    with m.If(~response[_BAD_RESPONSE_BIT]):
                        m.d.sync += response.eq(bus.rresp)
                    m.next = "HAND OVER"
            with m.State("HAND OVER"):
                m.d.comb += [
                    moves.eq(1),
                    access.got.eq(~access.stop),
                    access.got_byte.eq(data.word_select(lane, 8)),
                ]
                with m.If(ends):
                    m.next = "MORE"
                with m.Elif(fills):
                    m.next = "READ"
        return m
