"""The head importance of a context when a job begins: cleared, loaded, or aged."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_access, head_answer
from spatten.hw.control.job_layouts import job_layout
from spatten.hw.control.job_slots import context_shape
from spatten.hw.control.state import head_state
from spatten.spec.config import Config
from spatten.spec.job import Flag

__all__ = ["HeadAgeing"]


class HeadAgeing(wiring.Component):
    """Clears a context's head importance or writes what was loaded, or ages it: reads every value and writes it back.

    A job with the flag CLEAR clears it, one with LOAD_STATE writes `loaded`, one that ages shifts every value right by
    its `age_shift`, loaded ones as well; other jobs leave it as it is.

    Parameters
    ----------
    config : Config

    Ports
    -----
    begins, job : in, in this cycle this job begins
    loaded : in, `head_state`, the state that was loaded for it
    o : stream of `head_access`; whoever takes it sets `ready` only together with `valid`
    answer : in, `head_answer`
    busy : out, some head is not done yet

    Latency: `busy` from the cycle after `begins`. A head is done when its write is taken; a read precedes that of a
    head that is aged, and the next head is asked for in the cycles in which no answer comes.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "begins": In(1),
                "job": In(job_layout(config)),
                "loaded": In(head_state(config)),
                "o": Out(stream.Signature(head_access(config))),
                "answer": In(head_answer(config)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads, bits = self.config.heads_max, self.config.head_importance_bits
        job = self.job
        context = Signal(context_shape(self.config), reset_less=True)
        shift = Signal(5, reset_less=True)
        clears, restores = Signal(reset_less=True), Signal(reset_less=True)
        unwritten = Signal(heads * bits, reset_less=True)
        asked = Signal(range(heads + 1), init=heads)
        written = Signal(range(heads + 1), init=heads)
        access = self.o.payload
        # Loaded importance may be aged, too: the values from memory are shifted as they are written.
        writes = clears | restores | self.answer.valid
        value = Mux(restores, unwritten[:bits], self.answer.value)
        m.d.comb += [
            self.busy.eq(written != heads),
            access.slot.eq(context),
            access.write.eq(writes),
            access.head.eq(Mux(writes, written, asked)),
            access.value.eq(Mux(clears, 0, value >> shift)),
            self.o.valid.eq(self.busy & (writes | (asked != heads))),
        ]
        with m.If(self.o.ready):
            with m.If(writes):
                m.d.sync += [written.eq(written + 1), unwritten.eq(unwritten >> bits)]
            with m.Else():
                m.d.sync += asked.eq(asked + 1)
        with m.If(self.begins & (job.flags[Flag.CLEAR] | job.flags[Flag.LOAD_STATE] | job.age_shift.any())):
            m.d.sync += [
                context.eq(job.context),
                shift.eq(job.age_shift),
                clears.eq(job.flags[Flag.CLEAR]),
                restores.eq(job.flags[Flag.LOAD_STATE]),
                unwritten.eq(Cat(self.loaded.importance[h] for h in range(heads))),
                asked.eq(0),
                written.eq(0),
            ]
        return m
