"""When the passes of a quick-select over its buffered rows begin and end."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["OnePassControl", "PassControl"]


class OnePassControl(wiring.Component):
    """Rows of one pass each: a row is read as soon as it is there, and the next right behind it.

    Ports
    -----
    is_full, reads_last : in, from `SelectBuffers`
    starts : out, the first beat of a row is read
    reads, frees : out, to `SelectBuffers`

    Throughput: a beat per cycle.
    """

    def __init__(self) -> None:
        super().__init__({"is_full": In(1), "reads_last": In(1), "starts": Out(1), "reads": Out(1), "frees": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        scans = Signal()
        m.d.comb += [
            self.starts.eq(~scans & self.is_full),
            self.reads.eq(self.starts | scans),
            self.frees.eq(self.reads & self.reads_last),
        ]
        with m.If(self.reads):
            m.d.sync += scans.eq(~self.reads_last)
        return m


class PassControl(wiring.Component):
    """Rows of as many passes as they need, one row after the other.

    A row is in none of three states before it starts, and then in one after the other: *passing*, while its beats are
    read; *deciding*, until the pass is done, which leads to the next pass or ends the row; *freeing*, as long as what a
    pass compacted in vain still comes back.

    Ports
    -----
    is_full, reads_last, is_stored, is_compacted : in, from `SelectBuffers`
    done : in, a pass is done
    finishes : in, with `done`, that it was the row's last
    starts : out, the first pass of a row begins
    reads, frees : out, to `SelectBuffers`
    """

    def __init__(self) -> None:
        inputs = ("is_full", "reads_last", "is_stored", "is_compacted", "done", "finishes")
        outputs = ("starts", "reads", "frees")
        super().__init__({**{name: In(1) for name in inputs}, **{name: Out(1) for name in outputs}})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        passing = Signal()
        deciding = Signal()
        freeing = Signal()
        m.d.comb += [
            self.starts.eq(self.is_full & ~passing & ~deciding & ~freeing),
            self.reads.eq(self.starts | (passing & self.is_stored)),
            # A compaction that turned out to be in vain must not write into the next row.
            self.frees.eq(freeing & self.is_compacted),
        ]
        with m.If(self.reads):
            m.d.sync += [passing.eq(~self.reads_last), deciding.eq(self.reads_last)]
        with m.If(self.done):
            m.d.sync += [deciding.eq(0), passing.eq(~self.finishes), freeing.eq(self.finishes)]
        with m.If(self.frees):
            m.d.sync += freeing.eq(0)
        return m
