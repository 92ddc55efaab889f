"""Counts the elements of a row by digits: in which bin the wanted element lies, and its rank in that bin."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.select_layouts import rank_shape
from spatten.hw.lib.logic import one_of
from spatten.hw.lib.pipeline import delayed_valid, register

__all__ = ["DigitCounter", "constant_of_bin", "thermometer"]


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
    done : out, for one cycle, when the outputs below are those of a row; these hold until the cycle after the next
        row's first beat
    reached : out, one bit per bin: the wanted element is in it or above; so the bits below any that is set are set
    bin : out, one bit per bin, one of them set
    bin_rank : out, signed, elements of that bin above the wanted one

    Latency: 2 cycles from the row's last beat to `done`. Throughput: one beat per cycle, rows back to back.
    """

    def __init__(self, *, bins: int, lanes: int, n_max: int) -> None:
        self.bins = bins
        self.lanes = lanes
        self.n_max = n_max
        self.rank_shape = rank_shape(n_max)
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "rank": In(self.rank_shape),
                "reaches": In(data.ArrayLayout(unsigned(lanes), bins - 1)),
                "done": Out(1),
                "reached": Out(bins),
                "bin": Out(bins),
                "bin_rank": Out(self.rank_shape),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        valid = delayed_valid(m, self.valid, 1, "valid")
        first = register(m, self.first, "first")
        last = register(m, self.last, "last")
        rank = register(m, self.rank, "rank")
        m.d.sync += self.done.eq(valid & last)
        top_rank = register(m, rank, "top_rank", enable=valid & first)
        ranks = []
        for boundary in range(1, self.bins):
            above = Signal(range(self.lanes + 1), name=f"above{boundary}", reset_less=True)
            rank_below = Signal(self.rank_shape, name=f"rank{boundary}", reset_less=True)
            m.d.sync += above.eq(sum(self.reaches[boundary - 1], Const(0, 0)))
            with m.If(valid):
                m.d.sync += rank_below.eq(Mux(first, rank, rank_below) - above)
            ranks.append(rank_below)

        reached = [Const(1, 1), *(rank_below[-1] for rank_below in ranks), Const(0, 1)]
        m.d.comb += self.reached.eq(Cat(reached[: self.bins]))
        m.d.comb += self.bin.eq(Cat(reached[n] & ~reached[n + 1] for n in range(self.bins)))
        upper = [*ranks, top_rank]
        m.d.comb += self.bin_rank.eq(one_of(list(self.bin), [rank.as_unsigned() for rank in upper]).as_signed())
        return m


def thermometer(bits: list[Value]) -> list[Value]:
    """For n = 1 to 2**len(bits) - 1 whether the number with these bits, lowest first, is at least n."""
    if not bits:
        return []
    *lower_bits, top = bits
    lower = thermometer(lower_bits)
    return [*(top | bit for bit in lower), top, *(top & bit for bit in lower)]


def constant_of_bin(reached: Value, constants: list[int], width: int) -> Value:
    """The constant, cut to `width` bits, at the place of the highest bit that is set; those below it are set, too.

    Of neighbours that have a one in the same place it is only looked whether the first is reached, and that behind the
    last is not.
    """
    columns: list[Value] = []
    for bit in range(width):
        ones = [constant >> bit & 1 for constant in constants]
        begins = [n for n, one in enumerate(ones) if one and (n == 0 or not ones[n - 1])]
        runs: list[Value] = []
        for begin in begins:
            end = next((n for n in range(begin, len(ones)) if not ones[n]), None)
            runs.append(reached[begin] if end is None else reached[begin] & ~reached[end])
        columns.append(Cat(runs).any() if runs else Const(0, 1))
    return Cat(columns)
