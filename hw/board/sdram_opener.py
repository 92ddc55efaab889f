"""Opens the row of the next piece behind the one that is being carried out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.board.sdram_bank import SdramBank
from spatten.hw.board.sdram_commands import Command, command, give
from spatten.hw.board.sdram_order import ordered_piece
from spatten.hw.board.sdram_timing import SdramTiming
from spatten.hw.lib.logic import one_hot, select

__all__ = ["RowOpener"]


class RowOpener(wiring.Component):
    """Pieces in, the same pieces out, each when the row that it is in is open.

    It holds one piece and the rows of all banks. A piece whose row is open leaves as soon as it has been looked at;
    else its bank is closed, if it is open with another row, and opened.

    Parameters
    ----------
    timing : SdramTiming
    id_bits : int

    Ports
    -----
    i : stream of `ordered_piece`, in
    o : stream of the same, out. `o.valid` may fall when `holds` rises
    gives : out, set if `command` is given in this cycle
    command : out
    takes_slot : in, set in cycles whose command is someone else's: `gives` is then 0
    runs, run_bank : in, set while words of a bank are read or written: it will not be closed
    writes : in, set in each cycle in which a word of `run_bank` is written
    holds : in. While set, no command is given and nothing leaves
    may_close : out, set if every bank may be closed
    closes : in, set in the cycle in which somebody else closes all banks, under `holds`

    Latency: 2 cycles if the row is open, 1 + t_rcd if the bank is closed, 1 + t_rp + t_rcd if it has another row,
    unless commands and banks are waited for. `i.ready` follows `o.ready`.
    """

    def __init__(self, *, timing: SdramTiming, id_bits: int) -> None:
        self.timing = timing
        layout = ordered_piece(timing.part, id_bits)
        super().__init__(
            {
                "i": In(stream.Signature(layout)),
                "o": Out(stream.Signature(layout)),
                "gives": Out(1),
                "command": Out(command),
                "takes_slot": In(1),
                "runs": In(1),
                "run_bank": In(timing.part.bank_bits),
                "writes": In(1),
                "holds": In(1),
                "may_close": Out(1),
                "closes": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        timing = self.timing
        held = Signal(self.i.payload.shape(), reset_less=True)
        is_held = Signal()
        bank, row = held.piece.bank, held.piece.row
        count = 1 << timing.part.bank_bits
        m.submodules.banks = parts = Module()
        banks = [SdramBank(timing=timing) for _ in range(count)]
        opens, shuts = Signal(), Signal()
        for number, (part, is_its, is_run) in enumerate(
            zip(banks, one_hot(bank, count), one_hot(self.run_bank, count), strict=True)
        ):
            parts.submodules[f"bank{number}"] = part
            m.d.comb += [
                part.opens.eq(opens & is_its),
                part.i_row.eq(row),
                part.writes.eq(self.writes & is_run),
                part.closes.eq((shuts & is_its) | self.closes),
            ]
        m.d.comb += self.may_close.eq(Cat(part.may_close for part in banks).all())

        pause = Signal(range(max(timing.t_rp, timing.t_rcd)))
        with m.If(pause.any()):
            m.d.sync += pause.eq(pause - 1)
        may_command, is_used, leaves = Signal(), Signal(), Signal()
        m.d.comb += [
            may_command.eq(~self.takes_slot & ~self.holds & ~pause.any()),
            is_used.eq(self.runs & (self.run_bank == bank)),
            *give(self.command, Mux(opens, Command.ACTIVE, Command.PRECHARGE), bank=bank, address=Mux(opens, row, 0)),
            self.gives.eq(opens | shuts),
            self.o.payload.eq(held),
            leaves.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(~is_held | leaves),
        ]
        with m.FSM():
            with m.State("look"), m.If(is_held):
                m.next = "close"
                with m.If(~select([part.is_open for part in banks], bank)):
                    m.next = "open"
                with m.Elif(select([part.row for part in banks], bank) == row):
                    m.next = "leave"
                with m.If(self.holds):
                    m.next = "look"
            with m.State("close"):
                m.d.comb += shuts.eq(may_command & ~is_used & select([part.may_close for part in banks], bank))
                with m.If(shuts):
                    m.d.sync += pause.eq(timing.t_rp - 1)
                    m.next = "open"
                with m.If(self.closes):
                    m.next = "look"
            with m.State("open"):
                m.d.comb += opens.eq(may_command)
                with m.If(opens):
                    m.d.sync += pause.eq(timing.t_rcd - 2)
                    m.next = "leave"
                with m.If(self.closes):
                    m.next = "look"
            with m.State("leave"):
                m.d.comb += self.o.valid.eq(~pause.any() & ~self.holds)
                with m.If(leaves | self.closes):
                    m.next = "look"
        with m.If(self.i.ready):
            m.d.sync += [is_held.eq(self.i.valid), held.eq(self.i.payload)]
        return m
