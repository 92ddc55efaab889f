"""Which query row meets which keys, and when: from blocks that have been allocated to reads of the ring buffers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from hw.blocks import entry_shape, granted_block
from hw.checks import asserts
from hw.config import LSB_BITS, SCALE_MANTISSA_BITS, Config
from hw.converter import Converter
from hw.expander import select
from hw.fifo import Fifo, SkidBuffer
from hw.formats import BANKS, block_table, part_layout, part_table, plane_table, read_table
from hw.job import Fetch, Flag, Mode
from hw.logic import equals, first_set, product, wrapped
from hw.planner import again_segment
from hw.progressive import Kind, slot_shape
from hw.qk import query_row
from hw.ram import Ram
from hw.ring_buffer import lane_window, window_request
from hw.row_format import CODE_BITS, key_ring_sectors, lsb_sectors, query_ring_sectors
from hw.slots import BLOCKS, KEPT_SLOTS, by_slot, row_layout, slot_layout

__all__ = [
    "KeyReader",
    "QueryReader",
    "RowControl",
    "key_header",
    "key_segment",
    "query_segment",
    "set_windows",
    "windows",
]

QUERIES = 8
"""Queries that wait in front of the array."""
SHIFT_BITS = 6


def query_segment(config: Config) -> data.StructLayout:
    """Query rows of a chunk: where they lie, and how; or a query that was kept."""
    return data.StructLayout(
        {
            "entry": entry_shape(BLOCKS),
            "base": range(query_ring_sectors(config)),
            "rows": range(config.topk_lanes + 1),
            "dim": 2,
            "bits": 3,
            "second": 1,
            "keeps": 1,
            "again": 1,
            "kept_slot": slot_shape(KEPT_SLOTS),
            "offset": range(config.tokens_max),
            "row": range(config.tokens_max),
        }
    )


def key_segment(config: Config) -> data.StructLayout:
    """Rows that read the same keys."""
    sectors = key_ring_sectors(config) + lsb_sectors(config)
    return data.StructLayout(
        {
            "row": row_layout(config),
            "kind": 2,
            "kept_slot": slot_shape(KEPT_SLOTS),
            "entry": entry_shape(BLOCKS),
            "base": range(sectors),
            "linear": 1,
            "limit": range(sectors + 1),
            "ends_block": 1,
            "rows": range(config.topk_lanes + 1),
            "keys": range(config.tokens_max + 1),
            "causal": 1,
            "dim": 2,
            "bits": 3,
            "joined": 1,
            "second": 1,
            "lsb": 1,
            "mantissa": SCALE_MANTISSA_BITS,
            "shift": SHIFT_BITS,
            "flat_limit": 16,
        }
    )


def key_header(config: Config) -> data.StructLayout:
    """What a score beat brings to softmax."""
    return data.StructLayout(
        {
            "row": row_layout(config),
            "kind": 2,
            "kept_slot": slot_shape(KEPT_SLOTS),
            "mantissa": SCALE_MANTISSA_BITS,
            "shift": SHIFT_BITS,
            "flat_limit": 16,
        }
    )


def scale_write(config: Config) -> data.StructLayout:
    """A head's score scale, of a slot."""
    slot = unsigned(max(1, ceil_log2(config.jobs_in_flight)))
    head = unsigned(max(1, ceil_log2(config.heads_max)))
    return data.StructLayout(
        {"enable": 1, "slot": slot, "head": head, "mantissa": SCALE_MANTISSA_BITS, "shift": SHIFT_BITS}
    )


def beats_max(config: Config) -> int:
    """Most beats of a key."""
    return max(1, config.head_dim_max // config.slice_width)


def parts_of(m: Module, config: Config, *, segment: Any, joined: Any, lsb: Any, name: str) -> list[Any]:
    """The window of each beat of a segment's block rows."""
    return [
        part_table(
            m,
            config,
            dim=segment.dim,
            bits=segment.bits,
            joined=joined,
            head=segment.second,
            beat=beat,
            is_lsb=lsb,
            name=f"{name}{beat}",
        )
        for beat in range(beats_max(config))
    ]


def windows(config: Config) -> dict[str, Any]:
    """Members of a layout: how the windows of a row are read.

    parts : of each beat of a key or value, where it begins and what is read of it
    log_keys, window_keys : keys of a window
    beats : beats of a key or value
    stride : sectors of a row in a lane
    step : sectors of a window in a lane
    """
    return {
        "parts": data.ArrayLayout(part_layout(), beats_max(config)),
        "log_keys": range(ceil_log2(config.softmax_lanes) + 2),
        "window_keys": range(config.softmax_lanes + 1),
        "beats": range(beats_max(config) + 1),
        "stride": 4,
        "step": range(8 * 8 + 1),
    }


def set_windows(m: Module, config: Config, made: Any, *, segment: Any, joined: Any, lsb: Any) -> None:
    """Give `made` the members of `windows` that a segment's head dimension and width make."""
    entries = parts_of(m, config, segment=segment, joined=joined, lsb=lsb, name="part_entry")
    read = read_table(m, config, dim=segment.dim, bits=segment.bits, joined=joined, name="read_entry")
    form = block_table(m, config, dim=segment.dim, bits=segment.bits, joined=joined, name="form_entry")
    log_keys = Signal(made.log_keys.shape(), name="log_keys")
    m.d.comb += [
        log_keys.eq(read.log_rows + ceil_log2(config.slices)),
        made.log_keys.eq(log_keys),
        made.window_keys.eq(Const(1, 1) << log_keys),
        made.beats.eq(read.beats),
        made.stride.eq(form.stride),
        made.step.eq(form.stride << read.log_rows),
    ]
    m.d.comb += [made.parts[n].eq(entry) for n, entry in enumerate(entries)]


class RowControl(wiring.Component):
    """Decides which rows come next: job after job, head after head, chunk after chunk of queries; flat rows between.

    A segment, the rows of a chunk with the keys of their head, goes to both readers once its query, key and value
    blocks have their space: from then on nothing that comes behind it can keep it from being finished. A row that is
    computed again goes before whatever else waits, when its keys have begun to come. A row that might be is given a
    place for its scores and its query first.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : as of `hw.planner.Planner`
    scale : in, `scale_write`
    i_query, i_key, i_value : streams, the next block of each ring
    i_again : stream of `again_segment`
    freed : in, bit per kept slot: it is free again
    o_query, o_key : streams of `query_segment` and `key_segment`

    Source: SpAtten (HPCA 2021) section IV-A.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        self.jobs = config.jobs_in_flight
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), self.jobs)),
                "started": In(range(2 * self.jobs)),
                "scale": In(scale_write(config)),
                "i_query": In(stream.Signature(granted_block(sectors=query_ring_sectors(config), entries=BLOCKS))),
                "i_key": In(stream.Signature(granted_block(sectors=key_ring_sectors(config), entries=BLOCKS))),
                "i_value": In(stream.Signature(entry_shape(BLOCKS))),
                "i_again": In(stream.Signature(again_segment(config))),
                "freed": In(KEPT_SLOTS),
                "o_query": Out(stream.Signature(query_segment(config))),
                "o_key": Out(stream.Signature(key_segment(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        m.submodules.query_out = query_out = SkidBuffer(shape=query_segment(config))
        m.submodules.key_out = key_out = SkidBuffer(shape=key_segment(config))
        wiring.connect(m, query_out.o, wiring.flipped(self.o_query))
        wiring.connect(m, key_out.o, wiring.flipped(self.o_key))
        room = query_out.i.ready & key_out.i.ready

        # Blocks wait in queues, so that the walkers can go ahead.
        queues = []
        for name, source in (("query", self.i_query), ("key", self.i_key), ("value", self.i_value)):
            m.submodules[f"{name}_blocks"] = queue = Fifo(shape=source.payload.shape(), depth=BLOCKS)
            wiring.connect(m, wiring.flipped(source), queue.i)
            queues.append(queue)
        queries, keys, values = queues

        taken = Signal(range(2 * self.jobs))
        slot = Signal(max(1, ceil_log2(self.jobs)))
        job = Signal(slot_layout(config), reset_less=True)
        m.d.comb += slot.eq(taken[: len(slot)] if self.jobs > 1 else 0)
        m.d.sync += Value.cast(job).eq(by_slot(self.slots, slot))

        heads = Signal(config.heads_max, reset_less=True)
        lowest = Signal(max(1, ceil_log2(config.heads_max)))
        head = Signal.like(lowest, reset_less=True)
        m.d.comb += lowest.eq(first_set(heads))
        scales = []
        scale_shape = data.StructLayout({"mantissa": SCALE_MANTISSA_BITS, "shift": SHIFT_BITS})
        for name in ("scales", "again_scales"):
            ram = Ram(shape=scale_shape, depth=max(2, self.jobs << len(lowest)))
            m.submodules[name] = ram
            m.d.comb += [
                ram.write_enable.eq(self.scale.enable),
                ram.write_address.eq(self._scale_address(self.scale.slot, self.scale.head)),
                ram.write_data.mantissa.eq(self.scale.mantissa),
                ram.write_data.shift.eq(self.scale.shift),
            ]
            scales.append(ram)

        # Places for scores and queries of rows that may turn out flat.
        busy = Signal(KEPT_SLOTS)
        free_slot = Signal(slot_shape(KEPT_SLOTS))
        takes_slot = Signal()
        m.d.comb += free_slot.eq(first_set(~busy))
        m.d.sync += busy.eq((busy & ~self.freed) | Mux(takes_slot, Const(1, KEPT_SLOTS) << free_slot, 0))

        again = self._prepare_again(m, scales[1])

        # The next chunk of the current head.
        rank = Signal(range(2 * config.tokens_max), reset_less=True)
        left = Signal(range(config.tokens_max + 1), reset_less=True)
        count = Signal(range(lanes + 1))
        chunk = Signal(range(lanes + 1))
        m.d.comb += [chunk.eq(lanes - rank[:lane_bits] if lane_bits else 1), count.eq(Mux(left < chunk, left, chunk))]
        joined = job.fetch == Fetch.JOINED
        key_form = block_table(m, config, dim=job.head_dim, bits=job.key_bits, joined=joined, name="key_form")
        query_form = plane_table(m, dim=job.head_dim, bits=job.query_bits, name="query_form")
        value_form = block_table(
            m, config, dim=job.head_dim, bits=job.value_bits, joined=Const(0, 1), name="value_form"
        )
        paired = Signal(3, reset_less=True)  # query, key, value
        m.d.sync += paired.eq(Cat(query_form.paired, key_form.paired, value_form.paired))
        key, value = (Signal.like(queue.o.payload, name=name, reset_less=True) for queue, name in
                      ((keys, "key_block"), (values, "value_block")))  # fmt: skip
        new_key, new_value = Signal(), Signal()
        progressive = Signal(reset_less=True)
        kept_fits = Signal(reset_less=True)
        shift = Signal(SHIFT_BITS, reset_less=True)
        scale = scales[0].read_data
        prunes = job.flags[Flag.PRUNE_VALUES]
        partner = Mux(head[0], 0, heads.bit_select(Cat(Const(1, 1), head[1:]), 1))
        last_chunk = Signal()
        m.d.comb += last_chunk.eq(left == count)
        kind = Mux(progressive, Mux(kept_fits, Kind.FIRST, Kind.FIRST_UNKEPT), Kind.SINGLE)
        pushes, pushes_again, waits = Signal(), Signal(), Signal()
        m.d.comb += [
            pushes_again.eq(again.valid & room),
            pushes.eq(
                waits
                & room
                & ~again.valid
                & queries.o.valid
                & (keys.o.valid | ~new_key)
                & (values.o.valid | ~new_value | prunes)
                & (~busy.all() | ~progressive)
            ),
            takes_slot.eq(pushes & progressive),
            queries.o.ready.eq(pushes),
            keys.o.ready.eq(pushes & new_key),
            values.o.ready.eq(pushes & new_value & ~prunes),
        ]
        key_now, value_now = Signal.like(key), Signal.like(value)
        m.d.comb += [
            Value.cast(key_now).eq(Mux(new_key, Value.cast(keys.o.payload), Value.cast(key))),
            Value.cast(value_now).eq(Mux(new_value, Value.cast(values.o.payload), Value.cast(value))),
        ]
        query_part, key_part = Signal(query_segment(config)), Signal(key_segment(config))
        row = key_part.row
        m.d.comb += [
            query_part.entry.eq(queries.o.payload.entry),
            query_part.base.eq(queries.o.payload.base),
            query_part.rows.eq(count),
            query_part.dim.eq(job.head_dim),
            query_part.bits.eq(job.query_bits),
            query_part.second.eq(paired[0] & head[0]),
            query_part.keeps.eq(progressive),
            query_part.kept_slot.eq(free_slot),
            query_part.offset.eq(job.query_offset),
            row.slot.eq(slot),
            row.head.eq(head),
            row.values.eq(value_now),
            row.accumulate.eq(job.flags[Flag.ACCUMULATE]),
            row.prune.eq(prunes),
            key_part.kind.eq(kind),
            key_part.kept_slot.eq(free_slot),
            key_part.entry.eq(key_now.entry),
            key_part.base.eq(key_now.base),
            key_part.ends_block.eq(last_chunk & ~(paired[1] & partner)),
            key_part.rows.eq(count),
            key_part.keys.eq(Mux(equals(job.mode, Mode.CAUSAL), rank + 1, job.live)),
            key_part.causal.eq(equals(job.mode, Mode.CAUSAL)),
            key_part.dim.eq(job.head_dim),
            key_part.bits.eq(job.key_bits),
            key_part.joined.eq(joined),
            key_part.second.eq(paired[1] & head[0]),
            key_part.mantissa.eq(scale.mantissa),
            key_part.shift.eq(shift),
            key_part.flat_limit.eq(job.flat_limit),
            query_out.i.valid.eq(pushes | pushes_again),
            key_out.i.valid.eq(pushes | pushes_again),
            query_out.i.payload.eq(Mux(again.valid, Value.cast(again.query), Value.cast(query_part))),
            key_out.i.payload.eq(Mux(again.valid, Value.cast(again.key), Value.cast(key_part))),
            again.ready.eq(pushes_again),
        ]
        with m.If(pushes):
            m.d.sync += [Value.cast(key).eq(Value.cast(key_now)), Value.cast(value).eq(Value.cast(value_now))]
            m.d.sync += [new_key.eq(0), new_value.eq(0), rank.eq(rank + count), left.eq(left - count)]
        with m.FSM(name="row_control"):
            with m.State("IDLE"), m.If(taken != self.started):
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.sync += [heads.eq(job.live_heads), new_key.eq(1), new_value.eq(1)]
                m.d.sync += [
                    progressive.eq(equals(job.fetch, Fetch.PROGRESSIVE)),
                    kept_fits.eq(_of_bits(job.key_bits, lambda bits: int(bits + LSB_BITS <= config.operand_bits))),
                ]
                m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += scales[0].read_enable.eq(1)
                m.d.sync += [head.eq(lowest), rank.eq(job.first_rank), left.eq(job.rows)]
                m.next = "SCALE"
            with m.State("SCALE"):
                excess = Mux(
                    joined, _of_bits(job.key_bits, lambda bits: max(0, bits + LSB_BITS - config.operand_bits)), 0
                )
                m.d.sync += shift.eq(scale.shift - Mux(progressive, LSB_BITS, excess))
                m.next = "CHUNK"
            with m.State("CHUNK"):
                m.d.comb += waits.eq(1)
                with m.If(pushes & last_chunk):
                    rest = heads & (heads - 1)
                    m.d.sync += [
                        heads.eq(rest),
                        new_key.eq(~(paired[1] & partner)),
                        new_value.eq(~(paired[2] & partner)),
                    ]
                    m.next = "HEAD"
                    with m.If(~rest.any()):
                        m.d.sync += taken.eq(Mux(taken == 2 * self.jobs - 1, 0, taken + 1))
                        m.next = "IDLE"
        m.d.comb += scales[0].read_address.eq(self._scale_address(slot, lowest))
        return m

    def _scale_address(self, slot: Value, head: Value) -> Value:
        return Cat(head, slot) if self.jobs > 1 else Value.cast(head)

    def _prepare_again(self, m: Module, scales: Ram) -> Any:
        """The segments of a row that is computed again, and whether they are ready to go."""
        config = self.config
        again = _Again(config)
        segment = Signal(again_segment(config), name="again_segment", reset_less=True)
        valid = [Signal(name=f"again_valid{n}") for n in range(3)]
        row = segment.row
        m.d.comb += [
            self.i_again.ready.eq(~Cat(valid).any()),
            scales.read_enable.eq(valid[0]),
            scales.read_address.eq(self._scale_address(row.header.slot, row.header.head)),
            again.valid.eq(valid[2]),
        ]
        with m.If(self.i_again.ready):
            m.d.sync += [valid[0].eq(self.i_again.valid), segment.eq(self.i_again.payload)]
        with m.Else():
            m.d.sync += [valid[0].eq(0), valid[1].eq(valid[0]), valid[2].eq(valid[1] | (valid[2] & ~again.ready))]
        job = Signal(slot_layout(config), name="again_job", reset_less=True)
        m.d.sync += Value.cast(job).eq(by_slot(self.slots, row.header.slot))
        is_lsb = Signal()
        m.d.comb += is_lsb.eq(row.kind == Kind.SECOND)
        bits = Mux(is_lsb, 0, job.key_bits)
        form = block_table(m, config, dim=job.head_dim, bits=bits, joined=~is_lsb, name="again_form")
        excess = _of_bits(job.key_bits, lambda width: max(0, width + LSB_BITS - config.operand_bits))
        m.d.comb += [
            again.query.rows.eq(1),
            again.query.dim.eq(job.head_dim),
            again.query.again.eq(1),
            again.query.kept_slot.eq(row.slot),
            again.query.row.eq(row.header.row),
            again.key.row.eq(row.header),
            again.key.kind.eq(row.kind),
            again.key.kept_slot.eq(row.slot),
            again.key.linear.eq(1),
            again.key.base.eq(key_ring_sectors(config)),
            again.key.limit.eq(segment.limit),
            again.key.rows.eq(1),
            again.key.keys.eq(segment.keys),
            again.key.dim.eq(job.head_dim),
            again.key.bits.eq(bits),
            again.key.joined.eq(~is_lsb),
            again.key.second.eq(form.paired & row.header.head[0]),
            again.key.lsb.eq(is_lsb),
            again.key.mantissa.eq(scales.read_data.mantissa),
            again.key.shift.eq(scales.read_data.shift - Mux(is_lsb, 0, excess)),
            again.key.flat_limit.eq(job.flat_limit),
        ]
        return again


class _Again:
    """Signals of a row that is computed again."""

    def __init__(self, config: Config) -> None:
        self.valid = Signal(name="again_ready")
        self.ready = Signal(name="again_taken")
        self.query = Signal(query_segment(config), name="again_query")
        self.key = Signal(key_segment(config), name="again_key")


def _of_bits(code: Value, value: Any) -> Value:
    """value(bits) for the width that a code stands for."""
    width = max(value(bits) for bits in CODE_BITS).bit_length() or 1
    return select([Const(value(CODE_BITS[min(n, len(CODE_BITS) - 1)]), width) for n in range(8)], code)


class QueryReader(wiring.Component):
    """Reads query rows from their ring, makes operands of them, and keeps up to 8 waiting for the array.

    Queries of rows that may be computed again are stored besides, and come from there the second time.

    Parameters
    ----------
    config : Config

    Ports
    -----
    i : stream of `query_segment`
    arrived : in, of each query block, whether it is there
    chunk : in, `valid`, `entry`, `ids`: token ids of a query block's rows
    o_read, i_window : to and from the query ring
    o : stream of `hw.qk.query_row`, to the array
    o_row : stream of row numbers, one for each query, valid no earlier than the query is certain to be in time
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
                "part": part_layout().members["part"],
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
        parts = [Signal(part_layout(), name=f"part{n}", reset_less=True) for n in range(self.beats)]
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
        part = Signal(part_layout(), name="part_now")
        m.d.comb += [
            Value.cast(part).eq(select([Value.cast(one) for one in parts], beat)),
            last_beat.eq((beat + 1 == beats) | segment.again),
            last_row.eq(row + 1 == segment.rows),
        ]

        # Queries inside: in the rings' pipeline, and waiting.
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
        # earliest, when the query is about to enter its queue. It stays until its row has been read, while the array
        # takes two queries before.
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

        # Windows to operands; parts of a long query are put together.
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


class KeyReader(wiring.Component):
    """Reads a row's keys window by window, as they arrive, and sends them with everything that belongs to the row.

    While a segment runs the next one is made ready, so none costs a cycle. A window is read only if its scores will
    find a place at the end of the array.

    Parameters
    ----------
    config : Config
    places : int
        Score beats that the array's output holds, less what it keeps free.

    Ports
    -----
    i : stream of `key_segment`
    i_row : stream of row numbers: the next row's query is there
    arrived : in, of each key block the row groups that are there; again_arrived : the same of the part behind the ring
    left : in, a score beat has left the array
    o_read : to the key ring; its header has the part for the converter, and the beat for the array
    used : out, `valid` and `entry`: a block has been read for the last time
    again_read, again_done, again_slot : out, a group, all keys, of a row that is computed again have been read;
        `again_slot` frees the row's place if its kind is SINGLE
    waits : out, a row waits for its keys or its query

    Throughput: a window per cycle, across rows and segments.
    """

    def __init__(self, *, config: Config, places: int) -> None:
        self.config = config
        self.places = places
        self.sectors = key_ring_sectors(config)
        self.beats = beats_max(config)
        self.groups = config.tokens_max // config.topk_lanes
        entry = entry_shape(BLOCKS)
        groups = range(self.groups + 1)
        self.header = data.StructLayout(
            {
                "part": part_layout().members["part"],
                "count": range(config.softmax_lanes + 1),
                "group": range(max(ceil_log2(config.softmax_lanes), 1) + 1),
                "dim": 2,
                "last": 1,
                "row": key_header(config),
            }
        )
        request = window_request(self.sectors + lsb_sectors(config), BANKS, self.header)
        super().__init__(
            {
                "i": In(stream.Signature(key_segment(config))),
                "i_row": In(stream.Signature(range(config.tokens_max))),
                "arrived": In(data.ArrayLayout(groups, BLOCKS)),
                "again_arrived": In(groups),
                "left": In(1),
                "o_read": Out(wiring.Signature({"valid": Out(1), "payload": Out(request)})),
                "used": Out(data.StructLayout({"valid": 1, "entry": entry})),
                "again_read": Out(1),
                "again_done": Out(1),
                "again_slot": Out(KEPT_SLOTS),
                "waits": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        lanes = config.topk_lanes
        lane_bits = ceil_log2(lanes)
        slice_bits = ceil_log2(config.slices)
        given = self.i.payload

        # A segment made ready, and the one whose windows are made.
        layout = data.StructLayout({"segment": key_segment(config), **windows(config)})
        m.submodules.ready = ready = SkidBuffer(shape=layout)
        made = ready.i.payload
        m.d.comb += [ready.i.valid.eq(self.i.valid), self.i.ready.eq(ready.i.ready), made.segment.eq(given)]
        set_windows(m, config, made, segment=given, joined=given.joined, lsb=given.lsb)
        now = Signal(layout, reset_less=True)
        segment = now.segment
        runs, switches = Signal(), Signal()

        # Windows, one after the other, each a cycle before it may be read.
        count = range(config.tokens_max + 1)
        rows_left = Signal(range(lanes + 1), reset_less=True)
        keys = Signal(count, reset_less=True)
        done = Signal(range(config.tokens_max), reset_less=True)
        left = Signal(count, reset_less=True)
        beat = Signal(range(max(2, self.beats)), reset_less=True)
        pointer = Signal(range(self.sectors + lsb_sectors(config)), reset_less=True)
        offset = Signal(range(config.softmax_lanes), reset_less=True)

        window = Signal(
            data.StructLayout(
                {
                    "request": self.o_read.payload.shape(),
                    "entry": entry_shape(BLOCKS),
                    "linear": 1,
                    "group": range(self.groups),
                    "fills": 1,
                    "ends_row": 1,
                    "ends_block": 1,
                    "again_read": 1,
                    "again_done": 1,
                    "again_slot": KEPT_SLOTS,
                }
            ),
            reset_less=True,
        )
        holds, steps, goes = Signal(), Signal(), Signal()
        window_keys = now.window_keys
        after = Signal(range(config.tokens_max + config.softmax_lanes))
        next_keys = Signal(count)
        last_beat, last_window, last_row, ends = (Signal() for _ in range(4))
        part = Signal(part_layout(), name="part_now")
        m.d.comb += [
            steps.eq(runs & (~holds | goes)),
            after.eq(done + window_keys),
            next_keys.eq(keys + segment.causal),
            last_window.eq(left <= window_keys),
            last_beat.eq(beat + 1 == now.beats),
            last_row.eq(rows_left == 1),
            ends.eq(last_beat & last_window & last_row),
            Value.cast(part).eq(select([Value.cast(now.parts[n]) for n in range(self.beats)], beat)),
            switches.eq(~runs | (steps & ends)),
            ready.o.ready.eq(switches),
        ]
        # How many block rows of a lane the window reads: of its last key's.
        last_rows = ((left - 1) >> slice_bits)[:2]
        sector = Signal(range(self.sectors + lsb_sectors(config) + 8))
        all_sectors, last_sectors = Signal(range(BANKS + 8)), Signal(range(BANKS + 8))
        request = window.request
        ends_group = equals(after & (lanes - 1), 0) if lanes > 1 else Const(1)
        m.d.comb += [
            sector.eq(pointer + part.start),
            all_sectors.eq(part.sectors + now.step - now.stride),
            last_sectors.eq(part.sectors + product(now.stride, last_rows)),
        ]
        with m.If(steps):
            m.d.sync += [
                request.sector.eq(Mux(segment.linear, sector, wrapped(sector, self.sectors))),
                request.sectors.eq(Mux(last_window, last_sectors, all_sectors)),
                request.header.part.eq(part.part),
                request.header.count.eq(Mux(last_window, left, window_keys)),
                request.header.group.eq(now.log_keys),
                request.header.dim.eq(segment.dim),
                request.header.last.eq(last_window & last_beat),
                request.header.row.row.eq(segment.row),
                request.header.row.kind.eq(segment.kind),
                request.header.row.kept_slot.eq(segment.kept_slot),
                request.header.row.mantissa.eq(segment.mantissa),
                request.header.row.shift.eq(segment.shift),
                request.header.row.flat_limit.eq(segment.flat_limit),
                window.entry.eq(segment.entry),
                window.linear.eq(segment.linear),
                window.group.eq(done >> lane_bits),
                window.fills.eq(last_beat & (last_window | (offset + window_keys == config.softmax_lanes))),
                window.ends_row.eq(last_beat & last_window),
                window.ends_block.eq(ends & segment.ends_block & ~segment.linear),
                window.again_read.eq(last_beat & segment.linear & (ends_group | last_window)),
                window.again_done.eq(ends & segment.linear),
                window.again_slot.eq(
                    Mux(
                        ends & segment.linear & equals(segment.kind, Kind.SINGLE),
                        Const(1, KEPT_SLOTS) << segment.kept_slot,
                        0,
                    )
                ),
            ]
        m.d.sync += holds.eq(runs | (holds & ~goes))

        stepped = pointer + now.step
        next_pointer = Mux(
            segment.linear,
            Mux(stepped == segment.limit, segment.base, stepped),
            wrapped(stepped, self.sectors),
        )
        with m.If(steps):
            m.d.sync += beat.eq(Mux(last_beat, 0, beat + 1))
            with m.If(last_beat):
                m.d.sync += [
                    done.eq(Mux(last_window, 0, after)),
                    left.eq(Mux(last_window, next_keys, left - window_keys)),
                    pointer.eq(Mux(last_window, segment.base, next_pointer)),
                    offset.eq(Mux(last_window, 0, offset + window_keys)),
                ]
                with m.If(last_window):
                    m.d.sync += [rows_left.eq(rows_left - 1), keys.eq(next_keys)]
        following = ready.o.payload
        with m.If(switches):
            m.d.sync += [
                runs.eq(ready.o.valid),
                now.eq(following),
                rows_left.eq(following.segment.rows),
                keys.eq(following.segment.keys),
                left.eq(following.segment.keys),
                done.eq(0),
                beat.eq(0),
                offset.eq(0),
                pointer.eq(following.segment.base),
            ]

        # A window is read when its keys are there: all of the same group, since windows are aligned. What is there of
        # the block of the window that waits in the next cycle is looked up in this one.
        arrived = [self.arrived[n] for n in range(BLOCKS)]
        groups_now, groups_next = (
            Mux(linear, self.again_arrived, select(arrived, entry))
            for linear, entry in ((window.linear, window.entry), (segment.linear, segment.entry))
        )
        available = Signal(range(self.groups + 1), reset_less=True)
        m.d.sync += available.eq(Mux(steps, groups_next, groups_now))
        free = Signal(range(self.places + 1), init=self.places)
        has_keys = Signal()
        m.d.comb += [
            has_keys.eq(available > window.group),
            goes.eq(holds & self.i_row.valid & has_keys & (free.any() | ~window.fills)),
            self.waits.eq(holds & ~(self.i_row.valid & has_keys)),
            self.i_row.ready.eq(goes & window.ends_row),
            self.o_read.valid.eq(goes),
            self.o_read.payload.eq(request),
            self.o_read.payload.header.row.row.row.eq(self.i_row.payload),
            self.again_read.eq(goes & window.again_read),
            self.again_done.eq(goes & window.again_done),
            self.again_slot.eq(Mux(goes, window.again_slot, 0)),
        ]
        m.d.sync += [
            free.eq(free + self.left - (goes & window.fills)),
            self.used.valid.eq(goes & window.ends_block),
            self.used.entry.eq(window.entry),
        ]
        return m
