"""Puts queries together from their beats, and stashes some for a second pass."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.row.row_layouts import query_beat, stashed_query
from spatten.hw.control.segments import beats_max
from spatten.hw.datapath.converter import operand_beat
from spatten.hw.datapath.qk import query_row
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import equals
from spatten.hw.lib.pipeline import delayed_fields, delayed_valid
from spatten.hw.lib.ram import Ram
from spatten.hw.lib.unstalled import unstalled
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS

__all__ = ["QueryStore"]


class QueryStore(wiring.Component):
    """Joins the beats of a query, and stores the query in its stash slot if it may be needed again.

    Without progressive recompute no query is stored, and there is no `stashed`.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : beats of queries, `hw.datapath.converter.operand_beat` with a `query_beat` as header; no back-pressure
    stashed : in, `stashed_query`: which stashed query is wanted; never so that it would leave together with one of `i`
    o : `hw.datapath.qk.query_row`; no back-pressure. Operands beyond the head dimension mean nothing.

    Latency: none from a query's last beat to `o`; `stash_delay` = 4 cycles from `stashed` to `o`, which is what a query
    takes through the ring and the converter, so queries leave in the order in which they were asked for. A query may be
    asked for again once it has been on `o`, and its slot be given to another one once it has been there again.
    """

    stash_delay = 4

    def __init__(self, *, config: Config) -> None:
        self.config = config
        beat = operand_beat(1, config.slice_width, config.operand_bits, query_beat(config))
        query = query_row(operand_bits=config.operand_bits, head_dim_max=config.head_dim_max)
        self._recomputes = config.has(Feature.PROGRESSIVE)
        super().__init__(
            {
                "i": In(unstalled(beat)),
                **optional(self._recomputes, stashed=In(stashed_query())),
                "o": Out(unstalled(query)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        query = self._joined(m)
        header = self.i.payload.header
        if not self._recomputes:
            m.d.comb += [self.o.valid.eq(self.i.valid & header.last), Value.cast(self.o.payload).eq(query)]
            return m
        ends = Signal()
        m.submodules.stash = store = Ram(shape=len(query), depth=max(2, STASH_SLOTS))
        # A stashed query is read in the last cycle before it leaves.
        read = delayed_fields(
            m, self.stash_delay - 1, "stashed", valid=self.stashed.valid, slot=self.stashed.stash_slot
        )
        leaves_stashed = delayed_valid(m, read.valid, 1, "leaves")
        m.d.comb += [
            ends.eq(self.i.valid & header.last),
            store.write_enable.eq(ends & header.stashes),
            store.write_address.eq(header.stash_slot),
            store.write_data.eq(query),
            store.read_enable.eq(read.valid),
            store.read_address.eq(read.slot),
            self.o.valid.eq(ends | leaves_stashed),
            Value.cast(self.o.payload).eq(Mux(leaves_stashed, store.read_data, query)),
        ]
        if asserts(platform):
            m.d.sync += Assert(ResetSignal() | ~(ends & leaves_stashed), "two queries leave in the same cycle\n")
        return m

    def _joined(self, m: Module) -> Signal:
        """The query of which this beat is the last: beats before it are in registers."""
        beat = self.i.payload
        operands = Value.cast(beat.operands)
        query = Signal(len(Value.cast(self.o.payload)))
        pieces: list[Value] = []
        for number in range(beats_max(self.config) - 1):
            piece = Signal(len(operands), name=f"piece{number}", reset_less=True)
            is_now = equals(beat.header.beat, number)
            with m.If(self.i.valid & is_now):
                m.d.sync += piece.eq(operands)
            pieces.append(Mux(is_now, operands, piece))
        # Nothing comes behind the longest query's last beat.
        m.d.comb += query.eq(Cat(pieces, operands))
        return query
