"""Cuts the bursts of AXI where a row of the SDRAM ends."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_timing import MOST_BEATS, SdramPart
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.parameters import check_integer

__all__ = ["BurstCutter", "burst", "piece"]

_MORE_BITS = (MOST_BEATS - 1).bit_length()


def burst(address_bits: int, id_bits: int) -> data.StructLayout:
    """What an address channel of AXI says of a burst: byte address, how many beats follow the first, and id."""
    return data.StructLayout({"address": unsigned(address_bits), "more": _MORE_BITS, "id": unsigned(id_bits)})


def piece(part: SdramPart, id_bits: int) -> data.StructLayout:
    """Words of one row that follow each other: the place of the first, and how many `more` there are. `is_final` marks
    the last piece of its burst, `is_outside` one that the part has no memory for."""
    return data.StructLayout(
        {
            "column": unsigned(part.column_bits),
            "bank": unsigned(part.bank_bits),
            "row": unsigned(part.row_bits),
            "more": _MORE_BITS,
            "id": unsigned(id_bits),
            "is_final": 1,
            "is_outside": 1,
        }
    )


class BurstCutter(wiring.Component):
    """Bursts in; out come pieces, one or two of each, in order.

    The words of a row follow each other in memory, then come those of the same row in the next bank: of a byte address
    bit 0 is the byte, and above it lie column, bank and row. A burst ends within 4 KiB and so within the four banks.

    Parameters
    ----------
    part : SdramPart
    address_bits : int
        Width of a byte address, at least that of the part.
    id_bits : int

    Ports
    -----
    i : stream of `burst`, in: of whole words, INCR
    o : stream of `piece`, out

    Latency: 2 cycles. Throughput: a burst in two cycles, or in three if it is cut. `i.ready` and `o` come from
    registers.
    """

    def __init__(self, *, part: SdramPart, address_bits: int, id_bits: int) -> None:
        if not isinstance(part, SdramPart):
            raise TypeError(f"part must be an SdramPart, not {part!r}")
        check_integer("address_bits", address_bits, part.byte_bits, 64)
        check_integer("id_bits", id_bits, 1, 32)
        self.part = part
        super().__init__(
            {
                "i": In(stream.Signature(burst(address_bits, id_bits))),
                "o": Out(stream.Signature(piece(part, id_bits))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        part, shape = self.part, self.o.payload.shape()
        held = Signal(self.i.payload.shape(), reset_less=True)
        is_held, is_second = Signal(), Signal()
        column, bank, row, beyond = Signal(part.column_bits), Signal(part.bank_bits), Signal(part.row_bits), Signal()
        m.d.comb += [
            column.eq(held.address[1:]),
            bank.eq(held.address[1 + part.column_bits :]),
            row.eq(held.address[1 + part.column_bits + part.bank_bits :]),
            beyond.eq(held.address[part.byte_bits :].any()),
        ]
        # The column of the last word, were the row long enough: its carry says that there is a second piece, and the
        # bits below are how many words that has after its first.
        end = Signal(part.column_bits + 1)
        is_cut = end[-1]
        found, shown = Signal(shape), Signal(shape, reset_less=True)
        m.d.comb += [
            end.eq(column + held.more),
            found.row.eq(row),
            found.id.eq(held.id),
            found.is_outside.eq(beyond),
            found.is_final.eq(is_second | ~is_cut),
            found.bank.eq((bank + is_second)[: part.bank_bits]),
            found.column.eq(Mux(is_second, 0, column)),
            found.more.eq(Mux(is_second, end, Mux(is_cut, ~column, held.more))),
            self.i.ready.eq(~is_held),
            self.o.payload.eq(shown),
        ]
        is_free = ~self.o.valid | self.o.ready
        with m.If(is_free):
            m.d.sync += [self.o.valid.eq(is_held), shown.eq(found)]
        with m.If(~is_held):
            m.d.sync += [is_held.eq(self.i.valid), held.eq(self.i.payload)]
        with m.Elif(is_free):
            m.d.sync += [is_held.eq(~found.is_final), is_second.eq(~found.is_final)]
        if asserts(platform):
            m.d.sync += Assert(~is_held | ~is_cut | ~bank.all(), "a burst crosses the end of its four rows\n")
        return m
