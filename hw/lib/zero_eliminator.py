"""Zero elimination: the live lanes of a row move to its front, in order (SpAtten section V)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, ShapeLike, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.parameters import check_integer, check_optional_shape, check_shape
from spatten.hw.lib.pipeline import elastic_stages, register

__all__ = ["ZeroEliminator", "compacted_row", "masked_row"]


def masked_row(shape: ShapeLike, lanes: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A row of which some lanes are live: `lanes`, an array of `shape`, and `mask`, bit i set when lane i is live.

    `header`, if not None, is the shape of a field of that name.
    """
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"lanes": data.ArrayLayout(shape, lanes), "mask": unsigned(lanes), **extra})


def compacted_row(shape: ShapeLike, lanes: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A row whose live lanes come first, zeros behind: `lanes`, an array of `shape`, and `count` of the live ones.

    `header`, if not None, is the shape of a field of that name.
    """
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"lanes": data.ArrayLayout(shape, lanes), "count": range(lanes + 1), **extra})


class ZeroEliminator(wiring.Component):
    """Moves the live lanes of a row to its front, in their order, and counts them.

    `o.lanes[n]` is the n-th live lane of `i`, for n below `o.count`; lanes from `count` up are zero. A row without live
    lanes leaves as a row with count 0: as many rows leave as enter.

    Step 0 clears the dead lanes and counts, for each lane i, the dead ones before it (a parallel prefix sum): z[i], how
    far its element must move. Then comes one shift layer per bit of z, lowest bit first: layer b moves what is in lane
    j by 2**b lanes if bit b of z[j] is set.

    The counts need not travel with the elements. Before layer b the element of lane i is in lane
    j = i - z[i] mod 2**b, and of the i - j lanes between, at most that many are dead: z[i] - z[i] mod 2**b <= z[j]
    <= z[i], so z[i] and z[j] agree from bit b up. Nor do live elements meet: between live lanes d apart lie fewer than
    d dead ones, so the later one stays behind whatever the low bits of both. A cleared element never catches up with a
    live one before it either, while a live one may move into the lane of a cleared one: what arrives replaces what is
    there.

    Parameters
    ----------
    shape : ShapeLike
        Shape of one element, at least one bit wide.
    lanes : int
        Elements of a row, at least 1; any number, not only powers of two.
    stages : int or None
        Pipeline registers, 0 (combinational) to `steps(lanes)` (one after each step, the default), spread evenly; the
        last one is always behind the last step.
    header : ShapeLike or None
        Shape of what travels with each row unread, such as whose row it is and whether it is the last; None for none.

    Ports
    -----
    i : stream of `masked_row(shape, lanes, header)`, in
    o : stream of `compacted_row(shape, lanes, header)`, out

    Latency: `stages` cycles from a row's transfer on `i` to its valid on `o`, with nothing in its way.
    Throughput: one row per cycle; rows wait `stages` deep under back-pressure, and bubbles close up meanwhile.

    Each stage has its own valid bit, and takes a row when it is empty or its successor takes its row. `i.ready` is
    thus one AND of at most log2(lanes) + 2 bits, two LUT levels for 16 lanes, and full rate needs no storage beyond the
    pipeline itself; a skid buffer as deep as the latency would double its registers to save that one gate. With
    `o.ready` from a register (a FIFO's) the path ends here.

    Source: SpAtten (HPCA 2021) section V, top-k engine, Fig. 9: prefix sum of the zeros and log2(n) shift layers.
    """

    def __init__(
        self, *, shape: ShapeLike, lanes: int, stages: int | None = None, header: ShapeLike | None = None
    ) -> None:
        self._width = check_shape("shape", shape).width
        check_integer("lanes", lanes, 1)
        if stages is None:
            stages = self.steps(lanes)
        if not isinstance(stages, int) or isinstance(stages, bool):
            raise TypeError(f"stages must be an integer or None, not {stages!r}")
        if not 0 <= stages <= self.steps(lanes):
            raise ValueError(f"stages must be 0 to {self.steps(lanes)} for {lanes} lanes, not {stages!r}")
        self.shape = shape
        self.lanes = lanes
        self._header_width = check_optional_shape("header", header)
        self.stages = stages
        self.header = header
        super().__init__(
            {
                "i": In(stream.Signature(masked_row(shape, lanes, header))),
                "o": Out(stream.Signature(compacted_row(shape, lanes, header))),
            }
        )

    @staticmethod
    def steps(lanes: int) -> int:
        """The prefix sum and the shift layers: the most stages the pipeline can have."""
        return 1 + ceil_log2(lanes)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        steps = self.steps(self.lanes)
        stages = elastic_stages(m, self.i.valid, self.o.ready, self.stages)
        m.d.comb += [
            self.i.ready.eq(stages[0].ready if stages else self.o.ready),
            self.o.valid.eq(stages[-1].valid if stages else self.i.valid),
        ]

        elements, counts, live_count = self._prefix_sum(m)
        header = Value.cast(self.i.payload.header) if self._header_width else Const(0, 0)
        stage = 0
        for step in range(steps):
            if step > 0:
                elements = self._shift_layer(m, step - 1, elements, counts)
                counts = [zeros[1:] for zeros in counts]
            if (step + 1) * self.stages // steps > stage:
                takes = stages[stage].takes
                prefix = f"stage{stage}_"
                elements = [
                    register(m, value, prefix + f"element{i}", enable=takes) for i, value in enumerate(elements)
                ]
                counts = [register(m, value, prefix + f"zeros{i}", enable=takes) for i, value in enumerate(counts)]
                live_count = register(m, live_count, prefix + "count", enable=takes)
                header = register(m, header, prefix + "header", enable=takes)
                stage += 1

        m.d.comb += [
            self.o.payload.count.eq(live_count),
            Value.cast(self.o.payload.lanes).eq(Cat(elements)),
        ]
        if self._header_width:
            m.d.comb += Value.cast(self.o.payload.header).eq(header)
        return m

    def _prefix_sum(self, m: Module) -> tuple[list[Value], list[Value], Value]:
        """Elements with the dead ones cleared, the dead lanes before each, and the count of live ones."""
        mask = self.i.payload.mask
        # Sklansky: level by level, the upper half of each block adds the sum of the lower half.
        zeros: list[Value] = [~mask[lane] for lane in range(self.lanes)]
        distance = 1
        while distance < self.lanes:
            for lane in range(self.lanes):
                if lane & distance:
                    first = lane & -(2 * distance)
                    total = Signal(range(lane - first + 2), name=f"zeros_{first}_to_{lane}")
                    m.d.comb += total.eq(zeros[(lane & -distance) - 1] + zeros[lane])
                    zeros[lane] = total
            distance *= 2

        elements: list[Value] = []
        for lane in range(self.lanes):
            element = Signal(self._width, name=f"live_element{lane}")
            m.d.comb += element.eq(Mux(mask[lane], Value.cast(self.i.payload.lanes[lane]), 0))
            elements.append(element)
        live_count = Signal(range(self.lanes + 1))
        m.d.comb += live_count.eq(self.lanes - zeros[-1])
        return elements, [Const(0, 0), *zeros[:-1]], live_count

    def _shift_layer(self, m: Module, layer: int, elements: list[Value], counts: list[Value]) -> list[Value]:
        """Elements after a move by 2**layer lanes out of the lanes whose count has its lowest bit set."""
        shifted: list[Value] = []
        for lane in range(self.lanes):
            value = elements[lane]
            if len(counts[lane]) > 0:
                value = Mux(counts[lane][0], 0, value)
            source = lane + (1 << layer)
            if source < self.lanes:
                value = Mux(counts[source][0], elements[source], value)
            element = Signal(self._width, name=f"layer{layer}_element{lane}")
            m.d.comb += element.eq(value)
            shifted.append(element)
        return shifted
