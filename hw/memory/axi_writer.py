"""Writes sectors to a memory channel: an AXI4 master's AW, W and B."""

from typing import Any

from amaranth.hdl import Array, Assert, Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import add
from spatten.hw.lib.parameters import check_integer
from spatten.hw.lib.shared import Shared
from spatten.hw.memory.axi import (
    BURST_SECTORS,
    BurstMerger,
    axi4_write,
    bus_error,
    check_sizes,
    drive_address,
    report_response,
    sector_write,
)
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.constants import PAGE_BITS

__all__ = ["COUNT_BITS", "AxiWriter"]

COUNT_BITS = 16
"""Width of the counts of sectors, which are modulo 2**16."""


class AxiWriter(Shared):
    """Writes every sector that enters, in order, all of its bytes.

    A sector is 256 / `channel_bits` beats, the first the lowest. A burst is presented on AW as soon as it can be; while
    AW is stalled, sectors behind it that follow the last gather in one burst (`hw.memory.axi.BurstMerger`). The data of
    a burst are inside before it is presented, and go out on W from then on, whether or not AW has been taken: so what
    was begun can always be finished. BID is ignored; B answers bursts in their order.

    Parameters
    ----------
    address_bits : int
        Width of a byte address, 13 to 64.
    local_bits : int
        Width of a local sector address.
    channel_bits : int
        Width of a beat: 16, 32, 64, 128 or 256.
    depth : int
        Sectors that can always wait for W, at least 2; with fewer than 17 bursts gather fewer than 16.
    outstanding : int
        Most bursts that are presented and have no response, at least 3: for a sector per cycle at least the memory's
        latency + 4.

    Ports
    -----
    base : in, the channel's first page of 4 KiB; must not change unless `idle`
    i : stream of `hw.memory.axi.sector_write(local_bits)`, in
    axi : the AXI4 master's AW, W and B
    stop : in. While set, no burst is presented anew, bursts that are presented already are finished and their responses
        awaited, sectors that wait are dropped, and `i` is swallowed. Must stay until `idle`; then everything is as
        after a reset
    idle : out: no sector inside, no burst without response
    error : out, `hw.memory.axi.bus_error`, in the cycle after each bad response
    activity : out, set in each cycle with a transfer on AW, W or B
    accepted : out, how many sectors were taken from `i`, modulo 2**16
    acknowledged : out, how many of these are in bursts that have their response, modulo 2**16: writes made before a
        moment are done when `acknowledged` reaches what `accepted` was then. Both are 0 from the first cycle after
        `stop` is set

    Latency: 2 cycles from a transfer on `i` to AWVALID and WVALID, when nothing waits. Throughput: a sector per cycle
    at 256 bits, a beat per cycle otherwise. All of AXI comes from registers, WDATA and WLAST with one selection behind
    them.
    """

    _burst = BURST_SECTORS
    _page: dict[str, int] = {}

    def __init__(
        self, *, address_bits: int = 40, local_bits: int, channel_bits: int, depth: int = 32, outstanding: int = 64
    ) -> None:
        check_sizes(address_bits, local_bits, channel_bits)
        check_integer("depth", depth, 2)
        check_integer("outstanding", outstanding, 3)
        self.address_bits = address_bits
        self.local_bits = local_bits
        self.channel_bits = channel_bits
        self.depth = depth
        self.outstanding = outstanding
        super().__init__(
            {
                "base": In(PAGE_BITS),
                "i": In(stream.Signature(sector_write(local_bits))),
                "axi": Out(axi4_write(address_bits, channel_bits)),
                "stop": In(1),
                "idle": Out(1),
                "error": Out(bus_error),
                "activity": Out(1),
                "accepted": Out(COUNT_BITS),
                "acknowledged": Out(COUNT_BITS),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i", ends=self.stop)
        axi = self.axi
        m.submodules.merger = merger = BurstMerger(
            address_bits=self.address_bits, local_bits=self.local_bits, burst=self._burst, **self._page
        )
        drive_address(m, axi, "aw", merger.o, self.channel_bits)

        # A sector's data enter their queue, and its address a register in front of the merger.
        m.submodules.queue = queue = Fifo(shape=unsigned(8 * SECTOR_BYTES), depth=self.depth)
        enters = Signal()
        address = Signal(self.local_bits, reset_less=True)
        address_valid = Signal()
        address_ready = Signal()
        m.d.comb += [
            address_ready.eq(~address_valid | merger.i.ready),
            self.i.ready.eq((queue.i.ready & address_ready) | self.stop),
            enters.eq(self.i.valid & queue.i.ready & address_ready & ~self.stop),
            merger.base.eq(self.base),
            merger.i.payload.eq(address),
            merger.i.valid.eq(address_valid),
            merger.stop.eq(self.stop),
            queue.i.valid.eq(enters),
            queue.i.payload.eq(self.i.payload.data),
        ]
        with m.If(address_ready):
            m.d.sync += [address_valid.eq(enters), address.eq(self.i.payload.address)]

        # `ends` marks the sectors that end a burst: each does, until another joins the burst, which happens before the
        # burst is presented. The places of the next sector to enter the merger, of the last that entered it, and of the
        # next to leave the queue are one-hot.
        places = self.depth + 1
        ends = Signal(places, reset_less=True)
        write_place = Signal(places, init=1)
        last_place = Signal(places, reset_less=True)
        read_place = Signal(places, init=1)
        with m.If(address_valid & merger.i.ready):
            m.d.sync += [write_place.eq(write_place.rotate_left(1)), last_place.eq(write_place)]
            m.d.sync += ends.eq((ends | write_place) & ~Mux(merger.joins, last_place, 0))
        with m.If(queue.o.valid & queue.o.ready):
            m.d.sync += read_place.eq(read_place.rotate_left(1))

        # W sends the data of presented bursts and nothing else. Under `stop` all other data are then dropped.
        beats = 8 * SECTOR_BYTES // self.channel_bits
        released = Signal(range(self.depth + 2))
        some_released = Signal()
        is_last_beat = Signal()
        sends = Signal()
        finishes = Signal()
        m.d.comb += [
            axi.wvalid.eq(queue.o.valid & some_released),
            axi.wlast.eq((ends & read_place).any() & is_last_beat),
            axi.wstrb.eq(-1),
            sends.eq(axi.wvalid & axi.wready),
            finishes.eq(sends & is_last_beat),
            queue.o.ready.eq(finishes | (self.stop & ~some_released)),
        ]
        if beats == 1:
            m.d.comb += [is_last_beat.eq(1), axi.wdata.eq(queue.o.payload)]
        else:
            beat = Signal(range(beats))
            m.d.comb += [
                is_last_beat.eq(beat == beats - 1),
                axi.wdata.eq(Array(queue.o.payload.word_select(n, self.channel_bits) for n in range(beats))[beat]),
            ]
            with m.If(sends):
                m.d.sync += beat.eq(beat + 1)
        more = Mux(merger.presents, merger.presented, finishes.replicate(len(released)))
        m.d.sync += [
            released.eq(add(released, more, merger.presents & ~finishes)),
            some_released.eq(merger.presents | released[1:].any() | (released[0] & ~finishes)),
        ]

        # B: how many sectors each burst without response has.
        m.submodules.bursts = bursts = Fifo(shape=unsigned(len(merger.presented)), depth=self.outstanding - 1)
        answers = Signal()
        m.d.comb += [
            merger.room.eq(Mux(bursts.i.ready, self._burst, 0)),
            bursts.i.valid.eq(merger.presents),
            bursts.i.payload.eq(merger.presented),
            axi.bready.eq(bursts.o.valid),
            bursts.o.ready.eq(axi.bvalid),
            answers.eq(axi.bvalid & axi.bready),
        ]
        with m.If(self.stop):
            m.d.sync += [self.accepted.eq(0), self.acknowledged.eq(0)]
        with m.Else():
            with m.If(enters):
                m.d.sync += self.accepted.eq(self.accepted + 1)
            with m.If(answers):
                m.d.sync += self.acknowledged.eq(self.acknowledged + bursts.o.payload + 1)
        m.d.comb += [
            self.idle.eq(~queue.some & ~bursts.some),
            self.activity.eq((axi.awvalid & axi.awready) | sends | answers),
        ]
        report_response(m, self.error, answers, axi.bresp)
        if asserts(platform):
            stopped = Signal()
            m.d.sync += stopped.eq(self.stop & ~self.idle)
            m.d.sync += [
                Assert(~stopped | self.stop, "stop ended before idle\n"),
                Assert(~axi.bvalid | bursts.some, "axi: a response that nothing asked for\n"),
            ]
        return m
