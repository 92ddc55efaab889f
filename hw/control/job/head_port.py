"""The port of the head importance: it is brought up to date when a job begins, and read when a job ends."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from spatten.hw.control.job_layouts import flag_of, job_layout
from spatten.hw.control.job_slots import context_shape, head_shape
from spatten.hw.control.saved.state_layouts import head_state
from spatten.hw.datapath.head_importance import entry_access, entry_value
from spatten.hw.lib.assertions import asserts
from spatten.hw.lib.connections import optional
from spatten.spec.config import Config, Feature
from spatten.spec.job import Flag

__all__ = ["HeadPort", "head_access", "head_answer", "head_read"]


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
    """Clears, loads or ages a context's heads when a job begins, and lets those of a job that ends be read.

    A job with the flag CLEAR clears the importance of all heads of its context, one with LOAD_STATE writes `loaded`.
    One that ages shifts every value right by its `age_shift`: loaded values as they are written, others by reading and
    writing each. Other jobs leave the importance as it is.

    The two uses share one port, and only one of them has reads under way at a time, so an answer needs no owner. The
    job that begins waits for the one that ends, since its rows come later.

    Parameters
    ----------
    config : Config

    Ports
    -----
    begins, job : in, in this cycle this job begins; only while `busy` is not set
    loaded : in, `head_state`, the state that was loaded for it; only where states are saved
    busy : out, some head is not done yet: from the cycle after `begins` to the last write
    reads : in, heads are being read for a job that ends; begins only after a cycle in which `busy` was not set, and
        ends when all answers have come
    i_read : stream of `head_read`; valid only while `reads` is set
    answer : out, `head_answer`: what was read; of those in a cycle with `reads`, for a job that ends
    o : stream of `head_access`, to `hw.datapath.head_importance.HeadImportance`
    i : stream of `entry_value`, its answers; a read of a head that is aged is answered when its write is taken

    Latency: none from `i_read` to `o` and from `i` to `answer`. A head that is cleared or loaded takes a cycle, one
    that is aged two: its read, and its write in the cycle of the answer; reads go ahead while no answer comes.
    """

    def __init__(self, *, config: Config) -> None:
        self.config = config
        super().__init__(
            {
                "begins": In(1),
                "job": In(job_layout(config)),
                **optional(config.has(Feature.SAVED_STATES), loaded=In(head_state(config))),
                "busy": Out(1),
                "reads": In(1),
                "i_read": In(stream.Signature(head_read(config))),
                "answer": Out(head_answer(config)),
                "o": Out(stream.Signature(head_access(config))),
                "i": In(stream.Signature(entry_value(config.head_importance_bits))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        heads, bits = self.config.heads_max, self.config.head_importance_bits
        job = self.job
        context = Signal(context_shape(self.config), reset_less=True)
        shift = Signal.like(job.age_shift, reset_less=True)
        saves = self.config.has(Feature.SAVED_STATES)
        clears, loads = Signal(reset_less=True), Signal(reset_less=True)
        unwritten = Signal(heads * bits, reset_less=True)
        asked = Signal(range(heads + 1), init=heads)
        written = Signal(range(heads + 1), init=heads)

        ageing = Signal(head_access(self.config))
        ageing_valid, ageing_taken = Signal(), Signal()
        writes: Value = clears | self.i.valid
        value: Value = self.i.payload.value
        if saves:
            writes = clears | loads | self.i.valid
            value = Mux(loads, unwritten[:bits], value)
        m.d.comb += [
            self.busy.eq(written != heads),
            ageing.slot.eq(context),
            ageing.write.eq(writes),
            ageing.head.eq(Mux(writes, written, asked)),
            ageing.value.eq(Mux(clears, 0, value >> shift)),
            ageing_valid.eq(self.busy & (writes | (asked != heads))),
            ageing_taken.eq(ageing_valid & self.o.ready & ~self.reads),
        ]
        with m.If(ageing_taken):
            with m.If(writes):
                m.d.sync += written.eq(written + 1)
                if saves:
                    m.d.sync += unwritten.eq(unwritten >> bits)
            with m.Else():
                m.d.sync += asked.eq(asked + 1)
        is_clear, is_loaded = (flag_of(self.config, job.flags, flag) for flag in (Flag.CLEAR, Flag.LOAD_STATE))
        changes = is_clear | is_loaded | job.age_shift.any() if saves else is_clear | job.age_shift.any()
        with m.If(self.begins & changes):
            m.d.sync += [context.eq(job.context), shift.eq(job.age_shift), clears.eq(is_clear)]
            if saves:
                m.d.sync += [
                    loads.eq(is_loaded),
                    unwritten.eq(Cat(self.loaded.importance[h] for h in range(heads))),
                ]
            m.d.sync += [asked.eq(0), written.eq(0)]

        m.d.comb += [
            self.o.valid.eq(Mux(self.reads, self.i_read.valid, ageing_valid)),
            self.i_read.ready.eq(self.o.ready),
            self.i.ready.eq(self.reads | ageing_taken),
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
            m.d.comb += Value.cast(self.o.payload).eq(Value.cast(ageing))
        if asserts(platform):
            was_busy, did_read = Signal(), Signal()
            m.d.sync += [was_busy.eq(self.busy), did_read.eq(self.reads)]
            for holds, what in (
                (~self.begins | ~self.busy, "begins: the heads of the job before are not done"),
                (~self.reads | did_read | ~was_busy, "reads: heads are being aged"),
                (~self.i_read.valid | self.reads, "i_read: no heads are being read"),
            ):
                m.d.sync += Assert(ResetSignal() | holds, f"{what}\n")
        return m
