"""Walks along the query rows of a segment in their ring, beat by beat."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Const, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS, plane_table, read_table, window_layout
from spatten.hw.control.plan.plan_layouts import block_event
from spatten.hw.control.row.row_layouts import asked_query, query_beat, stashed_query
from spatten.hw.control.segments import beats_max, query_segment, window_parts
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import select, wrapped
from spatten.hw.lib.unstalled import unstalled
from spatten.hw.memory.block_table import entry_shape
from spatten.hw.memory.ring_buffer import window_request
from spatten.spec.config import Config, Feature
from spatten.spec.row_format import query_ring_sectors

__all__ = ["QueryWindows"]


class QueryWindows(wiring.Component):
    """Asks for the windows of a segment's queries once their block is there; or for a stashed query.

    The rows lie one after the other, as their plane has them. A query whose head dimension exceeds the slice width is
    read in several beats, each another window of its row.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `query_segment`, of a single row if its query is stashed; an assertion checks this in simulation
    arrived : in, for each query block whether it is there
    has_room : in, another query will find a place; without it nothing is asked for
    o_read : to the query ring, a `hw.memory.ring_buffer.window_request` whose header is a `query_beat`
    stashed : out, `stashed_query`: which stashed query is wanted; only with progressive recompute
    looks_up, entry : out, the token ids of block `entry` are wanted from the next cycle on, for all of its queries; of
        no meaning before a stashed query
    asked : out, `asked_query`
    used : out, `block_event`: a block has been read

    Latency: 2 cycles from a segment to its first read, if its block is there in the cycle after the segment was taken;
    another one for each cycle that the block comes later. Throughput: a beat per cycle within a segment; the next
    segment is taken in the cycle after the last beat.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self._recomputes = config.has(Feature.PROGRESSIVE)
        self.sectors = query_ring_sectors(config)
        super().__init__(
            {
                "i": In(stream.Signature(query_segment(config))),
                "arrived": In(data.ArrayLayout(range(2), config.blocks)),
                "has_room": In(1),
                "o_read": Out(unstalled(window_request(self.sectors, BANKS, query_beat(config)))),
                **optional(self._recomputes, stashed=Out(stashed_query())),
                "looks_up": Out(1),
                "entry": Out(entry_shape(config.blocks)),
                "asked": Out(asked_query(config)),
                "used": Out(block_event(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        config = self.config
        beats_most = beats_max(config)
        self._segment = segment = Signal(query_segment(config), reset_less=True)
        self._parts = [Signal(window_layout(), name=f"part_{n}", reset_less=True) for n in range(beats_most)]
        self._stride = Signal(4, reset_less=True)
        self._beats = Signal(range(beats_most + 1), reset_less=True)
        self._row = row = Signal(range(config.topk_lanes), reset_less=True)
        self._beat = beat = Signal(range(max(2, beats_most)), reset_less=True)
        self._pointer = pointer = Signal(range(self.sectors), reset_less=True)
        self._goes, self._last_beat, self._last_row = Signal(), Signal(), Signal()
        part = Signal(window_layout())
        ends_query = self._goes & self._last_beat
        last_beat, reads, ends_block = beat + 1 == self._beats, self._goes, ends_query & self._last_row
        if self._recomputes:
            last_beat, reads, ends_block = (
                last_beat | segment.again,
                reads & ~segment.again,
                ends_block & ~segment.again,
            )
        request = self.o_read.payload
        m.d.comb += [
            Value.cast(part).eq(select([Value.cast(part_of_beat) for part_of_beat in self._parts], beat)),
            self._last_beat.eq(last_beat),
            self._last_row.eq(row + 1 == segment.rows),
            self.o_read.valid.eq(reads),
            request.sector.eq(wrapped(pointer + part.start, self.sectors)),
            request.sectors.eq(part.sectors),
            request.header.part.eq(part.part),
            request.header.beat.eq(beat),
            request.header.last.eq(self._last_beat),
        ]
        if self._recomputes:
            m.d.comb += [
                request.header.stashes.eq(segment.stashes),
                request.header.stash_slot.eq(segment.stash_slot),
                self.stashed.valid.eq(self._goes & segment.again),
                self.stashed.stash_slot.eq(segment.stash_slot),
            ]
        m.d.comb += [
            self.entry.eq(segment.entry),
            self.asked.valid.eq(ends_query),
            self.asked.place.eq(row),
            self.asked.offset.eq(segment.offset),
            *([self.asked.again.eq(segment.again), self.asked.row.eq(segment.row)] if self._recomputes else []),
            self.used.valid.eq(ends_block),
            self.used.entry.eq(segment.entry),
        ]
        with m.If(self._goes):
            m.d.sync += beat.eq(Mux(self._last_beat, 0, beat + 1))
            with m.If(self._last_beat):
                m.d.sync += [row.eq(row + 1), pointer.eq(wrapped(pointer + self._stride, self.sectors))]
        self._walk(m)
        if asserts(platform):
            m.d.sync += Assert(ResetSignal() | ~self.i.valid | self.i.payload.rows.any(), "a segment has no rows\n")
            if self._recomputes:
                is_single = self.i.payload.rows == 1
                m.d.sync += Assert(
                    ResetSignal() | ~self.i.valid | ~(self.i.payload.stashes | self.i.payload.again) | is_single,
                    "several queries have the same stash slot\n",
                )
        return m

    def _walk(self, m: Module) -> None:
        """The states: IDLE takes a segment, ARRIVE waits for its block, READ asks for its windows."""
        segment = self._segment
        takes = self._look_up(m)
        with m.FSM(name="query_reader"):
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += takes
                with m.If(self.i.valid):
                    m.next = "ARRIVE"
            with m.State("ARRIVE"):
                m.d.comb += self.looks_up.eq(1)
                arrived = select([self.arrived[n] for n in range(self.config.blocks)], segment.entry)
                with m.If(arrived | segment.again if self._recomputes else arrived):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self._goes.eq(self.has_room)
                with m.If(self._goes & self._last_beat & self._last_row):
                    m.next = "IDLE"

    def _look_up(self, m: Module) -> list[Any]:
        """How the rows of the next segment lie: what the registers become when it is taken."""
        config, segment, no = self.config, self.i.payload, Const(0, 1)
        plane = plane_table(m, self.config, dim=segment.dim, bits=segment.bits, name="plane")
        read = read_table(m, config, dim=segment.dim, bits=segment.bits, joined=no, name="read")
        parts = window_parts(m, config, segment=segment, joined=no, lsb=no)
        return [
            self._segment.eq(segment),
            self._stride.eq(plane.sectors),
            self._beats.eq(read.beats),
            *(register.eq(part) for register, part in zip(self._parts, parts, strict=True)),
            self._row.eq(0),
            self._beat.eq(0),
            self._pointer.eq(segment.base),
        ]
