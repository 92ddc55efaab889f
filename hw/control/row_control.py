"""Which query row meets which keys, and when: from blocks that have been allocated to segments of rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import block_table, plane_table
from spatten.hw.control.job_slots import by_slot, slot_layout
from spatten.hw.control.plan.plan_layouts import again_segment
from spatten.hw.control.segments import key_segment, query_segment, scale_write
from spatten.hw.datapath.progressive import Kind, slot_shape
from spatten.hw.lib.expander import select
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.logic import equals, first_set
from spatten.hw.lib.ram import Ram
from spatten.hw.memory.block_table import entry_shape, granted_block
from spatten.spec.config import LSB_BITS, SCALE_MANTISSA_BITS, Config
from spatten.spec.constants import BLOCKS, KEPT_SLOTS, SCALE_SHIFT_BITS
from spatten.spec.job import Flag, KeyFetch, Mode
from spatten.spec.row_format import CODE_BITS, key_ring_sectors, query_ring_sectors

__all__ = ["RowControl"]


class RowControl(wiring.Component):
    """Decides which rows come next: job after job, head after head, chunk after chunk of queries; flat rows in between.

    A segment, the rows of a chunk with the keys of their head, goes to both readers once its query, key and value
    blocks have their space: from then on no later segment can keep it from being finished. A row that is computed again
    goes before all segments that wait, as soon as its keys have begun to come. A row that may have to be computed again
    goes only when there is a place for its scores and its query, a *kept slot*.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots, started : in, described at `hw.control.planner.Planner`
    scale : in, `scale_write`
    i_query, i_key, i_value : streams, the next block of each ring
    i_again : stream of `again_segment`
    freed : in, a bit for each kept slot: the slot is free again
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
        scale_shape = data.StructLayout({"mantissa": SCALE_MANTISSA_BITS, "shift": SCALE_SHIFT_BITS})
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
        joined = job.fetch == KeyFetch.JOINED
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
        shift = Signal(SCALE_SHIFT_BITS, reset_less=True)
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
                    progressive.eq(equals(job.fetch, KeyFetch.PROGRESSIVE)),
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
    """`value(bits)`, where `bits` is the width that `code` stands for."""
    width = max(value(bits) for bits in CODE_BITS).bit_length() or 1
    return select([Const(value(CODE_BITS[min(n, len(CODE_BITS) - 1)]), width) for n in range(8)], code)
