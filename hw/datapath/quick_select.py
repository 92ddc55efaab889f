"""Quick-select: the k-th largest value of a row, digit by digit, and how many of its equals to keep (SpAtten, Fig.
9)."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.packer import Compactor
from spatten.hw.lib.parameters import check_integer, check_optional_shape
from spatten.hw.lib.ram import Ram

__all__ = ["DigitCounter", "QuickSelect", "candidate_beat", "default_digit_bits", "first_digit", "selection"]

ROWS_INSIDE = 4
"""Rows that a QuickSelect works on at most: two that enter or wait in a buffer, others on their way out."""


def candidate_beat(width: int, lanes: int, n_max: int, header: ShapeLike | None = None) -> data.StructLayout:
    """A beat of a row: `values`, of which the first `count` are live, `last`, and the row's `k` and `header`."""
    extra = {} if header is None else {"header": header}
    values = data.ArrayLayout(unsigned(width), lanes)
    return data.StructLayout({"values": values, "count": range(lanes + 1), "last": 1, "k": range(n_max + 1), **extra})


def selection(width: int, n_max: int, header: ShapeLike | None = None) -> data.StructLayout:
    """What a row's top-k is: the k-th largest value as `threshold`, and of its `equals` how many to keep."""
    extra = {} if header is None else {"header": header}
    return data.StructLayout({"threshold": unsigned(width), "equals": range(n_max + 1), **extra})


def default_digit_bits(width: int) -> int:
    """Bits of a digit by default: 6, or 5 for values wider than 12 bits, but always fewer than a value has."""
    return min(5 if width > 12 else 6, width - 1)


def first_digit(width: int, digit_bits: int) -> list[tuple[int, int]]:
    """The bins into which values are sorted while they stream in: (lowest value, low bits that are free), ascending.

    Values up to two digits wide are sorted by their upper digit. Wider ones are sorted by half octaves, that is by
    exponent and first mantissa bit, so that a row is divided well whatever its scale; values below 2**digit_bits share
    a bin.
    """
    if width <= 2 * digit_bits:
        return [(top << digit_bits, digit_bits) for top in range(1 << width - digit_bits)]
    bins = [(0, digit_bits)]
    for exponent in range(digit_bits, width):
        bins += [(1 << exponent, exponent - 1), (3 << exponent - 1, exponent - 1)]
    return bins


class DigitCounter(wiring.Component):
    """Finds in which of `bins` ascending bins a row's wanted element lies, that is the one with `rank` others above it.

    One counter per boundary between two bins holds the rank less the elements at or above that boundary. It is
    negative where the wanted element is among these elements: the signs alone tell the bin, without a comparator, and
    the counter at that bin's upper boundary is the element's rank within it. A row with fewer elements than rank + 1
    ends in bin 0.

    Parameters
    ----------
    bins : int
        At least 2.
    lanes : int
        Elements of a beat.
    n_max : int
        Elements of a row.

    Ports
    -----
    valid, first, last : in, a beat of a row
    rank : in, at least 0; looked at with `first`
    reaches : in, for each boundary (that below bin 1 first) one bit per lane, set if there is an element at or above it
    done : out, for one cycle, when `bin` and `bin_rank` are those of a row; these hold until the next row's first beat
    bin : out, one bit per bin, one of them set
    bin_rank : out, signed, elements of that bin above the wanted one

    Latency: 2 cycles from the row's last beat to `done`. Throughput: one beat per cycle, rows back to back.
    """

    def __init__(self, *, bins: int, lanes: int, n_max: int) -> None:
        self.bins = bins
        self.lanes = lanes
        self.n_max = n_max
        self.rank_shape = signed(n_max.bit_length() + 1)
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "rank": In(self.rank_shape),
                "reaches": In(data.ArrayLayout(unsigned(lanes), bins - 1)),
                "done": Out(1),
                "bin": Out(bins),
                "bin_rank": Out(self.rank_shape),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        valid, first, last = Signal(), Signal(reset_less=True), Signal(reset_less=True)
        rank = Signal(self.rank_shape, reset_less=True)
        top_rank = Signal(self.rank_shape, reset_less=True)
        m.d.sync += [
            valid.eq(self.valid),
            first.eq(self.first),
            last.eq(self.last),
            rank.eq(self.rank),
            self.done.eq(valid & last),
        ]
        with m.If(valid & first):
            m.d.sync += top_rank.eq(rank)
        ranks = []
        for boundary in range(1, self.bins):
            above = Signal(range(self.lanes + 1), name=f"above{boundary}", reset_less=True)
            rank_below = Signal(self.rank_shape, name=f"rank{boundary}", reset_less=True)
            m.d.sync += above.eq(sum(self.reaches[boundary - 1], Const(0, 0)))
            with m.If(valid):
                m.d.sync += rank_below.eq(Mux(first, rank, rank_below) - above)
            ranks.append(rank_below)

        reached = [Const(1, 1), *(rank_below[-1] for rank_below in ranks), Const(0, 1)]
        m.d.comb += self.bin.eq(Cat(reached[n] & ~reached[n + 1] for n in range(self.bins)))
        upper = [*ranks, top_rank]
        chosen: Value = Const(0, len(top_rank))
        for n in range(self.bins):
            chosen = chosen | Mux(self.bin[n], upper[n].as_unsigned(), 0)
        m.d.comb += self.bin_rank.eq(chosen.as_signed())
        return m


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
        self._first_bins = first_digit(width, digit_bits)
        self.passes_max = max(1, *(-(-free // digit_bits) for _, free in self._first_bins))
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
        lanes, width, digit_bits = self.lanes, self.width, self.digit_bits
        payload = self.i.payload

        # -- A beat enters: into a buffer, and its values are counted by their first digit ----------------------------
        full = Signal(2)
        write_buffer = Signal()
        write_beat = Signal(range(self.beats_max + 1))
        crowded = Signal()
        is_first = Signal()
        enters = Signal()
        enters_first = Signal()
        enters_last = Signal()
        m.d.comb += [
            is_first.eq(~write_beat.any()),
            self.i.ready.eq(~Mux(write_buffer, full[1], full[0]) & ~(crowded & is_first)),
            enters.eq(self.i.valid & self.i.ready),
            enters_first.eq(enters & is_first),
            enters_last.eq(enters & payload.last),
        ]
        if asserts(platform):
            whole = (payload.count == lanes) | (payload.last & (payload.count >= 1) & (payload.count < lanes))
            m.d.sync += Assert(~self.i.valid | whole, "i: a beat before the last one must be full, and none empty\n")
            m.d.sync += Assert(~self.i.valid | (payload.k >= 1), "i: k must be at least 1\n")
            m.d.sync += Assert(~enters | (write_beat < self.beats_max), "i: a row is longer than n_max\n")
        m.submodules.first_counter = first_counter = DigitCounter(
            bins=len(self._first_bins), lanes=lanes, n_max=self.n_max
        )
        m.d.comb += [
            first_counter.valid.eq(enters),
            first_counter.first.eq(is_first),
            first_counter.last.eq(payload.last),
            first_counter.rank.eq(payload.k - 1),
        ]
        is_live = Cat(payload.count > lane for lane in range(lanes))
        reached = [self._reached_bins(m, lane, payload.values[lane]) for lane in range(lanes)]
        for boundary in range(first_counter.bins - 1):
            m.d.comb += first_counter.reaches[boundary].eq(Cat(bits[boundary] for bits in reached) & is_live)

        last_beats = [Signal(range(max(2, self.beats_max)), name=f"last_beat{n}", reset_less=True) for n in range(2)]
        last_counts = [Signal(range(lanes + 1), name=f"last_count{n}", reset_less=True) for n in range(2)]
        with m.If(enters):
            m.d.sync += write_beat.eq(Mux(payload.last, 0, write_beat + 1))
        with m.If(enters_last):
            m.d.sync += write_buffer.eq(~write_buffer)

        # -- A pass: beats are read, and the values that lie in the bin are counted by their next digit ---------------
        # Cycles after a beat's `reads`: 1 read_data, 2 `values`, 3 `in_bin` and `digits`, 5 the counter's `done`.
        read_buffer = Signal()
        read_beat = Signal(range(max(2, self.beats_max)))
        starts = Signal()
        reads = Signal()
        reads_last = Signal()
        frees = Signal()
        buffers = [Ram(shape=width * lanes, depth=max(2, self.beats_max)) for _ in range(2)]
        for n, buffer in enumerate(buffers):
            m.submodules[f"buffer{n}"] = buffer
            m.d.comb += [
                buffer.write_enable.eq(enters & (write_buffer == n)),
                buffer.write_address.eq(write_beat),
                buffer.write_data.eq(Value.cast(payload.values)),
                buffer.read_enable.eq(reads & (read_buffer == n)),
                buffer.read_address.eq(read_beat),
            ]
            with m.If(enters & (write_buffer == n)):
                m.d.sync += [last_beats[n].eq(write_beat), last_counts[n].eq(payload.count)]
            with m.If(enters_last & (write_buffer == n)):
                m.d.sync += full[n].eq(1)
            with m.Elif(frees & (read_buffer == n)):
                m.d.sync += full[n].eq(0)
        with m.If(frees):
            m.d.sync += read_buffer.eq(~read_buffer)
        with m.If(reads):
            m.d.sync += read_beat.eq(Mux(reads_last, 0, read_beat + 1))

        tag = [Signal(_TAG, name=f"tag{cycle}") for cycle in range(4)]
        live = [Signal(range(lanes + 1), name=f"live{cycle}", reset_less=True) for cycle in (1, 2)]
        m.d.comb += [
            tag[0].valid.eq(reads),
            tag[0].first.eq(~read_beat.any()),
            tag[0].last.eq(reads_last),
            tag[0].buffer.eq(read_buffer),
        ]
        m.d.sync += [
            *(tag[cycle + 1].eq(tag[cycle]) for cycle in range(3)),
            live[0].eq(Mux(reads_last, Mux(read_buffer, last_counts[1], last_counts[0]), lanes)),
            live[1].eq(live[0]),
        ]
        values = [Signal(width, name=f"value{lane}", reset_less=True) for lane in range(lanes)]
        m.d.sync += Cat(values).eq(Mux(tag[1].buffer, buffers[1].read_data, buffers[0].read_data))

        # The bin of a row's first pass, from the counts made as the row entered. Only the first beat of the row behind
        # changes these counts, and that row finds no buffer before the row ahead has left its own and this row starts.
        firsts = [max(free - digit_bits, 0) for _, free in self._first_bins]
        bin_value = Signal(width, reset_less=True)
        known = Signal(width, reset_less=True)
        low = Signal(range(max(1, *firsts) + 1), reset_less=True)
        rank = Signal(first_counter.rank_shape, reset_less=True)
        loads = Signal()
        m.d.sync += loads.eq(starts)
        with m.If(loads):
            m.d.sync += [
                bin_value.eq(_chosen(first_counter.bin, [value for value, _ in self._first_bins], width)),
                known.eq(_chosen(first_counter.bin, [-1 << free for _, free in self._first_bins], width)),
                low.eq(_chosen(first_counter.bin, firsts, len(low))),
                rank.eq(first_counter.bin_rank),
            ]

        # With one pass the next row may load its bin before the counts of this row's last beats are complete.
        counted_rank = rank
        counted_value = bin_value
        if self.passes_max == 1:
            counted_rank = _delayed(m, rank, 1, "counted_rank")
            counted_value = _delayed(m, bin_value, 3, "counted_value")

        in_bin = Signal(lanes, reset_less=True)
        digits = [Signal(digit_bits, name=f"digit{lane}", reset_less=True) for lane in range(lanes)]
        for lane, value in enumerate(values):
            m.d.sync += [
                in_bin[lane].eq((live[1] > lane) & ~((value ^ bin_value) & known).any()),
                digits[lane].eq(value >> low),
            ]
        m.submodules.counter = counter = DigitCounter(bins=1 << digit_bits, lanes=lanes, n_max=self.n_max)
        m.d.comb += [
            counter.valid.eq(tag[3].valid),
            counter.first.eq(tag[3].first),
            counter.last.eq(tag[3].last),
            counter.rank.eq(counted_rank),
        ]
        reached = [_thermometer(list(digit)) for digit in digits]
        for boundary in range(counter.bins - 1):
            m.d.comb += counter.reaches[boundary].eq(Cat(bits[boundary] for bits in reached) & in_bin)
        digit = Signal(digit_bits)
        m.d.comb += [
            digit.eq(_chosen(counter.bin, list(range(counter.bins)), digit_bits)),
            self.pass_done.eq(counter.done),
        ]

        # -- What a pass has found ------------------------------------------------------------------------------------
        finishes = Signal()
        threshold = Signal(width)
        last_rank = Signal(rank.shape())
        m.d.comb += [threshold.eq(Cat(digit, counted_value[digit_bits:])), last_rank.eq(counter.bin_rank)]
        at_end = Signal()
        m.d.comb += at_end.eq(read_beat == Mux(read_buffer, last_beats[1], last_beats[0]))
        if self.passes_max == 1:
            scans = Signal()
            m.d.comb += [
                starts.eq(~scans & Mux(read_buffer, full[1], full[0])),
                reads.eq(starts | scans),
                reads_last.eq(at_end),
                frees.eq(reads & reads_last),
                finishes.eq(counter.done),
            ]
            with m.If(reads):
                m.d.sync += scans.eq(~reads_last)
        else:
            late_values = [Signal(width, name=f"late_value{lane}", reset_less=True) for lane in range(lanes)]
            m.d.sync += Cat(late_values).eq(Cat(values))
            compacted = Signal(init=1)
            stored = Signal(range(self.beats_max + 1))
            m.d.comb += [
                reads_last.eq(compacted & at_end),
                tag[0].several.eq(~reads_last | read_beat.any()),
            ]
            m.submodules.compactor = compactor = Compactor(shape=width, lanes=lanes)
            m.d.comb += [
                compactor.i.valid.eq(tag[3].valid & tag[3].several & low.any()),
                compactor.i.payload.lanes.eq(Cat(late_values)),
                compactor.i.payload.mask.eq(in_bin),
                compactor.i.payload.last.eq(tag[3].last),
                compactor.o.ready.eq(1),
            ]
            if asserts(platform):
                m.d.sync += Assert(~compactor.i.valid | compactor.i.ready, "the compaction would lose a beat\n")
            with m.If(compactor.i.valid & tag[3].last):
                m.d.sync += compacted.eq(0)
            with m.If(compactor.o.valid):
                m.d.sync += stored.eq(Mux(compactor.o.payload.last, 0, stored + 1))
                with m.If(compactor.o.payload.last):
                    m.d.sync += compacted.eq(1)
            for n, buffer in enumerate(buffers):
                with m.If(compactor.o.valid & (read_buffer == n)):
                    m.d.comb += [
                        buffer.write_enable.eq(1),
                        buffer.write_address.eq(stored),
                        buffer.write_data.eq(Value.cast(compactor.o.payload.lanes)),
                    ]
                    with m.If(compactor.o.payload.last):
                        m.d.sync += [last_beats[n].eq(stored), last_counts[n].eq(compactor.o.payload.count)]

            is_one_value, one_value = self._one_value(m, tag[3], late_values, in_bin)
            m.d.comb += finishes.eq(counter.done & (is_one_value | ~low.any()))
            with m.If(low.any()):
                m.d.comb += [threshold.eq(one_value), last_rank.eq(rank)]
            narrows = Signal()
            found_digit = Signal(digit_bits, reset_less=True)
            m.d.sync += [narrows.eq(counter.done & ~finishes), found_digit.eq(digit)]
            with m.If(counter.done & ~finishes):
                m.d.sync += rank.eq(counter.bin_rank)
            with m.If(narrows):
                m.d.sync += [
                    bin_value.eq(bin_value | (found_digit << low)),
                    known.eq(Cat(Const(1, 1) if bit >= max(firsts) else low <= bit for bit in range(width))),
                    low.eq(Mux(low > digit_bits, low - digit_bits, 0) if max(firsts) > digit_bits else 0),
                ]
            # A row is in none of these states before it starts, and then in one after the other.
            passing = Signal()
            deciding = Signal()
            freeing = Signal()
            m.d.comb += [
                starts.eq(Mux(read_buffer, full[1], full[0]) & ~passing & ~deciding & ~freeing),
                reads.eq(starts | (passing & (compacted | (read_beat < stored)))),
                # A compaction that turned out to be in vain must not write into the next row.
                frees.eq(freeing & compacted),
            ]
            with m.If(reads):
                m.d.sync += [passing.eq(~reads_last), deciding.eq(reads_last)]
            with m.If(counter.done):
                m.d.sync += [deciding.eq(0), passing.eq(~finishes), freeing.eq(finishes)]
            with m.If(frees):
                m.d.sync += freeing.eq(0)

        self._leave(m, enters_first, crowded, finishes, threshold, last_rank + 1)
        return m

    def _reached_bins(self, m: Module, lane: int, value: Value) -> list[Value]:
        """For each first bin but the lowest, whether the value lies in it or above."""
        if self.width <= 2 * self.digit_bits:
            return _thermometer(list(value[self.digit_bits :]))
        # any_from[n] is whether a bit from n up is set, by a parallel prefix.
        any_from: list[Value] = [*value, Const(0, 1)]
        distance = 1
        while distance < self.width:
            wider = []
            for bit in range(self.width + 1):
                signal = Signal(name=f"lane{lane}_any{2 * distance}_from{bit}")
                m.d.comb += signal.eq(any_from[bit] | any_from[min(bit + distance, self.width)])
                wider.append(signal)
            any_from = wider
            distance *= 2
        reached = []
        for exponent in range(self.digit_bits, self.width):
            upper_half = any_from[exponent + 1] | (value[exponent] & value[exponent - 1])
            reached += [any_from[exponent], upper_half]
        return reached

    def _one_value(self, m: Module, tag: Any, values: list[Signal], in_bin: Value) -> tuple[Value, Value]:
        """Whether all values of the pass that lie in the bin are equal, and that value, when the counter is done."""
        width = self.width
        ones = Signal(width, reset_less=True)
        zeros = Signal(width, reset_less=True)
        beat_ones = Const(0, width)
        beat_zeros = Const(0, width)
        for lane, value in enumerate(values):
            beat_ones = beat_ones | Mux(in_bin[lane], value, 0)
            beat_zeros = beat_zeros | Mux(in_bin[lane], ~value, 0)
        with m.If(tag.valid):
            m.d.sync += [
                ones.eq(beat_ones | Mux(tag.first, 0, ones)),
                zeros.eq(beat_zeros | Mux(tag.first, 0, zeros)),
            ]
        is_one_value = Signal(reset_less=True)
        m.d.sync += is_one_value.eq((ones ^ zeros).all())
        return is_one_value, ones

    def _leave(
        self, m: Module, enters_first: Value, crowded: Signal, finishes: Value, threshold: Value, equals: Value
    ) -> None:
        """A ring of places for the rows inside: a row takes a place with its first beat, and leaves it with its result.

        Nothing between the input and a row's place can be held up, so a row has its place from the moment it enters.
        """
        inside = Signal(range(ROWS_INSIDE + 1))
        finished = Signal(range(ROWS_INSIDE + 1))
        next_inside = Signal(range(ROWS_INSIDE + 1))
        leaves = Signal()
        m.d.comb += [
            self.o.valid.eq(finished.any()),
            leaves.eq(self.o.valid & self.o.ready),
            next_inside.eq(inside + enters_first - leaves),
        ]
        m.d.sync += [
            inside.eq(next_inside),
            crowded.eq(next_inside == ROWS_INSIDE),
            finished.eq(finished + finishes - leaves),
        ]
        # Which place is next, one-hot.
        entering = Signal(ROWS_INSIDE, init=1)
        finishing = Signal(ROWS_INSIDE, init=1)
        leaving = Signal(ROWS_INSIDE, init=1)
        for place, moves in ((entering, enters_first), (finishing, finishes), (leaving, leaves)):
            with m.If(moves):
                m.d.sync += place.eq(place.rotate_left(1))
        layout = selection(self.width, self.n_max, self.header)
        left: Value = Const(0, layout.size)
        for n in range(ROWS_INSIDE):
            row = Signal(layout, name=f"row{n}", reset_less=True)
            if self.header is not None:
                with m.If(enters_first & entering[n]):
                    m.d.sync += Value.cast(row.header).eq(Value.cast(self.i.payload.header))
            with m.If(finishes & finishing[n]):
                m.d.sync += [row.threshold.eq(threshold), row.equals.eq(equals)]
            left = left | Mux(leaving[n], Value.cast(row), 0)
        m.d.comb += Value.cast(self.o.payload).eq(left)


_TAG = data.StructLayout({"valid": 1, "first": 1, "last": 1, "several": 1, "buffer": 1})
"""What goes with a beat that is read in a pass; `several`: the pass has more than one beat."""


def _thermometer(bits: list[Value]) -> list[Value]:
    """For n = 1 to 2**len(bits) - 1 whether the number with these bits, lowest first, is at least n."""
    if not bits:
        return []
    *lower_bits, top = bits
    lower = _thermometer(lower_bits)
    return [*(top | bit for bit in lower), top, *(top & bit for bit in lower)]


def _delayed(m: Module, value: Signal, cycles: int, name: str) -> Signal:
    for cycle in range(cycles):
        late = Signal(value.shape(), name=f"{name}{cycle}", reset_less=True)
        m.d.sync += late.eq(value)
        value = late
    return value


def _chosen(one_hot: Value, constants: list[int], width: int) -> Value:
    """The constant, cut to `width` bits, at the place of the bit that is set."""
    columns: list[Value] = []
    for bit in range(width):
        places = [n for n, constant in enumerate(constants) if constant >> bit & 1]
        if len(places) in (0, len(constants)):
            columns.append(Const(1 if places else 0, 1))
        else:
            columns.append(Cat(one_hot[n] for n in places).any())
    return Cat(columns)
