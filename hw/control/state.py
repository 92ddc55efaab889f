"""Saves a context's state to memory and restores it: importance of tokens and heads, and which are kept.

The image in memory is described in `hw.control.saved.state_layouts`.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.plan.plan_layouts import members_request
from spatten.hw.control.saved.state_layouts import (
    HEAD_SET_BITS,
    SECTOR_WORDS,
    WORD_BITS,
    as_word,
    head_sectors,
    head_state,
    kept_sectors,
    layouts,
    sector_at,
    state_command,
    token_sectors,
)
from spatten.hw.control.saved.token_load import TokenLoad
from spatten.hw.lib.logic import select
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["StateLoad", "StateStore"]


class StateStore(wiring.Component):
    """Writes a context's state: asks the token importance unit for line after line, and sends out full sectors.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `state_command`; taken when all sectors have left on `o`
    heads : in, importance of the heads, and the sets of kept and of saturated heads; stable while `i` is valid
    o_access, i_access : the token importance unit's access ports, reads only
    o : stream of `sector_at`

    Latency: about 4 cycles for each line of tokens and each sector.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(state_command(config))),
                "heads": In(head_state(config)),
                "o_access": Out(stream.Signature(layouts(config).access)),
                "i_access": In(stream.Signature(layouts(config).state)),
                "o": Out(stream.Signature(sector_at(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        lines = config.tokens_max // lanes
        line = Signal(range(lines + 1), reset_less=True)
        sector = Signal.like(self.o.payload.sector, name="sector", reset_less=True)
        kept = Signal(config.tokens_max, reset_less=True)
        # Bits of a sector, or of all tokens if these are fewer; but at least those of a line.
        size = max(min(SECTOR_BITS, config.tokens_max * WORD_BITS), lanes * WORD_BITS)
        words = Signal(size, reset_less=True)
        filled = Signal(range(size // WORD_BITS + 1), reset_less=True)
        answer = self.i_access.payload
        m.d.comb += [
            self.o_access.payload.context.eq(self.i.payload.context),
            self.o_access.payload.line.eq(line),
            self.o.payload.sector.eq(sector),
        ]
        rest = Cat(self._kept_image(kept), self._head_image())
        rest_sectors = len(rest) // SECTOR_BITS
        part = Signal(range(rest_sectors + 1), reset_less=True)
        sends_words = Signal()
        m.d.comb += self.o.payload.data.eq(
            Mux(
                sends_words,
                words[:SECTOR_BITS],
                select([rest.word_select(n, SECTOR_BITS) for n in range(rest_sectors)], part),
            )
        )
        with m.FSM(name="state_store"):
            with m.State("IDLE"), m.If(self.i.valid):
                m.d.sync += [line.eq(0), sector.eq(self.i.payload.sector), filled.eq(0), part.eq(0)]
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.o_access.valid.eq(1)
                with m.If(self.o_access.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.i_access.ready.eq(1)
                with m.If(self.i_access.valid):
                    line_words = Cat(as_word(answer.importance[lane]) for lane in range(lanes))
                    m.d.sync += [line.eq(line + 1), filled.eq(filled + lanes)]
                    # New words come in at the top, so that a full register has the first one at the bottom.
                    m.d.sync += words.eq(Cat(words, line_words)[lanes * WORD_BITS :])
                    m.d.sync += kept.eq(Cat(kept, answer.kept)[lanes:])
                    m.next = "ASK"
                    with m.If((filled + lanes == size // WORD_BITS) | (line == lines - 1)):
                        m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += [self.o.valid.eq(1), sends_words.eq(1)]
                with m.If(self.o.ready):
                    m.d.sync += [words.eq(words >> SECTOR_BITS), sector.eq(sector + 1), filled.eq(0)]
                    with m.If(filled > SECTOR_WORDS):
                        m.d.sync += filled.eq(filled - SECTOR_WORDS)
                    with m.Elif(line == lines):
                        m.next = "REST"
                    with m.Else():
                        m.next = "ASK"
            with m.State("REST"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [part.eq(part + 1), sector.eq(sector + 1)]
                    with m.If(part == rest_sectors - 1):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.i.ready.eq(1)
                m.next = "IDLE"
        return m

    def _kept_image(self, kept: Value) -> Value:
        """The sectors of the set of kept tokens."""
        return Cat(kept, Const(0, kept_sectors(self.config) * SECTOR_BITS - self.config.tokens_max))

    def _head_image(self) -> Value:
        """The sectors of the heads: their importance, and a sector with their sets."""
        heads_max = self.config.heads_max
        if not self.config.has(Feature.PRUNE_HEADS):
            return Cat(
                Const(0, head_sectors(self.config) * SECTOR_BITS), self.heads.kept, Const(0, SECTOR_BITS - heads_max)
            )
        words = Cat(as_word(self.heads.importance[head]) for head in range(heads_max))
        padding = Const(0, head_sectors(self.config) * SECTOR_BITS - heads_max * WORD_BITS)
        sets = Cat(self.heads.kept, Const(0, HEAD_SET_BITS - heads_max), self.heads.saturated)
        return Cat(words, padding, sets, Const(0, SECTOR_BITS - len(sets)))


class StateLoad(wiring.Component):
    """Reads a context's state back: the heads first, and then the tokens, by a `TokenLoad`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `state_command`; taken when all tokens are in place and `heads` is valid
    o_request, i_rows : to and from `hw.control.sector_reader.SectorReader`
    o_access : to the token importance unit's access port, writes only
    heads : out, importance of the heads, and the sets of kept and of saturated heads; valid from when `i` is taken

    Latency: that of `TokenLoad`, a memory latency for the heads, and 3 cycles.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(state_command(config))),
                "o_request": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o_access": Out(stream.Signature(layouts(config).access)),
                "heads": Out(head_state(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.tokens = tokens = TokenLoad(config=config)
        wiring.connect(m, tokens.o_access, wiring.flipped(self.o_access))
        heads = Signal(self.heads.shape(), name="loaded_heads", reset_less=True)
        request = self.o_request.payload
        row = self.i_rows.payload
        sets_at = head_sectors(config) * SECTOR_BITS
        m.d.comb += [
            self.heads.eq(heads),
            tokens.i.payload.eq(self.i.payload),
            tokens.i_rows.payload.eq(row),
        ]
        with m.FSM(name="state_load"):
            with m.State("IDLE"), m.If(self.i.valid):
                m.next = "ASK_HEADS"
            with m.State("ASK_HEADS"):
                m.d.comb += [
                    self.o_request.valid.eq(1),
                    request.sector.eq(self.i.payload.sector + token_sectors(config) + kept_sectors(config)),
                    request.sectors.eq(head_sectors(config) + 1),
                    request.rows.eq(1),
                ]
                with m.If(self.o_request.ready):
                    m.next = "HEADS"
            with m.State("HEADS"):
                m.d.comb += self.i_rows.ready.eq(1)
                m.d.sync += heads.kept.eq(row[sets_at : sets_at + HEAD_SET_BITS])
                if config.has(Feature.PRUNE_HEADS):
                    m.d.sync += heads.saturated.eq(row[sets_at + HEAD_SET_BITS : sets_at + 2 * HEAD_SET_BITS])
                    for head in range(config.heads_max):
                        m.d.sync += heads.importance[head].eq(row.word_select(head, WORD_BITS))
                with m.If(self.i_rows.valid):
                    m.next = "TOKENS"
            with m.State("TOKENS"):
                m.d.comb += [
                    tokens.i.valid.eq(1),
                    self.i.ready.eq(tokens.i.ready),
                    self.o_request.valid.eq(tokens.o_request.valid),
                    request.eq(tokens.o_request.payload),
                    tokens.o_request.ready.eq(self.o_request.ready),
                    tokens.i_rows.valid.eq(self.i_rows.valid),
                    self.i_rows.ready.eq(tokens.i_rows.ready),
                ]
                with m.If(tokens.i.ready):
                    m.next = "IDLE"
        return m
