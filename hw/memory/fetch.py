"""The fetch unit: takes row ids, and writes the rows' sectors into their banks."""

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.memory.address_generator import BANKS, AddressGenerator
from spatten.hw.memory.crossbar import Crossbar
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["Fetch"]


class Fetch(wiring.Component):
    """`AddressGenerator` and `Crossbar` around the channels of a memory.

    Parameters
    ----------
    channels, rows, lanes, id_bits, sector_bits, ring_sectors, linear_sectors, groups, sequence_bits
        As in `AddressGenerator`.
    outstanding, depth
        As in `Crossbar`.

    Ports
    -----
    i : stream of `hw.memory.address_generator.row_group`
    o_address : C streams of a local sector address, to the channels
    i_data : C streams of a sector, the channels' answers, each in the order of its requests
    write : out, 4 R of `hw.memory.crossbar.write_port`
    accepted : out, number of the next group to enter
    completed : out, number of the first group that is not completely in its banks

    Throughput: a sector per channel and cycle; random 64-byte rows over 12 heads whose planes are skewed reach 95 % of
    that and more (`make units`).
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
        outstanding: int = 128,
        depth: int = 4,
    ) -> None:
        self.generator = AddressGenerator(
            channels=channels,
            rows=rows,
            lanes=lanes,
            id_bits=id_bits,
            sector_bits=sector_bits,
            ring_sectors=ring_sectors,
            linear_sectors=linear_sectors,
            groups=groups,
            sequence_bits=sequence_bits,
        )
        self.crossbar = Crossbar(
            channels=channels,
            lanes=lanes,
            words=self.generator.buffer_sectors // BANKS,
            sequence_bits=sequence_bits,
            outstanding=outstanding,
            depth=depth,
        )
        super().__init__(
            {
                "i": In(stream.Signature(self.generator.group_shape)),
                "o_address": Out(stream.Signature(unsigned(sector_bits - (channels - 1).bit_length()))).array(channels),
                "i_data": In(stream.Signature(unsigned(SECTOR_BITS))).array(channels),
                "write": Out(self.crossbar.write_shape).array(lanes * BANKS),
                "accepted": Out(sequence_bits),
                "completed": Out(sequence_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.generator = generator = self.generator
        m.submodules.crossbar = crossbar = self.crossbar
        wiring.connect(m, wiring.flipped(self.i), generator.i)
        for channel, request in enumerate(generator.o):
            address = self.o_address[channel]
            tag = crossbar.i_tag[channel]
            # Channel and crossbar each take a request when they can; the request leaves when both have it.
            sent = Signal(name=f"sent{channel}")
            tagged = Signal(name=f"tagged{channel}")
            m.d.comb += [
                address.payload.eq(request.payload.address),
                address.valid.eq(request.valid & ~sent),
                tag.payload.eq(request.payload.tag),
                tag.valid.eq(request.valid & ~tagged),
                request.ready.eq((address.ready | sent) & (tag.ready | tagged)),
                crossbar.pending[channel].eq(generator.pending[channel]),
            ]
            m.d.sync += [
                sent.eq(request.valid & (address.ready | sent) & ~request.ready),
                tagged.eq(request.valid & (tag.ready | tagged) & ~request.ready),
            ]
            wiring.connect(m, wiring.flipped(self.i_data[channel]), crossbar.i_data[channel])
        for port, write in enumerate(crossbar.write):
            m.d.comb += self.write[port].eq(write)
        m.d.comb += [
            crossbar.pushed.eq(generator.pushed),
            generator.completed.eq(crossbar.completed),
            self.accepted.eq(generator.accepted),
            self.completed.eq(crossbar.completed),
        ]
        return m
