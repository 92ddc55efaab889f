"""What came of the jobs in flight: how many tokens and which heads stay, and what has saturated."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job_slots import slot_shape
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import store_at
from spatten.spec.config import Config, Feature

__all__ = ["JobOutcomes", "job_outcome"]


def job_outcome(config: Config) -> data.StructLayout:
    """How many tokens stay, which heads stay, of how many tokens and of which heads the importance has saturated.

    Without head pruning all live heads stay, and nothing is noted of heads.
    """
    tokens = range(config.tokens_max + 1)
    heads = unsigned(config.heads_max)
    has_heads = config.has(Feature.PRUNE_HEADS)
    return data.StructLayout(
        {
            "kept_tokens": tokens,
            **optional(has_heads, kept_heads=heads),
            "saturated_tokens": tokens,
            **optional(has_heads, saturated_heads=heads),
        }
    )


class JobOutcomes(wiring.Component):
    """Notes for each slot what the end of its job finds out, until the job has been reported.

    Who is not pruned stays: all live tokens, all live heads.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, slot : in, how far the job that ends is, and its slot
    live, live_heads, prunes_tokens : in, its live tokens and heads (these only with head pruning), and whether it
        prunes tokens
    scatter_taken, keep_tokens : in, of step SCATTER: it ends; how many tokens stay at most, if tokens are pruned
    saturated_heads, kept_heads : in, of step CHOOSE; only with head pruning
    ends, saturated_tokens : in, of step END: it ends, with so many tokens' importance saturated
    outcomes : out, array of `job_outcome` by slot, each field from the cycle after its step on
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._has_heads = config.has(Feature.PRUNE_HEADS)
        tokens = range(config.tokens_max + 1)
        heads = unsigned(config.heads_max)
        super().__init__(
            {
                "step": In(FinishStep),
                "slot": In(slot_shape(config)),
                "live": In(tokens),
                **optional(self._has_heads, live_heads=In(heads)),
                "prunes_tokens": In(1),
                "scatter_taken": In(1),
                "keep_tokens": In(tokens),
                **optional(self._has_heads, saturated_heads=In(heads), kept_heads=In(heads)),
                "ends": In(1),
                "saturated_tokens": In(tokens),
                "outcomes": Out(data.ArrayLayout(job_outcome(config), config.jobs_in_flight)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        keep_tokens = self.keep_tokens
        registers: dict[str, list[Signal]] = {}
        for name, shape in job_outcome(self.config).members.items():
            registers[name] = []
            for n in range(self.config.jobs_in_flight):
                register = Signal(shape, name=f"{name}{n}", reset_less=True)
                m.d.comb += self.outcomes[n][name].eq(register)
                registers[name].append(register)

        def note(name: str, value: Any) -> None:
            store_at(m, registers[name], self.slot, value)

        with m.Switch(self.step):
            with m.Case(FinishStep.SCATTER):
                note("kept_tokens", self.live)
                if self._has_heads:
                    note("kept_heads", self.live_heads)
                    note("saturated_heads", 0)
                with m.If(self.scatter_taken), m.If(self.prunes_tokens):
                    note("kept_tokens", Mux(keep_tokens < self.live, keep_tokens, self.live))
            if self._has_heads:
                with m.Case(FinishStep.CHOOSE):
                    note("kept_heads", self.kept_heads)
                    note("saturated_heads", self.saturated_heads)
            with m.Case(FinishStep.END), m.If(self.ends):
                note("saturated_tokens", self.saturated_tokens)
        return m
