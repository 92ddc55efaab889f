"""AXI4: the signatures of a master's ports, and the merging of sector requests to bursts, for reads and writes."""

from enum import IntEnum
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.parameters import check_integer
from spatten.hw.lib.shared import Shared
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.constants import PAGE_BITS

__all__ = [
    "BURST_SECTORS",
    "BurstMerger",
    "Response",
    "axi4",
    "axi4_read",
    "axi4_write",
    "bus_error",
    "check_sizes",
    "drive_address",
    "report_response",
    "sector_write",
]

BURST_SECTORS = 16
"""Most sectors of a burst: at 16 bits a beat these are the 256 beats that AXI4 allows."""
_PAGE_BITS = 7
"""log2 of the sectors of 4 KiB, whose boundary no burst may cross."""
_SECTOR_SHIFT = SECTOR_BYTES.bit_length() - 1
_BAD_RESPONSE_BIT = 1
"""The bit that SLVERR and DECERR have, and OKAY and EXOKAY do not."""
_INCR = 1
_CACHE = 0b0011
"""Normal, non-cacheable, bufferable: interconnects may change a transfer's width and cut it."""


class Response(IntEnum):
    """Values of BRESP and RRESP, here and in AXI4-Lite."""

    OKAY = 0
    SLVERR = 2
    DECERR = 3


def sector_write(address_bits: int) -> data.StructLayout:
    """A write of one sector: its local `address` in the channel, in sectors, and its 256 bits of `data`."""
    return data.StructLayout({"address": unsigned(address_bits), "data": unsigned(8 * SECTOR_BYTES)})


def _check(address_bits: int, data_bits: int, id_bits: int) -> None:
    for name, value, low, high in (("address_bits", address_bits, 12, 64), ("id_bits", id_bits, 1, 32)):
        check_integer(name, value, low, high)
    check_integer("data_bits", data_bits)
    if data_bits not in (8, 16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"data_bits must be 8 to 1024 and a power of two, not {data_bits!r}")


def _address_members(prefix: str, address_bits: int, id_bits: int) -> dict[str, Any]:
    return {
        f"{prefix}id": Out(id_bits),
        f"{prefix}addr": Out(address_bits),
        f"{prefix}len": Out(8),
        f"{prefix}size": Out(3),
        f"{prefix}burst": Out(2),
        f"{prefix}cache": Out(4),
        f"{prefix}prot": Out(3),
        f"{prefix}valid": Out(1),
        f"{prefix}ready": In(1),
    }


def axi4_write(address_bits: int, data_bits: int, id_bits: int = 1) -> wiring.Signature:
    """The channels AW, W and B of an AXI4 master. Lock, QoS, region and user signals are absent: all zero by default.

    Members have their standard names, so a port of a top level is its prefix and the member's name.
    """
    _check(address_bits, data_bits, id_bits)
    return wiring.Signature(
        {
            **_address_members("aw", address_bits, id_bits),
            "wdata": Out(data_bits),
            "wstrb": Out(data_bits // 8),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(id_bits),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
        }
    )


def axi4_read(address_bits: int, data_bits: int, id_bits: int = 1) -> wiring.Signature:
    """The channels AR and R of an AXI4 master, as `axi4_write`."""
    _check(address_bits, data_bits, id_bits)
    return wiring.Signature(
        {
            **_address_members("ar", address_bits, id_bits),
            "rid": In(id_bits),
            "rdata": In(data_bits),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def axi4(address_bits: int, data_bits: int, id_bits: int = 1) -> wiring.Signature:
    """All five channels of an AXI4 master."""
    write = axi4_write(address_bits, data_bits, id_bits)
    read = axi4_read(address_bits, data_bits, id_bits)
    return wiring.Signature({**dict(write.members.items()), **dict(read.members.items())})


bus_error = data.StructLayout({"valid": 1, "is_decode": 1})
"""A bad response: `is_decode` for DECERR (nothing is there), else SLVERR (what is there failed)."""


def report_response(m: Module, error: Any, transfer: Value, response: Value) -> None:
    """Says on `error`, a `bus_error`, in the cycle after a transfer whether its response was a bad one."""
    is_bad = response[_BAD_RESPONSE_BIT]
    m.d.sync += [error.valid.eq(transfer & is_bad), error.is_decode.eq(transfer & (response == Response.DECERR))]


def check_sizes(address_bits: int, local_bits: int, channel_bits: int) -> None:
    """Refuse sizes that the master of a channel cannot have."""
    for name, value, low, high in (
        ("address_bits", address_bits, 13, 64),
        ("local_bits", local_bits, 1, address_bits - _SECTOR_SHIFT if isinstance(address_bits, int) else 0),
    ):
        check_integer(name, value, low, high)
    check_integer("channel_bits", channel_bits)
    if channel_bits not in (16, 32, 64, 128, 256):
        raise ValueError(f"channel_bits must be 16, 32, 64, 128 or 256, not {channel_bits!r}")


def drive_address(m: Module, axi: Any, prefix: str, bursts: Any, channel_bits: int) -> None:
    """Put a stream of bursts, as `BurstMerger` makes them, on an address channel: `prefix` is "ar" or "aw"."""
    beat_bits = (8 * SECTOR_BYTES // channel_bits).bit_length() - 1
    m.d.comb += [
        getattr(axi, f"{prefix}id").eq(0),
        getattr(axi, f"{prefix}addr").eq(Cat(Const(0, _SECTOR_SHIFT), bursts.payload.sector)),
        getattr(axi, f"{prefix}len").eq(Cat(Const((1 << beat_bits) - 1, beat_bits), bursts.payload.more)),
        getattr(axi, f"{prefix}size").eq((channel_bits // 8).bit_length() - 1),
        getattr(axi, f"{prefix}burst").eq(_INCR),
        getattr(axi, f"{prefix}cache").eq(_CACHE),
        getattr(axi, f"{prefix}prot").eq(0),
        getattr(axi, f"{prefix}valid").eq(bursts.valid),
        bursts.ready.eq(getattr(axi, f"{prefix}ready")),
    ]


class BurstMerger(Shared):
    """Merges requests for sectors to bursts: each leaves as soon as it can, and waiting neighbours leave together.

    A burst that is presented on `o` never changes. While it is stalled, the requests behind it gather in a second
    burst as long as each is for the sector after the last; one that is not waits as the beginning of a third. No burst
    crosses a page of 4 KiB, nor has more than `burst` sectors.

    Parameters
    ----------
    address_bits : int
        Width of a byte address.
    local_bits : int
        Width of a local sector address.
    burst : int
        Most sectors of a burst: a power of two up to 16.
    room_bits : int
        Width of `room`.
    page_bits : int
        log2 of a page's sectors; other values than 7 are for proofs only.

    Ports
    -----
    base : in, first page of the channel; must not change unless everything that entered has left
    i : stream of a local sector address, in
    o : stream of bursts, out: `sector` (byte address / 32) of the first, and how many `more` follow it
    room : in, most sectors that the next burst may have. A burst waits until it fits, so `room` must reach `burst`
        at some time; `room` may fall only by the sectors that are presented.
    presents : out, set in a cycle at whose end a new burst is put on `o`; `presented` is its `more`
    joins : out, set if the request that enters joins the one before
    waits : out, set if there are requests that are not on `o` yet
    stop : in. While set, requests that wait are dropped, `i` is swallowed, and no burst is presented anew; one that
        is presented already stays.

    Latency: 1 cycle from a transfer on `i` to its valid on `o`. Throughput: one request per cycle. `i.ready` comes from
    a register and `stop`, `o.valid` and `o.payload` from registers.
    """

    def __init__(
        self,
        *,
        address_bits: int,
        local_bits: int,
        burst: int = BURST_SECTORS,
        room_bits: int = BURST_SECTORS.bit_length(),
        page_bits: int = _PAGE_BITS,
    ) -> None:
        check_sizes(address_bits, local_bits, 256)
        for name, value, least in (("burst", burst, 1), ("room_bits", room_bits, 1), ("page_bits", page_bits, 1)):
            check_integer(name, value, least)
        if burst > BURST_SECTORS or burst & (burst - 1):
            raise ValueError(f"burst must be a power of two up to {BURST_SECTORS}, not {burst!r}")
        self.address_bits = address_bits
        self.local_bits = local_bits
        self.burst = burst
        self.page_bits = page_bits
        self.more_bits = BURST_SECTORS.bit_length() - 1
        super().__init__(
            {
                "base": In(PAGE_BITS),
                "i": In(stream.Signature(unsigned(local_bits))),
                "o": Out(
                    stream.Signature(
                        data.StructLayout({"sector": unsigned(address_bits - _SECTOR_SHIFT), "more": self.more_bits})
                    )
                ),
                "room": In(room_bits),
                "presents": Out(1),
                "presented": Out(self.more_bits),
                "joins": Out(1),
                "waits": Out(1),
                "stop": In(1),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i", ends=self.stop)
        sector_bits = self.address_bits - _SECTOR_SHIFT
        local = self.i.payload
        offset = self._offset(local)

        # Behind the presented burst: `open`, the burst that grows, and `spilled`, the beginning of the next.
        # `open_more` is 0 if there is no such burst; `open_next` is the offset in its page behind the burst.
        open_valid = Signal()
        open_local = Signal(self.local_bits, reset_less=True)
        open_more = Signal(self.more_bits)
        open_next = Signal(self.page_bits, reset_less=True)
        spilled_valid = Signal()
        spilled_local = Signal(self.local_bits, reset_less=True)
        presented_local = Signal(self.local_bits)
        begun = Signal(self.local_bits)

        enters = Signal()
        is_free = Signal()
        is_next = (offset == open_next) & (local >> self.page_bits == open_local >> self.page_bits)
        page = self.base + (presented_local >> self.page_bits)
        m.d.comb += [
            self.i.ready.eq(~spilled_valid | self.stop),
            self.waits.eq(open_valid),
            enters.eq(self.i.valid & ~spilled_valid & ~self.stop),
            is_free.eq(~self.o.valid | self.o.ready),
            self.joins.eq(enters & open_valid & ~is_free & self._follows(is_next, offset, open_more)),
            self.presented.eq(open_more),
            presented_local.eq(Mux(open_valid, open_local, local)),
            begun.eq(Mux(spilled_valid, spilled_local, local)),
            self.presents.eq(is_free & ~self.stop & (open_valid | self.i.valid) & (self.room > self.presented)),
        ]
        with m.If(is_free):
            m.d.sync += self.o.valid.eq(self.presents)
        with m.If(self.presents):
            m.d.sync += [
                self.o.payload.sector.eq(Cat(self._offset(presented_local), page[: sector_bits - self.page_bits])),
                self.o.payload.more.eq(self.presented),
            ]
        # A request that enters is presented at once, joins the open burst, begins it, or waits to begin the next. Where
        # a burst begins is stored in each cycle in which the old place means nothing.
        with m.If(self.stop):
            m.d.sync += [open_valid.eq(0), open_more.eq(0), spilled_valid.eq(0)]
        with m.Elif(self.presents), m.If(open_valid):
            m.d.sync += [open_valid.eq(spilled_valid | enters), open_more.eq(0), spilled_valid.eq(0)]
        with m.Elif(enters):
            with m.If(~open_valid):
                m.d.sync += open_valid.eq(1)
            with m.Elif(self.joins):
                m.d.sync += open_more.eq(open_more + 1)
            with m.Else():
                m.d.sync += spilled_valid.eq(1)
        with m.If(~open_valid | self.presents):
            m.d.sync += [open_local.eq(begun), open_next.eq(self._offset(begun) + 1)]
        with m.Elif(self.joins):
            m.d.sync += open_next.eq(open_next + 1)
        with m.If(~spilled_valid):
            m.d.sync += spilled_local.eq(local)
        return m

    def _offset(self, local: Value) -> Value:
        """Where in its page a sector lies."""
        return (local | Const(0, self.page_bits))[: self.page_bits]

    def _follows(self, is_next: Value, offset: Value, more: Value) -> Value:
        """Whether a request can join a burst of 1 + `more` sectors; at offset 0 it cannot: a page begins there."""
        return is_next & offset.any() & (more != self.burst - 1)
