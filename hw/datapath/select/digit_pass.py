"""A pass of a quick-select over a buffered row: in the bin that is known, which digit the wanted value has."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.digit_counter import DigitCounter, constant_of_bin, thermometer
from spatten.hw.datapath.select.select_layouts import rank_shape, scanned_beat, select_bin
from spatten.hw.lib.pipeline import delayed, register
from spatten.hw.lib.unstalled import unstalled

__all__ = ["DigitPass", "binned_beat"]


def binned_beat(width: int, lanes: int) -> data.StructLayout:
    """A beat of a pass, with which of its values lie in the bin: `values`, `in_bin`, and as in `scanned_beat`."""
    values = data.ArrayLayout(unsigned(width), lanes)
    return data.StructLayout({"values": values, "in_bin": lanes, "first": 1, "last": 1, "several": 1})


class DigitPass(wiring.Component):
    """Counts the values that lie in a bin by their digit, as fast as they come.

    Parameters
    ----------
    width, lanes, n_max, digit_bits : int
        As in `QuickSelect`.
    passes_on : bool
        Whether the beats leave on `o`.

    Ports
    -----
    i : `unstalled` stream of `scanned_beat`, in: the beats of passes
    bin : in, `select_bin`: the bin of the pass; looked at in the cycle after a beat
    rank : in, how many values of the bin are above the wanted one; looked at 2 cycles after the pass's first beat
    done : out, for a cycle, when digit and rank of a pass are found
    digit, digit_rank : out, the wanted value's digit, and how many values of the bin with that digit are above it
    o : `unstalled` stream of `binned_beat`, out; only with `passes_on`

    Latency: 4 cycles from the pass's last beat to `done`, 2 from a beat to `o`. Throughput: one beat per cycle, passes
    back to back.
    """

    def __init__(self, *, width: int, lanes: int, n_max: int, digit_bits: int, passes_on: bool) -> None:
        self.width = width
        self.lanes = lanes
        self.n_max = n_max
        self.digit_bits = digit_bits
        self.passes_on = passes_on
        rank = rank_shape(n_max)
        ports: dict[str, Any] = {
            "i": In(unstalled(scanned_beat(width, lanes))),
            "bin": In(select_bin(width, digit_bits)),
            "rank": In(rank),
            "done": Out(1),
            "digit": Out(digit_bits),
            "digit_rank": Out(rank),
        }
        if passes_on:
            ports["o"] = Out(unstalled(binned_beat(width, lanes)))
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        lanes, digit_bits = self.lanes, self.digit_bits
        # One register, and then another: the values, and what is known of them.
        beat = self.i.payload
        values = [register(m, beat.values[lane], f"value{lane}") for lane in range(lanes)]
        count = register(m, beat.count, "count")
        in_bin = Signal(lanes, reset_less=True)
        digits = [Signal(digit_bits, name=f"digit{lane}", reset_less=True) for lane in range(lanes)]
        for lane, value in enumerate(values):
            m.d.sync += [
                in_bin[lane].eq((count > lane) & ~((value ^ self.bin.value) & self.bin.known).any()),
                digits[lane].eq(value >> self.bin.low),
            ]
        m.submodules.counter = counter = DigitCounter(bins=1 << digit_bits, lanes=lanes, n_max=self.n_max)
        tag = {
            name: delayed(m, value, 2, f"beat_{name}", is_reset=True)
            for name, value in (("valid", self.i.valid), ("first", beat.first), ("last", beat.last))
        }
        m.d.comb += [
            counter.valid.eq(tag["valid"]),
            counter.first.eq(tag["first"]),
            counter.last.eq(tag["last"]),
            counter.rank.eq(self.rank),
        ]
        reached = [thermometer(list(digit)) for digit in digits]
        for boundary in range(counter.bins - 1):
            m.d.comb += counter.reaches[boundary].eq(Cat(bits[boundary] for bits in reached) & in_bin)
        m.d.comb += [
            self.done.eq(counter.done),
            self.digit.eq(constant_of_bin(counter.reached, list(range(counter.bins)), digit_bits)),
            self.digit_rank.eq(counter.bin_rank),
        ]
        if self.passes_on:
            m.d.comb += [
                self.o.valid.eq(tag["valid"]),
                Value.cast(self.o.payload.values).eq(register(m, Cat(values), "passed_values")),
                self.o.payload.in_bin.eq(in_bin),
                self.o.payload.first.eq(tag["first"]),
                self.o.payload.last.eq(tag["last"]),
                self.o.payload.several.eq(delayed(m, beat.several, 2, "beat_several", is_reset=True)),
            ]
        return m
