"""Accumulates how much each head contributes: the magnitudes of its output rows."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.arithmetic import AdderTree, Multiplier
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import index_shape
from spatten.hw.lib.parameters import check_integer, check_power_of_two
from spatten.hw.lib.pipeline import delayed_fields
from spatten.hw.lib.ram import Ram
from spatten.spec.config import HEAD_DIMS, MULTIPLIER_FRACTION

__all__ = ["HeadImportance", "entry_access", "entry_value", "weighted_beat"]

_ADDEND_BITS = MULTIPLIER_FRACTION + 1
"""A row adds at most 2**15."""


def weighted_beat(*, lanes: int, operand_bits: int, slots: int, heads: int) -> data.StructLayout:
    """A beat of an output row, and what it counts for.

    lanes : `lanes` elements of the row, signed; zero from the head dimension up
    last : the row's last beat
    slot, head : the entry that the row adds to
    multiplier : weight of the row's job; 2**15 is 1.0, the largest
    The last beat of a row has the slot, head and multiplier that count.
    """
    return data.StructLayout(
        {
            "lanes": data.ArrayLayout(signed(operand_bits), lanes),
            "last": 1,
            "slot": index_shape(slots),
            "head": index_shape(heads),
            "multiplier": unsigned(_ADDEND_BITS),
        }
    )


def entry_access(*, slots: int, heads: int, bits: int) -> data.StructLayout:
    """A read of the entry (slot, head), or a write of `value` to it, which also clears its mark of saturation."""
    return data.StructLayout(
        {"write": 1, "slot": index_shape(slots), "head": index_shape(heads), "value": unsigned(bits)}
    )


def entry_value(bits: int) -> data.StructLayout:
    """What was read: the score, all ones if it saturated, and whether it has saturated since it was written."""
    return data.StructLayout({"value": unsigned(bits), "saturated": 1})


class HeadImportance(wiring.Component):
    """Head scores: for each row floor(sum |o[d]| x multiplier / 2**s + 1/2) is added to an entry.

    s is operand_bits - 1 + log2(head_dim_max), so that a row adds at most 2**15 at weight 1.0. Entries are named by
    (slot, head); the core has a slot for each context. An entry saturates, and keeps a mark of that until it is written
    again. A controller writes the entries of a job before its first row, counts its rows on `done`, and reads them
    after the last one.

    Magnitudes, a tree, one multiplier and the rounding run free; an addend then waits in a queue, which rows enter
    with a credit, for its turn to read, add and write its entry. That takes five cycles: read, forward, add, write, and
    one in which the word just written cannot be read yet. A row gets the sum of an earlier row from whichever of these
    steps that row is in, so rows of one entry follow each other at full rate. An access takes a turn before any addend
    does.

    Parameters
    ----------
    lanes : int
        Elements of a beat, a power of two.
    operand_bits : int
        Width of an element, at least 2.
    head_dim_max : int
        Largest head dimension of a row: 16, 32, 64 or 128.
    heads : int
        Heads of a layer.
    slots : int
        Sets of entries, each with one for every head.
    bits : int
        Width of a score, at least 16.
    levels_per_stage : int
        Levels of the tree between registers.

    Ports
    -----
    i : stream of `weighted_beat(...)`, in
    i_access : stream of `entry_access(...)`, in
    o_access : stream of `entry_value(bits)`, out: the answers to reads, in order
    done : out, `valid` for one cycle per row, and the row's `slot`; an access from that cycle on sees the row's effect

    Latency: `latency` cycles from a row's last beat to its `done`, which is 7 (one more if a row may have several
    beats) and the delay of the tree; an access delays it by one cycle. From a read to its answer 5 cycles.
    Throughput: one beat per cycle, whatever the rows, less one for each access while all rows have one beat; one access
    per cycle.

    Source: SpAtten (HPCA 2021) sections III-B and IV; one multiplier of (s + 1) x 16 bits.
    """

    READ_LATENCY = 5

    def __init__(
        self,
        *,
        lanes: int,
        operand_bits: int,
        head_dim_max: int,
        heads: int,
        slots: int,
        bits: int = 32,
        levels_per_stage: int = 2,
    ) -> None:
        for name, value, least in (
            ("lanes", lanes, 1),
            ("operand_bits", operand_bits, 2),
            ("head_dim_max", head_dim_max, 1),
            ("heads", heads, 1),
            ("slots", slots, 1),
            ("bits", bits, _ADDEND_BITS),
        ):
            check_integer(name, value, least)
        check_power_of_two("lanes", lanes)
        if head_dim_max not in HEAD_DIMS:
            raise ValueError(f"head_dim_max must be one of {HEAD_DIMS}, not {head_dim_max!r}")
        self.lanes = lanes
        self.operand_bits = operand_bits
        self.head_dim_max = head_dim_max
        self.heads = heads
        self.slots = slots
        self.bits = bits
        self.shift = operand_bits - 1 + ceil_log2(head_dim_max)
        self._tree = AdderTree(shape=unsigned(operand_bits), inputs=lanes, levels_per_stage=levels_per_stage)
        self._multiplier = Multiplier(a_shape=unsigned(self.shift + 1), b_shape=unsigned(_ADDEND_BITS), stages=2)
        super().__init__(
            {
                "i": In(
                    stream.Signature(weighted_beat(lanes=lanes, operand_bits=operand_bits, slots=slots, heads=heads))
                ),
                "i_access": In(stream.Signature(entry_access(slots=slots, heads=heads, bits=bits))),
                "o_access": Out(stream.Signature(entry_value(bits))),
                "done": Out(data.StructLayout({"valid": 1, "slot": index_shape(slots)})),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a row's last beat to its `done`."""
        return self._addend_delay + 3

    @property
    def _addend_delay(self) -> int:
        """Cycles from a row's last beat to its addend's place in the queue."""
        joins_beats = self.head_dim_max > self.lanes
        return 1 + self._tree.delay + joins_beats + self._multiplier.delay + 1

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        check_stream(m, platform, self.i_access, "i_access")
        if asserts(platform):
            m.d.sync += Assert(
                ~self.i.valid | (self.i.payload.multiplier <= 1 << MULTIPLIER_FRACTION), "i: multiplier exceeds 1.0\n"
            )
        credits = self._addend_delay + 3
        addend_layout = data.StructLayout(
            {"slot": index_shape(self.slots), "head": index_shape(self.heads), "addend": unsigned(_ADDEND_BITS)}
        )
        m.submodules.addends = addends = Fifo(shape=addend_layout, depth=credits)
        returns = Signal()
        has_credit = self._credits(m, "row", credits, self.i.valid & self.i.ready & self.i.payload.last, returns)
        m.d.comb += [self.i.ready.eq(has_credit), returns.eq(addends.o.valid & addends.o.ready)]
        self._weigh(m, addends)
        if asserts(platform):
            m.d.sync += Assert(~addends.i.valid | addends.i.ready, "an addend has no place in the queue\n")
        self._accumulate(m, addends)
        return m

    def _credits(self, m: Module, name: str, credits: int, spends: Value, returns: Value) -> Value:
        """Whether there is a credit, from a register."""
        count = Signal(range(credits + 1), init=credits, name=f"{name}_credits")
        next_count = Signal.like(count)
        has_credit = Signal(init=1, name=f"has_{name}_credit")
        m.d.comb += next_count.eq(count + returns - spends)
        m.d.sync += [count.eq(next_count), has_credit.eq(next_count != 0)]
        return has_credit

    def _weigh(self, m: Module, addends: Any) -> None:
        """Computes what each row adds to its entry."""
        beat = self.i.payload
        m.submodules.tree = tree = self._tree
        m.submodules.multiplier = multiplier = self._multiplier
        for lane in range(self.lanes):
            magnitude = Signal(self.operand_bits, name=f"magnitude{lane}", reset_less=True)
            element = beat.lanes[lane]
            m.d.sync += magnitude.eq(Mux(element < 0, -element, element))
            m.d.comb += tree.i[lane].eq(magnitude)
        row = delayed_fields(
            m,
            1 + tree.delay,
            "beat",
            valid=self.i.valid & self.i.ready,
            last=beat.last,
            slot=beat.slot,
            head=beat.head,
            multiplier=beat.multiplier,
        )
        row_sum: Value = tree.o
        if self.head_dim_max > self.lanes:
            # A row's beats need not follow each other without a pause, so a register holds their sum so far.
            so_far = Signal(self.shift + 1, reset_less=True)
            begins = Signal(init=1)
            with m.If(row.valid):
                m.d.sync += [so_far.eq(Mux(begins, 0, so_far) + tree.o), begins.eq(row.last)]
            row = delayed_fields(m, 1, "row", **vars(row))
            row_sum = so_far
        m.d.comb += [multiplier.a.eq(row_sum), multiplier.b.eq(row.multiplier)]
        rounded = delayed_fields(
            m, multiplier.delay + 1, "product", valid=row.valid & row.last, slot=row.slot, head=row.head
        )
        addend = Signal(_ADDEND_BITS, reset_less=True)
        m.d.sync += addend.eq((multiplier.o + (1 << (self.shift - 1))) >> self.shift)
        m.d.comb += [
            addends.i.valid.eq(rounded.valid),
            addends.i.payload.slot.eq(rounded.slot),
            addends.i.payload.head.eq(rounded.head),
            addends.i.payload.addend.eq(addend),
        ]

    def _accumulate(self, m: Module, addends: Any) -> None:
        """Reads, writes and additions, one a cycle: read the entry, bring it up to date, add, write it back."""
        head_bits = index_shape(self.heads).width
        m.submodules.entries = entries = Ram(shape=unsigned(self.bits + 1), depth=self.slots << head_bits)
        m.submodules.answers = answers = Fifo(shape=entry_value(self.bits), depth=self.READ_LATENCY + 1)
        access = self.i_access.payload
        answered = self.o_access.valid & self.o_access.ready
        reads = self.i_access.valid & self.i_access.ready & ~access.write
        may_read = self._credits(m, "read", self.READ_LATENCY + 1, reads, answered)

        accesses = Signal()
        slot = Mux(accesses, access.slot, addends.o.payload.slot)
        head = Mux(accesses, access.head, addends.o.payload.head)
        m.d.comb += [
            self.i_access.ready.eq(access.write | may_read),
            accesses.eq(self.i_access.valid & self.i_access.ready),
            addends.o.ready.eq(~accesses),
        ]
        m.d.sync += [self.done.valid.eq(addends.o.valid & ~accesses), self.done.slot.eq(addends.o.payload.slot)]

        # Turn 0: the entry is read.
        turn0 = SimpleNamespace(
            valid=accesses | addends.o.valid,
            address=Cat(head, slot),
            adds=~accesses,
            writes=accesses & access.write,
            reads=accesses & ~access.write,
            operand=Mux(accesses, access.value, addends.o.payload.addend),
        )
        m.d.comb += [entries.read_enable.eq(turn0.valid), entries.read_address.eq(turn0.address)]
        turn1 = delayed_fields(m, 1, "turn1", **vars(turn0))
        turn2 = delayed_fields(m, 1, "turn2", **vars(turn1))
        turn3 = delayed_fields(m, 1, "turn3", **vars(turn2))
        turn4 = delayed_fields(m, 1, "turn4", **vars(turn3))
        result = Signal(self.bits + 1, reset_less=True)  # of turn 3, written now
        written = Signal(self.bits + 1, reset_less=True)  # of turn 4, in the memory, but not in what turn 1 has read

        # Turn 1: of the turns ahead, the nearest one with the same address has the entry up to date.
        entry = Signal(self.bits + 1, reset_less=True)
        from_result = Signal(reset_less=True)
        in_turn3 = turn3.valid & (turn3.address == turn1.address)
        in_turn4 = turn4.valid & (turn4.address == turn1.address)
        m.d.sync += [
            entry.eq(Mux(in_turn3, result, Mux(in_turn4, written, entries.read_data))),
            from_result.eq(turn2.valid & (turn2.address == turn1.address)),
        ]
        # Turn 2: add. The bit above the score marks saturation, and then the score's own bits no longer matter.
        before = Mux(from_result, result, entry)
        total = Signal(self.bits + 1)
        m.d.comb += total.eq(before[: self.bits] + Mux(turn2.adds, turn2.operand[:_ADDEND_BITS], 0))
        added = Cat(total[: self.bits], total[self.bits] | before[self.bits])
        m.d.sync += result.eq(Mux(turn2.writes, turn2.operand, added))
        # Turn 3: write, or answer.
        m.d.sync += written.eq(result)
        saturated = result[self.bits]
        m.d.comb += [
            entries.write_enable.eq(turn3.valid & ~turn3.reads),
            entries.write_address.eq(turn3.address),
            entries.write_data.eq(result),
            answers.i.valid.eq(turn3.valid & turn3.reads),
            answers.i.payload.value.eq(result[: self.bits] | saturated.replicate(self.bits)),
            answers.i.payload.saturated.eq(saturated),
        ]
        wiring.connect(m, answers.o, wiring.flipped(self.o_access))
