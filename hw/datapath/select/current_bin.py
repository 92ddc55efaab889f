"""The bin of a quick-select's pass: that of the row's first digit, and then, pass by pass, narrower ones."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.select_layouts import lowest_free_bits, passes_of, rank_shape, select_bin

__all__ = ["CurrentBin"]


class CurrentBin(wiring.Component):
    """Holds the bin in which the wanted value is known to be, and the value's rank in it.

    Parameters
    ----------
    width, n_max, digit_bits : int
        As in `QuickSelect`.

    Ports
    -----
    starts : in, the first pass over a row begins
    first_bin, first_rank : in, of that row, in the cycle after `starts`
    narrows : in, `digit` is found, and with it a narrower bin, in which the value has rank `digit_rank`; only where
        there may be several passes
    digit, digit_rank : in
    bin, rank : out, of the pass. From the second cycle after `starts` on; after `narrows`, the rank from the next cycle
        and the bin from the second one on.
    counted_value, counted_rank : out, the bin's value and the rank as they were for the pass that is counted: the rank
        when its first beat is in the counter, the value when the counter is done
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
            "bin": Out(bin_layout),
            "rank": Out(self.rank_shape),
            "counted_value": Out(width),
            "counted_rank": Out(self.rank_shape),
        }
        if self.passes_max > 1:
            ports |= {"narrows": In(1), "digit": In(digit_bits), "digit_rank": In(self.rank_shape)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        current = Signal(self.bin.shape(), name="bin", reset_less=True)
        rank = Signal(self.rank_shape, reset_less=True)
        loads = Signal()
        # Only the first beat of the row behind changes `first_bin`, and that row finds no buffer before the row ahead
        # has left its own and this row starts.
        m.d.sync += loads.eq(self.starts)
        with m.If(loads):
            m.d.sync += [current.eq(self.first_bin), rank.eq(self.first_rank)]
        m.d.comb += [self.bin.eq(current), self.rank.eq(rank)]
        if self.passes_max == 1:
            # The next row may load its bin before the counts of this row's last beats are complete.
            m.d.comb += [
                self.counted_rank.eq(_delayed(m, rank, 1, "counted_rank")),
                self.counted_value.eq(_delayed(m, current.value, 3, "counted_value")),
            ]
            return m

        m.d.comb += [self.counted_rank.eq(rank), self.counted_value.eq(current.value)]
        narrows = Signal()
        digit = Signal(self.digit_bits, reset_less=True)
        m.d.sync += [narrows.eq(self.narrows), digit.eq(self.digit)]
        with m.If(self.narrows):
            m.d.sync += rank.eq(self.digit_rank)
        # From this bit up all bits are known after any pass.
        highest_low = max(lowest_free_bits(self.width, self.digit_bits))
        low = current.low
        with m.If(narrows):
            m.d.sync += [
                current.value.eq(current.value | (digit << low)),
                current.known.eq(Cat(Const(1, 1) if bit >= highest_low else low <= bit for bit in range(self.width))),
                low.eq(Mux(low > self.digit_bits, low - self.digit_bits, 0) if highest_low > self.digit_bits else 0),
            ]
        return m


def _delayed(m: Module, value: Any, cycles: int, name: str) -> Any:
    for cycle in range(cycles):
        late = Signal(value.shape(), name=f"{name}{cycle}", reset_less=True)
        m.d.sync += late.eq(value)
        value = late
    return value
