"""The number of each query's row, in the order of the queries."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.plan.plan_layouts import id_shape, query_chunk
from spatten.hw.control.row.row_layouts import asked_query
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import select
from spatten.hw.lib.ram import Ram
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature

__all__ = ["RowNumbers"]


class RowNumbers(wiring.Component):
    """Remembers the token ids of every query block, and says the number of the row of each query that is asked for.

    Parameters
    ----------
    config : Config
    queries : int
        Queries that are under way at a time. A row number stays until its row has been read; by then the array may have
        taken two queries more, so there are places for two row numbers more.

    Ports
    -----
    chunk : in, `query_chunk`: the token ids of a block
    looks_up, entry : in, the ids of block `entry` are wanted in the cycles to come, until `looks_up` is set again; they
        have been given at least a cycle before. Before a stashed query it is set as well, and what is read is not used
    asked : in, `asked_query`, later than `looks_up`
    o : stream of row numbers, one for each `asked`: its id less the offset, or the row of a stashed query

    Latency: 4 cycles from `asked` to `o`. An assertion checks in simulation that a row number finds a place.
    """

    def __init__(self, *, config: Config, queries: int) -> None:
        self.config = config
        self.queries = queries
        super().__init__(
            {
                "chunk": In(query_chunk(config)),
                "looks_up": In(1),
                "entry": In(entry_shape(config.blocks)),
                "asked": In(asked_query(config)),
                "o": Out(stream.Signature(range(config.tokens_max))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.ids = ids = Ram(shape=len(Value.cast(self.chunk.ids)), depth=config.blocks)
        m.submodules.rows = rows = Fifo(shape=range(config.tokens_max), depth=self.queries + 2)
        wiring.connect(m, rows.o, wiring.flipped(self.o))
        token_id = Signal(id_shape(config))
        has_number, has_number_since = Signal(), Signal()
        number = Signal(range(config.tokens_max), reset_less=True)
        number_before = Signal.like(number, reset_less=True)
        m.d.comb += [
            ids.write_enable.eq(self.chunk.valid),
            ids.write_address.eq(self.chunk.entry),
            ids.write_data.eq(Value.cast(self.chunk.ids)),
            ids.read_enable.eq(self.looks_up),
            ids.read_address.eq(self.entry),
            token_id.eq(
                select(
                    [ids.read_data.word_select(n, len(token_id)) for n in range(config.topk_lanes)], self.asked.place
                )
            ),
            rows.i.valid.eq(has_number_since),
            rows.i.payload.eq(number_before),
        ]
        row_number = token_id - self.asked.offset
        recomputes = config.has(Feature.PROGRESSIVE)
        # A number leaves the queue four cycles after its query was asked for at the earliest, when the query is about
        # to enter the queue in front of the array.
        m.d.sync += [
            has_number.eq(self.asked.valid),
            number.eq(Mux(self.asked.again, self.asked.row, row_number) if recomputes else row_number),
            has_number_since.eq(has_number),
            number_before.eq(number),
        ]
        if asserts(platform):
            m.d.sync += Assert(ResetSignal() | ~rows.i.valid | rows.i.ready, "a row number finds no place\n")
        return m
