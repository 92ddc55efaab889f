"""The score scales of a job's heads on their way to row control."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job_layouts import job_layout
from spatten.hw.control.job_slots import head_shape, slot_shape
from spatten.hw.control.segments import scale_write
from spatten.hw.lib.logic import first_set, select
from spatten.spec.config import Config

__all__ = ["ScaleWriter"]


class ScaleWriter(wiring.Component):
    """Writes the score scales of the live heads, one per cycle: each before row control reads it.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, slot, live_heads : in, the job that starts, and how far it is: writing begins in the cycle after SHAPE
    scales : in, the score scale of every head; they stay until all have been written
    scale : out, `scale_write`; while `enable` is set, there are scales to write

    Latency: one cycle for each live head, in ascending order.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "step": In(StartStep),
                "slot": In(slot_shape(config)),
                "live_heads": In(unsigned(config.heads_max)),
                "scales": In(job_layout(config).members["scales"]),
                "scale": Out(scale_write(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads = self.config.heads_max
        # The head whose scale is written, and those behind it.
        writes = Signal()
        head = Signal(head_shape(self.config), reset_less=True)
        left = Signal(heads)
        following = Signal(heads)
        scale = Signal(self.scales[0].shape())
        m.d.comb += [
            following.eq(left),
            Value.cast(scale).eq(select([Value.cast(self.scales[h]) for h in range(heads)], head)),
            self.scale.enable.eq(writes),
            self.scale.slot.eq(self.slot),
            self.scale.head.eq(head),
            self.scale.mantissa.eq(scale.mantissa),
            self.scale.shift.eq(scale.shift),
        ]
        with m.Switch(self.step), m.Case(StartStep.SHAPE):
            m.d.comb += following.eq(self.live_heads)
        m.d.sync += [
            writes.eq(following.any()),
            head.eq(first_set(following)),
            left.eq(following & (following - 1)),
        ]
        return m
