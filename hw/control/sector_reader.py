"""Reads bitmaps and saved state from memory, through the query ring."""

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.plan.plan_layouts import members_request
from spatten.hw.lib.logic import select, wrapped
from spatten.hw.memory.block_table import entry_shape, granted_block
from spatten.hw.memory.ring_buffer import lane_window, window_request
from spatten.spec.config import Config
from spatten.spec.row_format import SECTOR_BITS, query_ring_sectors

__all__ = ["SectorReader"]


class SectorReader(wiring.Component):
    """Fetches rows of up to four sectors each, and hands them out one by one.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `members_request`: `rows` consecutive rows of `sectors` sectors each
    o : stream of rows, 1,024 bits each; sectors that were not asked for mean nothing
    o_request, i_block, arrived : to and from the planner: the request, the block for it, and which blocks have arrived
    o_read, i_window : to and from the query ring
    used : stream of entries: the block has been read

    Latency: that of memory, and 6 cycles. One request at a time.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        sectors = query_ring_sectors(config)
        entry = entry_shape(config.blocks)
        request = window_request(sectors, BANKS, 1)
        window = lane_window(1, BANKS, 1)
        super().__init__(
            {
                "i": In(stream.Signature(members_request(config))),
                "o": Out(stream.Signature(unsigned(BANKS * SECTOR_BITS))),
                "o_request": Out(stream.Signature(members_request(config))),
                "i_block": In(stream.Signature(granted_block(sectors=sectors, entries=config.blocks))),
                "arrived": In(data.ArrayLayout(range(2), config.blocks)),
                "o_read": Out(stream.Signature(request)),
                "i_window": In(wiring.Signature({"valid": Out(1), "payload": Out(window)})),
                "used": Out(stream.Signature(entry)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        size = query_ring_sectors(self.config)
        entry = Signal(entry_shape(self.config.blocks), reset_less=True)
        place = Signal(range(size), reset_less=True)
        asked = Signal(self.i.payload.shape(), reset_less=True)
        left = Signal.like(self.i.payload.rows, reset_less=True)
        m.d.comb += [
            self.o_request.payload.eq(asked),
            self.o_read.payload.sector.eq(place),
            self.o_read.payload.sectors.eq(asked.sectors),
            self.used.payload.eq(entry),
        ]
        with m.FSM(name="sector_reader"):
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [asked.eq(self.i.payload), left.eq(self.i.payload.rows)]
                with m.If(self.i.valid):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.o_request.valid.eq(1)
                with m.If(self.o_request.ready):
                    m.next = "BLOCK"
            with m.State("BLOCK"):
                m.d.comb += self.i_block.ready.eq(1)
                m.d.sync += [entry.eq(self.i_block.payload.entry), place.eq(self.i_block.payload.base)]
                with m.If(self.i_block.valid):
                    m.next = "ARRIVE"
            with m.State("ARRIVE"), m.If(select([self.arrived[n] for n in range(self.config.blocks)], entry)):
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.o_read.valid.eq(1)
                with m.If(self.o_read.ready):
                    m.d.sync += place.eq(wrapped(place + asked.sectors, size))
                    m.next = "WINDOW"
            with m.State("WINDOW"), m.If(self.i_window.valid):
                window = self.i_window.payload
                words = [window.words[0][n] for n in range(BANKS)]
                for n in range(BANKS):
                    word = select([words[(n + first) % BANKS] for first in range(BANKS)], window.first)
                    m.d.sync += self.o.payload.word_select(n, SECTOR_BITS).eq(word)
                m.d.sync += self.o.valid.eq(1)
                m.next = "OUT"
            with m.State("OUT"), m.If(self.o.ready):
                m.d.sync += [self.o.valid.eq(0), left.eq(left - 1)]
                m.next = "READ"
                with m.If(left == 1):
                    m.next = "USED"
            with m.State("USED"):
                m.d.comb += self.used.valid.eq(1)
                with m.If(self.used.ready):
                    m.next = "IDLE"
        return m
