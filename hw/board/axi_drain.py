"""Lets a memory forget a master that is reset: what the master began is finished in its place."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.lib.fifo import SkidBuffer
from spatten.hw.lib.parameters import check_integer
from spatten.hw.memory.axi import axi4

__all__ = ["AxiDrain"]

_CONSTANTS = ("id", "size", "burst", "cache", "prot")
"""What is the same in all addresses of the master."""


class AxiDrain(wiring.Component):
    """Stands between an AXI4 master and a memory, and finishes the master's bursts while the master is reset.

    While `isolate` is set nothing is taken from the master and nothing given to it. Addresses that were taken are
    passed on; beats of writes that the master owes are sent without strobes, so that the memory keeps its
    content; responses and beats of reads are taken and thrown away. The master may be reset in the cycle in which
    `isolate` is set, and must be when `isolate` ends.

    Parameters
    ----------
    address_bits, data_bits : int
        As of `axi4`.
    open_bursts : int
        Most bursts that are open in each direction, 1 to 255; the master waits with more.

    Ports
    -----
    master : AXI4, from the master, whose ids, sizes, burst types, cache and prot bits are constants, also in its reset
    memory : AXI4, to the memory
    isolate : in; must stay until `drained`
    drained : out, set while `isolate` is set and nothing is open

    Latency: 1 cycle on AR, AW and W, none on R and B. Throughput: a beat per cycle on R and W, an address in two
    cycles. A write's address is taken when the beats of the one before have been, and its beats after it.
    """

    def __init__(self, *, address_bits: int, data_bits: int, open_bursts: int = 255) -> None:
        check_integer("open_bursts", open_bursts, 1, 255)
        self.address_bits = address_bits
        self.data_bits = data_bits
        self.open_bursts = open_bursts
        port = axi4(address_bits, data_bits)
        super().__init__({"master": In(port), "memory": Out(port), "isolate": In(1), "drained": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        master, memory = self.master, self.memory
        is_open = {}
        for prefix in ("aw", "ar"):
            count = Signal(range(self.open_bursts + 1), name=f"{prefix}_open")
            """Bursts whose address was taken and whose end has not come."""
            address = Signal(self.address_bits, reset_less=True, name=f"{prefix}_address")
            length = Signal(8, reset_less=True, name=f"{prefix}_length")
            full = Signal(name=f"{prefix}_full")
            takes = Signal(name=f"{prefix}_takes")
            ends = Signal(name=f"{prefix}_ends")
            valid, ready = getattr(memory, f"{prefix}valid"), getattr(memory, f"{prefix}ready")
            m.d.comb += [
                getattr(memory, f"{prefix}addr").eq(address),
                getattr(memory, f"{prefix}len").eq(length),
                takes.eq(getattr(master, f"{prefix}valid") & getattr(master, f"{prefix}ready")),
            ]
            for name in _CONSTANTS:
                m.d.comb += getattr(memory, f"{prefix}{name}").eq(getattr(master, f"{prefix}{name}"))
            with m.If(ready):
                m.d.sync += valid.eq(0)
            with m.If(takes):
                m.d.sync += [
                    valid.eq(1),
                    address.eq(getattr(master, f"{prefix}addr")),
                    length.eq(getattr(master, f"{prefix}len")),
                ]
            after = Signal.like(count, name=f"{prefix}_after")
            m.d.comb += after.eq(count + takes - ends)
            m.d.sync += [count.eq(after), full.eq(after == self.open_bursts)]
            is_open[prefix] = (count, full, ends, valid)

        read_count, read_full, read_ends, read_shown = is_open["ar"]
        write_count, write_full, write_ends, write_shown = is_open["aw"]
        owed = Signal(9)
        """Beats of the write whose address was taken last that have not been taken yet."""
        shape = data.StructLayout({"data": self.data_bits, "strobes": self.data_bits // 8, "last": 1})
        m.submodules.beats = beats = SkidBuffer(shape=shape)
        sends = Signal()
        m.d.comb += [
            master.arready.eq(~read_shown & ~read_full & ~self.isolate),
            master.awready.eq(~write_shown & ~write_full & ~owed.any() & ~self.isolate),
            master.wready.eq(beats.i.ready & owed.any() & ~self.isolate),
            # Nothing waits at the buffer, as what waits must not change, and the beats of a master in reset do.
            sends.eq((master.wvalid | self.isolate) & owed.any() & beats.i.ready),
            beats.i.valid.eq(sends),
            beats.i.payload.data.eq(master.wdata),
            beats.i.payload.strobes.eq(Mux(self.isolate, 0, master.wstrb)),
            beats.i.payload.last.eq(owed == 1),
            memory.wvalid.eq(beats.o.valid),
            beats.o.ready.eq(memory.wready),
            memory.wdata.eq(beats.o.payload.data),
            memory.wstrb.eq(beats.o.payload.strobes),
            memory.wlast.eq(beats.o.payload.last),
        ]
        with m.If(sends):
            m.d.sync += owed.eq(owed - 1)
        with m.If(master.awvalid & master.awready):
            m.d.sync += owed.eq(Cat(master.awlen, Const(0, 1)) + 1)

        m.d.comb += [
            memory.rready.eq(master.rready | self.isolate),
            master.rvalid.eq(memory.rvalid & ~self.isolate),
            master.rid.eq(memory.rid),
            master.rdata.eq(memory.rdata),
            master.rresp.eq(memory.rresp),
            master.rlast.eq(memory.rlast),
            read_ends.eq(memory.rvalid & memory.rready & memory.rlast),
            memory.bready.eq(master.bready | self.isolate),
            master.bvalid.eq(memory.bvalid & ~self.isolate),
            master.bid.eq(memory.bid),
            master.bresp.eq(memory.bresp),
            write_ends.eq(memory.bvalid & memory.bready),
        ]
        m.d.sync += self.drained.eq(self.isolate & ~read_count.any() & ~write_count.any())
        return m
