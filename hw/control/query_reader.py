"""Reads query rows from their ring, and gives them to the Q x K array as operands."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.plan.plan_layouts import block_event, query_chunk
from spatten.hw.control.row.query_store import QueryStore
from spatten.hw.control.row.query_windows import QueryWindows
from spatten.hw.control.row.row_layouts import query_beat
from spatten.hw.control.row.row_numbers import RowNumbers
from spatten.hw.control.segments import query_segment
from spatten.hw.datapath.converter import Converter
from spatten.hw.datapath.qk import query_row
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.unstalled import unstalled
from spatten.hw.memory.ring_buffer import lane_window, window_request
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import query_ring_sectors

__all__ = ["QUERIES", "QueryReader"]

QUERIES = 8
"""Queries that wait in front of the array."""


class QueryReader(wiring.Component):
    """Reads query rows from their ring, makes operands of them, and keeps up to 8 waiting for the array.

    Queries of rows that may have to be computed again are stored, too; the second time they come from that store.
    Without progressive recompute there are no such rows.

    It is joined of components in hw/control/row, and of a converter:

        QueryWindows -> query ring -> Converter -> QueryStore -> queue of queries
             |                                         ^
             +-----------------------------------------+ which stashed query is to leave
             +-> RowNumbers

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `query_segment`
    arrived : in, for each query block whether it is there
    chunk : in, `query_chunk`: token ids of a query block's rows, before the block is there
    o_read, i_window : to and from the query ring, which answers after 2 cycles
    o : stream of `hw.datapath.qk.query_row`, to the array
    o_row : stream of row numbers, one for each query; it is valid only when the query will be in the array's queue
        before keys that are read from then on
    used : out, `block_event`: a block has been read

    Latency: 2 cycles from a segment whose queries are there to its first read; 6 from a query's last read to `o`, and 4
    to `o_row`. Throughput: a beat per cycle within a segment.

    It assumes that who takes `o` and `o_row` never takes more than two queries more than row numbers: then row numbers
    find their places, which an assertion checks in simulation.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self.header = query_beat(config)
        query = query_row(operand_bits=config.operand_bits, head_dim_max=config.head_dim_max)
        request = window_request(query_ring_sectors(config), BANKS, self.header)
        super().__init__(
            {
                "i": In(stream.Signature(query_segment(config))),
                "arrived": In(data.ArrayLayout(range(2), config.blocks)),
                "chunk": In(query_chunk(config)),
                "o_read": Out(unstalled(request)),
                "i_window": In(unstalled(lane_window(1, BANKS, self.header))),
                "o": Out(stream.Signature(query)),
                "o_row": Out(stream.Signature(range(config.tokens_max))),
                "used": Out(block_event(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.query_windows = windows = QueryWindows(config=config)
        m.submodules.rows = rows = RowNumbers(config=config, queries=QUERIES)
        m.submodules.converter = converter = Converter(
            tensor="query",
            slices=1,
            slice_width=config.slice_width,
            lanes=1,
            operand_bits=config.operand_bits,
            head_dims=config.head_dims,
            widths=config.query_bits,
            banks=BANKS,
            header=self.header,
        )
        m.submodules.store = store = QueryStore(config=config)
        m.submodules.queries = queries = Fifo(shape=len(Value.cast(self.o.payload)), depth=QUERIES)
        wiring.connect(m, wiring.flipped(self.i), windows.i)
        wiring.connect(m, rows.o, wiring.flipped(self.o_row))
        window = self.i_window.payload
        m.d.comb += [
            windows.arrived.eq(self.arrived),
            self.o_read.valid.eq(windows.o_read.valid),
            self.o_read.payload.eq(windows.o_read.payload),
            self.used.eq(windows.used),
            rows.chunk.eq(self.chunk),
            rows.looks_up.eq(windows.looks_up),
            rows.entry.eq(windows.entry),
            rows.asked.eq(windows.asked),
            converter.i.valid.eq(self.i_window.valid),
            Value.cast(converter.i.payload.words).eq(Value.cast(window.words)),
            converter.i.payload.first.eq(window.first),
            converter.i.payload.part.eq(window.header.part),
            converter.i.payload.header.eq(window.header),
            store.i.valid.eq(converter.o.valid),
            store.i.payload.eq(converter.o.payload),
            *([store.stashed.eq(windows.stashed)] if config.has(Feature.PROGRESSIVE) else []),
            queries.i.valid.eq(store.o.valid),
            queries.i.payload.eq(store.o.payload),
            self.o.valid.eq(queries.o.valid),
            queries.o.ready.eq(self.o.ready),
            Value.cast(self.o.payload).eq(queries.o.payload),
        ]
        # How many queries are inside, in the pipeline from the ring and waiting in the queue; and whether one more may
        # come, in a register of its own.
        inside = Signal(range(QUERIES + 1))
        has_room = Signal(init=1)
        leaves = self.o.valid & self.o.ready
        m.d.comb += windows.has_room.eq(has_room)
        with m.If(windows.asked.valid & ~leaves):
            m.d.sync += [inside.eq(inside + 1), has_room.eq(inside != QUERIES - 1)]
        with m.If(leaves & ~windows.asked.valid):
            m.d.sync += [inside.eq(inside - 1), has_room.eq(1)]
        if asserts(platform):
            m.d.sync += Assert(ResetSignal() | ~queries.i.valid | queries.i.ready, "a query finds no place\n")
        return m
