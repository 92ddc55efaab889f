"""From ids to requests: which sector of which channel, and where in a ring buffer its data belong."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.logic import at_least, equals, one_of, product, select
from spatten.hw.lib.parameters import check_integer, check_power_of_two
from spatten.hw.lib.pipeline import delay_line, delayed_valid, register
from spatten.hw.lib.shared import Shared
from spatten.spec.row_format import BANKS, SECTORS_MAX

__all__ = [
    "BANKS",
    "KEY",
    "LINEAR",
    "QUERY",
    "RING_SHAPE",
    "SECTORS_MAX",
    "VALUE",
    "AddressGenerator",
    "goes_to",
    "pending",
    "request",
    "row_group",
]

QUERY, KEY, VALUE, LINEAR = range(4)
"""The ring buffers, and the part of the key buffer beyond its ring, where places do not wrap."""
RING_SHAPE = unsigned(2)
"""Shape of the number of one of these."""
_BANK_BITS = (BANKS - 1).bit_length()
_STAGES = 5
"""Stages of a channel between the mask of its group and the skid buffer at its output."""


def goes_to(code: Value, ring: int) -> Value:
    """Whether a sector for `code`, one of the four above, is written into the buffer of `ring`, one of the first three:
    the key buffer has both its ring and the part beyond."""
    if ring == KEY:
        return code[0]  # KEY and LINEAR are the odd ones
    return equals(code, ring)


def row_group(*, rows: int, id_bits: int, sector_bits: int, place_bits: int) -> data.StructLayout:
    """Rows of one plane to be fetched.

    `ids` of which the first `count` (1 to `rows`) are wanted; `sector`, global, where the fetch of id 0 begins; `pitch`
    sectors from one id's row to the next; `sectors` to fetch of each row, 1 to 8; `ring`; `place`, the ring sector
    where the first row's first sector goes; `stride`, ring sectors from one block row to the next, 1 to 8.
    """
    return data.StructLayout(
        {
            "ids": data.ArrayLayout(unsigned(id_bits), rows),
            "count": range(rows + 1),
            "sector": unsigned(sector_bits),
            "pitch": range(SECTORS_MAX + 1),
            "sectors": range(SECTORS_MAX + 1),
            "ring": RING_SHAPE,
            "place": unsigned(place_bits),
            "stride": range(SECTORS_MAX + 1),
        }
    )


def request(*, address_bits: int, lanes: int, words: int, sequence_bits: int) -> data.StructLayout:
    """One sector of one channel: its local `address`, and the tag that says where its data go.

    `ring`, `lane`, `bank` and `word` name the place; `sequence` is the number of the row group that it is part of.
    """
    return data.StructLayout({"address": unsigned(address_bits), "tag": tag(lanes, words, sequence_bits)})


def tag(lanes: int, words: int, sequence_bits: int) -> data.StructLayout:
    """Where a sector goes, and the row group that it is part of."""
    return data.StructLayout(
        {
            "ring": RING_SHAPE,
            "lane": range(max(2, lanes)),
            "bank": unsigned(_BANK_BITS),
            "word": range(words),
            "sequence": unsigned(sequence_bits),
        }
    )


def pending(sequence_bits: int) -> data.StructLayout:
    """The oldest row group with requests that have not left: `some` is set if there is such a group.

    `sequence` is the group's number if `known` is set, as it is unless the group is just on its way through a memory.
    """
    return data.StructLayout({"some": 1, "known": 1, "sequence": unsigned(sequence_bits)})


class AddressGenerator(wiring.Component):
    """Turns groups of row ids into the requests of all channels.

    Global sector g lies in channel g mod C at local address g div C; the row of id n begins at `sector` + n x `pitch`.
    A group's low address bits say at once which rows have sectors in which channel: a hit mask per channel. Every
    channel whose mask is not empty queues the group and then works off its own mask, one request a cycle, so channels
    run ahead of each other by up to `groups` groups. That is what balances random rows: a crossbar of single requests
    (2C inputs onto C channels) would block behind the head of each input and reach 76 %.

    Element e of a group (its e-th id) goes to lane e mod R, block row e div R of its block; a query ring has one lane.
    Sector j of the row goes to ring sector `place` + block row x `stride` + j, modulo the ring's size.

    Parameters
    ----------
    channels : int
        C, a power of two.
    rows : int
        G, ids of a group; a power of two and a multiple of `lanes`. Full rate needs G >= C.
    lanes : int
        R, lanes of the key and value rings, a power of two.
    id_bits, sector_bits : int
        Widths of an id and of a global sector address.
    ring_sectors : tuple of 3 int
        Sectors of one lane of the query, key and value ring; multiples of 4, at least
        8 (G / R + 1), that of the query ring 8 (G + 1).
    linear_sectors : int
        Sectors of one lane of the key buffer beyond its ring, a multiple of 4: their places begin at the ring's size.
    groups : int
        Groups that wait in a channel, at least 2; 16 keep random 64-byte rows at 97 % of all channels.
    sequence_bits : int
        Width of a group's number. At most 2**(sequence_bits - 1) groups are under way.

    Ports
    -----
    i : stream of `row_group`
    o : C streams of `request`; each is in the order of the groups, and within a group in the order of the ids
    accepted : out, number of the next group to enter
    pushed : out, number of the next group whose requests will be queued; all before it are queued, under way, or done
    pending : out, per channel, `pending`
    completed : in, number of the first group that has not completely arrived (`ReturnPath.completed`)

    A group whose number is too far ahead of `completed` waits, so numbers stay unambiguous.

    Latency: 11 cycles from a group to its first request. Throughput: one group per cycle until a channel's queue is
    full; one request per channel and cycle. A row of more sectors than channels gives several requests of
    consecutive local addresses. `o.ready` enters a skid buffer and nothing else.

    Source: SpAtten (HPCA 2021) section IV-B, Q-K-V fetcher, Fig. 8: 32 address FIFOs, crossbar, 16 channels.
    """

    def __init__(
        self,
        *,
        channels: int,
        rows: int,
        lanes: int,
        id_bits: int,
        sector_bits: int,
        ring_sectors: tuple[int, int, int],
        linear_sectors: int = 0,
        groups: int = 16,
        sequence_bits: int = 9,
    ) -> None:
        for name, value in (("channels", channels), ("rows", rows), ("lanes", lanes)):
            check_power_of_two(name, value)
        if rows % lanes:
            raise ValueError(f"rows must be a multiple of lanes = {lanes}, not {rows!r}")
        for name, value, least in (
            ("id_bits", id_bits, 1),
            ("sector_bits", sector_bits, (channels - 1).bit_length() + 1),
            ("groups", groups, 2),
            ("sequence_bits", sequence_bits, 5),
        ):
            check_integer(name, value, least)
        if len(ring_sectors) != 3:
            raise ValueError(f"ring_sectors must be those of the query, key and value ring, not {ring_sectors!r}")
        for ring, sectors in enumerate(ring_sectors):
            least = SECTORS_MAX * (rows // (1 if ring == QUERY else lanes) + 1)
            if sectors % BANKS or sectors < least:
                raise ValueError(f"ring_sectors must be multiples of {BANKS}, at least {least}, not {sectors!r}")
        check_integer("linear_sectors", linear_sectors)
        if linear_sectors < 0 or linear_sectors % BANKS:
            raise ValueError(f"linear_sectors must be a multiple of {BANKS}, not {linear_sectors!r}")
        self.channels = channels
        self.rows = rows
        self.lanes = lanes
        self.id_bits = id_bits
        self.sector_bits = sector_bits
        self.ring_sectors = ring_sectors
        self.linear_sectors = linear_sectors
        self.groups = groups
        self.sequence_bits = sequence_bits
        self.buffer_sectors = max(*ring_sectors, ring_sectors[KEY] + linear_sectors)
        self.place_bits = (self.buffer_sectors - 1).bit_length()
        self.group_shape = row_group(rows=rows, id_bits=id_bits, sector_bits=sector_bits, place_bits=self.place_bits)
        self.request_shape = request(
            address_bits=sector_bits - (channels - 1).bit_length(),
            lanes=lanes,
            words=self.buffer_sectors // BANKS,
            sequence_bits=sequence_bits,
        )
        super().__init__(
            {
                "i": In(stream.Signature(self.group_shape)),
                "o": Out(stream.Signature(self.request_shape)).array(channels),
                "accepted": Out(sequence_bits),
                "pushed": Out(sequence_bits),
                "pending": Out(pending(sequence_bits)).array(channels),
                "completed": In(sequence_bits),
            }
        )

    @property
    def visits(self) -> int:
        """Most sectors that one row has in one channel."""
        return -(-SECTORS_MAX // self.channels)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        log_channels = (self.channels - 1).bit_length()
        queues = [_ChannelQueue(generator=self) for _ in range(self.channels)]
        for channel, queue in enumerate(queues):
            m.submodules[f"channel{channel}"] = queue

        # Two stages and the registered `room` lie between this gate and the queues: four places are kept free.
        room = Signal()
        near = Signal()
        ahead = Signal(self.sequence_bits)
        m.d.comb += ahead.eq(self.accepted - self.completed)
        m.d.sync += [
            room.eq(Cat(queue.level <= self.groups - 1 for queue in queues).all()),
            near.eq(ahead < (1 << (self.sequence_bits - 1)) - 4),
        ]
        enters = Signal()
        m.d.comb += [self.i.ready.eq(room & near), enters.eq(self.i.valid & self.i.ready)]
        with m.If(enters):
            m.d.sync += self.accepted.eq(self.accepted + 1)

        # The low bits of a row's first sector are the number of its first channel.
        _, first_valid, second_valid = delay_line(m, enters, 2, "enters", is_reset=True)
        _, first, second = delay_line(m, self.i.payload, 2, "group")
        first_channels = []
        for row in range(self.rows if log_channels else 0):
            at = self.i.payload.sector + self.i.payload.ids[row] * self.i.payload.pitch
            first_channels.append(register(m, at[:log_channels], f"first_channel{row}"))

        # Hit masks: bit row x visits + v of channel c if sector (c - first) mod C + v C is one of the row's.
        for channel, queue in enumerate(queues):
            hits = []
            for row in range(self.rows):
                sector: Value = Const(0, 1)
                if log_channels:
                    sector = (channel - first_channels[row])[:log_channels]
                for visit in range(self.visits):
                    hits.append((row < first.count) & (sector + visit * self.channels < first.sectors))
            some = delayed_valid(m, Cat(hits).any() & first_valid, 1, f"some{channel}")
            mask = register(m, Cat(hits), f"mask{channel}")
            m.d.comb += [
                queue.i.valid.eq(some),
                queue.i.payload.group.eq(second),
                queue.i.payload.mask.eq(mask),
                queue.i.payload.sequence.eq(self.pushed),
                queue.channel.eq(channel),
            ]
            wiring.connect(m, queue.o, wiring.flipped(self.o[channel]))
            m.d.comb += self.pending[channel].eq(queue.pending)
        with m.If(second_valid):
            m.d.sync += self.pushed.eq(self.pushed + 1)
        return m


class _ChannelQueue(Shared):
    """A channel's queue of groups, and the requests that its hit masks ask for."""

    def __init__(self, *, generator: AddressGenerator) -> None:
        self.generator = generator
        sizes = ["channels", "rows", "lanes", "id_bits", "sector_bits", "ring_sectors", "linear_sectors", "groups"]
        sizes.append("sequence_bits")
        self.identity = (self.identity[0], repr([getattr(generator, size) for size in sizes]))
        self.entry = data.StructLayout(
            {
                "group": generator.group_shape,
                "mask": unsigned(generator.rows * generator.visits),
                "sequence": unsigned(generator.sequence_bits),
            }
        )
        super().__init__(
            {
                "channel": In(range(max(2, generator.channels))),
                "i": In(stream.Signature(self.entry)),
                "level": Out(range(generator.groups + 6)),
                "o": Out(stream.Signature(generator.request_shape)),
                "pending": Out(pending(generator.sequence_bits)),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        generator = self.generator
        m.submodules.queue = queue = Fifo(shape=self.entry, depth=generator.groups + 4)
        m.d.comb += [
            queue.i.valid.eq(self.i.valid),
            queue.i.payload.eq(self.i.payload),
            self.i.ready.eq(queue.i.ready),
            self.level.eq(queue.level),
        ]
        # A stage takes a request when it or a later stage is empty, or the last one can pass its request on. `o.ready`
        # stops at the skid buffer behind the stages, whose register is one more stage.
        m.submodules.skid = skid = SkidBuffer(shape=generator.request_shape)
        wiring.connect(m, skid.o, wiring.flipped(self.o))
        takes = [Signal(name=f"takes{stage}") for stage in range(_STAGES)]
        valid = [Signal(name=f"valid{stage}") for stage in range(_STAGES)]
        work = self._work_off(m, queue, takes[0])
        for stage in range(_STAGES):
            m.d.comb += takes[stage].eq(~Cat(valid[stage:]).all() | skid.i.ready)
            with m.If(takes[stage]):
                m.d.sync += valid[stage].eq(valid[stage - 1] if stage else work.some)
        sequences = [work.sequence]
        for stage in range(_STAGES):
            sequences.append(register(m, sequences[-1], f"sequence{stage}", enable=takes[stage]))
        m.d.comb += [skid.i.valid.eq(valid[-1]), skid.i.payload.tag.sequence.eq(sequences[-1])]
        self._locate(m, takes, work, skid.i.payload)

        # The oldest group is in the last stage that has one, else being worked off, or else in the queue.
        here = [*valid, self.o.valid]
        inside = Cat(work.some, *here).any()
        held = [*sequences, self.o.payload.tag.sequence]
        m.d.comb += [
            self.pending.some.eq(inside | queue.some),
            self.pending.known.eq(inside | queue.o.valid),
            self.pending.sequence.eq(_last([queue.o.valid, work.some, *here], [queue.o.payload.sequence, *held])),
        ]
        return m

    def _work_off(self, m: Module, queue: Fifo, takes: Signal) -> "_Work":
        """Takes groups from the queue, and one request after the other from the group's mask."""
        generator = self.generator
        hits = generator.rows * generator.visits
        work = _Work(
            group=Signal(generator.group_shape, name="group", reset_less=True),
            sequence=Signal(generator.sequence_bits, name="sequence", reset_less=True),
            some=Signal(name="some_left"),
            left=Signal(hits, name="left", reset_less=True),
            pick=Signal(hits, name="pick"),
        )
        # Whether the pick is the group's last is known a cycle before, from how many bits are set.
        is_last = Signal(reset_less=True)
        m.d.comb += [
            work.pick.eq(work.left & -work.left),
            queue.o.ready.eq(~work.some | (takes & is_last)),
        ]
        with m.If(queue.o.ready):
            m.d.sync += [
                work.some.eq(queue.o.valid),
                work.left.eq(queue.o.payload.mask),
                is_last.eq(~at_least(list(queue.o.payload.mask), 2)),
                work.group.eq(queue.o.payload.group),
                work.sequence.eq(queue.o.payload.sequence),
            ]
        with m.Elif(takes):
            m.d.sync += [work.left.eq(work.left & ~work.pick), is_last.eq(~at_least(list(work.left), 3))]
        return work

    def _locate(self, m: Module, takes: list[Signal], work: "_Work", request: Any) -> None:
        """The request that is picked: its address, and where in the ring its data go. The stages of the arithmetic."""
        generator, group, pick = self.generator, work.group, work.pick
        rows, visits, channels = generator.rows, generator.visits, generator.channels
        log_channels = (channels - 1).bit_length()

        def at(stage: int, **values: Value) -> SimpleNamespace:
            """The values in registers of that stage."""
            return SimpleNamespace(
                **{name: register(m, value, f"{name}{stage}", enable=takes[stage]) for name, value in values.items()}
            )

        by_row = [pick[row * visits : (row + 1) * visits].any() for row in range(rows)]
        by_visit = [Cat(pick[row * visits + visit] for row in range(rows)).any() for visit in range(visits)]
        row_numbers = [Const(row, unsigned(max(1, (rows - 1).bit_length()))) for row in range(rows)]
        visit_numbers = [Const(visit, range(SECTORS_MAX + 1)) for visit in range(visits)]
        # Stage 0: the row, by its one-hot pick.
        picked = at(
            0,
            id=one_of(by_row, [group.ids[row] for row in range(rows)]),
            row=one_of(by_row, row_numbers),
            visit=one_of(by_visit, visit_numbers),
            ring=group.ring,
            sector=group.sector,
            pitch=group.pitch,
            place=group.place,
            stride=group.stride,
        )
        # Stage 1: the row's distance from id 0, and its block row's from the first.
        log_lanes = (generator.lanes - 1).bit_length()
        has_lanes = picked.ring.any()  # all but the query ring, number 0
        lane = Mux(has_lanes, picked.row[:log_lanes], 0) if log_lanes else Const(0, 1)
        block_row = Mux(has_lanes, picked.row[log_lanes:], picked.row)
        moved = at(
            1,
            distance=product(picked.id, picked.pitch),
            advance=product(picked.stride, block_row),
            lane=lane,
            visit=picked.visit,
            ring=picked.ring,
            sector=picked.sector,
            place=picked.place,
        )
        # Stage 2: the row's first sector.
        begun = at(
            2,
            start=(moved.sector + moved.distance)[: generator.sector_bits],
            target=moved.place + moved.advance,
            visit=moved.visit,
            ring=moved.ring,
            lane=moved.lane,
        )
        # Stage 3: which of the row's sectors is this channel's.
        skip = Signal(range(SECTORS_MAX + channels))
        if log_channels:
            m.d.comb += skip.eq(
                (self.channel - begun.start[:log_channels])[:log_channels] + begun.visit * channels,
            )
        else:
            m.d.comb += skip.eq(begun.visit)
        hit = at(3, which=skip, start=begun.start, target=begun.target, ring=begun.ring, lane=begun.lane)
        # Stage 4: the sector's address in the channel, and its place in the ring, which may lie beyond the ring's end.
        found = at(
            4,
            address=(hit.start + hit.which)[log_channels : generator.sector_bits],
            target=hit.target + hit.which,
            ring=hit.ring,
            lane=hit.lane,
        )
        # Behind stage 4: a place beyond the ring's end wraps.
        sizes = [Const(sectors, unsigned(generator.place_bits + 1)) for sectors in generator.ring_sectors]
        size = select([*sizes, sizes[VALUE]], found.ring)  # any will do for LINEAR
        wraps = (found.target >= size) & ~(found.ring == LINEAR)
        ring_sector = Signal(generator.place_bits)
        m.d.comb += [
            ring_sector.eq(Mux(wraps, found.target - size, found.target)),
            request.address.eq(found.address),
            request.tag.ring.eq(found.ring),
            request.tag.lane.eq(found.lane),
            request.tag.bank.eq(ring_sector[:_BANK_BITS]),
            request.tag.word.eq(ring_sector[_BANK_BITS:]),
        ]


@dataclass(frozen=True)
class _Work:
    """The group that a channel works off."""

    group: Any
    sequence: Signal
    some: Signal
    """Some of its requests are still to be made; all else means nothing without."""
    left: Signal
    """The bits of the group's mask whose requests are still to be made."""
    pick: Signal
    """The lowest of them, which is next."""


def _last(here: list[Value], values: list[Value]) -> Value:
    """The last of the values that are here, by a tree; the first of them if none is."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return Mux(Cat(here[half:]).any(), _last(here[half:], values[half:]), _last(here[:half], values[:half]))
