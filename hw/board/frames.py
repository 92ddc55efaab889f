"""Frames on the serial line (`spec.link_protocol`): one receiver of requests, one transmitter of replies."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.crc import RESIDUE, Crc32
from spatten.spec.link_protocol import PAYLOAD_MAX, SYNC_REPLY, SYNC_REQUEST

__all__ = ["BUFFER_BYTES", "LENGTH_BITS", "FrameReceiver", "FrameTransmitter"]

LENGTH_BITS = PAYLOAD_MAX.bit_length()
BUFFER_BYTES = 1 << LENGTH_BITS
"""Bytes of a memory that holds a payload."""
_CRC_BYTES = 4


class FrameReceiver(wiring.Component):
    """Finds requests in the bytes from the line, and writes their payload to a memory.

    Ports
    -----
    listen : in; while it is not set every byte is dropped, and a frame that has begun is lost
    received, byte, framing_error : in, as from `UartReceiver`; 10 cycles are between two bytes at least
    gap : in, as from `LineWatch`: a frame that has begun is abandoned
    write_enable, write_address, write_data : out, to the memory
    frame : out, set for a cycle when a frame with the right CRC has come: `sequence` and `length` are its number and
        the bytes of its payload, which stay until the next frame begins
    bad : out, set for a cycle when a frame that has begun is given up
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "listen": In(1),
                "received": In(1),
                "byte": In(8),
                "framing_error": In(1),
                "gap": In(1),
                "write_enable": Out(1),
                "write_address": Out(LENGTH_BITS),
                "write_data": Out(8),
                "frame": Out(1),
                "sequence": Out(8),
                "length": Out(LENGTH_BITS),
                "bad": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc32()
        sequence = Signal(8, reset_less=True)
        length = Signal(LENGTH_BITS, reset_less=True)
        place = Signal(LENGTH_BITS, reset_less=True)
        trailing = Signal(range(_CRC_BYTES), reset_less=True)
        in_frame = Signal()
        gives_up = Signal()
        m.d.comb += [
            self.sequence.eq(sequence),
            self.length.eq(length),
            self.write_address.eq(place),
            self.write_data.eq(self.byte),
            crc.byte.eq(self.byte),
            crc.start.eq(self.received & in_frame),
        ]
        m.d.sync += [self.frame.eq(0), self.bad.eq(gives_up)]

        def abandon_if(condition: Value) -> None:
            with m.If(condition):
                m.d.comb += gives_up.eq(1)
                m.next = "HUNT"

        with m.FSM():
            with m.State("HUNT"):
                m.d.comb += crc.clear.eq(1)
                with m.If(self.received & self.listen & (self.byte == SYNC_REQUEST)):
                    m.next = "LENGTH LOW"
            with m.State("LENGTH LOW"):
                m.d.comb += in_frame.eq(1)
                with m.If(self.received):
                    m.d.sync += length[:8].eq(self.byte)
                    m.next = "LENGTH HIGH"
                abandon_if(self.gap | self.framing_error | ~self.listen)
            with m.State("LENGTH HIGH"):
                m.d.comb += in_frame.eq(1)
                with m.If(self.received):
                    m.d.sync += length[8:].eq(self.byte)
                    m.next = "SEQUENCE"
                abandon_if(self.received & self.byte[LENGTH_BITS - 8 :].any())
                abandon_if(self.gap | self.framing_error | ~self.listen)
            with m.State("SEQUENCE"):
                m.d.comb += in_frame.eq(1)
                m.d.sync += [place.eq(0), trailing.eq(0)]
                with m.If(self.received):
                    m.d.sync += sequence.eq(self.byte)
                    m.next = "PAYLOAD"
                abandon_if(self.gap | self.framing_error | ~self.listen)
            with m.State("PAYLOAD"):
                m.d.comb += in_frame.eq(1)
                with m.If(place == length):
                    m.next = "CRC"
                with m.Elif(self.received):
                    m.d.comb += self.write_enable.eq(1)
                    m.d.sync += place.eq(place + 1)
                abandon_if(self.gap | self.framing_error | ~self.listen)
            with m.State("CRC"):
                m.d.comb += in_frame.eq(1)
                with m.If(self.received):
                    m.d.sync += trailing.eq(trailing + 1)
                    with m.If(trailing == _CRC_BYTES - 1):
                        m.next = "LAST BYTE"
                abandon_if(self.gap | self.framing_error | ~self.listen)
            with m.State("LAST BYTE"):
                # The CRC becomes busy in this cycle.
                m.next = "CHECK"
            with m.State("CHECK"), m.If(~crc.busy):
                with m.If(crc.value == RESIDUE):
                    m.d.sync += self.frame.eq(1)
                with m.Else():
                    m.d.comb += gives_up.eq(1)
                m.next = "HUNT"
        return m


class FrameTransmitter(wiring.Component):
    """Sends a reply whose payload is in a memory.

    Ports
    -----
    start : in, send a reply with `sequence` and `length`, which must stay until `done`
    sequence, length : in
    read_enable, read_address : out, read_data : in, of the memory that holds the payload
    o : stream of bytes, out, to `UartTransmitter`
    done : out, set for a cycle when `o` has taken the last byte and is ready again
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "sequence": In(8),
                "length": In(LENGTH_BITS),
                "read_enable": Out(1),
                "read_address": Out(LENGTH_BITS),
                "read_data": In(8),
                "o": Out(stream.Signature(8)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.crc = crc = Crc32()
        sync, length_low, length_high, sequence, payload, first_crc = range(6)
        after_crc = first_crc + _CRC_BYTES
        stage = Signal(range(after_crc + 1), reset_less=True)
        place = Signal(LENGTH_BITS, reset_less=True)
        byte = Signal(8)
        held = Signal(8, reset_less=True)
        is_crc = Signal()
        m.d.comb += [
            self.read_address.eq(place),
            self.o.payload.eq(held),
            is_crc.eq(stage >= first_crc),
            crc.byte.eq(Mux(is_crc, crc.value[:8], byte)),
        ]
        with m.Switch(stage):
            for number, value in (
                (sync, SYNC_REPLY),
                (length_low, self.length[:8]),
                (length_high, self.length[8:]),
                (sequence, self.sequence),
                (payload, self.read_data),
            ):
                with m.Case(number):
                    m.d.comb += byte.eq(value)
            with m.Default():
                m.d.comb += byte.eq(~crc.value[:8])
        m.d.sync += self.done.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [stage.eq(sync), place.eq(0)]
                m.d.comb += crc.clear.eq(1)
                with m.If(self.start):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.read_enable.eq(1)
                with m.If((stage == payload) & (place == self.length)):
                    m.d.sync += stage.eq(first_crc)
                with m.Elif(stage == after_crc):
                    m.next = "FINISH"
                with m.Elif(~crc.busy):
                    m.next = "PICK"
            with m.State("PICK"):
                m.d.sync += held.eq(byte)
                m.d.comb += crc.start.eq(stage != sync)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    with m.If(stage == payload):
                        m.d.sync += place.eq(place + 1)
                    with m.Else():
                        m.d.sync += stage.eq(stage + 1)
                    m.next = "READ"
            # The CRC may still be taking its own last byte, and must not when the next reply begins.
            with m.State("FINISH"), m.If(self.o.ready & ~crc.busy):
                m.d.sync += self.done.eq(1)
                m.next = "IDLE"
        return m
