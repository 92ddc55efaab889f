"""Reads the importance of heads of a job that ends, and holds what is to be stored of them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_answer, head_read
from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job_slots import context_shape
from spatten.hw.control.saved.state_layouts import head_state
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import first_set
from spatten.spec.config import Config, Feature

__all__ = ["HeadReader", "saved_heads"]


def saved_heads(config: Config) -> data.StructLayout:
    """Importance of every head, and which have saturated."""
    members = head_state(config).members
    return data.StructLayout({name: members[name] for name in ("importance", "saturated")})


class HeadReader(wiring.Component):
    """Asks for the importance of heads in ascending order: in step READ of the live heads, in SAVE of all heads.

    Which heads these are is set in the steps before them, HEADS and STORE. What is read in SAVE is collected, and held
    until the next job saves its state.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, context, live_heads : in, how far the job that ends is, its context and its live heads
    saves : in, of step STORE: the step SAVE follows; like `saved` only where states are saved
    reads : out, heads are being read
    o : stream of `head_read`
    answer : in, `head_answer`: that to the oldest read; valid only while `reads` is set
    answered_head : out, which head that answer is of, one bit a head
    done : out, all answers have come; of the step READ or SAVE
    saved : out, `saved_heads`; complete in the cycle after the last answer of SAVE

    Latency: one read per cycle from the step's first cycle on; `done` in the cycle after the last answer.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "step": In(FinishStep),
                "context": In(context_shape(config)),
                "live_heads": In(unsigned(config.heads_max)),
                **optional(config.has(Feature.SAVED_STATES), saves=In(1)),
                "reads": Out(1),
                "o": Out(stream.Signature(head_read(config))),
                "answer": In(head_answer(config)),
                "answered_head": Out(unsigned(config.heads_max)),
                "done": Out(1),
                **optional(config.has(Feature.SAVED_STATES), saved=Out(saved_heads(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads, width = self.config.heads_max, self.config.head_importance_bits
        every_head = (1 << heads) - 1
        unasked = Signal(heads, reset_less=True)
        unanswered = Signal(heads, reset_less=True)
        stores = self.config.has(Feature.SAVED_STATES)
        importance = Signal(heads * width, reset_less=True)
        saturated = Signal(heads, reset_less=True)
        m.d.comb += [
            self.o.valid.eq(self.reads & unasked.any()),
            self.o.payload.context.eq(self.context),
            self.o.payload.head.eq(first_set(unasked)),
            self.answered_head.eq(unanswered & (~unanswered + 1)),
            self.done.eq(~unanswered.any()),
        ]
        if stores:
            m.d.comb += [Value.cast(self.saved.importance).eq(importance), self.saved.saturated.eq(saturated)]

        with m.If(self.o.valid & self.o.ready):
            m.d.sync += unasked.eq(unasked & (unasked - 1))
        with m.If(self.answer.valid):
            m.d.sync += unanswered.eq(unanswered & (unanswered - 1))
        with m.Switch(self.step):
            with m.Case(FinishStep.HEADS):
                m.d.sync += [unasked.eq(self.live_heads), unanswered.eq(self.live_heads)]
            with m.Case(FinishStep.READ):
                m.d.comb += self.reads.eq(1)
            if stores:
                with m.Case(FinishStep.STORE):
                    m.d.sync += [unasked.eq(every_head), unanswered.eq(every_head)]
                    with m.If(self.saves):
                        m.d.sync += saturated.eq(0)
                with m.Case(FinishStep.SAVE):
                    m.d.comb += self.reads.eq(1)
                    with m.If(self.answer.valid):
                        # The first answer ends at the bottom.
                        m.d.sync += [
                            importance.eq(Cat(importance, self.answer.value)[width:]),
                            saturated.eq(saturated | Mux(self.answer.saturated, self.answered_head, 0)),
                        ]
        return m
