"""Property modules of the primitives: queues and the arbiter, in any surroundings that keep to the stream rules."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Assert, Cat, Cover, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib import stream

from spatten.hw.lib.arbiter import RoundRobin
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.sim.verify.formal import Case, answer, constant, consume, produce, track, transfers


class FifoProperties(Elaboratable):
    """A FIFO's whole contract: its sequence, room, latency and level."""

    def __init__(self, fifo: Fifo) -> None:
        self.fifo = fifo

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.fifo = fifo = self.fifo
        produce(m, fifo.i, name="i")
        consume(m, fifo.o, name="o")
        inside = track(m, fifo.i, fifo.o, capacity=fifo.depth + 1)
        answer(m, inside != 0, fifo.o.valid, within=1, name="o is valid in the cycle after that of an entry")
        answer(m, inside < fifo.depth, fifo.i.ready, within=0, name="i is ready while there is room")
        answer(m, fifo.o.ready, fifo.i.ready, within=1, name="i is ready when o is")
        m.d.comb += [
            Assert(fifo.level == inside, "level is the number of entries inside"),
            Assert(fifo.some == inside.any(), "some is set while there is an entry inside"),
        ]
        return m


class SkidBufferProperties(Elaboratable):
    """A skid buffer's whole contract: its sequence, room and latency."""

    def __init__(self, buffer: SkidBuffer) -> None:
        self.buffer = buffer

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.buffer = buffer = self.buffer
        produce(m, buffer.i, name="i")
        consume(m, buffer.o, name="o")
        inside = track(m, buffer.i, buffer.o, capacity=2)
        m.d.comb += [
            Assert(buffer.o.valid == (inside != 0), "o is valid if and only if something is inside"),
            Assert(buffer.i.ready == (inside < 2), "i is ready if and only if there is room"),
        ]
        return m


class RoundRobinProperties(Elaboratable):
    """An arbiter's whole contract: each input's sequence, one transfer per cycle, fairness, no deadlock."""

    def __init__(self, arbiter: RoundRobin) -> None:
        self.arbiter = arbiter

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = self.arbiter
        inputs = arbiter.inputs
        for number, port in enumerate(arbiter.i):
            produce(m, port, name=f"i{number}")
        consume(m, arbiter.o, name="o")

        # What the inputs give, one after the other, is one stream.
        taken = Signal(inputs)
        m.d.comb += taken.eq(Cat(transfers(port) for port in arbiter.i))
        merged = stream.Signature(arbiter.shape).create()
        m.d.comb += [merged.valid.eq(taken.any()), merged.ready.eq(1)]
        for bit, port in zip(taken, arbiter.i, strict=True):
            with m.If(bit):
                m.d.comb += Value.cast(merged.payload).eq(Value.cast(port.payload))
        inside = track(m, merged, arbiter.o, capacity=1)
        requests = Cat(port.valid for port in arbiter.i)
        m.d.comb += [
            Assert((taken & (taken - 1))[:inputs] == 0, "one transfer per cycle"),
            Assert(arbiter.o.valid == (inside != 0), "o is valid if and only if something is inside"),
            Assert(
                taken.any() == (requests.any() & (~arbiter.o.valid | arbiter.o.ready)),
                "something is taken whenever anything waits and o has room",
            ),
        ]

        # One input, any of them.
        watched = constant(m, range(inputs), name="watched")
        waits = Signal()
        served = Signal()
        overtaken = Signal(range(inputs + 1))
        m.d.comb += [
            waits.eq(Array(requests)[watched]),
            served.eq(Array(taken)[watched]),
            Assert(overtaken < inputs, "a waiting input is served within as many transfers as there are inputs"),
            Cover(overtaken == inputs - 1, "a waiting input is overtaken by every other"),
            Cover(requests.all(), "all inputs wait"),
        ]
        m.d.sync += overtaken.eq(Mux(waits & ~served, overtaken + (taken.any() & (overtaken < inputs)), 0))
        return m


PROOFS = [
    *(
        Case(
            unit="Fifo",
            size=f"depth {depth}, 2 bits",
            proves="its sequence; level, room for `depth`, latency 2, ready from registers; stream rules",
            properties=lambda depth=depth: FifoProperties(Fifo(shape=2, depth=depth)),
            depth=2 * depth + 6,
        )
        for depth in (2, 3, 4, 5)
    ),
    Case(
        unit="SkidBuffer",
        size="2 bits",
        proves="its sequence; room for 2, latency 1; stream rules",
        properties=lambda: SkidBufferProperties(SkidBuffer(shape=2)),
        depth=8,
    ),
    *(
        Case(
            unit="RoundRobin",
            size=f"{inputs} inputs of 2 bits",
            proves="each input's sequence, one transfer per cycle, at most `inputs` - 1 others first; stream rules",
            properties=lambda inputs=inputs: RoundRobinProperties(RoundRobin(shape=2, inputs=inputs)),
            depth=inputs + 6,
        )
        for inputs in (1, 2, 3, 5)
    ),
]
