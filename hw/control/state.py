"""Saves a context's state to memory and restores it: importance of tokens and heads, and which are kept.

The image, in sectors: the importance of the tokens, 32 bits each; the set of kept tokens, a bit each; the importance of
the heads, 32 bits each; and a sector with the set of kept heads in its first 16 bits and the set of heads whose
importance has saturated in the next 16 (`golden.state`).
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.plan.plan_layouts import members_request
from spatten.hw.datapath.token_importance import Layouts
from spatten.hw.lib.expander import select
from spatten.spec.config import Config
from spatten.spec.row_format import SECTOR_BITS

__all__ = [
    "StateLoad",
    "StateStore",
    "head_sectors",
    "head_state",
    "kept_sectors",
    "layouts",
    "sector_at",
    "state_command",
    "state_sectors",
    "token_sectors",
]

WORD_BITS = 32
SECTOR_WORDS = SECTOR_BITS // WORD_BITS


def token_sectors(config: Config) -> int:
    """Sectors of the tokens' importance."""
    return -(-config.tokens_max // SECTOR_WORDS)


def kept_sectors(config: Config) -> int:
    """Sectors of the set of kept tokens."""
    return -(-config.tokens_max // SECTOR_BITS)


def head_sectors(config: Config) -> int:
    """Sectors of the heads' importance."""
    return -(-config.heads_max // SECTOR_WORDS)


def state_sectors(config: Config) -> int:
    """Sectors of a saved state."""
    return token_sectors(config) + kept_sectors(config) + head_sectors(config) + 1


def sector_at(config: Config) -> data.StructLayout:
    """A sector's data, and its global address in sectors."""
    return data.StructLayout({"sector": unsigned(config.sector_bits), "data": unsigned(SECTOR_BITS)})


def layouts(config: Config) -> Layouts:
    """The payloads of the token importance unit."""
    return Layouts(
        tokens=config.tokens_max,
        prob_bits=config.prob_bits,
        importance_bits=config.token_importance_bits,
        prob_lanes=config.softmax_lanes,
        lanes=config.topk_lanes,
        contexts=config.contexts,
        slots=config.jobs_in_flight,
    )


def head_state(config: Config) -> data.StructLayout:
    """What is saved of the heads."""
    words = data.ArrayLayout(unsigned(config.head_importance_bits), config.heads_max)
    return data.StructLayout(
        {"importance": words, "kept": unsigned(config.heads_max), "saturated": unsigned(config.heads_max)}
    )


def state_command(config: Config) -> data.StructLayout:
    """A context, and the first sector of its state in memory."""
    context = layouts(config).access.members["context"]
    return data.StructLayout({"context": context, "sector": unsigned(config.sector_bits)})


class StateStore(wiring.Component):
    """Writes a context's state: asks the token importance unit for line after line, and sends out full sectors.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `context` and first `sector`; taken when all sectors have left on `o`
    heads : in, importance of the heads, and the sets of kept and of saturated heads; stable while `i` is valid
    o_access, i_access : the token importance unit's access ports
    o : stream of `sector_at`

    Latency: about 4 cycles for each line of tokens and each sector.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        own = layouts(config)
        command = state_command(config)
        super().__init__(
            {
                "i": In(stream.Signature(command)),
                "heads": In(head_state(config)),
                "o_access": Out(stream.Signature(own.access)),
                "i_access": In(stream.Signature(own.state)),
                "o": Out(stream.Signature(sector_at(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        lines = config.tokens_max // lanes
        line = Signal(range(lines + 1), reset_less=True)
        sector = Signal(range(state_sectors(config) + 1), reset_less=True)
        kept = Signal(config.tokens_max, reset_less=True)
        # Bits of a sector, or of all tokens if these are fewer; but at least those of a line.
        size = max(min(SECTOR_BITS, config.tokens_max * WORD_BITS), lanes * WORD_BITS)
        words = Signal(size, reset_less=True)
        filled = Signal(range(size // WORD_BITS + 1), reset_less=True)
        answer = self.i_access.payload
        m.d.comb += [
            self.o_access.payload.context.eq(self.i.payload.context),
            self.o_access.payload.line.eq(line),
            self.o.payload.sector.eq(self.i.payload.sector + sector),
        ]
        heads = [_padded(self.heads.importance[h]) for h in range(config.heads_max)]
        kept_bits = Cat(kept, Const(0, kept_sectors(config) * SECTOR_BITS - config.tokens_max))
        head_bits = Cat(*heads, Const(0, head_sectors(config) * SECTOR_BITS - config.heads_max * WORD_BITS))
        sets = Cat(self.heads.kept, Const(0, 16 - config.heads_max), self.heads.saturated)
        rest = Cat(kept_bits, head_bits, sets, Const(0, SECTOR_BITS - len(sets)))
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
                m.d.sync += [line.eq(0), sector.eq(0), filled.eq(0), part.eq(0)]
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.o_access.valid.eq(1)
                with m.If(self.o_access.ready):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += self.i_access.ready.eq(1)
                with m.If(self.i_access.valid):
                    given = Cat(_padded(answer.importance[lane]) for lane in range(lanes))
                    m.d.sync += [line.eq(line + 1), filled.eq(filled + lanes)]
                    # New words come in at the top, so that a full register has the first one at the bottom.
                    m.d.sync += words.eq(Cat(words, given)[lanes * WORD_BITS :])
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


class StateLoad(wiring.Component):
    """Reads a context's state back: the set of kept tokens, then the heads, then line after line of the tokens.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `context` and first `sector`; taken when all tokens are in place and `heads` is valid
    o_request, i_rows : to and from `hw.control.sector_reader.SectorReader`
    o_access : to the token importance unit's access port
    heads : out, importance of the heads, and the sets of kept and of saturated heads; valid from when `i` is taken

    Latency: 3 + tokens / (32 lanes) memory latencies, and about 2 cycles a line.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        own = layouts(config)
        command = state_command(config)
        super().__init__(
            {
                "i": In(stream.Signature(command)),
                "o_request": Out(stream.Signature(members_request(config))),
                "i_rows": In(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o_access": Out(stream.Signature(own.access)),
                "heads": Out(head_state(config)),
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
        row = Signal(range(rows + rows_at_once + 1), reset_less=True)
        row_left = Signal(range(rows_at_once + 1), reset_less=True)
        line = Signal(range(config.tokens_max // lanes + 1), reset_less=True)
        line_left = Signal(range(lines_per_row + 1), reset_less=True)
        kept = Signal(config.tokens_max, reset_less=True)
        words = Signal(BANKS * SECTOR_BITS, reset_less=True)
        heads = Signal(self.heads.shape(), name="loaded_heads", reset_less=True)
        request, access = self.o_request.payload, self.o_access.payload
        origin = self.i.payload.sector
        left = rows - row
        m.d.comb += [
            self.heads.eq(heads),
            access.context.eq(self.i.payload.context),
            access.line.eq(line),
            access.write.eq(1),
            access.state.kept.eq(kept[:lanes]),
        ]
        for lane in range(lanes):
            m.d.comb += access.state.importance[lane].eq(words.word_select(lane, WORD_BITS))
        kept_at = token_sectors(config)
        heads_at = kept_at + kept_sectors(config)
        sets = Signal(BANKS * SECTOR_BITS)
        m.d.comb += sets.eq(self.i_rows.payload >> head_sectors(config) * SECTOR_BITS)
        with m.FSM(name="state_load"):
            with m.State("IDLE"), m.If(self.i.valid):
                m.d.sync += [row.eq(0), line.eq(0)]
                m.next = "ASK_KEPT"
            with m.State("ASK_KEPT"):
                m.d.comb += [
                    self.o_request.valid.eq(1),
                    request.sector.eq(origin + kept_at),
                    request.sectors.eq(kept_sectors(config)),
                    request.rows.eq(1),
                ]
                with m.If(self.o_request.ready):
                    m.next = "KEPT"
            with m.State("KEPT"):
                m.d.comb += self.i_rows.ready.eq(1)
                m.d.sync += kept.eq(self.i_rows.payload)
                with m.If(self.i_rows.valid):
                    m.next = "ASK_HEADS"
            with m.State("ASK_HEADS"):
                m.d.comb += [
                    self.o_request.valid.eq(1),
                    request.sector.eq(origin + heads_at),
                    request.sectors.eq(head_sectors(config) + 1),
                    request.rows.eq(1),
                ]
                with m.If(self.o_request.ready):
                    m.next = "HEADS"
            with m.State("HEADS"):
                m.d.comb += self.i_rows.ready.eq(1)
                m.d.sync += [heads.kept.eq(sets), heads.saturated.eq(sets >> 16)]
                for head in range(config.heads_max):
                    m.d.sync += heads.importance[head].eq(self.i_rows.payload.word_select(head, WORD_BITS))
                with m.If(self.i_rows.valid):
                    m.next = "ASK_ROWS"
            with m.State("ASK_ROWS"):
                count = Mux(left < rows_at_once, left, rows_at_once)
                m.d.comb += [
                    self.o_request.valid.eq(1),
                    request.sector.eq(origin + row * row_sectors),
                    request.sectors.eq(row_sectors),
                    request.rows.eq(count),
                ]
                with m.If(self.o_request.ready):
                    m.d.sync += row_left.eq(count)
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
                        m.d.sync += [row.eq(row + 1), row_left.eq(row_left - 1)]
                        m.next = "ROW"
                        with m.If(row_left == 1):
                            m.next = "ASK_ROWS"
                            with m.If(row == rows - 1):
                                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.i.ready.eq(1)
                m.next = "IDLE"
        return m


def _padded(value: Value) -> Value:
    return Cat(value, Const(0, WORD_BITS - len(value)))
