"""The tokens and heads that a job keeps, as the top-k engine chooses them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_answer
from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.quick_select import candidate_beat
from spatten.hw.datapath.topk import kept_beat
from spatten.hw.lib.connections import optional
from spatten.spec.config import Config, Feature

__all__ = ["KeptChoice", "topk_sizes"]


def topk_sizes(config: Config) -> dict[str, int]:
    """Parameters of the top-k engine that prunes tokens and heads."""
    width, most = config.token_importance_bits, config.tokens_max
    if config.has(Feature.PRUNE_HEADS):
        width, most = max(width, config.head_importance_bits), max(most, config.heads_max)
    return {"width": width + 1, "lanes": config.topk_lanes, "n_max": most}


class KeptChoice(wiring.Component):
    """Sends the importance of a job's tokens, then that of its live heads, to the top-k engine, and hands on who stays.

    *Tokens*, in step TOKENS from its second cycle on: candidates go from the token importance unit to the engine, and
    its answers back.

    *Heads*: what is read in step READ is collected, and goes to the engine in SEND, `topk_lanes` heads a beat. All
    heads are candidates, each in its own place: that of a live head is its importance with a 1 behind it, that of
    another head is 0, which is below all of them. Marks of heads that do not live, which come if more are to stay than
    live, do not count.

    Where heads cannot be pruned, there are no ports for them.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, live_heads : in, how far the job that ends is, and its live heads
    keep_tokens, keep_heads : in, how many tokens and heads stay, if so many live
    answer, answered_head : in, what is read of which head (`hw.control.job.head_reader.HeadReader`)
    i_candidates, o_kept : streams from and to `hw.datapath.token_importance.TokenImportance`
    o_topk : stream of candidates, i_topk : stream of marks, to and from the engine (`topk_sizes`)
    tokens_done, heads_done : out, of the steps TOKENS and SEND: the last of the engine's answers is being taken
    kept_heads : out, the heads that stay, in step CHOOSE
    saturated_heads : out, which of the heads that were read have saturated, in step CHOOSE

    Combinational between the token importance unit and the engine; one beat per cycle.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._has_heads = config.has(Feature.PRUNE_HEADS)
        heads = unsigned(config.heads_max)
        sizes = topk_sizes(config)
        payloads = layouts(config)
        super().__init__(
            {
                "step": In(FinishStep),
                **optional(self._has_heads, live_heads=In(heads)),
                "keep_tokens": In(range(config.tokens_max + 1)),
                **(
                    {
                        "keep_heads": In(slot_layout(config).members["keep_heads"]),
                        "answer": In(head_answer(config)),
                        "answered_head": In(heads),
                    }
                    if self._has_heads
                    else {}
                ),
                "i_candidates": In(stream.Signature(payloads.candidates)),
                "o_kept": Out(stream.Signature(payloads.kept)),
                "o_topk": Out(stream.Signature(candidate_beat(sizes["width"], sizes["lanes"], sizes["n_max"]))),
                "i_topk": In(stream.Signature(kept_beat(sizes["width"], sizes["lanes"]))),
                "tokens_done": Out(1),
                **optional(self._has_heads, heads_done=Out(1), kept_heads=Out(heads), saturated_heads=Out(heads)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self._tokens = Signal()
        """The engine works on tokens."""
        m.d.sync += self._tokens.eq((self.step == FinishStep.TOKENS) & ~self.tokens_done)
        if not self._has_heads:
            self._choose_tokens(m)
            return m
        self._lines = -(-self.config.heads_max // self.config.topk_lanes)
        """Beats of the heads."""
        self._takes_heads = Signal()
        """Its answers are of heads."""
        m.d.comb += self._takes_heads.eq(self.step == FinishStep.SEND)
        self._candidates(m)
        self._answers(m)
        return m

    def _choose_tokens(self, m: Module) -> None:
        """What goes to the engine and comes from it, where it prunes tokens only."""
        takes = self._tokens
        candidates, answers = self.i_candidates, self.i_topk
        topk = self.o_topk.payload
        m.d.comb += [
            self.o_topk.valid.eq(takes & candidates.valid),
            candidates.ready.eq(takes & self.o_topk.ready),
            topk.k.eq(self.keep_tokens),
            topk.last.eq(candidates.payload.last),
            topk.count.eq(candidates.payload.count),
            *(topk.values[lane].eq(candidates.payload.keys[lane]) for lane in range(self.config.topk_lanes)),
            self.o_kept.valid.eq(takes & answers.valid),
            self.o_kept.payload.eq(answers.payload.mask),
            answers.ready.eq(takes & self.o_kept.ready),
            self.tokens_done.eq(self.o_kept.valid & self.o_kept.ready & answers.payload.last),
        ]

    def _candidates(self, m: Module) -> None:
        """What goes to the engine."""
        config = self.config
        heads, lanes, lines = config.heads_max, config.topk_lanes, self._lines
        keys = Signal(data.ArrayLayout(config.head_importance_bits + 1, heads), reset_less=True)
        """What is left of the heads' candidates."""
        saturated = Signal(heads, reset_less=True)
        line = Signal(range(lines + 1), reset_less=True)
        is_last, sends = Signal(), Signal()
        count = Mux(is_last, heads - (lines - 1) * lanes, lanes)
        topk, candidates = self.o_topk.payload, self.i_candidates.payload
        m.d.comb += [
            is_last.eq(line == lines - 1),
            self.saturated_heads.eq(saturated),
            self.o_topk.valid.eq(Mux(self._tokens, self.i_candidates.valid, sends)),
            self.i_candidates.ready.eq(self._tokens & self.o_topk.ready),
            topk.k.eq(Mux(self._tokens, self.keep_tokens, self.keep_heads)),
            topk.last.eq(Mux(self._tokens, candidates.last, is_last)),
            topk.count.eq(Mux(self._tokens, candidates.count, count)),
        ]
        for lane in range(lanes):
            key = keys[lane] if lane < heads else Const(0)
            m.d.comb += topk.values[lane].eq(Mux(self._tokens, candidates.keys[lane], key))
        with m.If(sends & self.o_topk.ready):
            m.d.sync += line.eq(line + 1)
            m.d.sync += [keys[head].eq(keys[head + lanes]) for head in range(heads - lanes)]
        with m.Switch(self.step):
            with m.Case(FinishStep.HEADS):
                m.d.sync += [line.eq(0), Value.cast(keys).eq(0), saturated.eq(0)]
            with m.Case(FinishStep.READ), m.If(self.answer.valid):
                for head in range(heads):
                    with m.If(self.answered_head[head]):
                        m.d.sync += [
                            keys[head].eq(Cat(Const(1, 1), self.answer.value)),
                            saturated[head].eq(self.answer.saturated),
                        ]
            with m.Case(FinishStep.SEND):
                m.d.comb += sends.eq(line != lines)

    def _answers(self, m: Module) -> None:
        """What comes from the engine: it goes to the token importance unit, or says which heads stay."""
        heads, lanes = self.config.heads_max, self.config.topk_lanes
        answer = self.i_topk.payload
        m.d.comb += [
            self.o_kept.valid.eq(self.i_topk.valid & self._tokens),
            self.o_kept.payload.eq(answer.mask),
            self.i_topk.ready.eq(self._takes_heads | (self._tokens & self.o_kept.ready)),
            self.tokens_done.eq(self.o_kept.valid & self.o_kept.ready & answer.last),
            self.heads_done.eq(self.i_topk.valid & answer.last),
        ]
        marks = Signal(self._lines * lanes, reset_less=True)
        """The answers so far; the first one ends at the bottom."""
        with m.If(self.i_topk.valid & self._takes_heads):
            m.d.sync += marks.eq(Cat(marks, answer.mask)[lanes:])
        m.d.comb += self.kept_heads.eq(self.live_heads & marks[:heads])
