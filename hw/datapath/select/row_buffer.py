"""One buffer of a quick-select: a row of values in memory, and where it ends."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.packer import packed_row
from spatten.hw.lib.ram import Ram

__all__ = ["RowBuffer"]


class RowBuffer(wiring.Component):
    """Is written with a row, beat by beat; then it is read, and may meanwhile be written with a shorter row.

    Parameters
    ----------
    width, lanes, n_max : int
        As in `QuickSelect`.
    compacts : bool
        Whether a shorter row may follow.

    Ports
    -----
    writes, write_beat, values, count : in, write this beat: `values`, of which the first `count` are live
    fills : in, with `writes`: the row is complete
    frees : in, the row is no longer needed
    is_full : out, there is a complete row
    reads, read_beat : in, read this beat
    read_values : out, in the cycle after, until the next read
    last_beat, last_count : out, number of the row's last beat, and how many of its values are live
    rewrites, rewrite_beat, rewritten : in, write this beat, a `packed_row(width, lanes)`, of the shorter row; only with
        `compacts`. Not while the row before is written.

    Throughput: one beat written and one read per cycle.
    """

    def __init__(self, *, width: int, lanes: int, n_max: int, compacts: bool) -> None:
        self.width = width
        self.lanes = lanes
        self.beats_max = -(-n_max // lanes)
        self.compacts = compacts
        values = data.ArrayLayout(unsigned(width), lanes)
        beat, count = range(max(2, self.beats_max)), range(lanes + 1)
        write_beat = range(self.beats_max + 1)
        ports: dict[str, Any] = {
            "writes": In(1),
            "write_beat": In(write_beat),
            "values": In(values),
            "count": In(count),
            "fills": In(1),
            "frees": In(1),
            "is_full": Out(1),
            "reads": In(1),
            "read_beat": In(beat),
            "read_values": Out(values),
            "last_beat": Out(beat),
            "last_count": Out(count),
        }
        if compacts:
            ports |= {"rewrites": In(1), "rewrite_beat": In(write_beat), "rewritten": In(packed_row(width, lanes))}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        last_beat = Signal(range(max(2, self.beats_max)), reset_less=True)
        last_count = Signal(range(self.lanes + 1), reset_less=True)
        m.submodules.values = memory = Ram(shape=self.width * self.lanes, depth=max(2, self.beats_max))
        m.d.comb += [
            memory.write_enable.eq(self.writes),
            memory.write_address.eq(self.write_beat),
            memory.write_data.eq(Value.cast(self.values)),
            memory.read_enable.eq(self.reads),
            memory.read_address.eq(self.read_beat),
            Value.cast(self.read_values).eq(memory.read_data),
            self.last_beat.eq(last_beat),
            self.last_count.eq(last_count),
        ]
        with m.If(self.writes):
            m.d.sync += [last_beat.eq(self.write_beat), last_count.eq(self.count)]
        with m.If(self.fills):
            m.d.sync += self.is_full.eq(1)
        with m.Elif(self.frees):
            m.d.sync += self.is_full.eq(0)
        if self.compacts:
            with m.If(self.rewrites):
                m.d.comb += [
                    memory.write_enable.eq(1),
                    memory.write_address.eq(self.rewrite_beat),
                    memory.write_data.eq(Value.cast(self.rewritten.lanes)),
                ]
                with m.If(self.rewritten.last):
                    m.d.sync += [last_beat.eq(self.rewrite_beat), last_count.eq(self.rewritten.count)]
        return m
