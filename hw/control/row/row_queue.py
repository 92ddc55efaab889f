"""Queues of rows of probabilities that wait for their values."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, ResetSignal, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.row.row_layouts import prob_beat
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.fifo import Fifo
from spatten.spec.config import Config

__all__ = ["RowQueue"]


class RowQueue(wiring.Component):
    """Holds the beats of rows, and in a queue of their own what the rows are, so that this is known ahead.

    There is always room for two whole rows of beats: while one is being read another can come in, however long. Rows
    that are shorter find room for more of them, up to twice the beats of softmax in a row.

    Parameters
    ----------
    config : Config
    lanes : int
        Probabilities of a beat.

    Ports
    -----
    i : stream of `prob_beat` and `row` (`hw.control.job_slots.row_layout`), which is that of a row's first beat
    o_row : stream of `row_layout`, once for each row
    o_beat : stream of `prob_beat`

    Latency: 2 cycles; `i.ready` comes from registers. An assertion checks in simulation that no row has more
    beats than `tokens_max` keys take: else two whole rows would not find room.
    """

    def __init__(self, *, config: Config, lanes: int) -> None:
        self.config = config
        self.lanes = lanes
        beat = prob_beat(config, lanes)
        row = row_layout(config)
        self.beats_max = -(-config.tokens_max // lanes)
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout({**beat.members, "row": row}))),
                "o_row": Out(stream.Signature(row)),
                "o_beat": Out(stream.Signature(beat)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.rows = rows = Fifo(
            shape=row_layout(config), depth=2 * -(-config.tokens_max // config.softmax_lanes)
        )
        m.submodules.beats = beats = Fifo(shape=prob_beat(config, self.lanes), depth=2 * self.beats_max)
        wiring.connect(m, rows.o, wiring.flipped(self.o_row))
        wiring.connect(m, beats.o, wiring.flipped(self.o_beat))
        begins = Signal(init=1)
        beat = self.i.payload
        m.d.comb += [
            self.i.ready.eq(rows.i.ready & beats.i.ready),
            rows.i.valid.eq(self.i.valid & beats.i.ready & begins),
            rows.i.payload.eq(beat.row),
            beats.i.valid.eq(self.i.valid & rows.i.ready),
            beats.i.payload.probs.eq(beat.probs),
            beats.i.payload.count.eq(beat.count),
            beats.i.payload.last.eq(beat.last),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += begins.eq(beat.last)
        if asserts(platform):
            number = Signal(range(self.beats_max + 1))
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += number.eq(number + 1)
                with m.If(beat.last):
                    m.d.sync += number.eq(0)
            m.d.sync += Assert(
                ResetSignal() | ~self.i.valid | (number != self.beats_max), "a row has more beats than tokens take\n"
            )
        return m
