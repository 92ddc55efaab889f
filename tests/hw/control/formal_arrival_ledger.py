"""Property module of the arrival ledger: every row group is told once, in order, and never before it has arrived."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Cover, Elaboratable, Module, Mux, Signal

from spatten.hw.control.plan.arrival_ledger import ArrivalLedger
from spatten.hw.memory.address_generator import LINEAR
from spatten.sim.verify.formal import Case, answer, consume, free, produce
from spatten.spec.config import TINY


class LedgerProperties(Elaboratable):
    """One row group, any, from its leaving on; around it a fetch unit that completes groups when it likes.

    The fetch unit lets half as many groups be under way as its count tells apart. All groups count, so that each shows
    when it is told. That the ledger has a place for each is the ledger's own assertion.
    """

    def __init__(self, ledger: ArrivalLedger) -> None:
        self.ledger = ledger

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.ledger = ledger = self.ledger
        bits = ledger.sequence_bits
        most = 1 << (bits - 1)
        produce(m, ledger.i, name="i")
        leaves = consume(m, ledger.o, name="o")
        completed, left, told = (Signal(bits, name=f"{name}_count") for name in ("completed", "left", "told"))
        steps = free(m, bits, name="steps")
        under_way, outstanding, late = (Signal(bits, name=name) for name in ("under_way", "outstanding", "late"))
        tells = Signal()
        rings = [arrival.valid for arrival in ledger.arrives] + [ledger.refetch_arrives]
        m.d.comb += [
            ledger.completed.eq(completed + steps),
            under_way.eq(left - completed),
            outstanding.eq(left - told),
            late.eq(ledger.completed - told),
            tells.eq(Cat(rings).any()),
            Assume(ledger.i.payload.counts),
            Assume(steps <= under_way),
            Assume(~ledger.o.ready | (under_way - steps < most)),
            Assert(~tells | (late != 0), "no group is told before it has arrived"),
            Assert(sum((ring for ring in rings[1:]), rings[0]) <= 1, "one group at a time"),
            Assert(late <= outstanding, "no more arrive than have left"),
            Cover(under_way == most, "as many under way as can be"),
        ]
        m.d.sync += [completed.eq(ledger.completed), left.eq(left + leaves), told.eq(told + tells)]

        # One group, any.
        tracked, mine, marked = Signal(), Signal(), Signal()
        ahead = Signal(bits)
        ring = Signal(2, reset_less=True)
        entry = Signal.like(ledger.arrives[0].entry, reset_less=True)
        m.d.comb += [
            marked.eq(leaves & ~tracked & free(m, name="mark")),
            mine.eq(tracked & tells & (ahead == 0)),
            Cover(mine & (outstanding == most), "it is told while many others are under way"),
        ]
        m.d.sync += [tracked.eq((tracked | marked) & ~mine), ahead.eq(Mux(tracked, ahead, outstanding) - tells)]
        with m.If(marked):
            m.d.sync += [ring.eq(ledger.i.payload.group.ring), entry.eq(ledger.i.payload.entry)]
        for number, arrival in enumerate(ledger.arrives):
            is_right = (ring == number) & (arrival.entry == entry)
            m.d.comb += Assert(~mine | ~arrival.valid | is_right, f"ring {number}: its block is told")
        m.d.comb += Assert(~mine | ~ledger.refetch_arrives | (ring == LINEAR), "behind the key ring: it is told there")
        answer(m, late != 0, tells, within=2, name="what has arrived is told")
        return m


PROOFS = [
    Case(
        unit="ArrivalLedger",
        size="4 groups under way",
        proves="each group is told once, in order, to its block, and not before it has arrived; a place for each",
        properties=lambda: LedgerProperties(ArrivalLedger(config=TINY, sequence_bits=3)),
        depth=24,
    )
]
