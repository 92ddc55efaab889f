"""The first pass of a quick-select, while a row streams in: which bin of the first digit has the wanted value."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.digit_counter import DigitCounter, constant_of_bin, thermometer
from spatten.hw.datapath.select.select_layouts import first_digit, lowest_free_bits, rank_shape, select_bin

__all__ = ["FirstPass"]


class FirstPass(wiring.Component):
    """Counts the values of a row by their first digit (`first_digit`), as fast as they come.

    Parameters
    ----------
    width, lanes, n_max, digit_bits : int
        As in `QuickSelect`.

    Ports
    -----
    valid : in, a beat of a row
    first, last : in, whether it is the row's first, its last
    values, count : in, the beat's values, of which the first `count` are live
    k : in, at least 1; looked at with `first`
    bin : out, `select_bin`, in which the k-th largest value of the row is
    rank : out, how many values of that bin are above it

    With k above the row's length it is as if there were zeros behind the row.

    Latency: 2 cycles from the row's last beat to `bin` and `rank`, which hold until the cycle after the next row's
    first beat. Throughput: one beat per cycle, rows back to back.
    """

    def __init__(self, *, width: int, lanes: int, n_max: int, digit_bits: int) -> None:
        self.width = width
        self.lanes = lanes
        self.n_max = n_max
        self.digit_bits = digit_bits
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "values": In(data.ArrayLayout(unsigned(width), lanes)),
                "count": In(range(lanes + 1)),
                "k": In(range(n_max + 1)),
                "bin": Out(select_bin(width, digit_bits)),
                "rank": Out(rank_shape(n_max)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bins = first_digit(self.width, self.digit_bits)
        m.submodules.counter = counter = DigitCounter(bins=len(bins), lanes=self.lanes, n_max=self.n_max)
        m.d.comb += [
            counter.valid.eq(self.valid),
            counter.first.eq(self.first),
            counter.last.eq(self.last),
            counter.rank.eq(self.k - 1),
        ]
        is_live = Cat(self.count > lane for lane in range(self.lanes))
        reached = [self._reached_bins(m, lane, self.values[lane]) for lane in range(self.lanes)]
        for boundary in range(counter.bins - 1):
            m.d.comb += counter.reaches[boundary].eq(Cat(bits[boundary] for bits in reached) & is_live)

        lows = lowest_free_bits(self.width, self.digit_bits)
        m.d.comb += [
            self.bin.value.eq(constant_of_bin(counter.reached, [value for value, _ in bins], self.width)),
            self.bin.known.eq(constant_of_bin(counter.reached, [-1 << free for _, free in bins], self.width)),
            self.bin.low.eq(constant_of_bin(counter.reached, lows, len(self.bin.low))),
            self.rank.eq(counter.bin_rank),
        ]
        return m

    def _reached_bins(self, m: Module, lane: int, value: Value) -> list[Value]:
        """For each first bin but the lowest, whether the value lies in it or above."""
        if self.width <= 2 * self.digit_bits:
            return thermometer(list(value[self.digit_bits :]))
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
