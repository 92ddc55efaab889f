"""Writes every sector from the channels to its bank of a ring buffer, and tells which row groups are complete."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import equals, one_of
from spatten.hw.lib.parameters import check_integer, check_power_of_two
from spatten.hw.lib.pipeline import delayed, delayed_valid, register
from spatten.hw.lib.shared import Shared
from spatten.hw.memory.address_generator import BANKS, RING_SHAPE, pending, tag
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["Crossbar", "write_port"]


def write_port(words: int) -> data.StructLayout:
    """A write into a bank: `ring`, `word` and the sector's `data`, which mean something only while `enable` is set."""
    return data.StructLayout({"enable": 1, "ring": RING_SHAPE, "word": range(words), "data": unsigned(SECTOR_BITS)})


class Crossbar(wiring.Component):
    """Writes each sector that a channel returns to its place in a ring buffer, and tells what is complete.

    A channel answers in the order of its requests. Its tags wait in a queue of their own; tag and sector meet and go
    into one of four small queues, by bank, so that a sector whose bank is taken holds up only its own column. For each
    bank of each lane a round-robin arbiter picks one of the C heads of its column. The places were reserved before the
    requests were made, so a write never waits for anything but its port. A single channel has every port to itself:
    its sectors are written when they meet their tags, without queues.

    The rings restore the order: sectors land where they belong, whenever they come. `completed` says up to which row
    group everything is in its bank: it is the number of the oldest group that still has a request, a tag or a sector in
    some channel, but no more than that of the next group to be queued.

    Parameters
    ----------
    channels : int
        C, a power of two.
    lanes : int
        R, lanes of the key and value rings, a power of two. There are 4 R write ports, one per lane and bank; port
        lane x 4 + bank also serves that bank of the query ring (lane 0).
    words : int
        Words of the largest ring's banks.
    sequence_bits : int
        Width of a row group's number.
    outstanding : int
        Requests of a channel that can wait for their data, at least 2.
    depth : int
        Sectors that a channel can hold for each column, at least 1; 4 keep random 64-byte rows at 97 % of all channels.

    Ports
    -----
    i_tag : C streams of `hw.memory.address_generator.tag`, in the order of the requests
    i_data : C streams of a sector (256 bits), in the order of the requests
    pending, pushed : in, from `AddressGenerator`
    write : out, 4 R of `write_port`
    completed : out, number of the first row group that is not completely written

    Latency: 2 cycles from a sector to its `write` where no other sector wants the port (a tag 2 cycles earlier at
    least), and none with one channel; `completed` follows 2 + ceil(log4(5 C)) cycles after the write of the last
    sector, with one channel 3. Throughput: a sector per channel and cycle as long as no bank's column is full.

    Source: SpAtten (HPCA 2021) section IV-B, Q-K-V fetcher, Fig. 8: data crossbar and 32 data FIFOs.
    """

    def __init__(
        self,
        *,
        channels: int,
        lanes: int,
        words: int,
        sequence_bits: int = 9,
        outstanding: int = 128,
        depth: int = 4,
    ) -> None:
        for name, value in (("channels", channels), ("lanes", lanes)):
            check_power_of_two(name, value)
        for name, value, least in (
            ("words", words, 2),
            ("sequence_bits", sequence_bits, 5),
            ("outstanding", outstanding, 2),
            ("depth", depth, 1),
        ):
            check_integer(name, value, least)
        self.channels = channels
        self.lanes = lanes
        self.words = words
        self.sequence_bits = sequence_bits
        self.outstanding = outstanding
        self.depth = depth
        self.tag_shape = tag(lanes, words, sequence_bits)
        self.write_shape = write_port(words)
        super().__init__(
            {
                "i_tag": In(stream.Signature(self.tag_shape)).array(channels),
                "i_data": In(stream.Signature(unsigned(SECTOR_BITS))).array(channels),
                "pending": In(pending(sequence_bits)).array(channels),
                "pushed": In(sequence_bits),
                "write": Out(self.write_shape).array(lanes * BANKS),
                "completed": Out(sequence_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        tags: list[Fifo] = []
        for channel in range(self.channels):
            check_stream(m, platform, self.i_tag[channel], f"i_tag{channel}")
            check_stream(m, platform, self.i_data[channel], f"i_data{channel}")
            m.submodules[f"tags{channel}"] = queue = Fifo(shape=self.tag_shape, depth=self.outstanding)
            wiring.connect(m, wiring.flipped(self.i_tag[channel]), queue.i)
            tags.append(queue)
        if self.channels == 1:
            self._write_at_once(m, tags[0])
            self._follow(m, tags[0])
        else:
            self._completion(m, tags, self._columns(m, tags))
        return m

    def _write_at_once(self, m: Module, tags: Fifo) -> None:
        """The only channel's sectors go to the ports as they meet their tags."""
        place, sector = tags.o.payload, self.i_data[0]
        meets = Signal()
        m.d.comb += [meets.eq(tags.o.valid & sector.valid), tags.o.ready.eq(meets), sector.ready.eq(meets)]
        for lane in range(self.lanes):
            for bank in range(BANKS):
                write = self.write[lane * BANKS + bank]
                m.d.comb += [
                    write.enable.eq(meets & equals(place.lane, lane) & equals(place.bank, bank)),
                    write.ring.eq(place.ring),
                    write.word.eq(place.word),
                    write.data.eq(sector.payload),
                ]

    def _columns(self, m: Module, tags: list[Fifo]) -> list[list["_Queue"]]:
        """The queues in which sectors of each channel wait for their banks, and an arbiter for each bank."""
        sector_shape = data.StructLayout({"tag": self.tag_shape, "data": unsigned(SECTOR_BITS)})
        columns: list[list[_Queue]] = []
        for channel, queue in enumerate(tags):
            columns.append([_Queue(shape=sector_shape, depth=self.depth, lanes=self.lanes) for _ in range(BANKS)])
            ready = Signal(BANKS, name=f"column_ready{channel}")
            meets = Signal(name=f"meets{channel}")
            bank = queue.o.payload.bank
            chosen = Signal(BANKS, name=f"chosen{channel}")
            m.d.comb += chosen.eq(Cat(equals(bank, column) for column in range(BANKS)))
            m.d.comb += meets.eq(queue.o.valid & self.i_data[channel].valid & (ready & chosen).any())
            m.d.comb += [queue.o.ready.eq(meets), self.i_data[channel].ready.eq(meets)]
            for column, waiting in enumerate(columns[channel]):
                m.submodules[f"column{channel}_{column}"] = waiting
                m.d.comb += [
                    ready[column].eq(waiting.i.ready),
                    waiting.i.valid.eq(queue.o.valid & self.i_data[channel].valid & chosen[column]),
                    waiting.i.payload.tag.eq(queue.o.payload),
                    waiting.i.payload.data.eq(self.i_data[channel].payload),
                    waiting.lane.eq(Cat(equals(queue.o.payload.lane, lane) for lane in range(self.lanes))),
                ]
        granted: dict[tuple[int, int], list[Value]] = {}
        for lane in range(self.lanes):
            for bank in range(BANKS):
                queues = [columns[channel][bank] for channel in range(self.channels)]
                m.submodules[f"port{lane}_{bank}"] = port = _BankPort(
                    channels=self.channels, width=self.write_shape.size - 1
                )
                write = self.write[lane * BANKS + bank]
                m.d.comb += [
                    write.enable.eq(port.enable),
                    Cat(write.ring, write.word, write.data).eq(port.o),
                ]
                for channel, queue in enumerate(queues):
                    payload = queue.o.payload
                    m.d.comb += [
                        port.wants[channel].eq(queue.wants[lane]),
                        port.i[channel].eq(Cat(payload.tag.ring, payload.tag.word, payload.data)),
                    ]
                    granted.setdefault((channel, bank), []).append(port.grant[channel])
        for (channel, bank), grants in granted.items():
            m.d.comb += columns[channel][bank].o.ready.eq(Cat(grants).any())
        return columns

    def _completion(self, m: Module, tags: list[Fifo], columns: list[list["_Queue"]]) -> None:
        """The least distance of any channel's oldest group from `completed`, as a pipeline of minimum trees.

        All inputs of a stage are of the same cycle, so the result is late, but never too optimistic.
        """
        width = self.sequence_bits
        distances: list[Value] = []
        for channel in range(self.channels):
            known, oldest = self._oldest(channel, tags[channel])
            # The distance of a group whose number is not known counts as 0.
            behind = Mux(known, (oldest - self.completed)[:width], 0)
            distances.append(register(m, behind, f"distance{channel}"))
            for column, queue in enumerate(columns[channel]):
                everything = (1 << width) - 1
                inside = Mux(queue.o.valid, queue.o.payload.tag.sequence - self.completed, everything)
                distances.append(register(m, inside, f"distance{channel}_{column}", shape=unsigned(width)))
        stage = 0
        while len(distances) > 1:
            # Two levels of the tree a cycle.
            stage += 1
            minima = []
            for number in range(0, len(distances), 4):
                least = _minimum(m, distances[number : number + 4], f"least{stage}_{number}")
                minima.append(register(m, least, f"minimum{stage}_{number}"))
            distances = minima
        # The tree holds distances from the `completed` of when they entered, and nothing right after a reset.
        base = delayed(m, self.completed, 1 + stage, "base")
        valid = delayed_valid(m, Const(1, 1), 1 + stage, "valid")
        candidate = Signal(width)
        advance = Signal(width)
        m.d.comb += [candidate.eq(base + distances[0]), advance.eq(candidate - self.completed)]
        with m.If(valid & ~advance[-1]):
            m.d.sync += self.completed.eq(candidate)

    def _oldest(self, channel: int, tags: Fifo) -> tuple[Value, Value]:
        """The channel's oldest group that has a request or a tag, or the next to come if none has; and whether its
        number is known: it is not between the address generator and the tag queue's output."""
        upstream = self.pending[channel]
        known = Mux(tags.some, tags.o.valid, ~upstream.some | upstream.known)
        sequence = Mux(tags.some, tags.o.payload.sequence, Mux(upstream.some, upstream.sequence, self.pushed))
        return known, sequence

    def _follow(self, m: Module, tags: Fifo) -> None:
        """Of the only channel, its oldest group is the first that is not complete, whenever its number is known."""
        known, oldest = self._oldest(0, tags)
        is_known = register(m, known, "is_known", is_reset=True)
        sequence = register(m, oldest, "oldest", shape=unsigned(self.sequence_bits))
        with m.If(is_known):
            m.d.sync += self.completed.eq(sequence)


def _minimum(m: Module, values: list[Value], name: str) -> Value:
    """The least of up to four values."""
    while len(values) > 1:
        pairs = []
        for number in range(0, len(values) - 1, 2):
            less = Signal(len(values[0]), name=f"{name}_{len(values)}_{number}")
            m.d.comb += less.eq(Mux(values[number] < values[number + 1], values[number], values[number + 1]))
            pairs.append(less)
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


class _BankPort(Shared):
    """The write port of one bank: it serves the channels that want it in turn, a cycle later."""

    def __init__(self, *, channels: int, width: int) -> None:
        super().__init__(
            {
                "wants": In(channels),
                "i": In(data.ArrayLayout(unsigned(width), channels)),
                "grant": Out(channels),
                "enable": Out(1),
                "o": Out(width),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        # Channels above the one served last come first.
        after = Signal.like(self.wants, name="after")
        first = Signal.like(self.wants, name="first")
        m.d.comb += [
            first.eq(self.wants & after),
            self.grant.eq(Mux(first.any(), first & -first, self.wants & -self.wants)),
        ]
        with m.If(self.wants.any()):
            m.d.sync += after.eq(~((self.grant - 1) | self.grant))
        m.d.sync += self.enable.eq(self.wants.any())
        m.d.comb += self.o.eq(register(m, one_of(self.grant, self.i), "chosen"))
        return m


class _Queue(Shared):
    """A few entries in registers, the oldest at the output, since its lane must be known early in the cycle.

    i.ready comes from a register and does not depend on o.ready. `lane`, in, is the lane of the entry on `i`, one-hot;
    `wants`, out, from a register, is the lane of the entry on `o`, and 0 if there is none.
    """

    def __init__(self, *, shape: ShapeLike, depth: int, lanes: int) -> None:
        self.shape = shape
        self.depth = depth
        self.lanes = lanes
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "lane": In(lanes),
                "wants": Out(lanes),
            }
        )

    def build(self, platform: Any) -> Module:
        m = Module()
        width = Shape.cast(self.shape).width
        entries = [Signal(width, name=f"entry{n}", reset_less=True) for n in range(self.depth)]
        valid = [Signal(name=f"valid{n}") for n in range(self.depth)]
        lanes = [Signal(self.lanes, name=f"lane{n}") for n in range(self.depth)]
        pops = Signal()
        m.d.comb += [
            self.wants.eq(lanes[0]),
            self.i.ready.eq(~valid[-1]),
            self.o.valid.eq(valid[0]),
            Value.cast(self.o.payload).eq(entries[0]),
            pops.eq(valid[0] & self.o.ready),
        ]
        pushes = self.i.valid & ~valid[-1]
        for n in range(self.depth):
            behind = valid[n + 1] if n + 1 < self.depth else Const(0, 1)
            following = entries[n + 1] if n + 1 < self.depth else Value.cast(self.i.payload)
            before = valid[n - 1] if n else Const(1, 1)
            next_lane = lanes[n + 1] if n + 1 < self.depth else Const(0, self.lanes)
            with m.If(pops):
                # what is behind moves up; a new entry takes the place of the last one
                m.d.sync += [
                    valid[n].eq(behind | (valid[n] & pushes)),
                    entries[n].eq(Mux(behind, following, Value.cast(self.i.payload))),
                    lanes[n].eq(next_lane | Mux(valid[n] & pushes & ~behind, self.lane, 0)),
                ]
            with m.Elif(pushes & before & ~valid[n]):
                m.d.sync += [valid[n].eq(1), entries[n].eq(Value.cast(self.i.payload)), lanes[n].eq(self.lane)]
        return m
