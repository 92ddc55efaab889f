"""Which query row meets which keys, and when: from blocks that have been allocated to segments of rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.plan_layouts import again_row
from spatten.hw.control.row.again_segments import AgainSegments
from spatten.hw.control.row.chunk_blocks import ChunkBlocks
from spatten.hw.control.row.chunk_walker import ChunkWalker
from spatten.hw.control.row.row_layouts import row_segment
from spatten.hw.control.row.score_scales import ScoreScales
from spatten.hw.control.row.stash_slots import StashSlots
from spatten.hw.control.segments import key_segment, query_segment, scale_write
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import SkidBuffer
from spatten.hw.memory.block_table import entry_shape, granted_block
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.row_format import key_ring_sectors, query_ring_sectors

__all__ = ["RowControl"]


class RowControl(wiring.Component):
    """Decides which rows come next: job after job, head after head, chunk after chunk of queries; flat rows in between.

    A segment, the rows of a chunk with the keys of their head, goes to both readers once its query, key and value
    blocks have their space: from then on no later segment can keep it from being finished. A row that is computed again
    goes before all segments that wait, as soon as its keys have begun to come. A row that may have to be computed again
    goes only when there is a *stash slot* for its query and, of kind FIRST, for its scores.

    **A flat row** goes in a loop: softmax finds it flat and drops it (`Progressive.i_decision`);
    `hw.datapath.progressive.Progressive` says which kind its next pass must have (its `o_again`, which is
    `Planner.i_flat`); `Refetch`, a part of `hw.control.planner.Planner`, fetches its keys into the refetch area
    (`hw.control`), and shows the row here as they come (`Planner.o_again`, which is `i_again`); its segment goes to
    both readers, which take its query from the stash and its keys from the refetch area; the array's new scores reach
    `Progressive` and softmax, which does not look whether they are flat.

    Two kinds of rows (`hw.datapath.progressive.Kind`) may be flat. Of kind FIRST, scores and query are stashed; it
    comes again as SECOND, and `Progressive` adds the stashed scores to the new ones. Where codes with their LSBs are
    wider than an operand, the sum would not be that of rounded codes: the row is FIRST_UNSTASHED, of which the query
    alone is stashed, and comes again as SINGLE, from both planes. A row of a single pass is SINGLE, too, and has no
    stash slot.

    A stash slot is taken by the segment of a first pass. It is free again when the row turns out not to be flat; else
    when the second pass has read the scores (kind SECOND), or the key reader has read the last key (kind SINGLE), by
    when the query has left the stash.

    Without progressive recompute there are no stash slots and no such rows, and no `i_again` and `freed`.

    It is joined of components in hw/control/row:

        ChunkWalker --------------------+
        ChunkBlocks: blocks of a chunk -+-> a segment --+-> both readers
        StashSlots: a place for it ------+               |
        AgainSegments --------------------> a segment --+
        ScoreScales: of the heads of both

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, described at `hw.control.planner.Planner`
    scale : in, `scale_write`: the scale of a job's n-th live head (from 0) is written n cycles after the one in which
        `started` counts the job, at the latest
    i_query, i_key, i_value : streams, the next block of each ring
    i_again : stream of `again_row`
    freed : in, a bit for each stash slot: the slot is free again. `hw.core` makes it of what `Progressive.o_free` says
        of rows that are not flat and of SECOND, and of `KeyReader.again_freed`, for SINGLE
    o_query, o_key : streams of `query_segment` and `key_segment`, through skid buffers; each gets every segment

    It assumes of its neighbours, and asserts in simulation, that a stash slot is freed only while it is taken, and that
    a row which comes again has a slot that is.

    Throughput: a segment per cycle within a head.

    Source: SpAtten (HPCA 2021) section IV-A.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self._prunes = config.has(Feature.PRUNE_VALUES)
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "started": In(range(2 * config.jobs_in_flight)),
                "scale": In(scale_write(config)),
                "i_query": In(
                    stream.Signature(granted_block(sectors=query_ring_sectors(config), entries=config.blocks))
                ),
                "i_key": In(stream.Signature(granted_block(sectors=key_ring_sectors(config), entries=config.blocks))),
                "i_value": In(stream.Signature(entry_shape(config.blocks))),
                **optional(self._recomputes, i_again=In(stream.Signature(again_row(config))), freed=In(STASH_SLOTS)),
                "o_query": Out(stream.Signature(query_segment(config))),
                "o_key": Out(stream.Signature(key_segment(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        m.submodules.walker = walker = ChunkWalker(config=config)
        m.submodules.blocks = blocks = ChunkBlocks(config=config)
        if self._recomputes:
            m.submodules.stash_slots = stash_slots = StashSlots()
            m.submodules.again_segments = again = AgainSegments(config=config)
        m.submodules.scales = scales = ScoreScales(config=config)
        wiring.connect(m, walker.read, scales.walk)
        if self._recomputes:
            wiring.connect(m, again.read, scales.again)
        wiring.connect(m, wiring.flipped(self.i_query), blocks.i_query)
        wiring.connect(m, wiring.flipped(self.i_key), blocks.i_key)
        wiring.connect(m, wiring.flipped(self.i_value), blocks.i_value)
        if self._recomputes:
            wiring.connect(m, wiring.flipped(self.i_again), again.i)
        m.submodules.query_out = query_out = SkidBuffer(shape=query_segment(config))
        m.submodules.key_out = key_out = SkidBuffer(shape=key_segment(config))
        wiring.connect(m, query_out.o, wiring.flipped(self.o_query))
        wiring.connect(m, key_out.o, wiring.flipped(self.o_key))

        chunk = walker.o.payload
        has_room, goes, goes_again = Signal(), Signal(), Signal()
        wanted, may_go = walker.o.valid & has_room, blocks.are_there
        if self._recomputes:
            wanted = wanted & ~again.o.valid
            may_go = may_go & (stash_slots.has_free | ~chunk.stashes)
        m.d.comb += has_room.eq(query_out.i.ready & key_out.i.ready)
        if self._recomputes:
            m.d.comb += goes_again.eq(again.o.valid & has_room)
        m.d.comb += [
            blocks.wanted.eq(wanted),
            goes.eq(may_go),
            walker.slots.eq(self.slots),
            walker.started.eq(self.started),
            scales.scale.eq(self.scale),
            walker.scale.eq(scales.o),
            walker.o.ready.eq(goes),
            blocks.begins_keys.eq(chunk.begins_keys),
            blocks.begins_values.eq(chunk.begins_values),
            *([blocks.prunes.eq(chunk.prune)] if self._prunes else []),
            blocks.takes.eq(goes),
        ]
        segment = Signal(row_segment(config))
        if not self._recomputes:
            self._set_segment(m, segment, chunk, blocks, None)
            m.d.comb += [
                query_out.i.valid.eq(goes),
                key_out.i.valid.eq(goes),
                query_out.i.payload.eq(segment.query),
                key_out.i.payload.eq(segment.key),
            ]
            return m
        m.d.comb += [
            stash_slots.takes.eq(goes & chunk.stashes),
            stash_slots.freed.eq(self.freed),
            again.slots.eq(self.slots),
            again.scale.eq(scales.o),
            again.o.ready.eq(goes_again),
        ]
        self._set_segment(m, segment, chunk, blocks, stash_slots)
        query, key = again.o.payload.query, again.o.payload.key
        m.d.comb += [
            query_out.i.valid.eq(goes | goes_again),
            key_out.i.valid.eq(goes | goes_again),
            query_out.i.payload.eq(Mux(again.o.valid, Value.cast(query), Value.cast(segment.query))),
            key_out.i.payload.eq(Mux(again.o.valid, Value.cast(key), Value.cast(segment.key))),
        ]
        if asserts(platform):
            is_taken = stash_slots.taken.bit_select(key.stash_slot, 1)
            m.d.sync += Assert(
                ResetSignal() | ~again.o.valid | is_taken, "a row is computed again whose stash slot is free\n"
            )
        return m

    def _set_segment(
        self, m: Module, segment: Any, chunk: Any, blocks: ChunkBlocks, stash_slots: StashSlots | None
    ) -> None:
        """The segment of a chunk; without stash slots no row is computed again."""
        query, key = segment.query, segment.key
        m.d.comb += [
            query.entry.eq(blocks.query.entry),
            query.base.eq(blocks.query.base),
            query.rows.eq(chunk.rows),
            query.dim.eq(chunk.dim),
            query.bits.eq(chunk.query_bits),
            query.odd_head.eq(chunk.query_odd_head),
            *([query.stashes.eq(chunk.stashes), query.stash_slot.eq(stash_slots.slot)] if stash_slots else []),
            query.offset.eq(chunk.offset),
            key.row.slot.eq(chunk.slot),
            key.row.head.eq(chunk.head),
            key.row.values.eq(blocks.value),
            key.row.accumulate.eq(chunk.accumulate),
            *([key.row.prune.eq(chunk.prune)] if self._prunes else []),
            *([key.kind.eq(chunk.kind), key.stash_slot.eq(stash_slots.slot)] if stash_slots else []),
            key.entry.eq(blocks.key.entry),
            key.base.eq(blocks.key.base),
            key.ends_block.eq(chunk.ends_keys),
            key.rows.eq(chunk.rows),
            key.keys.eq(chunk.keys),
            key.causal.eq(chunk.causal),
            key.dim.eq(chunk.dim),
            key.bits.eq(chunk.key_bits),
            key.joined.eq(chunk.joined),
            key.odd_head.eq(chunk.key_odd_head),
            key.mantissa.eq(chunk.scale.mantissa),
            key.shift.eq(chunk.scale.shift),
            *([key.flat_limit.eq(chunk.flat_limit)] if stash_slots else []),
        ]
