"""The row store of a quick-select: one row streams in while the passes go over the one before."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.select.row_buffer import RowBuffer
from spatten.hw.datapath.select.select_layouts import scanned_beat
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.packer import packed_row
from spatten.hw.lib.unstalled import unstalled

__all__ = ["SelectBuffers"]


class SelectBuffers(wiring.Component):
    """Two buffers of a row each, which are filled in turn, and read in turn, each as often as wanted.

    A pass may leave a shorter row in the place of the one that it reads (`compacts`): beats come back, packed, while
    the pass is still on, and the next pass follows them as they are written.

    Parameters
    ----------
    width, lanes, n_max : int
        As in `QuickSelect`.
    compacts : bool
        Whether beats come back.

    Ports
    -----
    has_room : out, there is a buffer for the next beat
    is_first : out, the next beat is the first of a row
    enters : in, a beat comes, `values` with the first `count` live, and is the `last` of its row; only with `has_room`
    is_full : out, the row that is to be read is complete
    reads : in, read that row's next beat; after its last one it begins again
    reads_last : out, the next beat is the last of the row, as far as it has come back
    frees : in, the next row is to be read: this one's buffer is free
    o : `unstalled` stream of `scanned_beat`, out: the beats that are read
    compaction_begins : in, the row is short of what comes back, until its last beat is back; only with `compacts`, as
        the following
    compacted : `unstalled` stream of `packed_row(width, lanes)`, in: a beat that comes back
    is_stored : out, the next beat is there
    is_compacted : out, nothing comes back

    Latency: a cycle from `reads` to `o`. Throughput: one beat in and one beat read per cycle.
    """

    def __init__(self, *, width: int, lanes: int, n_max: int, compacts: bool) -> None:
        self.width = width
        self.lanes = lanes
        self.n_max = n_max
        self.beats_max = -(-n_max // lanes)
        self.compacts = compacts
        ports: dict[str, Any] = {
            "has_room": Out(1),
            "is_first": Out(1),
            "enters": In(1),
            "values": In(data.ArrayLayout(unsigned(width), lanes)),
            "count": In(range(lanes + 1)),
            "last": In(1),
            "is_full": Out(1),
            "reads": In(1),
            "reads_last": Out(1),
            "frees": In(1),
            "o": Out(unstalled(scanned_beat(width, lanes))),
        }
        if compacts:
            ports |= {
                "compaction_begins": In(1),
                "compacted": In(unstalled(packed_row(width, lanes))),
                "is_stored": Out(1),
                "is_compacted": Out(1, init=1),
            }
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        write_buffer = Signal()
        write_beat = Signal(range(self.beats_max + 1))
        is_first = Signal(init=1)
        read_buffer = Signal()
        read_beat = Signal(range(max(2, self.beats_max)))
        sizes = {"width": self.width, "lanes": self.lanes, "n_max": self.n_max}
        buffers = [RowBuffer(**sizes, compacts=self.compacts) for _ in range(2)]
        enters_last = Signal()
        at_end = Signal()
        m.d.comb += [
            self.is_first.eq(is_first),
            self.has_room.eq(~Mux(write_buffer, buffers[1].is_full, buffers[0].is_full)),
            self.is_full.eq(Mux(read_buffer, buffers[1].is_full, buffers[0].is_full)),
            enters_last.eq(self.enters & self.last),
            at_end.eq(read_beat == Mux(read_buffer, buffers[1].last_beat, buffers[0].last_beat)),
        ]
        if asserts(platform):
            m.d.sync += Assert(~self.enters | (write_beat < self.beats_max), "i: a row is longer than n_max\n")
        with m.If(self.enters):
            m.d.sync += [write_beat.eq(Mux(self.last, 0, write_beat + 1)), is_first.eq(self.last)]
        with m.If(enters_last):
            m.d.sync += write_buffer.eq(~write_buffer)
        for n, buffer in enumerate(buffers):
            m.submodules[f"buffer{n}"] = buffer
            m.d.comb += [
                buffer.writes.eq(self.enters & (write_buffer == n)),
                buffer.write_beat.eq(write_beat),
                buffer.values.eq(self.values),
                buffer.count.eq(self.count),
                buffer.fills.eq(enters_last & (write_buffer == n)),
                buffer.frees.eq(self.frees & (read_buffer == n)),
                buffer.reads.eq(self.reads & (read_buffer == n)),
                buffer.read_beat.eq(read_beat),
            ]
        with m.If(self.frees):
            m.d.sync += read_buffer.eq(~read_buffer)
        with m.If(self.reads):
            m.d.sync += read_beat.eq(Mux(self.reads_last, 0, read_beat + 1))
        if self.compacts:
            self._take_back(m, buffers, read_buffer, read_beat, at_end)
        else:
            m.d.comb += self.reads_last.eq(at_end)
        self._pass_on(m, buffers, read_buffer, read_beat)
        return m

    def _take_back(
        self, m: Module, buffers: list[RowBuffer], read_buffer: Signal, read_beat: Signal, at_end: Signal
    ) -> None:
        """Beats that come back are written over those that have been read, from the first on."""
        stored = Signal(range(self.beats_max + 1))
        m.d.comb += [
            self.reads_last.eq(self.is_compacted & at_end),
            self.is_stored.eq(self.is_compacted | (read_beat < stored)),
        ]
        for n, buffer in enumerate(buffers):
            m.d.comb += [
                buffer.rewrites.eq(self.compacted.valid & (read_buffer == n)),
                buffer.rewrite_beat.eq(stored),
                buffer.rewritten.eq(self.compacted.payload),
            ]
        with m.If(self.compaction_begins):
            m.d.sync += self.is_compacted.eq(0)
        with m.If(self.compacted.valid):
            m.d.sync += stored.eq(Mux(self.compacted.payload.last, 0, stored + 1))
            with m.If(self.compacted.payload.last):
                m.d.sync += self.is_compacted.eq(1)

    def _pass_on(self, m: Module, buffers: list[RowBuffer], read_buffer: Signal, read_beat: Signal) -> None:
        """What goes with a beat is in registers beside the memory's output."""
        valid, first, last, several, from_buffer = (
            Signal(name=f"read_{name}") for name in ("valid", "first", "last", "several", "buffer")
        )
        count = Signal(range(self.lanes + 1), name="read_count", reset_less=True)
        last_count = Mux(read_buffer, buffers[1].last_count, buffers[0].last_count)
        values = [Value.cast(buffer.read_values) for buffer in buffers]
        m.d.sync += [
            valid.eq(self.reads),
            first.eq(~read_beat.any()),
            last.eq(self.reads_last),
            from_buffer.eq(read_buffer),
            count.eq(Mux(self.reads_last, last_count, self.lanes)),
        ]
        if self.compacts:
            m.d.sync += several.eq(~self.reads_last | read_beat.any())
        beat = self.o.payload
        m.d.comb += [
            self.o.valid.eq(valid),
            beat.first.eq(first),
            beat.last.eq(last),
            beat.several.eq(several),
            beat.count.eq(count),
            Value.cast(beat.values).eq(Mux(from_buffer, values[1], values[0])),
        ]
