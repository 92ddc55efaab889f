"""Joins beats of probabilities into the wider ones of the top-k engine."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.select_layouts import candidate_beat
from spatten.hw.lib.logic import equals

__all__ = ["Widen"]


class Widen(wiring.Component):
    """Joins beats of `lanes` probabilities into beats of `wide`, for a top-k engine that has more lanes than softmax.

    Parameters
    ----------
    width, lanes, wide, n_max : int
        Bits of a probability; lanes of an input and of an output beat, powers of two; most probabilities of a row.
    header : shape-like
        What travels with a row.

    Ports
    -----
    i, o : streams of `hw.datapath.select.select_layouts.candidate_beat`, of `lanes` and of `wide` values

    Latency: 1 cycle from the last input beat that an output beat needs. Throughput: an input beat per cycle.
    """

    def __init__(self, *, width: int, lanes: int, wide: int, n_max: int, header: Any) -> None:
        self.width = width
        self.lanes = lanes
        self.wide = wide
        self.n_max = n_max
        self.header = header
        super().__init__(
            {
                "i": In(stream.Signature(candidate_beat(width, lanes, n_max, header))),
                "o": Out(stream.Signature(candidate_beat(width, wide, n_max, header))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        parts = self.wide // self.lanes
        part = Signal(range(max(2, parts)))
        arriving = self.i.payload
        beat = Signal.like(self.o.payload, name="beat", reset_less=True)
        m.d.comb += [self.o.payload.eq(beat), self.i.ready.eq(~self.o.valid | self.o.ready)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(0)
            with m.If(self.i.valid):
                ends = arriving.last | (part == parts - 1)
                m.d.sync += [
                    self.o.valid.eq(ends),
                    part.eq(Mux(ends, 0, part + 1)),
                    beat.count.eq(Mux(equals(part, 0), 0, beat.count) + arriving.count),
                    beat.last.eq(arriving.last),
                    beat.k.eq(arriving.k),
                    Value.cast(beat.header).eq(Value.cast(arriving.header)),
                ]
                for lane in range(self.wide):
                    with m.If(equals(part, lane // self.lanes)):
                        m.d.sync += beat.values[lane].eq(arriving.values[lane % self.lanes])
        return m
