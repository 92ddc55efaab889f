"""Where a row's probabilities go: to the values at once or by way of local pruning, and to the token importance."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import row_layout, slot_event
from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.control.value_reader import prob_row
from spatten.hw.datapath.progressive import row_header
from spatten.hw.datapath.select.select_layouts import candidate_beat
from spatten.hw.datapath.softmax import prob_beat
from spatten.hw.lib.connections import by_member, optional, pass_on
from spatten.hw.lib.logic import select
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS

__all__ = ["ProbRouter", "softmax_header"]


def softmax_header(config: Config) -> data.StructLayout:
    """What travels with a row through softmax: `hw.datapath.progressive.row_header` of the row, or the row alone where
    none is computed again."""
    row = row_layout(config)
    return row_header(STASH_SLOTS, row) if config.has(Feature.PROGRESSIVE) else row


class ProbRouter(wiring.Component):
    """Hands each beat of probabilities to the value reader, or to the top-k engine if its row is pruned locally, and in
    the same cycle to the token importance.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `hw.datapath.softmax.prob_beat`
    keep_values : in, for each job in flight how many values a row keeps under local pruning
    o_all : stream of `hw.control.value_reader.prob_row`
    o_topk : stream of `hw.datapath.select.select_layouts.candidate_beat`, `softmax_lanes` wide; like `keep_values` only
        with local pruning
    o_importance : out, `valid` and `payload`, what `hw.datapath.token_importance.TokenImportance` always takes: a beat
        whose row does not accumulate has a count of 0, since also its end counts
    probs_done : out, event of the row whose last beat is taken

    Combinational; `i.ready` is that of the stream that the row goes to.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._prunes = config.has(Feature.PRUNE_VALUES)
        row = row_layout(config)
        lanes, bits = config.softmax_lanes, config.prob_bits
        importance = wiring.Signature({"valid": Out(1), "payload": Out(layouts(config).probs)})
        super().__init__(
            {
                "i": In(stream.Signature(prob_beat(lanes, bits, softmax_header(config)))),
                **optional(
                    self._prunes, keep_values=In(data.ArrayLayout(range(config.tokens_max + 1), config.jobs_in_flight))
                ),
                "o_all": Out(stream.Signature(prob_row(config))),
                **optional(
                    self._prunes, o_topk=Out(stream.Signature(candidate_beat(bits, lanes, config.tokens_max, row)))
                ),
                "o_importance": Out(importance),
                "probs_done": Out(slot_event(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beat = self.i.payload
        row = beat.header.header if self.config.has(Feature.PROGRESSIVE) else beat.header
        is_taken = self.i.valid & self.i.ready
        if self._prunes:
            keep = select([self.keep_values[slot] for slot in range(self.config.jobs_in_flight)], row.slot)
            m.d.comb += [
                self.i.ready.eq(Mux(row.prune, self.o_topk.ready, self.o_all.ready)),
                self.o_all.valid.eq(self.i.valid & ~row.prune),
                *by_member(self.o_all.payload, beat, row=row),
                self.o_topk.valid.eq(self.i.valid & row.prune),
                *by_member(self.o_topk.payload, beat, values=beat.probs, k=keep, header=row),
            ]
        else:
            pass_on(m, self.i, self.o_all, row=row)
        m.d.comb += [
            self.o_importance.valid.eq(is_taken),
            *by_member(self.o_importance.payload, beat, count=Mux(row.accumulate, beat.count, 0), slot=row.slot),
            self.probs_done.valid.eq(is_taken & beat.last),
            self.probs_done.slot.eq(row.slot),
        ]
        return m
