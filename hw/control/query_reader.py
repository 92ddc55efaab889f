"""Reads query rows from their ring, and gives them to the Q x K array as operands."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import BANKS, plane_table, read_table, window_layout
from spatten.hw.control.segments import beats_max, parts_of, query_segment
from spatten.hw.datapath.converter import Converter
from spatten.hw.datapath.progressive import slot_shape
from spatten.hw.datapath.qk import query_row
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.expander import select
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import equals, wrapped
from spatten.hw.lib.ram import Ram
from spatten.hw.memory.block_table import entry_shape
from spatten.hw.memory.ring_buffer import lane_window, window_request
from spatten.spec.config import Config
from spatten.spec.constants import BLOCKS, KEPT_SLOTS
from spatten.spec.row_format import query_ring_sectors

__all__ = ["QUERIES", "QueryReader"]

QUERIES = 8
"""Queries that wait in front of the array."""


class QueryReader(wiring.Component):
    """Reads query rows from their ring, makes operands of them, and keeps up to 8 waiting for the array.

    Queries of rows that may have to be computed again are stored, too; the second time they come from that store.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `query_segment`
    arrived : in, for each query block whether it is there
    chunk : in, `valid`, `entry`, `ids`: token ids of a query block's rows
    o_read, i_window : to and from the query ring
    o : stream of `hw.datapath.qk.query_row`, to the array
    o_row : stream of row numbers, one for each query; it is valid only when the query is certain to be in time
    used : out, `valid` and `entry`: a block has been read

    Latency: 3 cycles from a segment whose queries are there to its first read; 6 from there to `o`.
    Throughput: a beat per cycle within a segment.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self.beats = beats_max(config)
        entry = entry_shape(BLOCKS)
        ids = data.ArrayLayout(range(config.tokens_max), config.topk_lanes)
        self.header = data.StructLayout(
            {
                "part": window_layout().members["part"],
                "beat": range(max(2, self.beats)),
                "last": 1,
                "keeps": 1,
                "kept_slot": slot_shape(KEPT_SLOTS),
            }
        )
        sectors = query_ring_sectors(config)
        self._converter = Converter(
            tensor="key",
            slices=1,
            slice_width=config.slice_width,
            lanes=1,
            operand_bits=config.operand_bits,
            banks=BANKS,
            header=self.header,
        )
        query = query_row(operand_bits=config.operand_bits, head_dim_max=config.head_dim_max)
        request = window_request(sectors, BANKS, self.header)
        window = lane_window(1, BANKS, self.header)
        super().__init__(
            {
                "i": In(stream.Signature(query_segment(config))),
                "arrived": In(data.ArrayLayout(range(2), BLOCKS)),
                "chunk": In(data.StructLayout({"valid": 1, "entry": entry, "ids": ids})),
                "o_read": Out(wiring.Signature({"valid": Out(1), "payload": Out(request)})),
                "i_window": In(wiring.Signature({"valid": Out(1), "payload": Out(window)})),
                "o": Out(stream.Signature(query)),
                "o_row": Out(stream.Signature(range(config.tokens_max))),
                "used": Out(data.StructLayout({"valid": 1, "entry": entry})),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        sectors = query_ring_sectors(config)
        segment = Signal(query_segment(config), reset_less=True)
        no = Const(0, 1)
        entries = parts_of(m, config, segment=self.i.payload, joined=no, lsb=no, name="part_entry")
        parts = [Signal(window_layout(), name=f"part{n}", reset_less=True) for n in range(self.beats)]
        form = plane_table(m, dim=self.i.payload.dim, bits=self.i.payload.bits, name="form_entry")
        stride = Signal(4, reset_less=True)
        read = read_table(m, config, dim=self.i.payload.dim, bits=self.i.payload.bits, joined=no, name="read_entry")
        beats = Signal(range(self.beats + 1), reset_less=True)

        m.submodules.ids = ids = Ram(shape=len(Value.cast(self.chunk.ids)), depth=BLOCKS)
        m.d.comb += [
            ids.write_enable.eq(self.chunk.valid),
            ids.write_address.eq(self.chunk.entry),
            ids.write_data.eq(Value.cast(self.chunk.ids)),
            ids.read_address.eq(segment.entry),
        ]
        row = Signal(range(config.topk_lanes), reset_less=True)
        beat = Signal(range(max(2, self.beats)), reset_less=True)
        pointer = Signal(range(sectors), reset_less=True)
        goes, last_beat, last_row = Signal(), Signal(), Signal()
        part = Signal(window_layout(), name="part_now")
        m.d.comb += [
            Value.cast(part).eq(select([Value.cast(one) for one in parts], beat)),
            last_beat.eq((beat + 1 == beats) | segment.again),
            last_row.eq(row + 1 == segment.rows),
        ]

        # How many queries are inside: in the pipeline from the ring, and waiting in the queue.
        m.submodules.queries = queries = Fifo(shape=len(Value.cast(self.o.payload)), depth=QUERIES)
        inside = Signal(range(QUERIES + 1))
        leaves, enters = Signal(), Signal()
        m.d.comb += [
            leaves.eq(self.o.valid & self.o.ready),
            enters.eq(goes & last_beat),
        ]
        m.d.sync += inside.eq(inside + enters - leaves)
        m.d.comb += [
            self.o_read.valid.eq(goes & ~segment.again),
            self.o_read.payload.sector.eq(wrapped(pointer + part.start, sectors)),
            self.o_read.payload.sectors.eq(part.sectors),
            self.o_read.payload.header.part.eq(part.part),
            self.o_read.payload.header.beat.eq(beat),
            self.o_read.payload.header.last.eq(last_beat),
            self.o_read.payload.header.keeps.eq(segment.keeps),
            self.o_read.payload.header.kept_slot.eq(segment.kept_slot),
            self.used.valid.eq(goes & last_beat & last_row & ~segment.again),
            self.used.entry.eq(segment.entry),
        ]
        with m.If(goes):
            m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
            with m.If(last_beat):
                m.d.sync += [row.eq(row + 1), pointer.eq(wrapped(pointer + stride, sectors))]
        with m.FSM(name="query_reader"):
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [segment.eq(self.i.payload), stride.eq(form.sectors), beats.eq(read.beats)]
                m.d.sync += [part.eq(entry) for part, entry in zip(parts, entries, strict=True)]
                m.d.sync += [row.eq(0), beat.eq(0), pointer.eq(self.i.payload.base)]
                with m.If(self.i.valid):
                    m.next = "ARRIVE"
            with m.State("ARRIVE"):
                m.d.comb += ids.read_enable.eq(1)
                with m.If(select([self.arrived[n] for n in range(BLOCKS)], segment.entry) | segment.again):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += goes.eq(inside != QUERIES)
                with m.If(goes & last_beat & last_row):
                    m.next = "IDLE"

        # Row numbers, in step with the queries. A row number is known four cycles after its query's last read at the
        # earliest, when the query is about to enter its queue. It stays until its row has been read; by then the array
        # may have taken two queries, so the row numbers need two places more.
        m.submodules.rows = rows = Fifo(shape=range(config.tokens_max), depth=QUERIES + 2)
        row_id = Signal(range(config.tokens_max))
        row_valid = Signal()
        row_number = Signal(range(config.tokens_max), reset_less=True)
        m.d.comb += row_id.eq(
            select([ids.read_data.word_select(n, len(row_id)) for n in range(config.topk_lanes)], row)
        )
        m.d.sync += [
            row_valid.eq(enters),
            row_number.eq(Mux(segment.again, segment.row, row_id - segment.offset)),
        ]
        later = Signal()
        later_number = Signal.like(row_number, reset_less=True)
        m.d.sync += [later.eq(row_valid), later_number.eq(row_number)]
        m.d.comb += [rows.i.valid.eq(later), rows.i.payload.eq(later_number)]
        wiring.connect(m, rows.o, wiring.flipped(self.o_row))

        # The converter makes operands of windows; the parts of a long query are put together.
        m.submodules.converter = converter = self._converter
        window = self.i_window.payload
        m.d.comb += [
            converter.i.valid.eq(self.i_window.valid),
            Value.cast(converter.i.payload.words).eq(Value.cast(window.words)),
            converter.i.payload.first.eq(window.first),
            converter.i.payload.part.eq(window.header.part),
            Value.cast(converter.i.payload.header).eq(Value.cast(window.header)),
        ]
        made = converter.o.payload
        header = made.header
        width = config.operand_bits * config.slice_width
        size = len(Value.cast(self.o.payload))
        assembled = Signal(size)
        if self.beats == 1:
            m.d.comb += assembled.eq(Value.cast(made.operands))
        else:
            pieces = []
            for number in range(self.beats):
                held = Signal(width, name=f"piece{number}", reset_less=True)
                with m.If(converter.o.valid & equals(header.beat, number)):
                    m.d.sync += held.eq(Value.cast(made.operands))
                pieces.append(Mux(equals(header.beat, number), Value.cast(made.operands), held))
            m.d.comb += assembled.eq(Cat(pieces))

        m.submodules.kept = kept = Ram(shape=size, depth=max(2, KEPT_SLOTS))
        again = [Signal(name=f"again{n}") for n in range(4)]
        again_slot = [Signal(slot_shape(KEPT_SLOTS), name=f"again_slot{n}", reset_less=True) for n in range(3)]
        m.d.sync += [again[0].eq(goes & segment.again), again_slot[0].eq(segment.kept_slot)]
        for n in (1, 2, 3):
            m.d.sync += again[n].eq(again[n - 1])
        for n in (1, 2):
            m.d.sync += again_slot[n].eq(again_slot[n - 1])
        finished = Signal()
        m.d.comb += [
            kept.write_enable.eq(finished & header.keeps),
            kept.write_address.eq(header.kept_slot),
            kept.write_data.eq(assembled),
            kept.read_enable.eq(again[2]),
            kept.read_address.eq(again_slot[2]),
            finished.eq(converter.o.valid & header.last),
            queries.i.valid.eq(finished | again[3]),
            queries.i.payload.eq(Mux(again[3], kept.read_data, assembled)),
            self.o.valid.eq(queries.o.valid),
            queries.o.ready.eq(self.o.ready),
            Value.cast(self.o.payload).eq(queries.o.payload),
        ]
        if asserts(platform):
            m.d.sync += Assert(~queries.i.valid | queries.i.ready, "a query finds no place\n")
            m.d.sync += Assert(~rows.i.valid | rows.i.ready, "a row number finds no place\n")
        return m
