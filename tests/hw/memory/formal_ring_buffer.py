"""Property modules of the ring buffer: whose space is whose, and what windows hold."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Assert, Assume, Cover, Elaboratable, Module, Mux, Signal, Value

from spatten.hw.memory.ring_buffer import RingBuffer
from spatten.sim.verify.formal import Case, answer, constant, consume, free, produce, transfers


class SpaceProperties(Elaboratable):
    """Allocation and release, seen from one sector, any: it is never given to two blocks at a time.

    Whoever uses the buffer asks for 1 to N sectors at a time, and gives up no more than it was given.
    """

    def __init__(self, ring: RingBuffer) -> None:
        self.ring = ring

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.ring = ring = self.ring
        sectors = ring.sectors
        asks = produce(m, ring.i_allocate, name="i_allocate")
        gets = consume(m, ring.o_block, name="o_block")
        gives = produce(m, ring.i_free, name="i_free")
        asked = ring.i_allocate.payload
        m.d.comb += [
            Assume(~ring.i_allocate.valid | (asked > 0) & (asked <= sectors)),
            Assert(ring.i_free.ready, "i_free is always ready"),
        ]

        # Allocations inside the buffer: one that was asked for, one that is offered.
        sizes = [Signal(range(sectors + 1), name=f"size{n}", reset_less=True) for n in range(2)]
        inside = Signal(range(4))
        size: Value = sizes[0]
        m.d.sync += inside.eq(inside + asks - gets)
        with m.If(gets):
            m.d.sync += sizes[0].eq(sizes[1])
        with m.If(asks):
            with m.If(inside - gets == 0):
                m.d.sync += sizes[0].eq(asked)
            with m.Else():
                m.d.sync += sizes[1].eq(asked)
        m.d.comb += [
            Assert(inside <= 2, "at most two allocations inside"),
            Assert(~ring.o_block.valid | (inside != 0), "no block that was not asked for"),
        ]

        # What the user holds: the sectors from `oldest` on.
        held = Signal(range(sectors + 1))
        oldest = Signal(range(sectors))
        given = Signal(range(sectors + 1))
        got = Signal(range(sectors + 1))
        m.d.comb += [
            given.eq(Mux(gives, ring.i_free.payload, 0)),
            got.eq(Mux(gets, size, 0)),
            Assume(~ring.i_free.valid | (ring.i_free.payload <= held)),
            Assert(held + Mux(ring.o_block.valid, size, 0) <= sectors, "no more is granted than there is"),
            Assert(ring.level == held + Mux(ring.o_block.valid, size, 0), "level is what is held and offered"),
        ]
        m.d.sync += [
            held.eq(held + got - given),
            oldest.eq(Mux(oldest + given >= sectors, oldest + given - sectors, oldest + given)),
        ]

        watched = constant(m, range(sectors), name="watched")
        owned = Signal()
        covered = Signal()
        m.d.comb += [
            Assume(watched < sectors),
            covered.eq(gets & self._within(watched, ring.o_block.payload, size)),
            Assert(~gets | (ring.o_block.payload < sectors), "a block begins inside the ring"),
            Assert(~(covered & owned), "no sector is given to two blocks at a time"),
            Cover(gets & (ring.o_block.payload + size > sectors), "a block goes around the end"),
            Cover(gets & (size == sectors) & (ring.o_block.payload != 0), "all of the ring, not from its beginning"),
        ]
        with m.If(covered):
            m.d.sync += owned.eq(1)
        with m.Elif(gives & self._within(watched, oldest, ring.i_free.payload)):
            m.d.sync += owned.eq(0)

        # Whatever was given up can be had again.
        suffices = Signal()
        m.d.comb += suffices.eq((inside != 0) & (held + size <= sectors))
        answer(m, suffices, ring.o_block.valid, within=1, name="a block is offered as soon as its space suffices")
        answer(m, inside == 0, ring.i_allocate.ready, within=0, name="i_allocate is ready when nothing waits")
        return m

    def _within(self, sector: Value, first: Value, count: Value) -> Value:
        """Whether a sector is one of `count` from `first` on, around the end."""
        sectors = self.ring.sectors
        return Mux(sector >= first, sector - first < count, sector + sectors - first < count)


class WindowProperties(Elaboratable):
    """What windows hold, seen from one sector of one lane, any: what was written there last.

    The whole ring is one block, from its middle around; anything is written and any window of it read, in any cycle
    that the rules allow.
    """

    def __init__(self, ring: RingBuffer) -> None:
        self.ring = ring

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.ring = ring = self.ring
        sectors, banks = ring.sectors, ring.banks
        # A first block is given up again, so that the second one, all of the ring, does not begin at sector 0.
        base = sectors // 2
        step = Signal(range(5))
        m.d.comb += [
            ring.i_allocate.valid.eq((step == 0) | (step == 3)),
            ring.i_allocate.payload.eq(Mux(step == 0, base, sectors)),
            ring.o_block.ready.eq(1),
            ring.i_free.valid.eq(step == 2),
            ring.i_free.payload.eq(base),
        ]
        moves = Array([transfers(ring.i_allocate), transfers(ring.o_block), transfers(ring.i_free)])
        with m.If(step == 3):
            m.d.sync += step.eq(step + transfers(ring.i_allocate))
        with m.Elif(step < 3):
            m.d.sync += step.eq(step + moves[step])

        request = ring.i_read.payload
        may = (step == 4) & (ring.level == sectors)
        begin = Signal(range(sectors))
        m.d.comb += begin.eq(Mux(request.sector >= base, request.sector - base, request.sector + sectors - base))
        m.d.comb += [
            ring.i_read.valid.eq(free(m, name="read") & may),
            Value.cast(request).eq(free(m, len(Value.cast(request)), name="request")),
            Assume((request.sector < sectors) & (request.sectors > 0) & (request.sectors <= banks)),
            Assume(begin + request.sectors <= sectors),
        ]

        lane = constant(m, range(max(2, ring.lanes)), name="lane")
        watched = constant(m, range(sectors), name="watched")
        m.d.comb += Assume((lane < ring.lanes) & (watched < sectors))
        bank = watched[: (banks - 1).bit_length()]

        # The last window that was asked for, and the one before: read in this cycle, and delivered in this cycle.
        asked = Signal()
        was_read = Signal()
        place = Signal(range(2 * sectors))
        covers = Signal()
        covered = Signal()
        delivered = Signal()
        m.d.comb += [
            place.eq(Mux(watched >= request.sector, watched - request.sector, watched + sectors - request.sector)),
            covers.eq(ring.i_read.valid & (place < request.sectors)),
        ]
        m.d.sync += [
            asked.eq(ring.i_read.valid),
            was_read.eq(asked),
            covered.eq(covers),
            delivered.eq(covered),
        ]
        header = [Signal.like(request.header, name=f"header{n}", reset_less=True) for n in range(2)]
        firsts = [Signal(len(bank), name=f"first{n}", reset_less=True) for n in range(2)]
        m.d.sync += [
            header[0].eq(request.header),
            header[1].eq(header[0]),
            firsts[0].eq(request.sector[: len(bank)]),
            firsts[1].eq(firsts[0]),
        ]

        # Which word of each bank is read, by going through the window's sectors.
        reads = [Signal(name=f"reads{port}") for port in range(banks)]
        read_words = [Signal(range(ring.words), name=f"read_word{port}", reset_less=True) for port in range(banks)]
        for port in range(banks):
            m.d.sync += reads[port].eq(0)
        for number in range(banks):
            sector = Signal(range(sectors + banks), name=f"window_sector{number}")
            within = Signal(range(sectors), name=f"window_sector{number}_within")
            m.d.comb += [
                sector.eq(request.sector + number),
                within.eq(Mux(sector >= sectors, sector - sectors, sector)),
            ]
            for port in range(banks):
                with m.If(ring.i_read.valid & (number < request.sectors) & (within % banks == port)):
                    m.d.sync += [reads[port].eq(1), read_words[port].eq(within // banks)]

        # Every port writes; a sector is one bit, repeated, of which the first and the last copy are looked at: with all
        # of them there is too much memory for a proof. None is written in the cycle in which it is read.
        known = Signal()
        last = Signal(reset_less=True)
        wanted = Signal(reset_less=True)
        checked = Signal()
        m.d.sync += [wanted.eq(last), checked.eq(covered & known)]
        word = ring.o_read.payload.words
        for at in range(ring.lanes):
            for port in range(banks):
                write = ring.write[at][port]
                bit = free(m, name=f"bit{at}_{port}")
                m.d.comb += [
                    write.enable.eq(free(m, name=f"write{at}_{port}") & may),
                    write.address.eq(free(m, len(write.address), name=f"address{at}_{port}")),
                    write.data.eq(bit.replicate(len(write.data))),
                ]
                sector = write.address * banks + port
                m.d.comb += [
                    Assume(write.address < ring.words),
                    Assume(~(write.enable & reads[port] & (write.address == read_words[port]))),
                ]
                with m.If(write.enable & (lane == at) & (sector == watched)):
                    m.d.sync += [known.eq(1), last.eq(bit)]
                here = (lane == at) & (bank == port)
                m.d.comb += [
                    Assert(
                        ~(delivered & checked & here) | (word[at][port][bit_number] == wanted),
                        f"a window has what was written last, in bit {bit_number}",
                    )
                    for bit_number in (0, len(write.data) - 1)
                ]
        m.d.comb += [
            Assert(ring.o_read.valid == was_read, "o_read is valid two cycles after i_read"),
            Assert(~was_read | (ring.o_read.payload.header == header[1]), "the header travels with its window"),
            Assert(~was_read | (ring.o_read.payload.first == firsts[1]), "first is the bank of the first sector"),
            Cover(delivered & checked & wanted & (watched < banks) & (firsts[1] > bank), "a window around the end"),
        ]
        return m


def _ring(lanes: int, sectors: int, banks: int) -> RingBuffer:
    return RingBuffer(lanes=lanes, sectors=sectors, banks=banks, header=1)


def _space(sectors: int, banks: int) -> Case:
    return Case(
        unit="RingBuffer",
        size=f"{sectors} sectors",
        proves="space: no sector in two blocks at a time, level, wrap, whatever is given up can be had again",
        properties=lambda: SpaceProperties(_ring(1, sectors, banks)),
        depth=24,
    )


def _windows(lanes: int, sectors: int, banks: int) -> Case:
    return Case(
        unit="RingBuffer",
        size=f"windows of {banks} of {sectors} sectors, {lanes} lanes",
        proves="windows: a sector's first and last bit are what was written there last; latency, header",
        properties=lambda: WindowProperties(_ring(lanes, sectors, banks)),
        depth=18,
    )


PROOFS = [_space(4, 2), _space(6, 2), _windows(2, 6, 2), _windows(1, 12, 4)]
