"""The importance of a context's heads while the context's state is being stored."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_answer
from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.state import head_state
from spatten.spec.config import Config

__all__ = ["SavedHeads", "saved_heads"]


def saved_heads(config: Config) -> data.StructLayout:
    """Importance of every head, and which have saturated."""
    members = head_state(config).members
    return data.StructLayout({name: members[name] for name in ("importance", "saturated")})


class SavedHeads(wiring.Component):
    """Collects what is read of the heads in step SAVE, and holds it until the next job saves its state.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, stores : in, how far the job that ends is; whether its context's state is to be stored
    begins : in, in step STORE of such a job: the step SAVE follows
    answer, answered_head : in, what is read of which head, in ascending order (`hw.control.job.head_reader.HeadReader`)
    heads : out, `saved_heads`; complete in the cycle after the last answer
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "step": In(FinishStep),
                "stores": In(1),
                "begins": In(1),
                "answer": In(head_answer(config)),
                "answered_head": In(unsigned(config.heads_max)),
                "heads": Out(saved_heads(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads, width = self.config.heads_max, self.config.head_importance_bits
        importance = Signal(heads * width, reset_less=True)
        saturated = Signal(heads, reset_less=True)
        m.d.comb += [Value.cast(self.heads.importance).eq(importance), self.heads.saturated.eq(saturated)]
        with m.Switch(self.step):
            with m.Case(FinishStep.STORE):
                with m.If(~self.stores):
                    pass  # there is nothing to save
                with m.Elif(self.begins):
                    m.d.sync += saturated.eq(0)
            with m.Case(FinishStep.SAVE), m.If(self.answer.valid):
                # The first answer ends at the bottom.
                m.d.sync += [
                    importance.eq(Cat(importance, self.answer.value)[width:]),
                    saturated.eq(saturated | Mux(self.answer.saturated, self.answered_head, 0)),
                ]
        return m
