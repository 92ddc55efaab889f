"""Whether all values of a pass that lie in the bin are equal."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.digit_pass import binned_beat
from spatten.hw.lib.unstalled import unstalled

__all__ = ["EqualValues"]


class EqualValues(wiring.Component):
    """Collects, bit by bit, whether a value of the bin has a one there, and whether one has a zero.

    Parameters
    ----------
    width, lanes : int
        As in `QuickSelect`.

    Ports
    -----
    i : `unstalled` stream of `binned_beat`, in: the beats of passes
    are_equal : out, the bin has values, and they are all equal: every bit has a one or a zero, and none has both
    value : out, that value

    Latency: 1 cycle from a pass's last beat to `value`, 2 to `are_equal`; `value` holds until the next pass's first
    beat, `are_equal` a cycle longer. Throughput: one beat per cycle, passes back to back.
    """

    def __init__(self, *, width: int, lanes: int) -> None:
        self.width = width
        self.lanes = lanes
        super().__init__(
            {
                "i": In(unstalled(binned_beat(width, lanes))),
                "are_equal": Out(1),
                "value": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beat = self.i.payload
        ones = Signal(self.width, reset_less=True)
        zeros = Signal(self.width, reset_less=True)
        beat_ones = Const(0, self.width)
        beat_zeros = Const(0, self.width)
        for lane in range(self.lanes):
            value = beat.values[lane]
            beat_ones = beat_ones | Mux(beat.in_bin[lane], value, 0)
            beat_zeros = beat_zeros | Mux(beat.in_bin[lane], ~value, 0)
        with m.If(self.i.valid):
            m.d.sync += [
                ones.eq(beat_ones | Mux(beat.first, 0, ones)),
                zeros.eq(beat_zeros | Mux(beat.first, 0, zeros)),
            ]
        are_equal = Signal(reset_less=True)
        m.d.sync += are_equal.eq((ones ^ zeros).all())
        m.d.comb += [self.are_equal.eq(are_equal), self.value.eq(ones)]
        return m
