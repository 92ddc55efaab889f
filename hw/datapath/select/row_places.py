"""Places for the rows inside a quick-select, where their results wait."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ShapeLike, Signal, Value
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
    threshold, equals : in, with `finishes`: that result
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
            "equals": In(range(n_max + 1)),
            "o": Out(stream.Signature(self.layout)),
        }
        if header is not None:
            ports["header"] = In(header)
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        inside = Signal(range(self.places + 1))
        finished = Signal(range(self.places + 1))
        next_inside = Signal(range(self.places + 1))
        leaves = Signal()
        m.d.comb += [
            self.o.valid.eq(finished.any()),
            leaves.eq(self.o.valid & self.o.ready),
            next_inside.eq(inside + self.enters - leaves),
        ]
        m.d.sync += [
            inside.eq(next_inside),
            self.is_crowded.eq(next_inside == self.places),
            finished.eq(finished + self.finishes - leaves),
        ]
        # Which place is next, one-hot.
        entering = Signal(self.places, init=1)
        finishing = Signal(self.places, init=1)
        leaving = Signal(self.places, init=1)
        for place, moves in ((entering, self.enters), (finishing, self.finishes), (leaving, leaves)):
            with m.If(moves):
                m.d.sync += place.eq(place.rotate_left(1))
        if asserts(platform):
            m.d.sync += [
                Assert(~self.enters | (inside < self.places), "a row enters while all places are taken\n"),
                Assert(~self.finishes | (finished < inside), "a row finishes that is not inside\n"),
            ]
        rows = [Signal(self.layout, name=f"row{n}", reset_less=True) for n in range(self.places)]
        for n, row in enumerate(rows):
            if self.has_header:
                with m.If(self.enters & entering[n]):
                    m.d.sync += Value.cast(row.header).eq(Value.cast(self.header))
            with m.If(self.finishes & finishing[n]):
                m.d.sync += [row.threshold.eq(self.threshold), row.equals.eq(self.equals)]
        m.d.comb += Value.cast(self.o.payload).eq(one_of(list(leaving), [Value.cast(row) for row in rows]))
        return m
