"""Lets two AXI4 masters share a memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.memory.axi import axi4

__all__ = ["AxiJoin"]

_ATTRIBUTES = ("size", "burst", "cache", "prot")
"""What goes with an address, beside its number and length."""


class AxiJoin(wiring.Component):
    """Joins two AXI4 masters into one, whose id is the master's number, by which answers find their way back.

    Where both masters have an address, the one that did not have the last turn goes first. The beats of a write follow
    its address, before another write's address is taken.

    Parameters
    ----------
    address_bits, data_bits : int
        As of `hw.memory.axi.axi4`.

    Ports
    -----
    masters : array of 2 `axi4`, from the masters; their ids are not looked at, and answers have id 0
    memory : `axi4`, to the memory, which must answer with the id of the request

    Latency: 1 cycle on AR and AW, none on W, R and B; `ready` of an address follows its `valid` at once. Throughput: an
    address in two cycles, a beat per cycle.
    """

    def __init__(self, *, address_bits: int, data_bits: int) -> None:
        port = axi4(address_bits, data_bits)
        super().__init__({"masters": In(port).array(2), "memory": Out(port)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        first, second = masters = self.masters
        memory = self.memory
        owes, writer = Signal(), Signal(reset_less=True)
        takes_write, write_turn = self._address(m, "aw", ~owes)
        self._address(m, "ar", 1)
        with m.If(memory.wvalid & memory.wready & memory.wlast):
            m.d.sync += owes.eq(0)
        with m.If(takes_write):
            m.d.sync += [owes.eq(1), writer.eq(write_turn)]
        m.d.comb += memory.wvalid.eq(owes & Mux(writer, second.wvalid, first.wvalid))
        for name in ("wdata", "wstrb", "wlast"):
            m.d.comb += getattr(memory, name).eq(Mux(writer, getattr(second, name), getattr(first, name)))
        m.d.comb += [
            memory.rready.eq(Mux(memory.rid, second.rready, first.rready)),
            memory.bready.eq(Mux(memory.bid, second.bready, first.bready)),
        ]
        for number, master in enumerate(masters):
            m.d.comb += [
                master.wready.eq(owes & (writer == number) & memory.wready),
                master.rvalid.eq(memory.rvalid & (memory.rid == number)),
                master.bvalid.eq(memory.bvalid & (memory.bid == number)),
                *(getattr(master, name).eq(getattr(memory, name)) for name in ("rdata", "rresp", "rlast", "bresp")),
            ]
        return m

    def _address(self, m: Module, prefix: str, may_take: Any) -> tuple[Signal, Signal]:
        """A register for the addresses of both masters; returns whether one is taken now, and whose turn it is."""
        first, second = self.masters
        valid = getattr(self.memory, f"{prefix}valid")
        wants = [getattr(master, f"{prefix}valid") for master in (first, second)]
        turn, last, takes = Signal(name=f"{prefix}_turn"), Signal(name=f"{prefix}_last"), Signal(name=f"{prefix}_takes")
        m.d.comb += [
            turn.eq(Mux(wants[0] & wants[1], ~last, wants[1])),
            takes.eq((wants[0] | wants[1]) & ~valid & may_take),
        ]
        for number, master in enumerate(self.masters):
            m.d.comb += getattr(master, f"{prefix}ready").eq(takes & (turn == number))
        with m.If(getattr(self.memory, f"{prefix}ready")):
            m.d.sync += valid.eq(0)
        with m.If(takes):
            m.d.sync += [valid.eq(1), last.eq(turn)]
            m.d.sync += getattr(self.memory, f"{prefix}id").eq(turn)
            for name in ("addr", "len", *_ATTRIBUTES):
                member = f"{prefix}{name}"
                m.d.sync += getattr(self.memory, member).eq(Mux(turn, getattr(second, member), getattr(first, member)))
        return takes, turn
