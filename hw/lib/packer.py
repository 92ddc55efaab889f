"""Joins rows with some live elements in front into full rows, in order; and makes such rows of masked ones."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, ShapeLike, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.parameters import check_integer, check_optional_shape, check_shape
from spatten.hw.lib.pipeline import elastic_stages, register
from spatten.hw.lib.zero_eliminator import ZeroEliminator

__all__ = ["Compactor", "Packer", "masked_beat", "packed_row"]


def packed_row(shape: ShapeLike, lanes: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A row of a sequence: `lanes`, an array of `shape`, `count` of the live ones, which come first, and `last`.

    `header`, if not None, is the shape of a field of that name.
    """
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"lanes": data.ArrayLayout(shape, lanes), "count": range(lanes + 1), "last": 1, **extra})


def masked_beat(shape: ShapeLike, lanes: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A row of a sequence some lanes of which are live: `lanes`, an array of `shape`, `mask` (bit i: lane i), `last`.

    `header`, if not None, is the shape of a field of that name.
    """
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"lanes": data.ArrayLayout(shape, lanes), "mask": unsigned(lanes), "last": 1, **extra})


class Packer(wiring.Component):
    """Joins the rows of a sequence, each with some live elements in front, into full rows.

    A sequence is the rows up to and including one with `last`. Its elements leave in their order, `lanes` a row, the
    rest in a row with `last`: count is `lanes` before that row, 1 to `lanes` in it, and 0 only if the whole sequence
    was empty, which leaves as one such row. Lanes from `count` up must be zero in `i` and are zero in `o`.

    The elements held back, `held` of them, stay in the front lanes of a register. A new row is rotated by `held` lanes,
    so its elements lie behind the held ones, and those for which there is no room are in front, already in place. A
    register that is full does not leave yet: only the next row tells whether the held elements are the last.

    Parameters
    ----------
    shape : ShapeLike
        Shape of one element, at least one bit wide.
    lanes : int
        Elements of a row, at least 1; any number, not only powers of two.
    layers_per_stage : int
        Rotation layers (there is one per bit of a lane's number) between two registers, at least 1.
    header : ShapeLike or None
        Shape of what travels with a sequence unread; every row must carry the same. None for none.

    Ports
    -----
    i : stream of `packed_row(shape, lanes, header)`, in, with any count
    o : stream of `packed_row(shape, lanes, header)`, out

    Latency: `delay` = 2 + ceil(ceil_log2(lanes) / layers_per_stage) cycles from the transfer on `i` of the row that
    completes an output row to its valid on `o`. The second of the two rows that a last row can complete follows in the
    next cycle.
    Throughput: one row per cycle. A sequence of r rows takes r cycles of `i`, and one more if its last row completes
    two, that is if h + count > lanes with h elements held before it; e elements before it leave
    h = e - lanes x (ceil(e / lanes) - 1) of them held, 0 if e = 0.

    Each stage has its own valid bit, and takes a row when it is empty or its successor takes its row.

    Source: SpAtten (HPCA 2021) section V-B, the FIFOs of the top-k engine between its passes.
    """

    def __init__(self, *, shape: ShapeLike, lanes: int, layers_per_stage: int = 2, header: ShapeLike | None = None):
        self._width = check_shape("shape", shape).width
        for name, value in (("lanes", lanes), ("layers_per_stage", layers_per_stage)):
            check_integer(name, value, 1)
        self._header_width = check_optional_shape("header", header)
        self.shape = shape
        self.lanes = lanes
        self.layers_per_stage = layers_per_stage
        self.header = header
        self.delay = 2 + -(-ceil_log2(lanes) // layers_per_stage)
        super().__init__(
            {
                "i": In(stream.Signature(packed_row(shape, lanes, header))),
                "o": Out(stream.Signature(packed_row(shape, lanes, header))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        if asserts(platform):
            zeros = [(self.i.payload.count > n) | (Value.cast(self.i.payload.lanes[n]) == 0) for n in range(self.lanes)]
            m.d.sync += Assert(~self.i.valid | Cat(zeros).all(), "i: lanes from count up must be zero\n")
        lanes = self.lanes
        layers = ceil_log2(lanes)
        stages = self.delay - 1
        join_ready = Signal()
        pipeline = elastic_stages(m, self.i.valid, join_ready, stages)
        m.d.comb += self.i.ready.eq(pipeline[0].ready)

        # How many elements will be held when the row gets to the last stage is known as soon as it enters.
        held = Signal(range(lanes + 1))
        total = Signal(range(2 * lanes + 1))
        tag = Signal(self._tag())
        m.d.comb += [
            total.eq(held + self.i.payload.count),
            tag.is_held.eq(Cat(held > lane for lane in range(lanes))),
            tag.full.eq(total > lanes),
            tag.count.eq(Mux(tag.full, lanes, total)),
            tag.rest.eq(Mux(tag.full, total - lanes, 0)),
            tag.last.eq(self.i.payload.last),
        ]
        if self._header_width:
            m.d.comb += Value.cast(tag.header).eq(Value.cast(self.i.payload.header))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += held.eq(Mux(tag.last, 0, Mux(tag.full, tag.rest, tag.count)))

        elements: list[Value] = [Value.cast(self.i.payload.lanes[lane]) for lane in range(lanes)]
        # With all lanes held the distance is `lanes`, a whole turn; a power of two is cut to 0, which is the same.
        distance: Value = held[:layers]
        for stage, control in enumerate(pipeline):
            for _ in range(min(self.layers_per_stage, len(distance)) if stage else 0):
                step = 1 << (layers - len(distance))
                elements = [Mux(distance[0], elements[lane - step], elements[lane]) for lane in range(lanes)]
                distance = distance[1:]
            takes = control.takes
            elements = [
                register(m, element, f"stage{stage}_element{n}", enable=takes) for n, element in enumerate(elements)
            ]
            tag = register(m, tag, f"stage{stage}_tag", enable=takes)
            distance = register(m, distance, f"stage{stage}_distance", enable=takes)

        self._join(m, pipeline[-1].valid, join_ready, elements, tag)
        return m

    def _tag(self) -> data.StructLayout:
        """What travels with a row's elements: which lanes will be held when the row arrives, and what leaves then."""
        extra = {"header": unsigned(self._header_width)} if self._header_width else {}
        counts = {"count": range(self.lanes + 1), "rest": range(self.lanes + 1)}
        return data.StructLayout({"is_held": unsigned(self.lanes), **counts, "full": 1, "last": 1, **extra})

    def _join(self, m: Module, valid: Value, ready: Signal, elements: list[Value], tag: Any) -> None:
        """The last stage: the held elements with the rotated ones behind them leave, or become the held ones."""
        held = [Signal(self._width, name=f"held{lane}", reset_less=True) for lane in range(self.lanes)]
        flushes = Signal()
        flush_count = Signal(range(self.lanes + 1), reset_less=True)
        moves = Signal()
        m.d.comb += [moves.eq(~self.o.valid | self.o.ready), ready.eq(moves & ~flushes)]
        joined = [Mux(tag.is_held[lane] | flushes, held[lane], elements[lane]) for lane in range(self.lanes)]
        with m.If(moves):
            m.d.sync += [
                self.o.valid.eq(flushes | (valid & (tag.full | tag.last))),
                Value.cast(self.o.payload.lanes).eq(Cat(joined)),
                self.o.payload.count.eq(Mux(flushes, flush_count, tag.count)),
                self.o.payload.last.eq(flushes | ~tag.full),
                flushes.eq(~flushes & valid & tag.full & tag.last),
            ]
            if self._header_width:
                # A flush belongs to the row before, whose header is still there.
                header = Value.cast(self.o.payload.header)
                m.d.sync += header.eq(Mux(flushes, header, tag.header))
        with m.If(ready & valid):
            m.d.sync += flush_count.eq(tag.rest)
            for lane in range(self.lanes):
                # Elements without room wrapped around into the lanes that were held; nothing is behind them.
                wrapped = Mux(tag.is_held[lane], elements[lane], 0)
                m.d.sync += held[lane].eq(Mux(tag.full, wrapped, joined[lane]))


class Compactor(wiring.Component):
    """The live lanes of a sequence, in order, as full rows: a `ZeroEliminator` with a `Packer` behind it.

    Parameters
    ----------
    shape, lanes, header :
        As in `Packer`.

    Ports
    -----
    i : stream of `masked_beat(shape, lanes, header)`, in; the header is the same in all rows of a sequence
    o : stream of `packed_row(shape, lanes, header)`, out

    Latency (`delay` cycles) and throughput are counted as in `Packer`, of a masked row the live lanes.
    """

    def __init__(self, *, shape: ShapeLike, lanes: int, header: ShapeLike | None = None) -> None:
        # Up to 16 lanes, three stages of elimination and one of rotation reach 1 GHz at 45 nm.
        self._packer = Packer(shape=shape, lanes=lanes, layers_per_stage=4, header=header)
        extra = {} if header is None else {"header": header}
        self._eliminator = ZeroEliminator(
            shape=shape,
            lanes=lanes,
            stages=min(3, ZeroEliminator.steps(lanes)),
            header=data.StructLayout({"last": 1, **extra}),
        )
        self.shape = shape
        self.lanes = lanes
        self.header = header
        self.delay = self._eliminator.stages + self._packer.delay
        super().__init__(
            {
                "i": In(stream.Signature(masked_beat(shape, lanes, header))),
                "o": Out(stream.Signature(packed_row(shape, lanes, header))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.eliminator = eliminator = self._eliminator
        m.submodules.packer = packer = self._packer
        m.d.comb += [
            eliminator.i.valid.eq(self.i.valid),
            self.i.ready.eq(eliminator.i.ready),
            Value.cast(eliminator.i.payload.lanes).eq(Value.cast(self.i.payload.lanes)),
            eliminator.i.payload.mask.eq(self.i.payload.mask),
            eliminator.i.payload.header.last.eq(self.i.payload.last),
            packer.i.valid.eq(eliminator.o.valid),
            eliminator.o.ready.eq(packer.i.ready),
            Value.cast(packer.i.payload.lanes).eq(Value.cast(eliminator.o.payload.lanes)),
            packer.i.payload.count.eq(eliminator.o.payload.count),
            packer.i.payload.last.eq(eliminator.o.payload.header.last),
        ]
        if self.header is not None:
            m.d.comb += [
                Value.cast(eliminator.i.payload.header.header).eq(Value.cast(self.i.payload.header)),
                Value.cast(packer.i.payload.header).eq(Value.cast(eliminator.o.payload.header.header)),
            ]
        wiring.connect(m, packer.o, wiring.flipped(self.o))
        return m
