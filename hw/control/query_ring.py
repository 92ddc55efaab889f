"""The query ring and its two readers: query rows for the array, and rows of bitmaps and of saved states."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.query_reader import QueryReader
from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.lib.connections import by_member
from spatten.hw.memory.block_table import entry_shape
from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.spec.config import Config
from spatten.spec.row_format import query_ring_sectors

__all__ = ["QueryRing"]


class QueryRing(wiring.Component):
    """Shares the windows of the query ring between `QueryReader`, which goes first, and `SectorReader`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    write, i_allocate, o_block, i_free : described at `hw.memory.ring_buffer.RingBuffer`; the ring has one lane
    i_query, o_query : in, a read of the query reader, at any time; out, its window
    i_rows, o_rows : stream of reads of the sector reader; out, its window
    query_used : in, `valid` and `entry`, a block that the query reader has read; i_rows_used : stream of entries, those
        that the sector reader has
    used : out, `valid` and `entry`: a block has been read

    Latency: that of the ring's windows; a read on `i_rows` and a block on `i_rows_used` wait while the query reader has
    one of its own. Combinational from `query_used` and `i_rows_used` to `used`.
    """

    def __init__(self, *, config: Config) -> None:
        query, rows = QueryReader(config=config), SectorReader(config=config)
        self.header = data.StructLayout({"is_row": 1, "query": query.header})
        """What travels with a read: whose it is, and what goes with a query."""
        self.ring = RingBuffer(lanes=1, sectors=query_ring_sectors(config), banks=BANKS, header=self.header)
        ports = self.ring.signature.members
        used = data.StructLayout({"valid": 1, "entry": entry_shape(config.blocks)})
        super().__init__(
            {
                **{name: ports[name] for name in ("write", "i_allocate", "o_block", "i_free")},
                "i_query": query.signature.members["o_read"].flip(),
                "o_query": query.signature.members["i_window"].flip(),
                "i_rows": rows.signature.members["o_read"].flip(),
                "o_rows": rows.signature.members["i_window"].flip(),
                "query_used": In(used),
                "i_rows_used": In(stream.Signature(entry_shape(config.blocks))),
                "used": Out(used),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.ring = ring = self.ring
        for bank in range(BANKS):
            wiring.connect(m, wiring.flipped(self.write[0][bank]), ring.write[0][bank])
        wiring.connect(m, wiring.flipped(self.i_allocate), ring.i_allocate)
        wiring.connect(m, ring.o_block, wiring.flipped(self.o_block))
        wiring.connect(m, wiring.flipped(self.i_free), ring.i_free)

        query, rows = self.i_query, self.i_rows
        m.d.comb += [
            ring.i_read.valid.eq(query.valid | rows.valid),
            ring.i_read.payload.sector.eq(Mux(query.valid, query.payload.sector, rows.payload.sector)),
            ring.i_read.payload.sectors.eq(Mux(query.valid, query.payload.sectors, rows.payload.sectors)),
            ring.i_read.payload.header.is_row.eq(~query.valid),
            ring.i_read.payload.header.query.eq(query.payload.header),
            rows.ready.eq(~query.valid),
        ]
        window = ring.o_read
        header = window.payload.header
        m.d.comb += [
            self.o_query.valid.eq(window.valid & ~header.is_row),
            *by_member(self.o_query.payload, window.payload, header=header.query),
            self.o_rows.valid.eq(window.valid & header.is_row),
            *by_member(self.o_rows.payload, window.payload, header=0),
        ]
        m.d.comb += [
            self.used.valid.eq(self.query_used.valid | self.i_rows_used.valid),
            self.used.entry.eq(Mux(self.query_used.valid, self.query_used.entry, self.i_rows_used.payload)),
            self.i_rows_used.ready.eq(~self.query_used.valid),
        ]
        return m
