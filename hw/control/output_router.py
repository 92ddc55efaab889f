"""Where a row's output goes: to memory, and to the head importance."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import by_slot, row_layout, slot_event, slot_layout
from spatten.hw.datapath.head_importance import weighted_beat
from spatten.hw.datapath.output_packer import placed_beat
from spatten.hw.datapath.pv import output_beat
from spatten.hw.lib.connections import by_member, optional
from spatten.spec.config import Config, Feature

__all__ = ["OutputRouter"]


class OutputRouter(wiring.Component):
    """Hands each beat of output to the output packer and to the head importance, in a cycle in which both take it.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `hw.datapath.pv.output_beat`
    slots : in, described at `hw.control.planner.Planner`
    o_placed : stream of `hw.datapath.output_packer.placed_beat`
    o_weighted : stream of `hw.datapath.head_importance.weighted_beat`; the multiplier of a row that does not accumulate
        is 0, since also its end counts; only with head pruning
    row_written : out, event of the row whose last beat is taken
    saturated : out, how many elements of the beat that is taken have saturated

    Combinational. Either output is valid only while the other one is ready; so neither taker may wait for valid to be
    ready, nor stop being ready while the other one stalls.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        lanes, bits = config.slice_width, config.operand_bits
        beat = output_beat(lanes=lanes, operand_bits=bits, head_dim_max=config.head_dim_max, header=row_layout(config))
        placed = placed_beat(
            lanes=lanes,
            operand_bits=bits,
            head_dim_max=config.head_dim_max,
            channels=config.channels,
            rows=config.tokens_max,
            heads=config.heads_max,
            address_bits=config.local_sector_bits,
        )
        self._has_heads = config.has(Feature.PRUNE_HEADS)
        weighted = weighted_beat(lanes=lanes, operand_bits=bits, slots=config.contexts, heads=config.heads_max)
        super().__init__(
            {
                "i": In(stream.Signature(beat)),
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "o_placed": Out(stream.Signature(placed)),
                **optional(self._has_heads, o_weighted=Out(stream.Signature(weighted))),
                "row_written": Out(slot_event(config)),
                "saturated": Out(range(config.head_dim_max + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        beat = self.i.payload
        row = beat.header
        job = Signal(slot_layout(self.config))
        placed = self.o_placed
        is_taken = self.i.valid & self.i.ready
        m.d.comb += [
            Value.cast(job).eq(by_slot(self.slots, row.slot)),
        ]
        if self._has_heads:
            weighted = self.o_weighted
            m.d.comb += [
                self.i.ready.eq(placed.ready & weighted.ready),
                placed.valid.eq(self.i.valid & weighted.ready),
                weighted.valid.eq(self.i.valid & placed.ready),
            ]
        else:
            m.d.comb += [self.i.ready.eq(placed.ready), placed.valid.eq(self.i.valid)]
        m.d.comb += [
            *by_member(placed.payload, beat, row=row.number, head=row.head, heads=job.heads, base=job.output),
        ]
        if self._has_heads:
            m.d.comb += by_member(
                weighted.payload,
                beat,
                slot=job.context,
                head=row.head,
                multiplier=Mux(row.accumulate, job.multiplier, 0),
            )
        m.d.comb += [
            self.row_written.valid.eq(is_taken & beat.last),
            self.row_written.slot.eq(row.slot),
            self.saturated.eq(Mux(is_taken, beat.saturated, 0)),
        ]
        return m
