"""A buffer of K or V: rings of sectors in banks, a lane for each slice of an array, read by windows."""

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.logic import following, wrapped
from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.pipeline import delayed, delayed_valid
from spatten.hw.lib.ram import Ram
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["RingBuffer", "lane_window", "window_request"]


def window_request(sectors: int, banks: int, header: ShapeLike) -> data.StructLayout:
    """A read: `sectors` (1 to `banks`) consecutive sectors of every lane from `sector` on, and a header."""
    return data.StructLayout({"sector": range(sectors), "sectors": range(banks + 1), "header": header})


def lane_window(lanes: int, banks: int, header: ShapeLike) -> data.StructLayout:
    """What a read delivers: of every lane a word of each bank, the bank `first` of the window's first sector, and the
    header. The window's sector k is in bank (first + k) mod `banks`; the words of other banks mean nothing."""
    words = data.ArrayLayout(data.ArrayLayout(SECTOR_BITS, banks), lanes)
    return data.StructLayout({"words": words, "first": range(banks), "header": header})


class RingBuffer(wiring.Component):
    """A ring of sectors in each of `lanes` lanes: blocks are filled in any order, read by windows, and freed.

    The lanes are alike and share their addresses: a block takes the same places in each. Sector a of a lane lies in
    bank a mod `banks` at word a div `banks`, so any `banks` consecutive sectors, and the last followed by the first,
    lie in different banks and are read at once.

    A block's life: `i_allocate` asks for its space in order, before its sectors are requested from memory; `o_block`
    says where it begins. Its sectors are written in any order, each straight to its place; nothing can refuse them.
    When all have arrived windows of it are read, as often as needed. `i_free` gives up the oldest space.

    Parameters
    ----------
    lanes : int
        Lanes, at least 1.
    sectors : int
        Sectors of a lane: a multiple of `banks`, at least 2 x `banks`; any such number, not only powers of two.
    linear : int
        Sectors of a lane behind the ring, a multiple of `banks`, from sector `sectors` on. They are not allocated:
        the units that write and read them share them out. A window that begins there must not reach beyond them.
    banks : int
        Memories of a lane, a power of two, at least 2: the most sectors of a window.
    header : shape-like
        What travels with a read, at least 1 bit.

    Ports
    -----
    write : in, [lane][bank] of `enable`, `address` (a word), `data` (a sector)
        Always accepted: the space was reserved before the sector was requested.
    i_read : in, `valid` and `payload`, a `window_request`
    o_read : out, `valid` and `payload`, a `lane_window`
        No back-pressure: the reader has room for what it asked for.
    i_allocate : stream of sectors, in
        1 to `sectors` sectors of every lane.
    o_block : stream of the first sector's address, out
        One for each allocation, in their order. The block's sector k is at (address + k) mod `sectors`.
    i_free : stream of sectors, in
        Always ready. The oldest allocated sectors of every lane, in one piece per block or not, become free.
    level : out, sectors of a lane that are allocated

    Latency: `delay` = 2 cycles from `i_read` to `o_read`; 2 to `o_block`, from the latest of the transfer on
    `i_allocate`, the transfer on `i_free` that makes the space sufficient, and that of the block before on `o_block`.
    Throughput: one window and, in every bank, one write per cycle; an allocation every two cycles.

    Its users must read a sector no earlier than in the cycle of its write (a window's words are read in the cycle after
    it is asked for, and none may be written in that same cycle), write and read allocated space only, allocate no
    more than the ring and free no more than is allocated; assertions check this in simulation. Only the banks that a
    window needs are read, so others may be written meanwhile; they keep the word they read last.
    """

    delay = 2

    def __init__(self, *, lanes: int, sectors: int, banks: int = 4, header: ShapeLike, linear: int = 0) -> None:
        for name, value in (("lanes", lanes), ("sectors", sectors), ("banks", banks), ("linear", linear)):
            check_integer(name, value)
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes!r}")
        if banks < 2 or banks & (banks - 1):
            raise ValueError(f"banks must be a power of two of at least 2, not {banks!r}")
        if sectors < 2 * banks or sectors % banks:
            raise ValueError(f"sectors must be a multiple of {banks} of at least {2 * banks}, not {sectors!r}")
        if linear < 0 or linear % banks:
            raise ValueError(f"linear must be a multiple of {banks}, not {linear!r}")
        check_shape("header", header)
        self.lanes = lanes
        self.sectors = sectors
        self.banks = banks
        self.linear = linear
        self.header = header
        self.words = (sectors + linear) // banks
        write = wiring.Signature(
            {"enable": Out(1), "address": Out(range(self.words)), "data": Out(SECTOR_BITS)},
        )
        count = Shape.cast(range(sectors + 1))
        request = window_request(sectors + linear, banks, header)
        window = lane_window(lanes, banks, header)
        super().__init__(
            {
                "write": In(write).array(lanes, banks),
                "i_read": In(wiring.Signature({"valid": Out(1), "payload": Out(request)})),
                "o_read": Out(wiring.Signature({"valid": Out(1), "payload": Out(window)})),
                "i_allocate": In(stream.Signature(count)),
                "o_block": Out(stream.Signature(range(sectors))),
                "i_free": In(stream.Signature(count)),
                "level": Out(count),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i_allocate, "i_allocate")
        check_stream(m, platform, self.i_free, "i_free")
        end = self._space(m)
        enables, addresses = self._read_addresses(m)
        for lane in range(self.lanes):
            for bank in range(self.banks):
                m.submodules[f"lane{lane}_bank{bank}"] = ram = Ram(shape=unsigned(SECTOR_BITS), depth=self.words)
                m.d.comb += [
                    ram.write_enable.eq(self.write[lane][bank].enable),
                    ram.write_address.eq(self.write[lane][bank].address),
                    ram.write_data.eq(self.write[lane][bank].data),
                    ram.read_enable.eq(enables[bank]),
                    ram.read_address.eq(addresses[bank]),
                    self.o_read.payload.words[lane][bank].eq(ram.read_data),
                ]
        if asserts(platform):
            self._check_use(m, end, enables, addresses)
        return m

    def _space(self, m: Module) -> Signal:
        """Grants blocks in order: an allocation waits in a register until the space suffices. Returns the end of the
        allocated space, where the next block begins."""
        asked = Signal(range(self.sectors + 1), reset_less=True)
        waits = Signal()
        end = Signal(range(self.sectors))
        base = Signal(range(self.sectors), reset_less=True)
        after = Signal(range(2 * self.sectors + 1))
        space = Signal(range(self.sectors + 1), init=self.sectors)
        grants = Signal()
        freed = Signal(range(self.sectors + 1))
        m.d.comb += [
            self.i_allocate.ready.eq(~waits),
            self.i_free.ready.eq(1),
            self.level.eq(self.sectors - space),
            grants.eq(waits & (asked <= space) & ~self.o_block.valid),
            after.eq(end + asked),
            self.o_block.payload.eq(base),
            freed.eq(Mux(self.i_free.valid, self.i_free.payload, 0)),
        ]
        # Both sums are there when it is known whether the space suffices.
        m.d.sync += space.eq(Mux(grants, space - asked + freed, space + freed))
        with m.If(grants):
            m.d.sync += [
                base.eq(end),
                end.eq(wrapped(after, self.sectors)),
                self.o_block.valid.eq(1),
            ]
        with m.Elif(self.o_block.ready):
            m.d.sync += self.o_block.valid.eq(0)
        with m.If(~waits):
            m.d.sync += [asked.eq(self.i_allocate.payload), waits.eq(self.i_allocate.valid)]
        with m.Elif(grants):
            m.d.sync += waits.eq(0)
        return end

    def _read_addresses(self, m: Module) -> tuple[list[Signal], list[Signal]]:
        """Enable and word address of each bank, common to all lanes, in the cycle after a request."""
        request = self.i_read.payload
        bank_bits = (self.banks - 1).bit_length()
        first = Signal(bank_bits)
        word = Signal(range(self.words))
        next_word = Signal(range(self.words))
        m.d.comb += [
            first.eq(request.sector[:bank_bits]),
            word.eq(request.sector[bank_bits:]),
            next_word.eq(following(word, self.sectors // self.banks)),
        ]
        enables = []
        addresses = []
        for bank in range(self.banks):
            place = Signal(bank_bits, name=f"place{bank}")
            enable = Signal(name=f"bank{bank}_enable")
            address = Signal(range(self.words), name=f"bank{bank}_address", reset_less=True)
            # The bank's place in the window.
            m.d.comb += place.eq(bank - first)
            m.d.sync += [
                enable.eq(self.i_read.valid & (place < request.sectors)),
                # Banks below the first one hold sectors of the next word; the last is below none.
                address.eq(Mux(first > bank, next_word, word) if bank < self.banks - 1 else word),
            ]
            enables.append(enable)
            addresses.append(address)

        window = self.o_read.payload
        m.d.comb += [
            self.o_read.valid.eq(delayed_valid(m, self.i_read.valid, self.delay, "valid")),
            window.first.eq(delayed(m, first, self.delay, "first")),
            Value.cast(window.header).eq(delayed(m, Value.cast(request.header), self.delay, "header")),
        ]

        return enables, addresses

    def _check_use(self, m: Module, end: Signal, enables: list[Signal], addresses: list[Signal]) -> None:
        """Assertions about the units that write, read, allocate and free."""

        def offset(sector: Value) -> Value:
            """How far a sector lies behind the oldest allocated one."""
            distance = Signal(signed(len(end) + 3), name="distance")
            m.d.comb += distance.eq(sector + self.level - end)
            return Mux(distance < 0, distance + self.sectors, wrapped(distance, self.sectors))

        request = self.i_read.payload
        asked = self.i_allocate.payload
        m.d.sync += [
            Assert(
                ~self.i_read.valid
                | ((request.sector >= self.sectors) & (request.sector + request.sectors <= self.sectors + self.linear))
                | ((request.sectors > 0) & (offset(request.sector) + request.sectors <= self.level))
                & (request.sectors <= self.banks),
                "a window reads sectors that are not allocated\n",
            ),
            Assert(
                ~self.i_allocate.valid | (asked > 0) & (asked <= self.sectors),
                "an allocation can never be granted\n",
            ),
            Assert(~self.i_free.valid | (self.i_free.payload <= self.level), "more is freed than is allocated\n"),
        ]
        for lane in range(self.lanes):
            for bank in range(self.banks):
                write = self.write[lane][bank]
                m.d.sync += [
                    Assert(
                        ~write.enable
                        | (write.address >= self.sectors // self.banks)
                        | (offset(Cat(Const(bank, range(self.banks)), write.address)) < self.level),
                        f"a write to a sector of lane {lane}, bank {bank} that is not allocated\n",
                    ),
                    Assert(
                        ~write.enable | ~enables[bank] | (write.address != addresses[bank]),
                        f"lane {lane}, bank {bank}: a sector is read in the cycle in which it is written\n",
                    ),
                ]
