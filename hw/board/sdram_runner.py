"""Reads or writes the words of a piece whose row is open, one in each cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_commands import Command, command, give
from spatten.hw.board.sdram_order import ordered_piece
from spatten.hw.board.sdram_timing import SdramTiming

__all__ = ["PieceRunner", "beat"]


def beat(id_bits: int) -> data.StructLayout:
    """A word that is read or written: `is_last` of its burst, `is_outside` the part's memory."""
    return data.StructLayout({"id": unsigned(id_bits), "is_last": 1, "is_outside": 1})


class PieceRunner(wiring.Component):
    """Pieces in; out come a READ or WRITE for every two words, and what becomes of each word.

    The part moves two words for a command, an even one and the one after it; a command for an odd word moves that
    word, and then one that nobody asked for, unless the next command ends it. So a command is given for the first
    word of a piece and for every even one, and every second cycle is free for a command of someone else.

    Parameters
    ----------
    timing : SdramTiming
    id_bits : int

    Ports
    -----
    i : stream of `ordered_piece`, in, whose row is open
    takes_slot : out, set if `command` is given in this cycle
    command : out
    runs : out, set in each cycle that has a word; `bank`, `is_write` and `beat` are its
    bank, is_write : out; they keep the last word's values, `is_write` is set before there is one
    beat : out

    Latency: the first word's cycle is the one after the transfer on `i`. Throughput: a word per cycle, without a gap
    between two pieces; but a write follows a read by t_turn cycles. All outputs come from registers, but for
    `takes_slot` and `beat.is_last`, and `i.ready` which looks at what is offered.
    """

    def __init__(self, *, timing: SdramTiming, id_bits: int) -> None:
        self.timing = timing
        super().__init__(
            {
                "i": In(stream.Signature(ordered_piece(timing.part, id_bits))),
                "takes_slot": Out(1),
                "command": Out(command),
                "runs": Out(1),
                "bank": Out(timing.part.bank_bits),
                "is_write": Out(1, init=1),
                "beat": Out(beat(id_bits)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        timing, offered = self.timing, self.i.payload
        bank = Signal.like(self.bank, reset_less=True)
        column = Signal(timing.part.column_bits, reset_less=True)
        left = Signal.like(offered.piece.more, reset_less=True)
        begins, is_final = Signal(), Signal(reset_less=True)
        id_, is_outside = Signal.like(offered.piece.id, reset_less=True), Signal(reset_less=True)
        is_end = Signal()
        turn = Signal(range(timing.t_turn - 1))
        m.d.comb += [
            is_end.eq(~left.any()),
            self.i.ready.eq((~self.runs | is_end) & ~(offered.is_write & turn.any())),
            self.takes_slot.eq(self.runs & (begins | ~column[0])),
            *give(self.command, Mux(self.is_write, Command.WRITE, Command.READ), bank=bank, address=column),
            self.bank.eq(bank),
            self.beat.id.eq(id_),
            self.beat.is_outside.eq(is_outside),
            self.beat.is_last.eq(is_end & is_final),
        ]
        with m.If(self.runs & ~self.is_write):
            m.d.sync += turn.eq(timing.t_turn - 2)
        with m.Elif(turn.any()):
            m.d.sync += turn.eq(turn - 1)
        m.d.sync += [column.eq(column + 1), left.eq(left - 1), begins.eq(0)]
        with m.If(~self.runs | is_end):
            m.d.sync += self.runs.eq(self.i.valid & self.i.ready)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                bank.eq(offered.piece.bank),
                column.eq(offered.piece.column),
                left.eq(offered.piece.more),
                id_.eq(offered.piece.id),
                is_final.eq(offered.piece.is_final),
                is_outside.eq(offered.piece.is_outside),
                self.is_write.eq(offered.is_write),
                begins.eq(1),
            ]
        return m
