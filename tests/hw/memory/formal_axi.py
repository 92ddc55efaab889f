"""Property modules of the AXI4 master: bursts, reader and writer, with any slave and any user that keep to the rules.

Pages are of few sectors, and sectors of one or two beats: what is proved does not look at either number. Of payloads
one sector, any, is followed.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal, Value

from spatten.hw.memory.axi import BurstMerger
from spatten.hw.memory.axi_reader import AxiReader
from spatten.hw.memory.axi_writer import AxiWriter
from spatten.sim.verify.formal import Case, answer, constant, free, transfers

_ADDRESS = 13
_PAGE_BITS = 2
_PAGE = 1 << _PAGE_BITS


class SmallReader(AxiReader):
    """With pages of four sectors, and at most two in a burst."""

    _burst = 2
    _page = {"page_bits": _PAGE_BITS}


class SmallWriter(AxiWriter):
    """With pages of four sectors, and at most two in a burst."""

    _burst = 2
    _page = {"page_bits": _PAGE_BITS}


def _held(m: Module, valid: Value, ready: Value, payload: Value, name: str, ends: Value | None = None) -> Value:
    """That valid and payload hold while stalled, or the stream `ends`."""
    stalled = Signal(name=f"{name}_was_stalled")
    before = Signal(len(payload), name=f"{name}_before", reset_less=True)
    m.d.sync += [stalled.eq(valid & ~ready), before.eq(payload)]
    holds = ~stalled | (valid & (payload == before))
    return holds if ends is None else holds | ends


def _drive(m: Module, unit: Any, name: str = "i") -> Value:
    """Any producer, which `stop` may end; its transfers."""
    port = unit.i
    payload = Value.cast(port.payload)
    m.d.comb += [
        port.valid.eq(free(m, name=f"{name}_valid")),
        payload.eq(free(m, len(payload), name=f"{name}_payload")),
        Assume(_held(m, port.valid, port.ready, payload, name, unit.stop)),
    ]
    return transfers(port)


def _stop(m: Module, unit: Any) -> Signal:
    """Any stop that is held until a cycle in which the unit is idle; whether it was set in the cycle before."""
    stopped = Signal()
    unfinished = Signal()
    m.d.comb += [unit.stop.eq(free(m, name="stop")), Assume(~unfinished | unit.stop)]
    m.d.sync += [stopped.eq(unit.stop), unfinished.eq(unit.stop & ~unit.idle)]
    return stopped


class _Followed:
    """One sector, any, from its request to its burst: how many are ahead of it.

    `enters` brings a request, `leaves` takes `count` of them, and `drops` forgets those that wait. The next is chosen
    only while it `may` be.
    """

    def __init__(
        self,
        m: Module,
        *,
        capacity: int,
        enters: Value,
        leaves: Value,
        count: Value,
        drops: Value,
        may: Value | None = None,
    ) -> None:
        self.waiting = Signal(range(capacity + 2))
        self.ahead = Signal(range(capacity + 2))
        self.tracked = Signal()
        self.marked = Signal()
        self.is_in = Signal()
        self.place = Signal(range(capacity + 2))
        gone = Signal(range(capacity + 2))
        m.d.comb += [
            gone.eq(Mux(leaves, count, 0)),
            self.marked.eq(enters & ~self.tracked & free(m, name="mark") & (1 if may is None else may)),
            self.is_in.eq(self.tracked & leaves & (self.ahead < count)),
            self.place.eq(self.ahead),
            Assert(gone <= self.waiting, "no burst has more sectors than were asked for"),
            Assert(self.waiting <= capacity, f"at most {capacity} wait"),
        ]
        m.d.sync += [
            self.waiting.eq(Mux(drops, 0, self.waiting - gone + enters)),
            self.tracked.eq((self.marked | (self.tracked & ~self.is_in)) & ~drops),
            self.ahead.eq(Mux(self.marked, self.waiting - gone, self.ahead - gone)),
        ]


class MergerProperties(Elaboratable):
    """Bursts: every request in one, in order, at its address; none changes, crosses a page or has too many sectors."""

    def __init__(self, merger: BurstMerger) -> None:
        self.merger = merger

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.merger = merger = self.merger
        enters = _drive(m, merger)
        o = merger.o
        m.d.comb += [
            merger.base.eq(constant(m, 28, name="base")),
            merger.stop.eq(free(m, name="stop")),
            merger.room.eq(free(m, len(merger.room), name="room")),
            o.ready.eq(free(m, name="o_ready")),
            Assert(_held(m, o.valid, o.ready, Value.cast(o.payload), "o"), "o: valid and payload hold while stalled"),
        ]
        stopped = Signal()
        stalled = Signal()
        m.d.sync += [stopped.eq(merger.stop), stalled.eq(o.valid & ~o.ready)]
        sectors = Signal(range(merger.burst + 2))
        offset = o.payload.sector[: merger.page_bits]
        m.d.comb += [
            sectors.eq(o.payload.more + 1),
            Assert(~o.valid | (o.payload.more < merger.burst), "a burst has as many sectors as it may at most"),
            Assert(~o.valid | (offset + o.payload.more < (1 << merger.page_bits)), "no burst crosses a page"),
            Assert(~stopped | ~o.valid | stalled, "nothing is presented under stop"),
        ]

        # From the request to the moment when its burst is presented; what is presented is never dropped.
        shown = Signal()
        m.d.comb += shown.eq(o.valid & ~stalled)
        lost = Signal()
        m.d.sync += lost.eq(merger.stop)
        capacity = merger.burst + 2
        asked = enters & ~merger.stop
        followed = _Followed(m, capacity=capacity, enters=asked, leaves=shown, count=sectors, drops=merger.stop)
        local = Signal(merger.local_bits, reset_less=True)
        with m.If(followed.marked):
            m.d.sync += local.eq(merger.i.payload)
        page = (merger.base + (local >> merger.page_bits))[: len(o.payload.sector) - merger.page_bits]
        want = Cat(local[: merger.page_bits], page)
        m.d.comb += [
            Assert(
                ~followed.is_in | ((o.payload.sector + followed.place)[: len(want)] == want),
                "every request is in its burst, in its place, at its address",
            ),
            Cover(followed.is_in & (followed.place == merger.burst - 1), "a followed request ends a full burst"),
            Cover(followed.is_in & (offset + o.payload.more == (1 << merger.page_bits) - 1), "a burst ends its page"),
        ]
        # As soon as it can: what waits is presented in the cycle after o has room and the next burst fits.
        fits = Signal()
        m.d.sync += fits.eq((~o.valid | o.ready) & (merger.room >= merger.burst) & ~merger.stop)
        waited = Signal()
        m.d.sync += waited.eq((followed.waiting - Mux(shown, sectors, 0) + asked != 0) & ~merger.stop)
        m.d.comb += Assert(~(fits & waited) | shown, "a request is presented in the next cycle if it can be")
        small = Signal(range(merger.burst + 2))
        m.d.comb += small.eq(merger.presented + 1)
        m.d.comb += Assert(~merger.presents | (small <= merger.room), "no burst is presented that does not fit")
        answer(m, o.ready & (merger.room >= merger.burst), merger.i.ready, within=1, name="i is ready when o is")
        return m


class ReaderProperties(Elaboratable):
    """A reader's whole contract, with any slave: followed are a request and a sector."""

    def __init__(self, reader: AxiReader) -> None:
        self.reader = reader

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.reader = reader = self.reader
        axi, o = reader.axi, reader.o
        beats = 256 // reader.channel_bits
        stopped = _stop(m, reader)
        enters = _drive(m, reader)
        base = constant(m, name="base")
        address = Cat(axi.araddr, axi.arlen, axi.arsize, axi.arburst, axi.arcache, axi.arprot, axi.arid)
        ar_stalled = Signal()
        m.d.comb += [
            reader.base.eq(base),
            o.ready.eq(free(m, name="o_ready")),
            axi.arready.eq(free(m, name="arready")),
            axi.rvalid.eq(free(m, name="rvalid")),
            axi.rid.eq(free(m, name="rid")),
            axi.rlast.eq(free(m, name="rlast")),
            axi.rresp.eq(free(m, 2, name="rresp")),
            # One bit of every beat; the data path does not look at it.
            axi.rdata.eq(free(m, name="rdata")),
            Assert(_held(m, axi.arvalid, axi.arready, address, "ar"), "AR holds while stalled"),
            Assert(_held(m, o.valid, o.ready, o.payload, "o", reader.stop), "o: valid and payload hold while stalled"),
            Assert(~reader.stop | ~o.valid, "nothing is on o under stop"),
            Assert(~reader.stop | (reader.i.ready & axi.rready), "stop swallows i and R"),
            Assume(_held(m, axi.rvalid, axi.rready, Cat(axi.rdata, axi.rresp), "r")),
        ]
        m.d.sync += ar_stalled.eq(axi.arvalid & ~axi.arready)

        # Beats that the slave owes; sectors that are presented or owed.
        owed = Signal(range(reader.outstanding * beats + 2))
        asks = axi.arvalid & axi.arready
        takes = axi.rvalid & axi.rready
        count = Signal(range(18))
        sector_beats = (beats - 1).bit_length()
        m.d.comb += [
            count.eq((axi.arlen >> sector_beats) + 1),
            Assume(~axi.rvalid | (owed != 0)),
            Assert(owed <= reader.outstanding * beats, "no more is outstanding than allowed"),
            Assert(
                owed + Mux(axi.arvalid, axi.arlen + 1, 0) <= reader.outstanding * beats,
                "nor with what is presented",
            ),
            Assert(~axi.arvalid | (axi.arlen[:sector_beats].all() if sector_beats else 1), "bursts are whole sectors"),
            Assert(~axi.arvalid | ((axi.araddr[5 : 5 + _PAGE_BITS] + count) <= _PAGE), "no burst crosses a page"),
            Assert(~axi.arvalid | (axi.araddr[:5] == 0), "bursts begin at a sector"),
            Assert(~(stopped & axi.arvalid) | ar_stalled, "nothing is presented under stop"),
            Assert(~reader.idle | ((owed == 0) & ~axi.arvalid & ~o.valid), "idle is quiet"),
        ]
        m.d.sync += owed.eq(owed + Mux(asks, axi.arlen + 1, 0) - takes)

        # A request, from i to AR.
        capacity = 2 * 2 + 1
        followed = _Followed(
            m,
            capacity=capacity,
            enters=enters & ~reader.stop,
            leaves=axi.arvalid & ~ar_stalled,
            count=count,
            drops=reader.stop,
        )
        local = Signal(reader.local_bits, reset_less=True)
        with m.If(followed.marked):
            m.d.sync += local.eq(reader.i.payload)
        page = base + (local >> _PAGE_BITS)
        width = reader.address_bits - 5
        want = Cat(local[:_PAGE_BITS], page)[:width]
        m.d.comb += [
            Assert(
                ~followed.is_in | ((axi.araddr[5:] + followed.place)[:width] == want),
                "every request is in its burst, in its place, at its address",
            ),
            Cover(followed.is_in & (followed.place == 1), "a followed request is second in its burst"),
        ]

        # A sector, from R to o: one bit of one of its beats.
        beat = Signal(range(max(2, beats)))
        watched = constant(m, range(max(2, beats)), name="watched")
        arrives = Signal()
        m.d.comb += [Assume(watched < beats), arrives.eq(takes & (beat == beats - 1))]
        with m.If(takes):
            m.d.sync += beat.eq(beat + 1 if beats > 1 else 0)
        inside = Signal(2)
        m.d.sync += inside.eq(Mux(reader.stop, 0, inside + arrives - transfers(o)))
        kept = Signal(reset_less=True)
        bit = Signal()
        with m.If(takes & (beat == watched)):
            m.d.sync += kept.eq(axi.rdata[0])
        m.d.comb += [
            bit.eq((Value.cast(o.payload) >> (watched * reader.channel_bits))[0]),
            Assert((inside <= 1), "at most one sector on o"),
            Assert(o.valid == ((inside != 0) & ~reader.stop), "a sector is on o in the cycle after its last beat"),
            Assert(~o.valid | (beat > watched) | (bit == kept), "a sector's beats are in their places"),
            Cover(transfers(o) & takes, "a sector leaves as the next arrives"),
            Cover(stopped & ~reader.stop & enters, "stop ends"),
            Cover(
                reader.stop & axi.arvalid & ar_stalled & takes, "stop with a burst that stalls and data on their way"
            ),
        ]
        answer(m, ~o.valid | o.ready, axi.rready, within=0, name="RREADY follows room")
        # No deadlock: a request leaves if the slave takes it and enough is answered.
        waits = Signal()
        m.d.comb += waits.eq((followed.waiting != 0) & ~reader.stop)
        answer(
            m,
            waits & (axi.arready | ~axi.arvalid) & (owed == 0) & ~axi.arvalid,
            axi.arvalid & ~ar_stalled,
            within=1,
            name="a request is presented when nothing is in its way",
        )
        quiet = Signal()
        m.d.comb += quiet.eq(reader.stop & stopped & (owed == 0) & ~axi.arvalid)
        answer(m, quiet, reader.idle, within=0, name="stop comes to idle when nothing is in flight")
        return m


class WriterProperties(Elaboratable):
    """A writer's whole contract, with any slave: followed is a sector, on AW and on W."""

    def __init__(self, writer: AxiWriter) -> None:
        self.writer = writer

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.writer = writer = self.writer
        axi = writer.axi
        beats = 256 // writer.channel_bits
        stopped = _stop(m, writer)
        base = constant(m, name="base")
        port = writer.i
        # One bit of data; the data path does not look at it.
        m.d.comb += [
            port.valid.eq(free(m, name="i_valid")),
            port.payload.address.eq(free(m, writer.local_bits, name="i_address")),
            port.payload.data.eq(free(m, name="i_data").replicate(256)),
            Assume(_held(m, port.valid, port.ready, Cat(port.payload.address, port.payload.data[0]), "i", writer.stop)),
        ]
        enters = Signal()
        m.d.comb += enters.eq(transfers(port) & ~writer.stop)
        address = Cat(axi.awaddr, axi.awlen, axi.awsize, axi.awburst, axi.awcache, axi.awprot, axi.awid)
        word = Cat(axi.wdata[0], axi.wdata[-1], axi.wstrb, axi.wlast)
        m.d.comb += [
            writer.base.eq(base),
            axi.awready.eq(free(m, name="awready")),
            axi.wready.eq(free(m, name="wready")),
            axi.bvalid.eq(free(m, name="bvalid")),
            axi.bid.eq(free(m, name="bid")),
            axi.bresp.eq(free(m, 2, name="bresp")),
            Assert(_held(m, axi.awvalid, axi.awready, address, "aw"), "AW holds while stalled"),
            Assert(_held(m, axi.wvalid, axi.wready, word, "w"), "W holds while stalled"),
            Assert(~writer.stop | port.ready, "stop swallows i"),
            Assume(_held(m, axi.bvalid, axi.bready, axi.bresp, "b")),
        ]
        aw_stalled = Signal()
        m.d.sync += aw_stalled.eq(axi.awvalid & ~axi.awready)
        shows = Signal()
        sends = Signal()
        ends = Signal()
        sector_beats = (beats - 1).bit_length()
        count = Signal(range(18))
        m.d.comb += [
            shows.eq(axi.awvalid & ~aw_stalled),
            sends.eq(axi.wvalid & axi.wready),
            count.eq((axi.awlen >> sector_beats) + 1),
            Assert(~axi.awvalid | (axi.awlen[:sector_beats].all() if sector_beats else 1), "bursts are whole sectors"),
            Assert(~axi.awvalid | ((axi.awaddr[5 : 5 + _PAGE_BITS] + count) <= _PAGE), "no burst crosses a page"),
            Assert(~axi.awvalid | (axi.awaddr[:5] == 0), "bursts begin at a sector"),
            Assert(~(stopped & axi.awvalid) | aw_stalled, "nothing is presented under stop"),
            Assert(~axi.wvalid | axi.wstrb.all(), "all bytes are written"),
        ]

        # A sector, from i to AW.
        capacity = writer.depth + 2
        sector_tracked = Signal()
        followed = _Followed(
            m,
            capacity=capacity,
            enters=enters,
            leaves=shows,
            count=count,
            drops=writer.stop,
            may=~sector_tracked,
        )
        local = Signal(writer.local_bits, reset_less=True)
        data = Signal(reset_less=True)
        with m.If(followed.marked):
            m.d.sync += [local.eq(port.payload.address), data.eq(port.payload.data[0])]
        width = writer.address_bits - 5
        want = Cat(local[:_PAGE_BITS], base + (local >> _PAGE_BITS))[:width]
        m.d.comb += [
            Assert(
                ~followed.is_in | ((axi.awaddr[5:] + followed.place)[:width] == want),
                "every sector is in its burst, in its place, at its address",
            ),
            Cover(followed.is_in & (followed.place == 1), "a followed sector is second in its burst"),
        ]

        # Beats that were presented on AW, also in this cycle, and were not sent: `owed`. Of a followed sector, those
        # up to its last; and of a followed burst.
        most = (writer.depth + 2) * beats
        owed = Signal(range(most + 18))
        presented = Signal(range(18 * beats))
        m.d.comb += [
            presented.eq(Mux(shows, axi.awlen + 1, 0)),
            Assert(~axi.wvalid | (owed + presented != 0), "no data without a burst"),
            Assert(owed + presented <= most, "what is presented is inside"),
        ]
        m.d.sync += owed.eq(owed + presented - sends)
        answer(m, owed != 0, axi.wvalid, within=1, name="what was presented is there")

        sector_left = Signal(range(most + 18))
        sector_left_now = Signal(range(most + 18))
        sector_tracked_now = Signal()
        m.d.comb += [
            sector_tracked_now.eq(followed.is_in | sector_tracked),
            sector_left_now.eq(Mux(followed.is_in, owed + (followed.place + 1) * beats, sector_left)),
            Assert(
                ~(sends & sector_tracked_now & (sector_left_now <= beats)) | (axi.wdata[0] == data),
                "every sector's data are in its place",
            ),
            Cover(sends & sector_tracked_now & (sector_left_now == 1), "a followed sector is sent"),
        ]
        m.d.sync += [
            sector_tracked.eq(sector_tracked_now & ~(sends & (sector_left_now == 1))),
            sector_left.eq(sector_left_now - sends),
        ]

        burst_left = Signal(range(most + 18))
        burst_left_now = Signal(range(most + 18))
        burst_beats = Signal(range(18 * beats))
        burst_beats_now = Signal(range(18 * beats))
        burst_tracked = Signal()
        burst_marked = Signal()
        burst_now = Signal()
        m.d.comb += [
            burst_marked.eq(shows & ~burst_tracked & free(m, name="mark_burst")),
            burst_now.eq(burst_marked | burst_tracked),
            burst_left_now.eq(Mux(burst_marked, owed + presented, burst_left)),
            burst_beats_now.eq(Mux(burst_marked, presented, burst_beats)),
            ends.eq(burst_now & axi.wvalid & (burst_left_now <= burst_beats_now)),
            Assert(~ends | (axi.wlast == (burst_left_now == 1)), "WLAST is at a burst's last beat and nowhere else"),
            Cover(ends & sends & axi.wlast & (burst_beats_now == 2 * beats), "a burst of two sectors is sent"),
        ]
        m.d.sync += [
            burst_tracked.eq(burst_now & ~(sends & (burst_left_now == 1))),
            burst_left.eq(burst_left_now - sends),
            burst_beats.eq(burst_beats_now),
        ]

        # Responses: to bursts that were taken and sent. `finished` has those that wait for theirs.
        takes = axi.awvalid & axi.awready
        closes = sends & axi.wlast
        answers = axi.bvalid & axi.bready
        taken = Signal(range(writer.outstanding + 2))
        closed = Signal(range(writer.outstanding + 2))
        m.d.comb += [
            Assume(~axi.bvalid | ((taken != 0) & (closed != 0))),
            Assert(taken + axi.awvalid <= writer.outstanding, "no more bursts are open than allowed"),
            Assert(closed <= writer.outstanding, "no more bursts are sent than allowed"),
            Assert(~axi.bvalid | axi.bready, "a response is taken at once"),
        ]
        m.d.sync += [taken.eq(taken + takes - answers), closed.eq(closed + closes - answers)]
        m.d.comb += [
            Assert(
                ~writer.idle | ((taken == 0) & (closed == 0) & ~axi.awvalid & ~axi.wvalid & (owed == 0)),
                "idle is quiet",
            ),
            Cover(enters & (followed.waiting == 2), "a third sector enters"),
            Cover(stopped & ~writer.stop & enters, "stop ends"),
            Cover(writer.stop & stopped & aw_stalled & sends, "stop with a burst that stalls and data on their way"),
        ]
        answer(
            m,
            (followed.waiting != 0) & ~writer.stop & ~axi.awvalid & (taken == 0),
            shows,
            within=1,
            name="a sector's burst is presented when nothing is in its way",
        )
        quiet = Signal()
        m.d.comb += quiet.eq(writer.stop & stopped & (taken == 0) & ~axi.awvalid & (owed == 0))
        answer(m, quiet, writer.idle, within=writer.depth + 2, name="stop comes to idle when nothing is in flight")
        return m


def _merger(burst: int) -> MergerProperties:
    return MergerProperties(
        BurstMerger(address_bits=_ADDRESS, local_bits=4, burst=burst, room_bits=3, page_bits=_PAGE_BITS)
    )


PROOFS = [
    *(
        Case(
            unit="BurstMerger",
            size=f"bursts of {burst}, pages of 4 sectors",
            proves="every request in a burst, in order, at its address; length, page, room; rules of streams; stop",
            properties=lambda burst=burst: _merger(burst),
            depth=12,
        )
        for burst in (2, 4)
    ),
    *(
        Case(
            unit="AxiReader",
            size=f"{bits} bits, {outstanding} outstanding, bursts of 2",
            proves="order, addresses, places of beats, limits, pages; AR and o hold while stalled; stop; no deadlock",
            properties=lambda bits=bits, outstanding=outstanding: ReaderProperties(
                SmallReader(address_bits=_ADDRESS, local_bits=3, channel_bits=bits, outstanding=outstanding)
            ),
            depth=14,
        )
        for bits, outstanding in ((256, 3), (128, 2))
    ),
    Case(
        unit="AxiWriter",
        size="128 bits, depth 2, 3 outstanding, bursts of 2",
        proves="order, addresses, data, WLAST, limits, pages; AW and W hold while stalled; stop; no deadlock",
        properties=lambda: WriterProperties(
            SmallWriter(address_bits=_ADDRESS, local_bits=3, channel_bits=128, depth=2, outstanding=3)
        ),
        depth=14,
    ),
]
