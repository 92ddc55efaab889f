"""When the passes of a quick-select over its buffered rows begin and end."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts

__all__ = ["PassControl"]


class PassControl(wiring.Component):
    """Has the buffered rows read, each in as many passes as it needs.

    Where every row has one pass, a row is read as soon as it is full, a beat per cycle, the next row right behind it,
    and its buffer is free with its last beat.

    Where a row may have several passes, it is in none of three states before it starts, and then in one after the
    other: *passing*, while its beats are read, each as soon as it is stored; *deciding*, until the pass is done, which
    leads to the next pass or ends the row; *freeing*, as long as what a pass compacted in vain still comes back. Only
    then is its buffer free, and the next row may start in the next cycle.

    Parameters
    ----------
    has_one_pass : bool
        Whether every row has one pass.

    Ports
    -----
    is_full, reads_last : in, from `SelectBuffers`
    starts : out, the first beat of a row's first pass is being read
    reads, frees : out, to `SelectBuffers`

    and where there may be several passes

    is_stored, is_compacted : in, from `SelectBuffers`
    done : in, a pass has found its digit; only while *deciding*
    finishes : in, with `done`, that it was the row's last

    All outputs come from registers and from the inputs that are from `SelectBuffers`.
    """

    def __init__(self, *, has_one_pass: bool) -> None:
        self.has_one_pass = has_one_pass
        ports = {"is_full": In(1), "reads_last": In(1), "starts": Out(1), "reads": Out(1), "frees": Out(1)}
        if not has_one_pass:
            ports |= {name: In(1) for name in ("is_stored", "is_compacted", "done", "finishes")}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        passing = Signal()
        if self.has_one_pass:
            m.d.comb += [
                self.starts.eq(~passing & self.is_full),
                self.reads.eq(self.starts | passing),
                self.frees.eq(self.reads & self.reads_last),
            ]
            with m.If(self.reads):
                m.d.sync += passing.eq(~self.reads_last)
            return m

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
        if asserts(platform):
            m.d.sync += Assert(~self.done | deciding, "a pass is done that was not read to its end\n")
        return m
