"""The port of the head importance, which the job that begins and the job that ends share."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Shape, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.control.job_slots import context_shape
from spatten.hw.datapath.head_importance import entry_access, entry_value
from spatten.spec.config import Config

__all__ = ["HeadPort", "head_access", "head_answer", "head_read", "head_shape"]


def head_shape(config: Config) -> Shape:
    """The number of a head."""
    return unsigned(max(1, ceil_log2(config.heads_max)))


def head_access(config: Config) -> data.StructLayout:
    """A read or a write of a head's importance: `hw.datapath.head_importance.entry_access`; `slot` is the context."""
    return entry_access(slots=config.contexts, heads=config.heads_max, bits=config.head_importance_bits)


def head_answer(config: Config) -> data.StructLayout:
    """What was read, in the cycle in which `valid` is set."""
    return data.StructLayout({"valid": 1, **entry_value(config.head_importance_bits).members})


def head_read(config: Config) -> data.StructLayout:
    """A read of the importance of `head` of `context`."""
    return data.StructLayout({"context": context_shape(config), "head": head_shape(config)})


class HeadPort(wiring.Component):
    """Lets the heads of a job that ends be read, and those of a job that begins be aged, through one port.

    Only one of the two uses it at a time, so answers need no owner. Ageing may wait, since the rows of a job that
    begins come later.

    Parameters
    ----------
    config : Config

    Ports
    -----
    reads : in, heads are being read: ageing waits
    i_read : stream of `head_read`; valid only while `reads` is set
    i_ageing : stream of `head_access`; ready only together with valid
    o : stream of `head_access`, to `hw.datapath.head_importance.HeadImportance`
    i : stream of `entry_value`, its answers
    answer : out, `head_answer`: what was read, for either

    Combinational.
    """

    def __init__(self, *, config: Config) -> None:
        super().__init__(
            {
                "reads": In(1),
                "i_read": In(stream.Signature(head_read(config))),
                "i_ageing": In(stream.Signature(head_access(config))),
                "o": Out(stream.Signature(head_access(config))),
                "i": In(stream.Signature(entry_value(config.head_importance_bits))),
                "answer": Out(head_answer(config)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += [
            self.o.valid.eq(Mux(self.reads, self.i_read.valid, self.i_ageing.valid)),
            self.i_read.ready.eq(self.o.ready),
            self.i_ageing.ready.eq(self.i_ageing.valid & self.o.ready & ~self.reads),
            self.i.ready.eq(self.reads | self.i_ageing.ready),
            self.answer.valid.eq(self.i.valid),
            self.answer.value.eq(self.i.payload.value),
            self.answer.saturated.eq(self.i.payload.saturated),
        ]
        with m.If(self.reads):
            m.d.comb += [
                self.o.payload.write.eq(0),
                self.o.payload.slot.eq(self.i_read.payload.context),
                self.o.payload.head.eq(self.i_read.payload.head),
            ]
        with m.Else():
            m.d.comb += Value.cast(self.o.payload).eq(Value.cast(self.i_ageing.payload))
        return m
