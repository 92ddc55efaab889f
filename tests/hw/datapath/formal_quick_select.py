"""Property module of the quick-select: a row's threshold and equals, against counting its values as they enter."""

from __future__ import annotations

from typing import Any

from amaranth.asserts import Initial
from amaranth.hdl import Assert, Assume, Const, Cover, Elaboratable, Module, Mux, ResetSignal, Signal

from spatten.hw.datapath.quick_select import ROWS_INSIDE, QuickSelect
from spatten.sim.verify.formal import Case, answer, constant, consume, free, produce


class _Rows:
    """The input's rows, of 1 to `n_max` values, and how many are inside."""

    def __init__(self, m: Module, select: QuickSelect) -> None:
        n_max, lanes = select.n_max, select.lanes
        beat = select.i.payload
        self.enters = produce(m, select.i, name="i")
        self.leaves = consume(m, select.o, name="o")
        self.before = Signal(range(n_max + 1))
        self.first = Signal()
        self.ends = Signal()
        length = Signal(range(n_max + lanes + 1))
        k = Signal(range(n_max + 1), reset_less=True)
        header = Signal(select.header, reset_less=True)
        m.d.comb += [
            length.eq(self.before + beat.count),
            self.first.eq(self.before == 0),
            self.ends.eq(self.enters & beat.last),
            Assume(~select.i.valid | (beat.count >= 1) & (beat.count <= lanes)),
            Assume(~select.i.valid | beat.last | (beat.count == lanes)),
            Assume(~select.i.valid | (length + ~beat.last <= n_max)),
            Assume(~select.i.valid | (beat.k >= 1) & (beat.k <= n_max)),
            Assume(~select.i.valid | self.first | (beat.k == k) & (beat.header == header)),
        ]
        with m.If(self.enters):
            m.d.sync += [self.before.eq(Mux(beat.last, 0, length)), k.eq(beat.k), header.eq(beat.header)]

        self.inside = Signal(range(ROWS_INSIDE + 2))
        self.complete = Signal(range(ROWS_INSIDE + 2))
        m.d.sync += [
            self.inside.eq(self.inside + (self.enters & self.first) - self.leaves),
            self.complete.eq(self.complete + self.ends - self.leaves),
        ]
        m.d.comb += [
            Assert(self.inside <= ROWS_INSIDE, f"at most {ROWS_INSIDE} rows inside"),
            Assert(~select.o.valid | (self.complete != 0), "nothing leaves of a row that is not complete"),
        ]


class QuickSelectProperties(Elaboratable):
    """The threshold of one row, any, is its k-th largest value, and equals how many of these are among the k largest.

    With zeros behind the row, T is its k-th largest value if fewer than k values are above it, and with the T there are
    at least k; then k less those above are equal to it. So the values above and equal to one number, any, are counted,
    and looked at if that number is the threshold.

    `compaction` is the delay of the `Compactor` inside. With `calm` rows follow each other as fast as they are taken, o
    is always ready, and there is no reset but the first: all values, lengths and k, but one schedule.
    """

    def __init__(self, select: QuickSelect, *, compaction: int, calm: bool) -> None:
        self.select = select
        self.compaction = compaction
        self.calm = calm

    @property
    def row_cycles(self) -> int:
        """The longest latency, and what a compaction in vain adds to it."""
        select = self.select
        beats = select.beats_max
        more = select.passes_max - 1
        return beats + 6 + more * max(beats + 5, self.compaction + 5) + (self.compaction - 1 if more else 0)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.select = select = self.select
        rows = _Rows(m, select)
        if self.calm:
            m.d.comb += [Assume(Initial() | ~ResetSignal()), Assume(select.i.valid), Assume(select.o.ready)]
        answer(m, rows.complete != 0, select.o.valid, within=self.row_cycles - 1, name="a complete row is answered")
        answer(m, select.o.ready, select.i.ready, within=self.row_cycles, name="i is ready again while o is")
        m.d.comb += Assert(rows.first | select.i.ready, "i is ready inside a row")
        left = Signal(2)
        m.d.sync += left.eq(left + (rows.leaves & (left < 2)))
        n_max, lanes, width = select.n_max, select.lanes, select.width
        beat, result = select.i.payload, select.o.payload

        number = constant(m, width, name="number")
        tracked = Signal()
        collects = Signal()
        ahead = Signal(range(ROWS_INSIDE + 1))
        above = Signal(range(n_max + 1), reset_less=True)
        equal = Signal(range(n_max + 1), reset_less=True)
        wanted_k = Signal(range(n_max + 1), reset_less=True)
        wanted_header = Signal(select.header, reset_less=True)
        marked = Signal()
        is_it = Signal()
        m.d.comb += [
            marked.eq(rows.enters & rows.first & ~tracked & free(m, name="mark")),
            is_it.eq(tracked & rows.leaves & (ahead == 0)),
        ]
        m.d.sync += tracked.eq((tracked | marked) & ~is_it)
        with m.If(marked):
            m.d.sync += [
                ahead.eq(rows.inside - rows.leaves),
                collects.eq(~beat.last),
                wanted_k.eq(beat.k),
                wanted_header.eq(beat.header),
            ]
        with m.Else():
            m.d.sync += [ahead.eq(ahead - (rows.leaves & (ahead != 0))), collects.eq(collects & ~rows.ends)]
        live = [beat.count > lane for lane in range(lanes)]
        beat_above = sum((live[lane] & (beat.values[lane] > number) for lane in range(lanes)), Const(0, 0))
        beat_equal = sum((live[lane] & (beat.values[lane] == number) for lane in range(lanes)), Const(0, 0))
        with m.If(marked | (rows.enters & collects)):
            m.d.sync += [
                above.eq(Mux(marked, 0, above) + beat_above),
                equal.eq(Mux(marked, 0, equal) + beat_equal),
            ]
        looks = Signal()
        m.d.comb += [
            looks.eq(is_it & (result.threshold == number)),
            Assert(~looks | (above < wanted_k), "fewer than k values are above the threshold"),
            Assert(
                ~looks | (above + equal >= wanted_k) | (number == 0),
                "at least k values, or the zeros behind the row, are at or above the threshold",
            ),
            Assert(~looks | (result.equals == wanted_k - above), "equals is k less the values above the threshold"),
            Assert(~is_it | (result.header == wanted_header), "the header leaves with its row"),
            Cover(rows.leaves & (left == 1) & rows.inside.any(), "a second row leaves"),
            Cover(looks & (equal > result.equals), "not all equals of the threshold are kept"),
            Cover(looks & (above != 0) & (number != 0), "something is above the threshold"),
            Cover(looks & (above + equal < wanted_k), "a row shorter than k leaves"),
        ]
        return m


def _case(width: int, lanes: int, n_max: int, depth: int, *, compaction: int, calm: bool) -> Case:
    surroundings = "rows back to back and o always ready" if calm else "any stalls and resets"
    return Case(
        unit="QuickSelect",
        size=f"{width} bits, {lanes} lanes, {n_max} values",
        proves=f"threshold and equals of every row by counting, in order; latency, room, header; with {surroundings}",
        properties=lambda: QuickSelectProperties(
            QuickSelect(width=width, lanes=lanes, n_max=n_max, digit_bits=1, header=1),
            compaction=compaction,
            calm=calm,
        ),
        depth=depth,
        mode="bmc",
    )


# PDR does not converge on these. With one pass two rows of the most beats have left after 20 cycles, with two after 37.
PROOFS = [
    _case(2, 1, 2, 13, compaction=3, calm=False),
    _case(2, 2, 3, 21, compaction=5, calm=True),
    _case(4, 1, 2, 37, compaction=3, calm=True),
]
