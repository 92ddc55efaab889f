"""Wide beats of probabilities in parts, one after the other."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.row.row_layouts import prob_beat
from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.fifo import SkidBuffer
from spatten.hw.lib.logic import select
from spatten.spec.config import Config

__all__ = ["BeatSplitter"]


class BeatSplitter(wiring.Component):
    """Splits beats as wide as the top-k engine into beats as wide as softmax; a part without probabilities is left out.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `prob_beat` of `topk_lanes`
    o : stream of `prob_beat` of `softmax_lanes`, through a skid buffer

    Throughput: an output beat per cycle. Combinational from `i` to `i.ready`.
    """

    def __init__(self, *, config: Config) -> None:
        self.lanes = config.softmax_lanes
        self.wide_lanes = config.topk_lanes
        self.narrow = prob_beat(config, self.lanes)
        super().__init__(
            {
                "i": In(stream.Signature(prob_beat(config, self.wide_lanes))),
                "o": Out(stream.Signature(self.narrow)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        lanes = self.lanes
        parts = self.wide_lanes // lanes
        m.submodules.buffer = buffer = SkidBuffer(shape=self.narrow)
        wiring.connect(m, buffer.o, wiring.flipped(self.o))
        part = Signal(range(max(2, parts)))
        left = Signal(range(self.wide_lanes + 1))
        last_part = Signal()
        wide, narrow = self.i.payload, buffer.i.payload
        m.d.comb += [
            left.eq(wide.count - part * lanes),
            last_part.eq(left <= lanes),
            buffer.i.valid.eq(self.i.valid),
            self.i.ready.eq(buffer.i.ready & last_part),
            narrow.probs.eq(select([Cat(wide.probs[n * lanes + i] for i in range(lanes)) for n in range(parts)], part)),
            narrow.count.eq(Mux(last_part, left, lanes)),
            narrow.last.eq(wide.last & last_part),
        ]
        with m.If(buffer.i.valid & buffer.i.ready):
            m.d.sync += part.eq(Mux(last_part, 0, part + 1))
        return m
