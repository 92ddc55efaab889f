"""The segment of a row that is computed again."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.format_tables import LSB_CODE, block_table
from spatten.hw.control.job_layouts import score_scale
from spatten.hw.control.job_slots import by_slot, head_place, slot_layout
from spatten.hw.control.plan.plan_layouts import again_row
from spatten.hw.control.row.row_layouts import row_segment
from spatten.hw.control.row.score_scales import excess_bits
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.assertions import check_stream
from spatten.spec.config import Config
from spatten.spec.row_format import key_ring_sectors

__all__ = ["AgainSegments"]


class AgainSegments(wiring.Component):
    """Makes the segment of each row that is computed again: its stashed query, and its keys in the refetch area.

    A row of kind SECOND reads its LSB plane alone, whose codes are unsigned, and adds to the stashed scores. Any other
    is of kind SINGLE and reads MSB and LSB planes joined, rounded to an operand where they are wider, which its
    scale's shift makes up for.

    Parameters
    ----------
    config : Config

    Ports
    -----
    slots : in, as of `hw.control.planner.Planner`
    read : stream of `head_place`, out: the head whose scale is needed
    scale : in, `score_scale`, the one that was asked for, in the cycle after
    i : stream of `again_row`
    o : stream of `row_segment`; unused members are zero

    Latency: 3 cycles, more while `read` is not ready. One row at a time: the next is taken in the cycle after its
    segment has been.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "slots": In(data.ArrayLayout(slot_layout(config), config.jobs_in_flight)),
                "read": Out(stream.Signature(head_place(config))),
                "scale": In(score_scale()),
                "i": In(stream.Signature(again_row(config))),
                "o": Out(stream.Signature(row_segment(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        config = self.config
        again = Signal(again_row(config), reset_less=True)
        header = again.row.header
        # Where the row is: the job's record and the scale are being looked up, they are there, the segment is.
        looks_up, has_job, has_segment = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~Cat(looks_up, has_job, has_segment).any()),
            self.read.valid.eq(looks_up),
            self.read.payload.slot.eq(header.slot),
            self.read.payload.head.eq(header.head),
            self.o.valid.eq(has_segment),
        ]
        with m.If(self.i.ready):
            m.d.sync += [looks_up.eq(self.i.valid), again.eq(self.i.payload)]
        with m.Else():
            m.d.sync += [
                looks_up.eq(looks_up & ~self.read.ready),
                has_job.eq(looks_up & self.read.ready),
                has_segment.eq(has_job | (has_segment & ~self.o.ready)),
            ]
        fields = {name: slot_layout(config).members[name] for name in ("head_dim", "key_bits")}
        job = Signal(data.StructLayout(fields), reset_less=True)
        records = [Cat(self.slots[n][name] for name in fields) for n in range(config.jobs_in_flight)]
        m.d.sync += Value.cast(job).eq(by_slot(records, header.slot))
        is_second_pass = Signal()
        m.d.comb += is_second_pass.eq(again.row.kind == Kind.SECOND)
        scale = Signal(score_scale(), reset_less=True)
        with m.If(has_job):
            excess = Mux(is_second_pass, 0, excess_bits(config, job.key_bits))
            m.d.sync += [scale.mantissa.eq(self.scale.mantissa), scale.shift.eq(self.scale.shift - excess)]
        bits = Mux(is_second_pass, LSB_CODE, job.key_bits)
        block = block_table(m, config, dim=job.head_dim, bits=bits, joined=~is_second_pass, name="key_format")
        query, key = self.o.payload.query, self.o.payload.key
        m.d.comb += [
            query.rows.eq(1),
            query.again.eq(1),
            query.stash_slot.eq(again.row.stash_slot),
            query.row.eq(header.number),
            key.row.eq(header),
            key.kind.eq(again.row.kind),
            key.stash_slot.eq(again.row.stash_slot),
            key.linear.eq(1),
            key.base.eq(key_ring_sectors(config)),
            key.limit.eq(again.limit),
            key.rows.eq(1),
            key.keys.eq(again.keys),
            key.dim.eq(job.head_dim),
            key.bits.eq(bits),
            key.joined.eq(~is_second_pass),
            key.odd_head.eq(block.paired & header.head[0]),
            key.lsb.eq(is_second_pass),
            key.mantissa.eq(scale.mantissa),
            key.shift.eq(scale.shift),
        ]
        return m
