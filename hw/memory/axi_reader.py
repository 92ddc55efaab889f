"""Reads sectors from a memory channel: an AXI4 master's AR and R."""

from typing import Any

from amaranth.hdl import Assert, Const, Module, Mux, Signal, unsigned
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.logic import add
from spatten.hw.lib.parameters import check_integer
from spatten.hw.lib.shared import Shared
from spatten.hw.memory.axi import (
    BURST_SECTORS,
    BurstMerger,
    axi4_read,
    bus_error,
    check_sizes,
    drive_address,
    report_response,
)
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.constants import PAGE_BITS

__all__ = ["AxiReader"]


class AxiReader(Shared):
    """Local sector addresses in, sectors out, in the same order.

    A sector is 256 / `channel_bits` beats, the first the lowest. A request is presented as soon as it can be; while AR
    is stalled, those behind it that are for the sector after the last gather in one burst
    (`hw.memory.axi.BurstMerger`). Beats are counted; RID and RLAST are ignored. A sector with a bad
    response goes to `o` like any other.

    Parameters
    ----------
    address_bits : int
        Width of a byte address, 13 to 64.
    local_bits : int
        Width of a local sector address.
    channel_bits : int
        Width of a beat: 16, 32, 64, 128 or 256.
    outstanding : int
        Most sectors that are presented on AR and have not arrived: for full rate at least the memory's latency + 2.

    Ports
    -----
    base : in, the channel's first page of 4 KiB; must not change unless `idle`
    i : stream of a local sector address, in
    o : stream of a sector (256 bits), out
    axi : the AXI4 master's AR and R
    stop : in. While set, no burst is presented anew (one that is presented already stays), requests that wait are
        dropped, `i` and R are swallowed, and `o` is empty from the first cycle on, whatever was stalled there (its
        consumer must be reset with it). Must stay until `idle`; then everything is as after a reset
    idle : out: no request inside, none presented or unanswered, no sector on `o`
    error : out, `hw.memory.axi.bus_error`, in the cycle after each beat with a bad response
    activity : out, set in each cycle with a transfer on AR or R

    Latency: 1 cycle from a transfer on `i` to ARVALID when nothing waits; 1 cycle from a sector's last beat to `o`.
    Throughput: a sector per cycle at 256 bits, a beat per cycle otherwise. AR, `o` and `error` come from registers,
    except that `stop` gates `o.valid`; RREADY follows `o.ready` while a sector is on `o`.
    """

    _burst = BURST_SECTORS
    _page: dict[str, int] = {}

    def __init__(self, *, address_bits: int = 40, local_bits: int, channel_bits: int, outstanding: int = 128) -> None:
        check_sizes(address_bits, local_bits, channel_bits)
        check_integer("outstanding", outstanding, 1)
        self.address_bits = address_bits
        self.local_bits = local_bits
        self.channel_bits = channel_bits
        self.outstanding = outstanding
        super().__init__(
            {
                "base": In(PAGE_BITS),
                "i": In(stream.Signature(unsigned(local_bits))),
                "o": Out(stream.Signature(unsigned(8 * SECTOR_BYTES))),
                "axi": Out(axi4_read(address_bits, channel_bits)),
                "stop": In(1),
                "idle": Out(1),
                "error": Out(bus_error),
                "activity": Out(1),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        axi = self.axi
        burst = min(self._burst, 1 << (self.outstanding.bit_length() - 1))
        m.submodules.merger = merger = BurstMerger(
            address_bits=self.address_bits,
            local_bits=self.local_bits,
            burst=burst,
            room_bits=self.outstanding.bit_length(),
            **self._page,
        )
        drive_address(m, axi, "ar", merger.o, self.channel_bits)

        # Sectors arrive beat by beat in the register that `o` shows.
        beats = 8 * SECTOR_BYTES // self.channel_bits
        takes = Signal()
        arrives = Signal()
        sector_valid = Signal()
        sector = Signal(8 * SECTOR_BYTES, reset_less=True)
        m.d.comb += [
            self.o.valid.eq(sector_valid & ~self.stop),
            self.o.payload.eq(sector),
            axi.rready.eq(~sector_valid | self.o.ready | self.stop),
            takes.eq(axi.rvalid & axi.rready),
        ]
        with m.If(takes):
            m.d.sync += sector.eq((sector >> self.channel_bits) | (axi.rdata << (8 * SECTOR_BYTES - self.channel_bits)))
        if beats == 1:
            m.d.comb += arrives.eq(takes)
        else:
            beat = Signal(range(beats))
            m.d.comb += arrives.eq(takes & (beat == beats - 1))
            with m.If(takes):
                m.d.sync += beat.eq(beat + 1)
        m.d.sync += sector_valid.eq((arrives | (sector_valid & ~self.o.ready)) & ~self.stop)

        room = Signal(range(self.outstanding + 1), init=self.outstanding)
        answered = Signal()
        # A burst of 1 + n sectors takes as many places: -1 - n is the complement of n.
        taken = ~(merger.presented | Const(0, len(room)))
        m.d.sync += room.eq(add(room, Mux(merger.presents, taken, 0), arrives))
        m.d.comb += [
            merger.base.eq(self.base),
            merger.i.payload.eq(self.i.payload),
            merger.i.valid.eq(self.i.valid),
            self.i.ready.eq(merger.i.ready),
            merger.room.eq(room),
            merger.stop.eq(self.stop),
            answered.eq(room == self.outstanding),
            self.idle.eq(answered & ~merger.waits & ~sector_valid),
            self.activity.eq((axi.arvalid & axi.arready) | takes),
        ]
        report_response(m, self.error, takes, axi.rresp)
        if asserts(platform):
            stopped = Signal()
            m.d.sync += stopped.eq(self.stop & ~self.idle)
            m.d.sync += [
                Assert(~stopped | self.stop, "stop ended before idle\n"),
                Assert(~axi.rvalid | ~answered, "axi: a beat that nothing asked for\n"),
            ]
        return m
