"""The tokens and heads that a job keeps, as the top-k engine chooses them."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job.head_port import head_answer, head_shape
from spatten.hw.control.job.job_steps import FinishStep
from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.state import layouts
from spatten.hw.datapath.quick_select import candidate_beat
from spatten.hw.datapath.topk import kept_beat
from spatten.hw.lib.logic import count_ones, product
from spatten.spec.config import Config

__all__ = ["KeptChoice", "topk_sizes"]


def topk_sizes(config: Config) -> dict[str, int]:
    """Parameters of the top-k engine that prunes tokens and heads."""
    return {
        "width": max(config.token_importance_bits, config.head_importance_bits) + 1,
        "lanes": config.topk_lanes,
        "n_max": max(config.tokens_max, config.heads_max),
    }


class KeptChoice(wiring.Component):
    """Sends the importance of a job's tokens, then that of its live heads, to the top-k engine, and hands on who stays.

    *Tokens*, in step TOKENS: candidates go from the token importance unit to the engine, and its answers back.

    *Heads*: what is read in step READ is collected; in ALIGN it moves to the bottom, and in SEND it goes to the engine,
    `topk_lanes` a beat, in the order of the live heads' ranks. The answers say who stays by rank; in CHOOSE
    `kept_heads` says it by head.

    Parameters
    ----------
    config : Config

    Ports
    -----
    step, job : in, the job that ends, and how far it is
    keep_tokens : in, how many tokens stay
    answer, answered_head : in, what is read of which head (`hw.control.job.head_reader.HeadReader`)
    i_candidates, o_kept : streams from and to `hw.datapath.token_importance.TokenImportance`
    o_topk : stream of candidates, i_topk : stream of marks, to and from the engine (`topk_sizes`)
    tokens_done, heads_done : out, of the steps TOKENS and SEND: the last of the engine's answers is being taken
    kept_heads : out, the heads that stay, in step CHOOSE
    saturated_heads : out, which of the heads that were read have saturated, in step ALIGN

    Combinational between the token importance unit and the engine; one beat per cycle.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        sizes = topk_sizes(config)
        payloads = layouts(config)
        super().__init__(
            {
                "step": In(FinishStep),
                "job": In(slot_layout(config)),
                "keep_tokens": In(range(config.tokens_max + 1)),
                "answer": In(head_answer(config)),
                "answered_head": In(unsigned(config.heads_max)),
                "i_candidates": In(stream.Signature(payloads.candidates)),
                "o_kept": Out(stream.Signature(payloads.kept)),
                "o_topk": Out(stream.Signature(candidate_beat(sizes["width"], sizes["lanes"], sizes["n_max"]))),
                "i_topk": In(stream.Signature(kept_beat(sizes["width"], sizes["lanes"]))),
                "tokens_done": Out(1),
                "heads_done": Out(1),
                "kept_heads": Out(unsigned(config.heads_max)),
                "saturated_heads": Out(unsigned(config.heads_max)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads = self.config.heads_max
        self._head_count = Signal(range(heads + 1), reset_less=True)
        m.d.sync += self._head_count.eq(count_ones(list(self.job.live_heads)))
        self._tokens = Signal()
        """The engine works on tokens."""
        self._takes_heads = Signal()
        """Its answers are of heads."""
        with m.Switch(self.step):
            with m.Case(FinishStep.TOKENS):
                m.d.comb += self._tokens.eq(1)
            with m.Case(FinishStep.SEND):
                m.d.comb += self._takes_heads.eq(1)
        self._candidates(m)
        self._answers(m)
        return m

    def _candidates(self, m: Module) -> None:
        """What goes to the engine."""
        config, job = self.config, self.job
        lanes, width = config.topk_lanes, config.head_importance_bits
        # The importance of the live heads, in the order of their ranks.
        values = Signal(config.heads_max * width, reset_less=True)
        saturated = Signal(config.heads_max, reset_less=True)
        unsent = Signal(range(config.heads_max + 1), reset_less=True)
        sends = Signal()
        topk, candidates = self.o_topk.payload, self.i_candidates.payload
        m.d.comb += [
            self.saturated_heads.eq(saturated),
            self.o_topk.valid.eq(Mux(self._tokens, self.i_candidates.valid, sends)),
            self.i_candidates.ready.eq(self._tokens & self.o_topk.ready),
            topk.k.eq(Mux(self._tokens, self.keep_tokens, job.keep_heads)),
            topk.last.eq(Mux(self._tokens, candidates.last, unsent <= lanes)),
            topk.count.eq(Mux(self._tokens, candidates.count, Mux(unsent <= lanes, unsent, lanes))),
        ]
        for lane in range(lanes):
            value = values.word_select(lane, width) if lane < config.heads_max else Const(0)
            m.d.comb += topk.values[lane].eq(Mux(self._tokens, candidates.keys[lane], value))
        with m.If(sends & self.o_topk.ready):
            m.d.sync += [unsent.eq(unsent - topk.count), values.eq(values >> (lanes * width))]
        with m.Switch(self.step):
            with m.Case(FinishStep.HEADS):
                m.d.sync += [unsent.eq(self._head_count), saturated.eq(0)]
            with m.Case(FinishStep.READ), m.If(self.answer.valid):
                # Answers come in at the top and push earlier ones down; ALIGN brings the first to the bottom.
                m.d.sync += [
                    values.eq(Cat(values[width:], self.answer.value)),
                    saturated.eq(saturated | Mux(self.answer.saturated, self.answered_head, 0)),
                ]
            with m.Case(FinishStep.ALIGN):
                absent = (config.heads_max - self._head_count)[: len(self._head_count)]
                m.d.sync += values.eq(values >> product(Const(width, 8), absent))
            with m.Case(FinishStep.SEND):
                m.d.comb += sends.eq(unsent.any())

    def _answers(self, m: Module) -> None:
        """What comes from the engine: it goes to the token importance unit, or is who stays of the heads, by rank."""
        config, job = self.config, self.job
        lanes = config.topk_lanes
        answer = self.i_topk.payload
        m.d.comb += [
            self.o_kept.valid.eq(self.i_topk.valid & self._tokens),
            self.o_kept.payload.eq(answer.mask),
            self.i_topk.ready.eq(self._takes_heads | (self._tokens & self.o_kept.ready)),
            self.tokens_done.eq(self.o_kept.valid & self.o_kept.ready & answer.last),
            self.heads_done.eq(self.i_topk.valid & answer.last),
        ]
        kept_ranks = Signal(config.heads_max, reset_less=True)
        first_rank = Signal(range(config.heads_max + lanes + 1), reset_less=True)
        with m.If(self.i_topk.valid & self._takes_heads):
            m.d.sync += [
                kept_ranks.eq(kept_ranks | (answer.mask << first_rank)[: config.heads_max]),
                first_rank.eq(first_rank + lanes),
            ]
        with m.Switch(self.step), m.Case(FinishStep.HEADS):
            m.d.sync += [kept_ranks.eq(0), first_rank.eq(0)]
        for head in range(config.heads_max):
            rank = Signal(head_shape(config), name=f"rank_of_head{head}", reset_less=True)
            m.d.sync += rank.eq(count_ones([job.live_heads[i] for i in range(head)]))
            m.d.comb += self.kept_heads[head].eq(job.live_heads[head] & kept_ranks.bit_select(rank, 1))
