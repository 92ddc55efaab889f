"""The blocks that a chunk of rows needs: of its queries, and of its head's keys and values."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import Fifo
from spatten.hw.memory.block_table import entry_shape, granted_block
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import key_ring_sectors, query_ring_sectors

__all__ = ["ChunkBlocks"]


class ChunkBlocks(wiring.Component):
    """Holds the blocks that have their space until their chunk comes, and says when all that a chunk needs are there.

    Every chunk has a query block of its own. A block of keys or of values stays until a chunk begins the next one; the
    values of pruned rows have no block here. Up to `blocks` blocks of each ring wait in queues, so that the planner can
    go ahead.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i_query, i_key, i_value : streams, the next block of each ring, in the order of their chunks
    begins_keys, begins_values : in, the next chunk needs another block than the chunk before
    prunes : in, the next chunk's rows are pruned: no value block is taken from the queue; only with local pruning
    wanted : in, the next chunk goes if its blocks are there
    are_there : out, it is wanted, and every block that it needs is there
    query, key, value : out, these blocks; that of the values means nothing with `prunes`
    takes : in, the chunk goes; only while `are_there` is set

    Combinational from `wanted`, `begins_keys`, `begins_values` and `prunes` to the outputs. A chunk per cycle.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._prunes = config.has(Feature.PRUNE_VALUES)
        query = granted_block(sectors=query_ring_sectors(config), entries=config.blocks)
        key = granted_block(sectors=key_ring_sectors(config), entries=config.blocks)
        value = entry_shape(config.blocks)
        super().__init__(
            {
                "i_query": In(stream.Signature(query)),
                "i_key": In(stream.Signature(key)),
                "i_value": In(stream.Signature(value)),
                "begins_keys": In(1),
                "begins_values": In(1),
                **optional(self._prunes, prunes=In(1)),
                "wanted": In(1),
                "are_there": Out(1),
                "query": Out(query),
                "key": Out(key),
                "value": Out(value),
                "takes": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        queues = []
        for name, source in (("query", self.i_query), ("key", self.i_key), ("value", self.i_value)):
            m.submodules[f"{name}_blocks"] = queue = Fifo(shape=source.payload.shape(), depth=self.config.blocks)
            wiring.connect(m, wiring.flipped(source), queue.i)
            queues.append(queue)
        queries, keys, values = queues
        last_key = Signal.like(self.key, reset_less=True)
        last_value = Signal.like(self.value, reset_less=True)
        has_values = values.o.valid | ~self.begins_values
        if self._prunes:
            has_values = has_values | self.prunes
        m.d.comb += [
            self.are_there.eq(self.wanted & queries.o.valid & (keys.o.valid | ~self.begins_keys) & has_values),
            self.query.eq(queries.o.payload),
            Value.cast(self.key).eq(
                Mux(self.begins_keys, Value.cast(keys.o.payload), Value.cast(last_key)),
            ),
            self.value.eq(Mux(self.begins_values, values.o.payload, last_value)),
            queries.o.ready.eq(self.takes),
            keys.o.ready.eq(self.takes & self.begins_keys),
            values.o.ready.eq(
                self.takes & self.begins_values & ~self.prunes if self._prunes else self.takes & self.begins_values
            ),
        ]
        with m.If(self.takes):
            m.d.sync += [last_key.eq(self.key), last_value.eq(self.value)]
        return m
