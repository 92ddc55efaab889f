"""Packs output rows into 32-byte sectors and sends each to its place in its memory channel."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.datapath.qk import DIM_BITS, check_head_dim_min
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import index_shape
from spatten.hw.lib.parameters import check_integer, check_power_of_two
from spatten.hw.memory.axi import sector_write
from spatten.spec.config import HEAD_DIMS, SECTOR_BYTES

__all__ = ["OutputPacker", "placed_beat"]

_ELEMENT_BITS = 16
"""Width of an output element in memory."""
_SECTOR_ELEMENTS = 8 * SECTOR_BYTES // _ELEMENT_BITS


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
            "part": index_shape(head_dim_max // lanes),
            "dim": unsigned(DIM_BITS),
            "row": index_shape(rows),
            "head": index_shape(heads),
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
    head_dim_min : int
        Smallest head dimension that a row may have.

    Ports
    -----
    i : stream of `placed_beat(...)`, in
    o : array of `channels` streams of `sector_write(address_bits)`, out
    beats_in, beats_done : out, how many beats came on `i`, and of how many all sectors have come to the channels'
        queues, modulo 256
    queued : out, for each channel how many sectors came to its queue, modulo 65,536

    Latency: 4 cycles from a beat's transfer on `i` to its first sectors on `o`.
    Throughput: a beat takes max(1, n / C) cycles: one beat per cycle at 16 channels whatever the rows, and 4 cycles for
    64 elements at one channel. Where every beat takes two cycles or more, `i.ready` follows from a register alone.
    While a channel is stalled, `depth` sectors wait for it before the others wait too.
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
        head_dim_min: int = HEAD_DIMS[0],
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
        check_head_dim_min(head_dim_min, head_dim_max)
        self.lanes = lanes
        self.operand_bits = operand_bits
        self.head_dim_max = head_dim_max
        self.channels = channels
        self.rows = rows
        self.heads = heads
        self.address_bits = address_bits
        self.depth = depth
        self.head_dim_min = head_dim_min
        self.takes_turns = min(lanes, head_dim_min) // _SECTOR_ELEMENTS >= 2 * channels
        """Whether a beat is taken only when the one before has moved on: every beat takes two cycles or more."""
        self._sectors = min(lanes, head_dim_max) // _SECTOR_ELEMENTS
        """Most sectors of a beat."""
        self._sector_bits = self._sectors.bit_length() - 1
        self._channel_bits = channels.bit_length() - 1
        self._element_bits = _SECTOR_ELEMENTS * operand_bits
        """Bits of a sector's elements before they are extended."""
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
        if asserts(platform):
            low_bits = self.i.payload.base[: self._channel_bits]
            m.d.sync += Assert(~self.i.valid | ~low_bits.any(), "i: base is no multiple of the channels\n")
        placed_valid, placed_ready = Signal(), Signal()
        placed = self._place(m, placed_valid, placed_ready)
        step = self._aim(m, placed, placed_valid, placed_ready)
        self._queue(m, step)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += self.beats_in.eq(self.beats_in + 1)
        with m.If(step.moves & step.is_final):
            m.d.sync += self.beats_done.eq(self.beats_done + 1)
        return m

    def _place(self, m: Module, valid: Signal, ready: Signal) -> Any:
        """A register with the beat, and the place of its part of the row among all parts of the region."""
        beat = self.i.payload
        placed = Signal(
            data.StructLayout(
                {
                    "elements": unsigned(self._sectors * self._element_bits),
                    "place": index_shape(self.rows * self.heads),
                    "dim": unsigned(DIM_BITS),
                    "part": beat.part.shape(),
                    "base": unsigned(self.address_bits),
                }
            ),
            reset_less=True,
        )
        # A sum of gated rows; so few bits need no multiplier.
        products = [Mux(bit, beat.row << shift, 0) for shift, bit in enumerate(beat.heads)]
        m.d.comb += self.i.ready.eq(~valid if self.takes_turns else ~valid | ready)
        if self.takes_turns:
            with m.If(ready):
                m.d.sync += valid.eq(0)
        with m.If(self.i.ready):
            m.d.sync += [
                valid.eq(self.i.valid),
                placed.elements.eq(Value.cast(beat.lanes)),
                placed.place.eq(sum(products, beat.head)),
                placed.dim.eq(beat.dim),
                placed.part.eq(beat.part),
                placed.base.eq(beat.base >> self._channel_bits),
            ]
        return placed

    def _aim(self, m: Module, placed: Any, placed_valid: Signal, placed_ready: Signal) -> "_Step":
        """A register with the sectors of a beat that are still to be sent, their address, and the channels they go to.

        With fewer channels than sectors a beat takes several steps, at consecutive addresses.
        """
        step = _Step(
            valid=Signal(name="step_valid"),
            moves=Signal(name="step_moves"),
            is_final=Signal(name="step_is_final"),
            elements=Signal(self._sectors * self._element_bits, name="step_elements", reset_less=True),
            address=Signal(self.address_bits, name="step_address", reset_less=True),
            log_sectors=Signal(index_shape(self._sector_bits + 1), name="step_log_sectors", reset_less=True),
            is_target=Signal(self.channels, name="step_is_target", reset_less=True),
        )
        log_sectors = Signal.like(step.log_sectors, name="placed_log_sectors")
        # A part's offset lies below the place's lowest bit, since only a head dimension above `lanes` has parts.
        offset = Signal(index_shape(self.rows * self.heads * self.head_dim_max // _SECTOR_ELEMENTS))
        m.d.comb += [
            log_sectors.eq(Mux(placed.dim > self._sector_bits, self._sector_bits, placed.dim)),
            offset.eq((placed.place << placed.dim) | (placed.part << self._sector_bits)),
            placed_ready.eq(~step.valid | (step.moves & step.is_final)),
        ]
        with m.If(placed_ready):
            m.d.sync += [
                step.valid.eq(placed_valid),
                step.elements.eq(placed.elements),
                step.address.eq(placed.base + (offset >> self._channel_bits)),
                step.log_sectors.eq(log_sectors),
            ]
            for channel in range(self.channels):
                differs = (offset[: self._channel_bits] ^ channel) >> log_sectors
                m.d.sync += step.is_target[channel].eq(~differs.any())
        if self._sectors <= self.channels:
            m.d.comb += step.is_final.eq(1)
            return step
        # The rest of the beat moves down to the channels, for the next local address. Which step is the last is known a
        # cycle early, since `i.ready` follows from that.
        more = ((1 << log_sectors) - 1) >> self._channel_bits
        left = Signal(range(self._sectors // self.channels), reset_less=True)
        is_final = Signal(reset_less=True)
        m.d.comb += step.is_final.eq(is_final)
        with m.If(placed_ready):
            m.d.sync += [left.eq(more), is_final.eq(~more.any())]
        with m.Elif(step.moves):
            m.d.sync += [
                left.eq(left - 1),
                is_final.eq(left == 1),
                step.elements.eq(step.elements >> self.channels * self._element_bits),
                step.address.eq(step.address + 1),
            ]
        return step

    def _queue(self, m: Module, step: "_Step") -> None:
        """A queue per channel, with its output. A step waits until all channels that it writes to have room."""
        free = Signal(self.channels)
        m.d.comb += step.moves.eq(step.valid & ~(step.is_target & ~free).any())
        queued = data.StructLayout({"address": unsigned(self.address_bits), "elements": unsigned(self._element_bits)})
        for channel in range(self.channels):
            sends = step.moves & step.is_target[channel]
            with m.If(sends):
                m.d.sync += self.queued[channel].eq(self.queued[channel] + 1)
            m.submodules[f"queue{channel}"] = queue = Fifo(shape=queued, depth=self.depth)
            extended = [
                _sign_extended(queue.o.payload.elements.word_select(i, self.operand_bits))
                for i in range(_SECTOR_ELEMENTS)
            ]
            o = self.o[channel]
            m.d.comb += [
                free[channel].eq(queue.i.ready),
                queue.i.valid.eq(sends),
                queue.i.payload.address.eq(step.address),
                queue.i.payload.elements.eq(self._sector_for(step, channel)),
                o.valid.eq(queue.o.valid),
                queue.o.ready.eq(o.ready),
                o.payload.address.eq(queue.o.payload.address),
                o.payload.data.eq(Cat(extended)),
            ]

    def _sector_for(self, step: "_Step", channel: int) -> Value:
        """Of the step's sectors that of a channel: channel c gets sector c modulo their number."""
        sector: Value = step.elements.word_select(channel % self._sectors, self._element_bits)
        for level in reversed(range(self._sector_bits)):
            low = channel % (1 << level)
            if channel % self._sectors != low:
                sector = Mux(step.log_sectors <= level, step.elements.word_select(low, self._element_bits), sector)
        return sector


@dataclass(frozen=True)
class _Step:
    """What goes to the channels in one step, and when."""

    valid: Signal
    moves: Signal
    """The step is taken in this cycle."""
    is_final: Signal
    """It is the last one of its beat."""
    elements: Signal
    """The beat's sectors from that of channel 0 on."""
    address: Signal
    log_sectors: Signal
    """log2 of the beat's sectors."""
    is_target: Signal
    """Which channels get a sector."""


def _sign_extended(element: Value) -> Value:
    return Cat(element, element[-1].replicate(_ELEMENT_BITS - len(element)))
