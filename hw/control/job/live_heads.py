"""Which heads each context keeps, and which of them take part in the job that starts."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.job_steps import StartStep
from spatten.hw.control.job_layouts import flag_of, job_layout
from spatten.hw.control.job_slots import choice_event
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import count_ones, select, store_at
from spatten.spec.config import Config, Feature
from spatten.spec.job import Flag

__all__ = ["LiveHeads"]


class LiveHeads(wiring.Component):
    """Holds the kept heads of each context; a job's live heads are those that its context keeps, of its mask.

    A job that clears or restarts its context has all heads of its mask. The kept heads of a context are replaced when
    its state has been loaded, and when a job has chosen who stays. After a reset each context keeps all heads.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, job : in, the job that starts, and how far it is
    loaded, loaded_kept : in, in step LOAD the state of the job's context has been loaded, with these kept heads; only
        where states are saved
    choice : in, `choice_event`; in the same cycle the state of another context may be loaded
    live_heads, count : out, the heads that take part, and how many they are

    Latency: `live_heads` is a cycle behind `job` and the kept heads, `count` two.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "step": In(StartStep),
                "job": In(job_layout(config)),
                **optional(config.has(Feature.SAVED_STATES), loaded=In(1), loaded_kept=In(unsigned(config.heads_max))),
                "choice": In(choice_event(config)),
                "live_heads": Out(unsigned(config.heads_max)),
                "count": Out(range(config.heads_max + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads = self.config.heads_max
        kept_heads = [Signal(heads, name=f"kept_heads{n}", init=(1 << heads) - 1) for n in range(self.config.contexts)]
        if self.config.has(Feature.SAVED_STATES):
            with m.Switch(self.step), m.Case(StartStep.LOAD), m.If(self.loaded):
                store_at(m, kept_heads, self.job.context, self.loaded_kept)
        with m.If(self.choice.valid):
            store_at(m, kept_heads, self.choice.context, self.choice.kept_heads)

        clears, restarts = (flag_of(self.config, self.job.flags, flag) for flag in (Flag.CLEAR, Flag.RESTART))
        all_heads = clears | restarts
        live_heads = Signal(heads, reset_less=True)
        candidates = select(kept_heads, self.job.context) | all_heads.replicate(heads)
        m.d.sync += live_heads.eq(candidates & self.job.head_mask)
        count = Signal(range(heads + 1), reset_less=True)
        m.d.sync += count.eq(count_ones(list(live_heads)))
        m.d.comb += [self.live_heads.eq(live_heads), self.count.eq(count)]
        return m
