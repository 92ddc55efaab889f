"""Which contexts and slots have a job, and what the job's gather leaves for its scatter."""

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.logic import select, store_at

__all__ = ["TokenJobs"]


class TokenJobs(wiring.Component):
    """The jobs between the command of their gather and the report of their scatter.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    taken_contexts, taken_slots : out, a bit for each, set while it has a job
    begins, begin_context, begin_slot : in, these are taken from the next cycle on
    gathered, gathered_slot, gathered_job : in, the scatter of this slot is to have this `Layouts.job`
    scatter_slot : in
    scatter_job : out, the `Layouts.job` of `scatter_slot`, in the same cycle
    ends, end_context : in, this context and `scatter_slot` are free from the next cycle on; not in the cycle in which
        they are taken

    What is said in a cycle can be seen in the next one.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__(
            {
                "taken_contexts": Out(layouts.contexts),
                "taken_slots": Out(layouts.slots),
                "begins": In(1),
                "begin_context": In(layouts.context),
                "begin_slot": In(layouts.slot),
                "gathered": In(1),
                "gathered_slot": In(layouts.slot),
                "gathered_job": In(layouts.job),
                "scatter_slot": In(layouts.slot),
                "scatter_job": Out(layouts.job),
                "ends": In(1),
                "end_context": In(layouts.context),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        contexts, slots = self.layouts.contexts, self.layouts.slots
        context_taken = [Signal(name=f"context{n}_taken") for n in range(contexts)]
        slot_taken = [Signal(name=f"slot{n}_taken") for n in range(slots)]
        jobs = [Signal(self.layouts.job, name=f"slot{n}_job", reset_less=True) for n in range(slots)]
        with m.If(self.begins):
            store_at(m, context_taken, self.begin_context, 1)
            store_at(m, slot_taken, self.begin_slot, 1)
        with m.If(self.gathered):
            store_at(m, jobs, self.gathered_slot, self.gathered_job)
        with m.If(self.ends):
            store_at(m, context_taken, self.end_context, 0)
            store_at(m, slot_taken, self.scatter_slot, 0)
        m.d.comb += [
            self.taken_contexts.eq(Cat(context_taken)),
            self.taken_slots.eq(Cat(slot_taken)),
            self.scatter_job.eq(select([job.as_value() for job in jobs], self.scatter_slot)),
        ]
        if asserts(platform):
            meets = (self.begin_context == self.end_context) | (self.begin_slot == self.scatter_slot)
            m.d.sync += Assert(~(self.begins & self.ends & meets), "a job begins with what another job ends with\n")
        return m
