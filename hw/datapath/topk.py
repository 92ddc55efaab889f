"""Top-k: marks, or packs, the k largest values of a row in their order (SpAtten section IV-B)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.quick_select import QuickSelect, candidate_beat
from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.parameters import check_optional_shape
from spatten.hw.lib.pipeline import elastic_stages, register

__all__ = ["TopK", "kept_beat"]


def kept_beat(width: int, lanes: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A beat of a row: `values`, of which the first `count` are live, `mask`, bit i set if value i survives, `last`.

    `header`, if not None, is the shape of a field of that name.
    """
    values = data.ArrayLayout(unsigned(width), lanes)
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"values": values, "mask": lanes, "count": range(lanes + 1), "last": 1, **extra})


class TopK(wiring.Component):
    """Marks the k largest values of a row, in their original order.

    Values above the k-th largest survive; of those equal to it the first ones do, until there are k. A `QuickSelect`
    finds the k-th largest and how many of its equals to keep, while a copy of the row waits in a queue; then the copy
    passes a filter. A row may have any k from 1 to `n_max`: with k >= n all n values survive, so a caller need not know
    n when it chooses k.

    Parameters
    ----------
    width, lanes, n_max, digit_bits, header :
        As in `QuickSelect`.

    Ports
    -----
    i : stream of `candidate_beat(width, lanes, n_max, header)`, in, with the rules of `QuickSelect`
    o : stream of `kept_beat(width, lanes, header)`, out: for each beat that enters one with the same values, count,
        last and header; masks have min(k, n) bits set in all

    Latency: `FILTER_STAGES` cycles from when the quick-select has the row's result (`QuickSelect` gives its latency) to
    the first beat on `o`, which does not come before the row ahead has left.
    Throughput: that of `QuickSelect`, but rows of b = 3 or 4 beats and one pass follow each other every
    max(b, (3 b + 6) / 4) cycles, since a row's place in the quick-select is free when its last beat leaves; on `o` a
    beat per cycle from the first of a row to its last. The next row enters, and its k-th largest is found, while a row
    leaves.

    Each stage of the filter has its own valid bit, and takes a beat when it is empty or its successor takes its beat.

    Source: SpAtten (HPCA 2021) section V-B, Fig. 9: threshold, count of equals, and the filter over a buffered copy.
    """

    FILTER_STAGES = 3
    """Behind the one in which a beat waits for its row's result."""

    def __init__(
        self,
        *,
        width: int,
        lanes: int,
        n_max: int,
        digit_bits: int | None = None,
        header: ShapeLike | None = None,
    ) -> None:
        self.select = QuickSelect(width=width, lanes=lanes, n_max=n_max, digit_bits=digit_bits)
        check_optional_shape("header", header)
        self.width = width
        self.lanes = lanes
        self.n_max = n_max
        self.digit_bits = self.select.digit_bits
        self.header = header
        super().__init__(
            {
                "i": In(stream.Signature(candidate_beat(width, lanes, n_max, header))),
                "o": Out(stream.Signature(kept_beat(width, lanes, header))),
                "pass_done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        lanes = self.lanes
        m.submodules.select = select = self.select
        # While a row waits for its result and then passes the filter, up to two more rows may enter.
        layout = kept_beat(self.width, lanes, self.header)
        m.submodules.copy = copy = Fifo(shape=layout, depth=2 * select.beats_max + 8)
        m.d.comb += [
            self.pass_done.eq(select.pass_done),
            self.i.ready.eq(select.i.ready & copy.i.ready),
            select.i.valid.eq(self.i.valid & copy.i.ready),
            Value.cast(select.i.payload.values).eq(Value.cast(self.i.payload.values)),
            select.i.payload.count.eq(self.i.payload.count),
            select.i.payload.last.eq(self.i.payload.last),
            select.i.payload.k.eq(self.i.payload.k),
            copy.i.valid.eq(self.i.valid & select.i.ready),
            Value.cast(copy.i.payload.values).eq(Value.cast(self.i.payload.values)),
            # Until the filter, the mask says which values are live.
            copy.i.payload.mask.eq(Cat(self.i.payload.count > lane for lane in range(lanes))),
            copy.i.payload.count.eq(self.i.payload.count),
            copy.i.payload.last.eq(self.i.payload.last),
        ]
        if self.header is not None:
            m.d.comb += Value.cast(copy.i.payload.header).eq(Value.cast(self.i.payload.header))
        self._filter(m, copy, select)
        return m

    def _filter(self, m: Module, copy: Fifo, select: QuickSelect) -> None:
        """Lets the beats of the copy pass once their row's result is there, and marks those values that survive."""
        lanes = self.lanes
        goes_on = Signal()
        enters = Signal()
        # The first stage is filled without a result, since the queue's memory is slow.
        (waiting,) = elastic_stages(m, copy.o.valid, goes_on, 1)
        stages = elastic_stages(m, enters, self.o.ready, self.FILTER_STAGES)
        takes = [waiting.takes, *(stage.takes for stage in stages)]
        # The beats, and how many equals of the threshold their row may keep, up to where the mask is known.
        beats = [copy.o.payload]
        quotas = [select.o.payload.equals]
        for stage in range(self.FILTER_STAGES):
            beats.append(register(m, beats[-1], f"beat{stage}", enable=takes[stage]))
        for stage in range(1, self.FILTER_STAGES):
            quotas.append(register(m, quotas[-1], f"quota{stage}", enable=takes[stage]))
        m.d.comb += [
            copy.o.ready.eq(waiting.ready),
            enters.eq(waiting.valid & select.o.valid),
            goes_on.eq(select.o.valid & stages[0].ready),
            select.o.ready.eq(waiting.valid & beats[1].last & stages[0].ready),
            self.o.valid.eq(stages[-1].valid),
        ]

        # Stage 0: the beat comes out of the queue. Stage 1: comparisons with the threshold from the quick-select.
        threshold = select.o.payload.threshold
        live, values = beats[1].mask, beats[1].values
        is_larger = Cat(live[lane] & (values[lane] > threshold) for lane in range(lanes))
        is_equal = Cat(live[lane] & (values[lane] == threshold) for lane in range(lanes))
        larger = register(m, is_larger, "larger1", enable=takes[1])
        equal = register(m, is_equal, "equal1", enable=takes[1])
        # Stage 2: how many equals come before each of them in the beat.
        counts = enumerate(_counts_before(m, equal))
        count_shape = Shape.cast(range(lanes + 1))
        before = [register(m, n, f"before{lane}", shape=count_shape, enable=takes[2]) for lane, n in counts]
        larger = register(m, larger, "larger2", enable=takes[2])
        equal = register(m, equal, "equal2", enable=takes[2])
        # Stage 3: those survive for which there is room after the beats before.
        starts = Signal(init=1)
        left = Signal(quotas[-1].shape(), reset_less=True)
        room = Signal(quotas[-1].shape())
        marked = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += [room.eq(Mux(starts, quotas[-1], left)), Value.cast(self.o.payload).eq(Value.cast(marked))]
        with m.If(takes[3]):
            m.d.sync += [
                starts.eq(beats[-1].last),
                left.eq(Mux(before[lanes] < room, room - before[lanes], 0)),
                marked.eq(beats[-1]),
                marked.mask.eq(larger | Cat(equal[lane] & (before[lane] < room) for lane in range(lanes))),
            ]


def _counts_before(m: Module, bits: Value) -> list[Value]:
    """For each bit how many below it are set, and at last how many in all."""
    counts: list[Value] = list(bits)
    distance = 1
    # Sklansky: level by level, the upper half of each block adds the sum of the lower half.
    while distance < len(bits):
        for n in range(len(bits)):
            if n & distance:
                total = Signal(range(2 * distance + 1), name=f"equal_to_{n}_over_{2 * distance}")
                m.d.comb += total.eq(counts[(n & -distance) - 1] + counts[n])
                counts[n] = total
        distance *= 2
    return [Const(0, 1), *counts]
