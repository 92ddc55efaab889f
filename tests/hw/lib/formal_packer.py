"""Property module of the packer: elements and ends of sequences leave in their order, in rows as full as can be."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Assume, Const, Cover, Elaboratable, Module, Mux, Shape, Signal, Value

from spatten.hw.lib.packer import Packer
from spatten.sim.verify.formal import Case, answer, constant, consume, free, produce


class PackerProperties(Elaboratable):
    """Every row leaves when it is complete, with the elements that it should have: two followed ones show it.

    An element that enters behind h others of its row is in lane h of it, or of the next row if that is full; the row is
    complete when there is an element more, or with the sequence's last one. So it is known of everything that enters
    how many rows will leave before it, and from which lane it will.
    """

    def __init__(self, packer: Packer) -> None:
        self.packer = packer

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.packer = packer = self.packer
        lanes, delay = packer.lanes, packer.delay
        enters = produce(m, packer.i, name="i")
        leaves = consume(m, packer.o, name="o")
        into = packer.i.payload

        # The rows that enter: any count, zeros behind, one header in all rows of a sequence.
        begins = Signal(init=1)
        header = Signal(packer.header, reset_less=True)
        m.d.comb += [
            Assume(into.count <= lanes),
            *(Assume((into.count > lane) | (Value.cast(into.lanes[lane]) == 0)) for lane in range(lanes)),
            Assume(~packer.i.valid | begins | (into.header == header)),
        ]
        with m.If(enters):
            m.d.sync += [begins.eq(into.last), header.eq(into.header)]

        # Elements held back, and complete rows inside: with what enters one may become so, or two.
        held = Signal(range(lanes + 1))
        total = Signal(range(2 * lanes + 1))
        overflows = Signal()
        due = Signal(range(2 * delay + 1))
        m.d.comb += [total.eq(held + into.count), overflows.eq(total > lanes)]
        with m.If(enters):
            m.d.sync += held.eq(Mux(into.last, 0, Mux(overflows, total - lanes, total)))
        m.d.sync += due.eq(due + Mux(enters, overflows + into.last, 0) - leaves)
        m.d.comb += [
            Assert(due <= 2 * delay, "no more complete rows than there is room for"),
            Assert(~packer.o.valid | (due != 0), "no row leaves before it is complete"),
            Assert((due != 0) | packer.i.ready, "i is ready when no row is complete"),
        ]
        answer(m, due != 0, packer.o.valid, within=delay - 1, name="a row is there `delay` cycles after it is complete")
        answer(m, packer.o.ready, packer.i.ready, within=1, name="i is ready when o is, but for one cycle")

        self._row(m, enters, leaves, total, overflows, due)
        self._element(m, enters, leaves, held, due)
        return m

    def _row(self, m: Module, enters: Value, leaves: Value, total: Value, overflows: Value, due: Value) -> None:
        """Of one row, any: how many elements it has, whether it is the last, and whose it is."""
        packer = self.packer
        into, out, lanes = packer.i.payload, packer.o.payload, packer.lanes
        second = Signal()
        completes = Signal()
        wanted_count = Signal(range(lanes + 1), reset_less=True)
        wanted_last = Signal(reset_less=True)
        wanted_header = Signal(packer.header, reset_less=True)
        m.d.comb += [
            second.eq(free(m, name="second") & overflows & into.last),
            completes.eq(enters & (overflows | into.last)),
        ]
        marked, is_it = self._follow(m, completes, due + second, leaves, "row")
        with m.If(marked):
            m.d.sync += [
                wanted_count.eq(Mux(overflows, Mux(second, total - lanes, lanes), total)),
                wanted_last.eq(~overflows | second),
                wanted_header.eq(into.header),
            ]
        m.d.comb += [
            Assert(~is_it | (out.count == wanted_count), "every row has as many elements as it should"),
            Assert(~is_it | (out.last == wanted_last), "a sequence's rest leaves as its last row"),
            Assert(~is_it | (out.header == wanted_header), "a row has its sequence's header"),
            *(
                Assert(~packer.o.valid | (out.count > lane) | (Value.cast(out.lanes[lane]) == 0), "zeros are behind")
                for lane in range(lanes)
            ),
            Cover(is_it & (wanted_count == 0), "an empty sequence leaves"),
            Cover(is_it & wanted_last & (due == 1), "the last row leaves"),
            Cover(is_it & ~wanted_last & ~packer.i.ready, "a row leaves while nothing enters"),
        ]

    def _element(self, m: Module, enters: Value, leaves: Value, held: Value, due: Value) -> None:
        """Of one element, any: in which row and lane it leaves."""
        packer = self.packer
        lanes = packer.lanes
        lane = constant(m, range(max(2, lanes)), name="lane")
        behind = Signal(range(2 * lanes))
        next_row = Signal()
        place = Signal(range(max(2, lanes)), reset_less=True)
        wanted = Signal(Shape.cast(packer.shape).width, reset_less=True)
        m.d.comb += [behind.eq(held + lane), next_row.eq(behind >= lanes)]
        marked, is_it = self._follow(m, enters & (lane < packer.i.payload.count), due + next_row, leaves, "element")
        with m.If(marked):
            m.d.sync += [
                place.eq(Mux(next_row, behind - lanes, behind)),
                wanted.eq(self._lane(packer.i.payload, lane)),
            ]
        m.d.comb += [
            Assert(~is_it | (self._lane(packer.o.payload, place) == wanted), "every element leaves where it should"),
            Cover(is_it & wanted.any() & (place != lane if lanes > 1 else 1), "an element leaves"),
        ]

    def _follow(self, m: Module, enters: Value, rows: Value, leaves: Value, name: str) -> tuple[Signal, Signal]:
        """Follow one of what enters, any, until `rows` others have left: that it is marked, and that it leaves."""
        tracked = Signal(name=f"{name}_tracked")
        ahead = Signal(range(2 * self.packer.delay + 1), name=f"{name}_ahead")
        marked = Signal(name=f"{name}_marked")
        is_it = Signal(name=f"{name}_leaves")
        m.d.comb += [
            marked.eq(enters & ~tracked & free(m, name=f"{name}_mark")),
            is_it.eq(tracked & leaves & (ahead == 0)),
        ]
        m.d.sync += [
            tracked.eq((tracked | marked) & ~is_it),
            ahead.eq(Mux(tracked, ahead, rows) - leaves),
        ]
        return marked, is_it

    def _lane(self, row: Any, lane: Value) -> Value:
        element: Value = Const(0, 0)
        for n in range(self.packer.lanes):
            element = element | Mux(lane == n, Value.cast(row.lanes[n]), 0)
        return element


def _case(lanes: int, width: int, layers_per_stage: int) -> Case:
    return Case(
        unit="Packer",
        size=f"{lanes} lanes of {width} bits, {layers_per_stage} layers a stage",
        proves="every element's row and lane, every row's count and end; latency, room, header, stream rules",
        properties=lambda: PackerProperties(
            Packer(shape=width, lanes=lanes, layers_per_stage=layers_per_stage, header=1)
        ),
        depth=24,
    )


PROOFS = [_case(1, 1, 1), _case(2, 2, 1), _case(3, 1, 2), _case(4, 1, 2)]
