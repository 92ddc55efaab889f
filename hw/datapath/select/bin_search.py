"""What is known of the value that a quick-select looks for: its bin, narrower with every pass, and then the value."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.select_layouts import lowest_free_bits, passes_of, rank_shape, select_bin
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.pipeline import delayed

__all__ = ["BinSearch"]


class BinSearch(wiring.Component):
    """Holds the bin in which the wanted value is known to be and the value's rank in it, until the value is found.

    The bin comes from the row's first digit. Each pass finds the next digit, which makes the bin narrower, or ends the
    row: when no bits are free below the digit, the value is complete; and when all values of the bin are equal, each of
    them is the wanted one. The value's rank among its equals, and itself, belong to the k largest.

    Where a row has one pass, rows overlap: the next one may start while the last beats of this row are being counted.
    Where it may have several, a row starts after the row before has finished.

    Parameters
    ----------
    width, n_max, digit_bits : int
        As in `QuickSelect`.

    Ports
    -----
    starts : in, the first beat of a row's first pass is being read
    first_bin, first_rank : in, of that row from `FirstPass`; looked at in the cycle after `starts`
    done : in, for a cycle, a pass has found its digit: 4 cycles after its last beat left the buffers, and in the order
        in which the rows started
    digit, digit_rank : in, with `done`: the wanted value's digit, and its rank among the values of the bin that have it
    bin : out, of the pass, from 2 cycles after `starts` on and from 2 cycles after `done` on, for its `DigitPass`
    rank : out, of the wanted value in the bin of the pass, when the first beat of the pass is counted: 3 cycles after
        `starts`; where there may be several passes from 2 cycles after `starts` on and from the cycle after `done` on
    finishes : out, for a cycle, with the `done` of a row's last pass
    threshold, last_rank : out, with `finishes`: the wanted value, and its rank among its equals: these and itself
        belong to the k largest

    and where there may be several passes

    are_equal, equal_value : in, from `EqualValues`, with `done`: all values of the bin are equal, and to what

    `finishes`, `threshold` and `last_rank` come from `done` and what belongs to it in the same cycle.
    """

    def __init__(self, *, width: int, n_max: int, digit_bits: int) -> None:
        self.width = width
        self.digit_bits = digit_bits
        self.passes_max = passes_of(width, digit_bits)
        self.rank_shape = rank_shape(n_max)
        bin_layout = select_bin(width, digit_bits)
        ports: dict[str, Any] = {
            "starts": In(1),
            "first_bin": In(bin_layout),
            "first_rank": In(self.rank_shape),
            "done": In(1),
            "digit": In(digit_bits),
            "digit_rank": In(self.rank_shape),
            "bin": Out(bin_layout),
            "rank": Out(self.rank_shape),
            "finishes": Out(1),
            "threshold": Out(width),
            "last_rank": Out(self.rank_shape),
        }
        if self.passes_max > 1:
            ports |= {"are_equal": In(1), "equal_value": In(width)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        current = Signal(self.bin.shape(), name="current", reset_less=True)
        rank = Signal(self.rank_shape, name="current_rank", reset_less=True)
        loads = Signal()
        # Only the first beat of the row behind changes `first_bin`, and that row finds no buffer before the row ahead
        # has left its own and this row starts.
        m.d.sync += loads.eq(self.starts)
        with m.If(loads):
            m.d.sync += [current.eq(self.first_bin), rank.eq(self.first_rank)]
        m.d.comb += self.bin.eq(current)
        if self.passes_max == 1:
            # The next row may load its bin before this row's last beats are counted.
            m.d.comb += [self.rank.eq(delayed(m, rank, 1, "counted_rank")), self.finishes.eq(self.done)]
            self._take_digit(m, delayed(m, current.value, 3, "counted_value"))
            return m

        self._take_digit(m, current.value)
        has_free_bits = current.low.any()
        m.d.comb += [self.rank.eq(rank), self.finishes.eq(self.done & (self.are_equal | ~has_free_bits))]
        with m.If(has_free_bits):
            m.d.comb += [self.threshold.eq(self.equal_value), self.last_rank.eq(rank)]
        self._narrow(m, current, rank)
        if asserts(platform):
            m.d.sync += Assert(~self.starts | ~self.done, "a row starts before the row ahead has finished\n")
        return m

    def _take_digit(self, m: Module, bin_value: Value) -> None:
        """The result where the digit is the last one, which completes the value of the bin."""
        m.d.comb += [
            self.threshold.eq(Cat(self.digit, bin_value[self.digit_bits :])),
            self.last_rank.eq(self.digit_rank),
        ]

    def _narrow(self, m: Module, current: data.View[data.StructLayout], rank: Signal) -> None:
        """A pass that does not end its row leaves the bin of the values with its digit."""
        narrows = Signal()
        narrowed = Signal()
        digit = Signal(self.digit_bits, name="found_digit", reset_less=True)
        m.d.comb += narrows.eq(self.done & ~self.finishes)
        m.d.sync += [narrowed.eq(narrows), digit.eq(self.digit)]
        with m.If(narrows):
            m.d.sync += rank.eq(self.digit_rank)
        # From this bit up all bits are known after any pass.
        highest_low = max(lowest_free_bits(self.width, self.digit_bits))
        low = current.low
        with m.If(narrowed):
            m.d.sync += [
                current.value.eq(current.value | (digit << low)),
                current.known.eq(Cat(Const(1, 1) if bit >= highest_low else low <= bit for bit in range(self.width))),
                low.eq(Mux(low > self.digit_bits, low - self.digit_bits, 0) if highest_low > self.digit_bits else 0),
            ]
