"""Which contexts and slots have a job, and what the job's gather leaves for its scatter."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.rank_memory import store_at
from spatten.hw.datapath.tokens.token_layouts import Layouts
from spatten.hw.lib.expander import select

__all__ = ["TokenJobs", "gather_jobs_port", "scatter_jobs_port"]


def gather_jobs_port(layouts: Layouts) -> wiring.Signature:
    """The side of the gather, with which jobs begin.

    taken_contexts, taken_slots : in, a bit for each, set while it has a job
    begins, begin_context, begin_slot : out, from the next cycle on these are taken
    gathered, slot, job : out, keep `job` (`Layouts.job`) for the scatter of `slot`
    """
    return wiring.Signature(
        {
            "taken_contexts": In(layouts.contexts),
            "taken_slots": In(layouts.slots),
            "begins": Out(1),
            "begin_context": Out(layouts.context),
            "begin_slot": Out(layouts.slot),
            "gathered": Out(1),
            "slot": Out(layouts.slot),
            "job": Out(layouts.job),
        }
    )


def scatter_jobs_port(layouts: Layouts) -> wiring.Signature:
    """The side of the scatter, with which jobs end.

    slot : out
    job : in, `Layouts.job`: what the gather of `slot` has left, in the same cycle
    ends, context : out, from the next cycle on `slot` and `context` are free
    """
    return wiring.Signature(
        {"slot": Out(layouts.slot), "job": In(layouts.job), "ends": Out(1), "context": Out(layouts.context)}
    )


class TokenJobs(wiring.Component):
    """The jobs between the command of their gather and the report of their scatter.

    Parameters
    ----------
    layouts : Layouts
        Sizes and payloads of the unit.

    Ports
    -----
    gather : in, `gather_jobs_port`
    scatter : in, `scatter_jobs_port`

    What is said in a cycle can be seen in the next one.
    """

    def __init__(self, *, layouts: Layouts) -> None:
        self.layouts = layouts
        super().__init__({"gather": In(gather_jobs_port(layouts)), "scatter": In(scatter_jobs_port(layouts))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        gather, scatter = self.gather, self.scatter
        context_taken = [Signal(name=f"context{n}_taken") for n in range(self.layouts.contexts)]
        slot_taken = [Signal(name=f"slot{n}_taken") for n in range(self.layouts.slots)]
        jobs = [Signal(self.layouts.job, name=f"slot{n}_job", reset_less=True) for n in range(self.layouts.slots)]
        with m.If(gather.begins):
            store_at(m, context_taken, gather.begin_context, 1)
            store_at(m, slot_taken, gather.begin_slot, 1)
        with m.If(gather.gathered):
            store_at(m, jobs, gather.slot, gather.job)
        with m.If(scatter.ends):
            store_at(m, context_taken, scatter.context, 0)
            store_at(m, slot_taken, scatter.slot, 0)
        m.d.comb += [
            gather.taken_contexts.eq(Cat(context_taken)),
            gather.taken_slots.eq(Cat(slot_taken)),
            scatter.job.eq(select([job.as_value() for job in jobs], scatter.slot)),
        ]
        return m
