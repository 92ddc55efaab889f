"""Places for the rows inside a quick-select, where their results wait."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.select_layouts import selection
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.logic import one_of

__all__ = ["RowPlaces"]


class RowPlaces(wiring.Component):
    """A ring of places for the rows inside: a row takes a place with its first beat, and leaves it with its result.

    Nothing between the input and a row's place can be held up, so a row has its place from the moment it enters.

    Parameters
    ----------
    places : int
        At least 2.
    width, n_max, header :
        As in `QuickSelect`.

    Ports
    -----
    enters : in, the first beat of a row enters; not while `is_crowded`
    header : in, with `enters`: that row's header; only if there is one
    is_crowded : out, all places are taken
    finishes : in, the result of the next row is found, in the order in which rows entered; only for a row inside, a
        cycle after it entered or later
    threshold, rank : in, with `finishes`: that result; one more of the equals belong to the k largest than `rank` says
    o : stream of `selection(width, n_max, header)`, out, one per row, in their order

    Latency: 1 cycle from `finishes` to `o`. Throughput: one row per cycle; `is_crowded` comes from a register.
    """

    def __init__(self, *, places: int, width: int, n_max: int, header: ShapeLike | None = None) -> None:
        self.places = places
        self.layout = selection(width, n_max, header)
        self.has_header = header is not None
        ports: dict[str, Any] = {
            "enters": In(1),
            "is_crowded": Out(1),
            "finishes": In(1),
            "threshold": In(width),
            "rank": In(range(n_max + 1)),
            "o": Out(stream.Signature(self.layout)),
        }
        if header is not None:
            ports["header"] = In(header)
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # As many bits are set as rows are inside, or finished, from the lowest on: `o.ready` may come late.
        inside = Signal(self.places)
        finished = Signal(self.places)
        leaves = Signal()
        m.d.comb += [
            self.o.valid.eq(finished[0]),
            self.is_crowded.eq(inside[-1]),
            leaves.eq(finished[0] & self.o.ready),
        ]
        for rows_there, comes in ((inside, self.enters), (finished, self.finishes)):
            with m.If(comes & ~leaves):
                m.d.sync += rows_there.eq(Cat(Const(1, 1), rows_there))
            with m.If(leaves & ~comes):
                m.d.sync += rows_there.eq(rows_there >> 1)
        # Which place is next, one-hot.
        entering = Signal(self.places, init=1)
        finishing = Signal(self.places, init=1)
        leaving = Signal(self.places, init=1)
        for place, moves in ((entering, self.enters), (finishing, self.finishes), (leaving, leaves)):
            with m.If(moves):
                m.d.sync += place.eq(place.rotate_left(1))
        if asserts(platform):
            m.d.sync += [
                Assert(~self.enters | ~inside[-1], "a row enters while all places are taken\n"),
                Assert(~self.finishes | (inside & ~finished).any(), "a row finishes that is not inside\n"),
            ]
        rows = [Signal(self.layout, name=f"row{n}", reset_less=True) for n in range(self.places)]
        for n, row in enumerate(rows):
            if self.has_header:
                with m.If(self.enters & entering[n]):
                    m.d.sync += Value.cast(row.header).eq(Value.cast(self.header))
            with m.If(self.finishes & finishing[n]):
                m.d.sync += [row.threshold.eq(self.threshold), row.equals.eq(self.rank)]
        # The sum is behind the registers, since the rank comes late.
        chosen = Signal(self.layout)
        m.d.comb += [
            Value.cast(chosen).eq(one_of(list(leaving), [Value.cast(row) for row in rows])),
            self.o.payload.eq(chosen),
            self.o.payload.equals.eq(chosen.equals + 1),
        ]
        return m
