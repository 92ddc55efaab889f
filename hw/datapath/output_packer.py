"""Packs output rows into 32-byte sectors and sends each to its place in its memory channel."""

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.parameters import check_integer, check_power_of_two
from spatten.hw.memory.axi import sector_write
from spatten.spec.config import HEAD_DIMS, SECTOR_BYTES

__all__ = ["OutputPacker", "placed_beat"]

_ELEMENT_BITS = 16
"""Width of an output element in memory."""
_SECTOR_ELEMENTS = 8 * SECTOR_BYTES // _ELEMENT_BITS


def _index(count: int) -> Shape:
    """Shape of a number below `count`: at least a bit, since Verilog has no signal without bits."""
    return unsigned(max(1, ceil_log2(count)))


def placed_beat(
    *, lanes: int, operand_bits: int, head_dim_max: int, channels: int, rows: int, heads: int, address_bits: int
) -> data.StructLayout:
    """A beat of an output row, and where the row belongs.

    lanes : `lanes` elements, signed; those from the head dimension up are ignored
    part : which `lanes` elements of the row these are; 0 unless the head dimension exceeds `lanes`
    dim : log2(head dimension) - 4
    row : number of the output row, the original id less the query offset
    head, heads : head of the row, and how many heads a row of the layer has, 1 to `heads`
    base : first global sector of the output region, a multiple of `channels`
    """
    return data.StructLayout(
        {
            "lanes": data.ArrayLayout(signed(operand_bits), lanes),
            "part": _index(head_dim_max // lanes),
            "dim": unsigned(2),
            "row": _index(rows),
            "head": _index(heads),
            "heads": range(heads + 1),
            "base": unsigned(address_bits + channels.bit_length() - 1),
        }
    )


class OutputPacker(wiring.Component):
    """Writes beats of output rows to memory, as 16-bit sign-extended elements in whole sectors.

    The heads of a row lie side by side, so the part of `head` in `row` begins at the global sector
    `base + (row x heads + head) x D / 16`, and global sector g lies in channel g mod C at local sector g div C.
    A beat has n = min(D, lanes) / 16 sectors. n divides the distance of its first sector from `base`, and C divides
    `base`: so a beat's sectors go to n neighbouring channels at the same local address, the first channel's number is a
    multiple of n, and channel c can only get sector c mod n. With fewer channels than sectors, each channel gets
    sectors c, c + C, ... in n / C steps, at consecutive addresses.

    Parameters
    ----------
    lanes : int
        Elements of a beat: a power of two, at least 16.
    operand_bits : int
        Width of an element, 1 to 16.
    head_dim_max : int
        Largest head dimension D that a row may have: 16, 32, 64 or 128.
    channels : int
        Memory channels C: a power of two.
    rows : int
        Most output rows of a region.
    heads : int
        Most heads of a layer.
    address_bits : int
        Width of a local sector address. All sectors of the region must lie below 2**address_bits.
    depth : int
        Sectors that wait in front of each channel, at least 2.

    Ports
    -----
    i : stream of `placed_beat(...)`, in
    o : array of `channels` streams of `sector_write(address_bits)`, out
    beats_in, beats_done : out, how many beats came on `i`, and of how many all sectors have come to the channels'
        queues, modulo 256
    queued : out, for each channel how many sectors came to its queue, modulo 65,536

    Latency: 4 cycles from a beat's transfer on `i` to its first sectors on `o`.
    Throughput: a beat takes max(1, n / C) cycles: one beat per cycle at 16 channels whatever the rows, and 4 cycles for
    64 elements at one channel. While a channel is stalled, `depth` sectors wait for it before the others wait too.
    Every channel gets its sectors in the order of the beats; between channels there is no order.

    Source: SpAtten (HPCA 2021) section IV-A for the interleaved channels.
    """

    def __init__(
        self,
        *,
        lanes: int,
        operand_bits: int,
        head_dim_max: int,
        channels: int,
        rows: int,
        heads: int,
        address_bits: int,
        depth: int = 4,
    ) -> None:
        for name, value, low, high in (
            ("lanes", lanes, _SECTOR_ELEMENTS, None),
            ("operand_bits", operand_bits, 1, _ELEMENT_BITS),
            ("head_dim_max", head_dim_max, 1, None),
            ("channels", channels, 1, None),
            ("rows", rows, 1, None),
            ("heads", heads, 1, None),
            ("address_bits", address_bits, 1, None),
            ("depth", depth, 2, None),
        ):
            check_integer(name, value, low, high)
        for name, value in (("lanes", lanes), ("channels", channels)):
            check_power_of_two(name, value)
        if head_dim_max not in HEAD_DIMS:
            raise ValueError(f"head_dim_max must be one of {HEAD_DIMS}, not {head_dim_max!r}")
        self.lanes = lanes
        self.operand_bits = operand_bits
        self.head_dim_max = head_dim_max
        self.channels = channels
        self.rows = rows
        self.heads = heads
        self.address_bits = address_bits
        self.depth = depth
        self.beat = placed_beat(
            lanes=lanes,
            operand_bits=operand_bits,
            head_dim_max=head_dim_max,
            channels=channels,
            rows=rows,
            heads=heads,
            address_bits=address_bits,
        )
        super().__init__(
            {
                "i": In(stream.Signature(self.beat)),
                "o": Out(stream.Signature(sector_write(address_bits))).array(channels),
                "beats_in": Out(8),
                "beats_done": Out(8),
                "queued": Out(data.ArrayLayout(16, channels)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        beat = self.i.payload
        channel_bits = self.channels.bit_length() - 1
        sectors = min(self.lanes, self.head_dim_max) // _SECTOR_ELEMENTS
        sector_bits = sectors.bit_length() - 1
        element_bits = _SECTOR_ELEMENTS * self.operand_bits
        if asserts(platform):
            m.d.sync += Assert(
                ~self.i.valid | ~beat.base[:channel_bits].any(), "i: base is no multiple of the channels\n"
            )

        # Step 1: the place of the head's part among all parts, as a sum of gated rows; so few bits need no multiplier.
        placed_valid = Signal()
        placed_ready = Signal()
        placed_elements = Signal(sectors * element_bits, reset_less=True)
        placed_place = Signal(_index(self.rows * self.heads), reset_less=True)
        placed_dim = Signal(2, reset_less=True)
        placed_part = Signal.like(beat.part, reset_less=True)
        placed_base = Signal(self.address_bits, reset_less=True)
        products = [Mux(bit, beat.row << shift, 0) for shift, bit in enumerate(beat.heads)]
        m.d.comb += self.i.ready.eq(~placed_valid | placed_ready)
        with m.If(self.i.ready):
            m.d.sync += [
                placed_valid.eq(self.i.valid),
                placed_elements.eq(Value.cast(beat.lanes)),
                placed_place.eq(sum(products, beat.head)),
                placed_dim.eq(beat.dim),
                placed_part.eq(beat.part),
                placed_base.eq(beat.base >> channel_bits),
            ]

        # Step 2: addresses and channels of the beat's first `channels` sectors.
        valid = Signal()
        steps = Signal()
        is_final = Signal()
        elements = Signal.like(placed_elements)
        address = Signal(self.address_bits, reset_less=True)
        split = Signal(_index(sector_bits + 1), reset_less=True)  # log2 of the beat's sectors
        is_target = Signal(self.channels, reset_less=True)
        placed_split = Signal.like(split)
        # A part's offset lies below the place's lowest bit, since only a head dimension above `lanes` has parts.
        offset = Signal(_index(self.rows * self.heads * self.head_dim_max // _SECTOR_ELEMENTS))
        m.d.comb += [
            placed_split.eq(Mux(placed_dim > sector_bits, sector_bits, placed_dim)),
            offset.eq((placed_place << placed_dim) | (placed_part << sector_bits)),
            placed_ready.eq(~valid | (steps & is_final)),
        ]
        with m.If(placed_ready):
            m.d.sync += [
                valid.eq(placed_valid),
                elements.eq(placed_elements),
                address.eq(placed_base + (offset >> channel_bits)),
                split.eq(placed_split),
            ]
            for channel in range(self.channels):
                differs = (offset[:channel_bits] ^ channel) >> placed_split
                m.d.sync += is_target[channel].eq(~differs.any())
        if sectors <= self.channels:
            m.d.comb += is_final.eq(1)
        else:
            # Fewer channels than sectors: the rest of the beat moves down to the channels, for the next local address.
            done = Signal(range(sectors // self.channels))
            m.d.comb += is_final.eq(done == ((1 << split) - 1) >> channel_bits)
            with m.If(steps):
                m.d.sync += done.eq(Mux(is_final, 0, done + 1))
                with m.If(~is_final):
                    m.d.sync += [elements.eq(elements >> self.channels * element_bits), address.eq(address + 1)]

        # Step 3: a queue per channel. A step waits until all channels that it writes to have room.
        free = Signal(self.channels)
        m.d.comb += steps.eq(valid & ~(is_target & ~free).any())
        sector_list = elements.word_select
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += self.beats_in.eq(self.beats_in + 1)
        with m.If(steps & is_final):
            m.d.sync += self.beats_done.eq(self.beats_done + 1)
        for channel in range(self.channels):
            with m.If(steps & is_target[channel]):
                m.d.sync += self.queued[channel].eq(self.queued[channel] + 1)
        for channel in range(self.channels):
            queued = data.StructLayout({"address": unsigned(self.address_bits), "elements": unsigned(element_bits)})
            m.submodules[f"queue{channel}"] = queue = Fifo(shape=queued, depth=self.depth)
            sector: Value = sector_list(channel % sectors, element_bits)
            for level in reversed(range(sector_bits)):
                if channel % sectors != channel % (1 << level):
                    sector = Mux(split <= level, sector_list(channel % (1 << level), element_bits), sector)
            extended = [
                queue.o.payload.elements.word_select(i, self.operand_bits).as_signed() for i in range(_SECTOR_ELEMENTS)
            ]
            o = self.o[channel]
            m.d.comb += [
                free[channel].eq(queue.i.ready),
                queue.i.valid.eq(steps & is_target[channel]),
                queue.i.payload.address.eq(address),
                queue.i.payload.elements.eq(sector),
                o.valid.eq(queue.o.valid),
                queue.o.ready.eq(o.ready),
                o.payload.address.eq(queue.o.payload.address),
                o.payload.data.eq(Cat(_sign_extended(element) for element in extended)),
            ]
        return m


def _sign_extended(element: Value) -> Value:
    return Cat(element, element[-1].replicate(_ELEMENT_BITS - len(element)))
