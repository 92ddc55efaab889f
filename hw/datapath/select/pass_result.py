"""What a pass of a quick-select has found: a narrower bin, or the row's result."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.select_layouts import passes_of, rank_shape, select_bin

__all__ = ["PassResult"]


class PassResult(wiring.Component):
    """A row is finished when a pass leaves no bits free, or has found all values of its bin equal.

    With none free the bin's value with the digit is the threshold, else the one value that is there; the wanted value's
    rank among its equals, and itself, belong to the k largest.

    Parameters
    ----------
    width, n_max, digit_bits : int
        As in `QuickSelect`.

    Ports
    -----
    done, digit, digit_rank : in, from the `DigitPass`
    counted_value : in, from the `CurrentBin`
    finishes : out, for a cycle, the row's result is found
    threshold, equals : out, the result, with `finishes`

    and where there may be several passes

    bin, rank : in, from the `CurrentBin`
    are_equal, equal_value : in, from `EqualValues`
    narrows : out, for a cycle, the bin of the next pass is found

    Combinational.
    """

    def __init__(self, *, width: int, n_max: int, digit_bits: int) -> None:
        self.digit_bits = digit_bits
        self.rank_shape = rank_shape(n_max)
        self.passes_max = passes_of(width, digit_bits)
        ports: dict[str, Any] = {
            "done": In(1),
            "digit": In(digit_bits),
            "digit_rank": In(self.rank_shape),
            "counted_value": In(width),
            "finishes": Out(1),
            "threshold": Out(width),
            "equals": Out(range(n_max + 1)),
        }
        if self.passes_max > 1:
            ports |= {
                "bin": In(select_bin(width, digit_bits)),
                "rank": In(self.rank_shape),
                "are_equal": In(1),
                "equal_value": In(width),
                "narrows": Out(1),
            }
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        last_rank = Signal(self.rank_shape)
        m.d.comb += [
            self.threshold.eq(Cat(self.digit, self.counted_value[self.digit_bits :])),
            last_rank.eq(self.digit_rank),
            self.equals.eq(last_rank + 1),
        ]
        if self.passes_max == 1:
            m.d.comb += self.finishes.eq(self.done)
            return m
        has_free_bits = self.bin.low.any()
        m.d.comb += [
            self.finishes.eq(self.done & (self.are_equal | ~has_free_bits)),
            self.narrows.eq(self.done & ~self.finishes),
        ]
        with m.If(has_free_bits):
            m.d.comb += [self.threshold.eq(self.equal_value), last_rank.eq(self.rank)]
        return m
