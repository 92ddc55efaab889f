"""Reads the importance of heads of a job that ends."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_read
from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job_slots import slot_layout
from spatten.hw.lib.logic import first_set
from spatten.spec.config import Config

__all__ = ["HeadReader"]


class HeadReader(wiring.Component):
    """Asks for the importance of heads in ascending order: in step READ of the live heads, in SAVE of all heads.

    Which heads these are is set in the steps before them, HEADS and STORE.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, job : in, the job that ends, and how far it is
    reads : out, heads are being read
    o : stream of `head_read`
    answer_valid : in, the answer to the oldest read comes; only while `reads` is set
    answered_head : out, which head that answer is of, one bit a head
    done : out, all answers have come; of the step READ or SAVE

    Latency: one read per cycle from the step's first cycle on; `done` in the cycle after the last answer.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "step": In(FinishStep),
                "job": In(slot_layout(config)),
                "reads": Out(1),
                "o": Out(stream.Signature(head_read(config))),
                "answer_valid": In(1),
                "answered_head": Out(unsigned(config.heads_max)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads = self.config.heads_max
        every_head = (1 << heads) - 1
        unasked = Signal(heads, reset_less=True)
        unanswered = Signal(heads, reset_less=True)
        m.d.comb += [
            self.o.payload.context.eq(self.job.context),
            self.o.payload.head.eq(first_set(unasked)),
            self.answered_head.eq(unanswered & (~unanswered + 1)),
            self.done.eq(~unanswered.any()),
        ]

        def read() -> None:
            m.d.comb += [self.reads.eq(1), self.o.valid.eq(unasked.any())]
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += unasked.eq(unasked & (unasked - 1))
            with m.If(self.answer_valid):
                m.d.sync += unanswered.eq(unanswered & (unanswered - 1))

        with m.Switch(self.step):
            with m.Case(FinishStep.HEADS):
                m.d.sync += [unasked.eq(self.job.live_heads), unanswered.eq(self.job.live_heads)]
            with m.Case(FinishStep.READ):
                read()
            with m.Case(FinishStep.STORE):
                m.d.sync += [unasked.eq(every_head), unanswered.eq(every_head)]
            with m.Case(FinishStep.SAVE):
                read()
        return m
