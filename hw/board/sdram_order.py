"""Decides which piece of a burst, read or write, goes to the SDRAM next."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_cutter import piece
from spatten.hw.board.sdram_timing import MOST_BEATS, SdramPart

__all__ = ["ANSWERS", "GROUP", "PieceOrder", "ordered_piece"]

GROUP = 8
"""As many pieces of a direction follow each other if both directions wait: to turn the data pins round takes time."""
ANSWERS = 2
"""Most bursts written whose response has not been taken: as many as a skid buffer holds."""


def ordered_piece(part: SdramPart, id_bits: int) -> data.StructLayout:
    """A `piece`, and whether it is a write."""
    return data.StructLayout({"piece": piece(part, id_bits), "is_write": 1})


class PieceOrder(wiring.Component):
    """Pieces to read and pieces to write in; all of them out, one after the other.

    A piece to read leaves only if there is room for the longest one among the words that wait for R; a piece to write
    only if the data of its whole burst have come and there is room for its response. So whatever leaves can be
    carried out at once, and neither direction waits for the other's master. While both could leave, `GROUP` of each
    follow each other.

    Parameters
    ----------
    part : SdramPart
    id_bits : int
    room : int
        Words that can wait for R: a power of two, at least twice the longest piece.

    Ports
    -----
    reads, writes : streams of `piece`, in
    o : stream of `ordered_piece`, out. Its payload may change while it is stalled: the choice is made in the cycle in
        which it is taken
    read_leaves : in, set in each cycle in which a word leaves towards R
    data_ends : in, set in each cycle that brings the last datum of a burst on W
    answer_leaves : in, set in each cycle in which a response leaves on B

    Latency: 0. Throughput: one piece per cycle. Which piece may leave is known from registers.
    """

    def __init__(self, *, part: SdramPart, id_bits: int, room: int) -> None:
        if room < 2 * MOST_BEATS or room & (room - 1):
            raise ValueError(f"room must be a power of two, at least {2 * MOST_BEATS}, not {room!r}")
        self.room = room
        layout = piece(part, id_bits)
        super().__init__(
            {
                "reads": In(stream.Signature(layout)),
                "writes": In(stream.Signature(layout)),
                "o": Out(stream.Signature(ordered_piece(part, id_bits))),
                "read_leaves": In(1),
                "data_ends": In(1),
                "answer_leaves": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        reads, writes, o = self.reads, self.writes, self.o
        # Words that R has room for, less those of the pieces on their way. At least 256 is a look at two bits.
        free = Signal(range(self.room + 1), init=self.room)
        may_read, may_write = Signal(), Signal()
        m.d.comb += may_read.eq(reads.valid & (free >> (MOST_BEATS.bit_length() - 1)).any())
        with m.If(reads.valid & reads.ready):
            m.d.sync += free.eq(free - reads.payload.more - 1 + self.read_leaves)
        with m.Elif(self.read_leaves):
            m.d.sync += free.eq(free + 1)

        # Bursts whose data have come, and of which no piece has left; a burst that has begun goes on.
        complete = Signal(range(self.room + 2))
        begins, is_begun = Signal(), Signal()
        answers = Signal(range(ANSWERS + 1))
        m.d.comb += [
            may_write.eq(writes.valid & (is_begun | (complete.any() & (answers != ANSWERS)))),
            begins.eq(writes.valid & writes.ready & ~is_begun),
        ]
        with m.If(writes.valid & writes.ready):
            m.d.sync += is_begun.eq(~writes.payload.is_final)
        m.d.sync += [
            complete.eq(complete + self.data_ends - begins),
            answers.eq(answers + begins - self.answer_leaves),
        ]

        # After a group the other direction is preferred.
        prefers_write, picks_write = Signal(), Signal()
        count = Signal(range(GROUP))
        m.d.comb += [
            picks_write.eq(may_write & (prefers_write | ~may_read)),
            o.valid.eq(may_read | may_write),
            o.payload.is_write.eq(picks_write),
            Value.cast(o.payload.piece).eq(Mux(picks_write, Value.cast(writes.payload), Value.cast(reads.payload))),
            reads.ready.eq(o.ready & may_read & ~picks_write),
            writes.ready.eq(o.ready & picks_write),
        ]
        with m.If(o.valid & o.ready):
            with m.If(picks_write != prefers_write):
                m.d.sync += [prefers_write.eq(picks_write), count.eq(1)]
            with m.Else():
                m.d.sync += count.eq(count + 1)
                with m.If(count == GROUP - 1):
                    m.d.sync += prefers_write.eq(~picks_write)
        return m
