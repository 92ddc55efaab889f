"""Reads the state of a context's tokens back into the token importance unit."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.plan.plan_layouts import members_request
from spatten.hw.control.saved.state_layouts import (
    SECTOR_WORDS,
    WORD_BITS,
    kept_sectors,
    layouts,
    state_command,
    token_sectors,
)
from spatten.spec.config import Config
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["TokenLoad"]


class TokenLoad(wiring.Component):
    """Asks for the set of kept tokens, then for the tokens' importance, and writes line after line.

    Importance comes in rows of as many sectors as the sector reader takes at once, and as many rows as it takes with a
    request.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `state_command`; taken when all lines are written
    o_request, i_rows : to and from `hw.control.sector_reader.SectorReader`
    o_access : to the token importance unit's access port, writes only

    Latency: 1 + tokens / (32 lanes) memory latencies, and about 2 cycles a line. `i.valid` reaches `o_request`.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(state_command(config))),
                "o_request": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o_access": Out(stream.Signature(layouts(config).access)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        row_sectors = min(BANKS, token_sectors(config))
        row_tokens = row_sectors * SECTOR_WORDS
        lines_per_row = max(1, min(row_tokens, config.tokens_max) // lanes)
        rows = -(-config.tokens_max // row_tokens)
        rows_at_once = min(lanes, rows)
        # The first row of the next request; and how many it is for, a cycle later, which is early enough.
        row = Signal(range(rows + rows_at_once + 1), reset_less=True)
        count = Signal(range(rows_at_once + 1), reset_less=True)
        row_left = Signal(range(rows_at_once + 1), reset_less=True)
        line = Signal(range(config.tokens_max // lanes + 1), reset_less=True)
        line_left = Signal(range(lines_per_row + 1), reset_less=True)
        kept = Signal(config.tokens_max, reset_less=True)
        words = Signal(BANKS * SECTOR_BITS, reset_less=True)
        request, access = self.o_request.payload, self.o_access.payload
        origin = self.i.payload.sector
        left = rows - row
        m.d.sync += count.eq(Mux(left < rows_at_once, left, rows_at_once))
        m.d.comb += [
            access.context.eq(self.i.payload.context),
            access.line.eq(line),
            access.write.eq(1),
            access.state.kept.eq(kept[:lanes]),
        ]
        for lane in range(lanes):
            m.d.comb += access.state.importance[lane].eq(words.word_select(lane, WORD_BITS))
        with m.FSM(name="token_load"):
            with m.State("ASK_KEPT"):
                m.d.comb += [
                    self.o_request.valid.eq(self.i.valid),
                    request.sector.eq(origin + token_sectors(config)),
                    request.sectors.eq(kept_sectors(config)),
                    request.rows.eq(1),
                ]
                m.d.sync += [row.eq(0), line.eq(0)]
                with m.If(self.i.valid & self.o_request.ready):
                    m.next = "KEPT"
            with m.State("KEPT"):
                m.d.comb += self.i_rows.ready.eq(1)
                m.d.sync += kept.eq(self.i_rows.payload)
                with m.If(self.i_rows.valid):
                    m.next = "ASK_ROWS"
            with m.State("ASK_ROWS"):
                m.d.comb += [
                    self.o_request.valid.eq(1),
                    request.sector.eq(origin + row * row_sectors),
                    request.sectors.eq(row_sectors),
                    request.rows.eq(count),
                ]
                with m.If(self.o_request.ready):
                    m.d.sync += [row.eq(row + count), row_left.eq(count)]
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += self.i_rows.ready.eq(1)
                m.d.sync += [words.eq(self.i_rows.payload), line_left.eq(lines_per_row)]
                with m.If(self.i_rows.valid):
                    m.next = "LINE"
            with m.State("LINE"):
                m.d.comb += self.o_access.valid.eq(1)
                with m.If(self.o_access.ready):
                    m.d.sync += [
                        words.eq(words >> lanes * WORD_BITS),
                        kept.eq(kept >> lanes),
                        line.eq(line + 1),
                        line_left.eq(line_left - 1),
                    ]
                    with m.If(line_left == 1):
                        m.d.sync += row_left.eq(row_left - 1)
                        m.next = "ROW"
                        with m.If(row_left == 1):
                            m.next = "ASK_ROWS"
                            with m.If(row == rows):
                                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.i.ready.eq(1)
                m.next = "ASK_KEPT"
        return m
