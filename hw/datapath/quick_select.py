"""Quick-select: the k-th largest value of a row, digit by digit, and how many of its equals to keep (SpAtten, Fig.
9)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ShapeLike, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.bin_search import BinSearch
from spatten.hw.datapath.select.digit_counter import DigitCounter
from spatten.hw.datapath.select.digit_pass import DigitPass
from spatten.hw.datapath.select.equal_values import EqualValues
from spatten.hw.datapath.select.first_pass import FirstPass
from spatten.hw.datapath.select.pass_control import PassControl
from spatten.hw.datapath.select.row_places import RowPlaces
from spatten.hw.datapath.select.select_buffers import SelectBuffers
from spatten.hw.datapath.select.select_layouts import (
    candidate_beat,
    default_digit_bits,
    first_digit,
    passes_of,
    selection,
)
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.packer import Compactor
from spatten.hw.lib.parameters import check_integer, check_optional_shape

__all__ = ["DigitCounter", "QuickSelect", "candidate_beat", "default_digit_bits", "first_digit", "selection"]

ROWS_INSIDE = 4
"""Rows that a QuickSelect works on at most: two that enter or wait in a buffer, others on their way out."""


class QuickSelect(wiring.Component):
    """Finds the k-th largest of a row of unsigned values, and how many of its equals are among the k largest.

    A quick-select whose pivots are the boundaries of digits. One pass over a row counts, for every boundary at once,
    the values at or above it, which leaves one bin; the next pass divides that bin. Pass 0 needs no time: it divides
    the row by `first_digit` while it streams in. Every further pass fixes `digit_bits` more bits, so their number is
    bounded whatever the values and their order, and `passes_max` states it.

    Values up to 2 x digit_bits wide need one pass over the buffered row. Wider ones go on: each pass keeps only the
    values in its bin, compacted in place by a zero eliminator and a packer (the next one starts as soon as its bin is
    known and follows the compaction), so that later passes are short; a pass over one beat leaves it as it is. The row
    is done when no bits are left, or a pass has found all values of its bin equal: one value, mostly.

    Why it ends, and is right: let a pass have a bin, given by the bits `known`, with the wanted element in it and
    `rank` elements of the bin above that element. Counting the bin's elements at or above each boundary gives the digit
    of the wanted element and its rank among those with that digit, which again is a bin, with digit_bits fewer bits
    free (or none). With none free, or all equal, the bin's value is the threshold, and rank + 1 of it belong to the k
    largest.

    `k` above the row's length n is as if there were zeros behind the row: `threshold` is 0, and everything is kept.

    Parameters
    ----------
    width : int
        Bits of a value, at least 2.
    lanes : int
        Values of a beat, at least 1; any number.
    n_max : int
        Values of a row, at least 1; need not be a multiple of `lanes`.
    digit_bits : int or None
        Bits that a pass fixes, 1 to 8 and below `width`; a digit costs 2**digit_bits - 1 counters. None:
        `default_digit_bits`.
    header : ShapeLike or None
        Shape of what travels with a row unread; None for none.

    Ports
    -----
    i : stream of `candidate_beat(width, lanes, n_max, header)`, in; count is `lanes` except in a row's last beat, and
        at least 1; k, at least 1, and header are the same in all beats of a row
    o : stream of `selection(width, n_max, header)`, out, one per row, in their order
    pass_done : out, for a cycle, when a pass over a buffered row has found its digit

    With b = ceil(n / lanes) beats:

    Latency, from the transfer of a row's last beat to its valid on `o`, with no row before it inside: b + 6 for the
    first pass, and for every further one over c beats max(c + 5, d) where the pass before had several beats, so that
    these come from the compaction of `Compactor.delay` = d - 5 cycles, and c + 5 = 6 where it had one. In all at most
    b + 6 + (passes_max - 1) x max(b + 5, d), whatever the values.
    Throughput: one beat per cycle into one of two buffers, while the row before is worked on in the other. Rows of
    b beats follow each other every max(b, (2 b + 7) / `ROWS_INSIDE`) cycles where `passes_max` is 1, else every
    max(b, latency), or up to latency + `Compactor.delay` - 1 after a pass that compacted in vain.

    `SelectBuffers` hold two rows. A row enters through a `FirstPass`; then a `PassControl` has it read, a `DigitPass`
    counts, and `BinSearch` makes the bin narrower or finds the result. Where there may be several passes, `EqualValues`
    looks whether they can end early, and a `Compactor` makes the row shorter. The row's header and result wait in
    `RowPlaces`.

    Source: SpAtten (HPCA 2021) section V-B, Fig. 9 and Algorithm 3, where a pass has one random pivot, keeps both sides
    of it and starts when the row is complete: 3.4 passes and 256 cycles on average at n = 1024, k = 512 and 16 lanes,
    without a bound.
    """

    def __init__(
        self,
        *,
        width: int,
        lanes: int,
        n_max: int,
        digit_bits: int | None = None,
        header: ShapeLike | None = None,
    ) -> None:
        for name, value, least in (("width", width, 2), ("lanes", lanes, 1), ("n_max", n_max, 1)):
            check_integer(name, value, least)
        if digit_bits is None:
            digit_bits = default_digit_bits(width)
        if not isinstance(digit_bits, int) or isinstance(digit_bits, bool):
            raise TypeError(f"digit_bits must be an integer or None, not {digit_bits!r}")
        if not 1 <= digit_bits <= min(8, width - 1):
            raise ValueError(
                f"digit_bits must be 1 to {min(8, width - 1)} for values of {width} bits, not {digit_bits!r}"
            )
        check_optional_shape("header", header)
        self.width = width
        self.lanes = lanes
        self.n_max = n_max
        self.digit_bits = digit_bits
        self.header = header
        self.beats_max = -(-n_max // lanes)
        self.passes_max = passes_of(width, digit_bits)
        """Most passes over a buffered row."""
        super().__init__(
            {
                "i": In(stream.Signature(candidate_beat(width, lanes, n_max, header))),
                "o": Out(stream.Signature(selection(width, n_max, header))),
                "pass_done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        if asserts(platform):
            beat, lanes = self.i.payload, self.lanes
            whole = (beat.count == lanes) | (beat.last & (beat.count >= 1) & (beat.count < lanes))
            m.d.sync += Assert(~self.i.valid | whole, "i: a beat before the last one must be full, and none empty\n")
            m.d.sync += Assert(~self.i.valid | (beat.k >= 1), "i: k must be at least 1\n")
        sizes = {"width": self.width, "lanes": self.lanes, "n_max": self.n_max}
        digit_bits, has_one_pass = self.digit_bits, self.passes_max == 1
        m.submodules.first = first = FirstPass(**sizes, digit_bits=digit_bits)
        m.submodules.buffers = buffers = SelectBuffers(**sizes, compacts=not has_one_pass)
        m.submodules.search = search = BinSearch(width=self.width, n_max=self.n_max, digit_bits=digit_bits)
        m.submodules.digits = digits = DigitPass(**sizes, digit_bits=digit_bits, passes_on=not has_one_pass)
        m.submodules.control = control = PassControl(has_one_pass=has_one_pass)
        wiring.connect(m, buffers.o, digits.i)
        m.d.comb += [
            control.is_full.eq(buffers.is_full),
            control.reads_last.eq(buffers.reads_last),
            buffers.reads.eq(control.reads),
            buffers.frees.eq(control.frees),
            search.starts.eq(control.starts),
            search.first_bin.eq(first.bin),
            search.first_rank.eq(first.rank),
            search.done.eq(digits.done),
            search.digit.eq(digits.digit),
            search.digit_rank.eq(digits.digit_rank),
            digits.bin.eq(search.bin),
            digits.rank.eq(search.rank),
            self.pass_done.eq(digits.done),
        ]
        if not has_one_pass:
            m.d.comb += [
                control.is_stored.eq(buffers.is_stored),
                control.is_compacted.eq(buffers.is_compacted),
                control.done.eq(digits.done),
                control.finishes.eq(search.finishes),
            ]
            self._compact(m, platform, digits, search, buffers)
        crowded = Signal()
        enters_first = self._enter(m, first, buffers, crowded)
        self._leave(m, enters_first, crowded, search)
        return m

    def _enter(self, m: Module, first: FirstPass, buffers: SelectBuffers, crowded: Signal) -> Signal:
        """A beat goes into a buffer and into the first pass; returned is whether it is the first of its row."""
        beat = self.i.payload
        enters = Signal()
        enters_first = Signal()
        m.d.comb += [
            self.i.ready.eq(buffers.has_room & ~(crowded & buffers.is_first)),
            enters.eq(self.i.valid & self.i.ready),
            enters_first.eq(enters & buffers.is_first),
            buffers.enters.eq(enters),
            buffers.values.eq(beat.values),
            buffers.count.eq(beat.count),
            buffers.last.eq(beat.last),
            first.valid.eq(enters),
            first.first.eq(buffers.is_first),
            first.last.eq(beat.last),
            first.values.eq(beat.values),
            first.count.eq(beat.count),
            first.k.eq(beat.k),
        ]
        return enters_first

    def _compact(self, m: Module, platform: Any, digits: DigitPass, search: BinSearch, buffers: SelectBuffers) -> None:
        """What lies in the bin goes back to the buffer, if there were several beats, and bits are free below the digit.

        All the while it is looked whether it is one value only.
        """
        m.submodules.equal = equal = EqualValues(width=self.width, lanes=self.lanes)
        m.submodules.compactor = compactor = Compactor(shape=self.width, lanes=self.lanes)
        beat = digits.o.payload
        m.d.comb += [
            equal.i.valid.eq(digits.o.valid),
            equal.i.payload.eq(beat),
            search.are_equal.eq(equal.are_equal),
            search.equal_value.eq(equal.value),
            compactor.i.valid.eq(digits.o.valid & beat.several & search.bin.low.any()),
            compactor.i.payload.lanes.eq(beat.values),
            compactor.i.payload.mask.eq(beat.in_bin),
            compactor.i.payload.last.eq(beat.last),
            compactor.o.ready.eq(1),
            buffers.compaction_begins.eq(compactor.i.valid & beat.last),
            buffers.compacted.valid.eq(compactor.o.valid),
            buffers.compacted.payload.eq(compactor.o.payload),
        ]
        if asserts(platform):
            m.d.sync += Assert(~compactor.i.valid | compactor.i.ready, "the compaction would lose a beat\n")

    def _leave(self, m: Module, enters_first: Value, crowded: Signal, search: BinSearch) -> None:
        """A row takes a place with its first beat, and leaves it with its result."""
        m.submodules.places = places = RowPlaces(
            places=ROWS_INSIDE, width=self.width, n_max=self.n_max, header=self.header
        )
        wiring.connect(m, places.o, wiring.flipped(self.o))
        m.d.comb += [
            places.enters.eq(enters_first),
            crowded.eq(places.is_crowded),
            places.finishes.eq(search.finishes),
            places.threshold.eq(search.threshold),
            places.rank.eq(search.last_rank),
        ]
        if self.header is not None:
            m.d.comb += Value.cast(places.header).eq(Value.cast(self.i.payload.header))
