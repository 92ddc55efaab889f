"""Packed rows spread over the set bits of masks: the inverse of zero elimination and packing."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.logic import select
from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.zero_eliminator import masked_row

__all__ = ["Expander", "mask_line", "select"]


def mask_line(lanes: int) -> data.StructLayout:
    """A line of a bitmap: `mask`, bit i for lane i, and `last` on the final line of a packet."""
    return data.StructLayout({"mask": unsigned(lanes), "last": 1})


class Expander(wiring.Component):
    """Puts the next element of a packed sequence into every lane whose mask bit is set, and zero into the others.

    A packet is a sequence of mask lines up to the one with `last`, and the sequence of as many elements as the masks
    have bits: n elements in ceil(n / lanes) rows, `lanes` in each but the final one. One line leaves for each mask.
    What the packet's final row holds beyond its elements is ignored; the next packet begins with a row of its own.

    The number of ones before lane i of a mask (a parallel prefix sum, one cycle ahead) and that of the elements left of
    the row before say where in the two rows lane i's element is. Lane j of either row holds elements of one residue mod
    `lanes`, and a line needs each residue once, so a `lanes`-to-1 selection per lane is enough: first lane j takes the
    old row's element where it is not used up and the new row's otherwise, then lane i selects. This index selection is
    one level of registers where a rotation and a spread by log2(lanes) layers each would be four, for about the same
    area.

    Parameters
    ----------
    shape : ShapeLike
        Shape of one element, at least one bit wide.
    lanes : int
        Elements of a row and bits of a mask, at least 1; any number, not only powers of two.

    Ports
    -----
    i_rows : stream of `data.ArrayLayout(shape, lanes)`, in, packed rows
    i_masks : stream of `mask_line(lanes)`, in
    o : stream of `masked_row(shape, lanes)`, out: the elements in their places, zeros elsewhere, and the mask

    Latency: 3 cycles from a mask's transfer on `i_masks` to its line's valid on `o`; a row is taken on `i_rows` 2
    cycles before the first line that needs it, never earlier. Throughput: one line per cycle, whatever the masks.

    Each stage takes a line when it is empty or its successor takes its line, so `o.ready` reaches `i_masks.ready`
    through 3 and `i_rows.ready` through 2 gates; three lines wait inside under back-pressure.

    Source: SpAtten (HPCA 2021) section V: the top-k engine's zero eliminator, turned round.
    """

    def __init__(self, *, shape: ShapeLike, lanes: int) -> None:
        self._width = check_shape("shape", shape).width
        check_integer("lanes", lanes, 1)
        self.shape = shape
        self.lanes = lanes
        super().__init__(
            {
                "i_rows": In(stream.Signature(data.ArrayLayout(shape, lanes))),
                "i_masks": In(stream.Signature(mask_line(lanes))),
                "o": Out(stream.Signature(masked_row(shape, lanes))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i_rows, "i_rows")
        check_stream(m, platform, self.i_masks, "i_masks")
        lanes = self.lanes
        index_width = max(1, ceil_log2(lanes))

        # Stage 0: count the ones before each lane.
        counted_valid, counted_ready = Signal(), Signal()
        counted_mask = Signal(lanes, reset_less=True)
        counted_last = Signal(reset_less=True)
        ones: list[Value] = [Const(0, 0)]
        ones += [Signal(range(lane + 1), name=f"ones_before_{lane}", reset_less=True) for lane in range(1, lanes)]
        ones_total = Signal(range(lanes + 1), reset_less=True)
        m.d.comb += self.i_masks.ready.eq(~counted_valid | counted_ready)
        with m.If(self.i_masks.ready):
            m.d.sync += counted_valid.eq(self.i_masks.valid)
        mask = self.i_masks.payload.mask
        sums = self._prefix_sums(m, mask)
        with m.If(self.i_masks.ready & self.i_masks.valid):
            m.d.sync += [counted_mask.eq(mask), counted_last.eq(self.i_masks.payload.last), ones_total.eq(sums[-1])]
            m.d.sync += [ones[lane].eq(sums[lane - 1]) for lane in range(1, lanes)]

        # Stage 1: take a row if the elements left of the row before do not suffice; say where each lane's element is.
        left = Signal(index_width)
        row = Signal(lanes * self._width, reset_less=True)
        placed_valid, placed_ready = Signal(), Signal()
        placed_mask = Signal(lanes, reset_less=True)
        window = [Signal(self._width, name=f"window{lane}", reset_less=True) for lane in range(lanes)]
        index = [Signal(index_width, name=f"index{lane}", reset_less=True) for lane in range(lanes)]
        needs_row, advances = Signal(), Signal()
        new_row = Value.cast(self.i_rows.payload)
        m.d.comb += [
            needs_row.eq(ones_total > left),
            advances.eq(counted_valid & (~needs_row | self.i_rows.valid) & (~placed_valid | placed_ready)),
            counted_ready.eq(advances),
            self.i_rows.ready.eq(advances & needs_row),
        ]
        with m.If(~placed_valid | placed_ready):
            m.d.sync += placed_valid.eq(advances)
        with m.If(advances):
            m.d.sync += placed_mask.eq(counted_mask)
            m.d.sync += left.eq(Mux(counted_last, 0, left - ones_total + Mux(needs_row, lanes, 0)))
            for lane in range(lanes):
                part = slice(lane * self._width, (lane + 1) * self._width)
                # The old row's elements that are left lie in its last lanes; the wrap below never reaches beyond them.
                m.d.sync += window[lane].eq(Mux(left + lane >= lanes, row[part], new_row[part]))
                m.d.sync += index[lane].eq(ones[lane] - left + Mux(ones[lane] < left, lanes, 0))
        with m.If(self.i_rows.ready & self.i_rows.valid):
            m.d.sync += row.eq(new_row)

        # Stage 2: select.
        selected_valid = Signal()
        selected_mask = Signal(lanes, reset_less=True)
        selected = [Signal(self._width, name=f"selected{lane}", reset_less=True) for lane in range(lanes)]
        m.d.comb += placed_ready.eq(~selected_valid | self.o.ready)
        with m.If(placed_ready):
            m.d.sync += selected_valid.eq(placed_valid)
        with m.If(placed_ready & placed_valid):
            m.d.sync += selected_mask.eq(placed_mask)
            for lane in range(lanes):
                m.d.sync += selected[lane].eq(Mux(placed_mask[lane], select(window, index[lane]), 0))
        m.d.comb += [
            self.o.valid.eq(selected_valid),
            self.o.payload.mask.eq(selected_mask),
            Value.cast(self.o.payload.lanes).eq(Cat(selected)),
        ]
        return m

    def _prefix_sums(self, m: Module, mask: Value) -> list[Value]:
        """Ones in lanes 0 to i, for each lane i (Sklansky: the upper half of a block adds the sum of the lower)."""
        sums: list[Value] = [mask[lane] for lane in range(self.lanes)]
        distance = 1
        while distance < self.lanes:
            for lane in range(self.lanes):
                if lane & distance:
                    first = lane & -(2 * distance)
                    total = Signal(range(lane - first + 2), name=f"ones_{first}_to_{lane}")
                    m.d.comb += total.eq(sums[(lane & -distance) - 1] + sums[lane])
                    sums[lane] = total
            distance *= 2
        return sums
