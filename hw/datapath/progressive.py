"""Progressive quantization: stashes the scores of K's MSBs, and adds those of its LSBs where a row turns out flat."""

from enum import IntEnum
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.datapath.softmax import decision, scaled_scores
from spatten.hw.lib.assertions import check_stream
from spatten.hw.lib.logic import index_shape
from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.pipeline import elastic_stages
from spatten.hw.lib.ram import Ram
from spatten.spec.config import LSB_BITS, SCALE_MANTISSA_BITS
from spatten.spec.constants import FLAT_LIMIT_BITS, SCALE_SHIFT_BITS

__all__ = ["Kind", "Progressive", "pass_beat", "row_header"]


class Kind(IntEnum):
    """The pass over a row's keys that the row's scores come from."""

    SINGLE = 0
    """The only pass, or a second one that starts from scratch: final scores."""
    FIRST = 1
    """On the MSB plane; the scores are stashed, in case the row is flat."""
    SECOND = 2
    """On the LSB plane, of a row whose first pass was stashed: final scores are 16 x stashed + these."""
    FIRST_UNSTASHED = 3
    """On the MSB plane, where MSB and LSB do not fit an operand: a flat row is computed from scratch."""


def row_header(slots: int, header: ShapeLike) -> data.StructLayout:
    """What travels with a row through softmax and back: `header`, its `kind` and its `stash_slot`."""
    return data.StructLayout({"kind": Shape.cast(Kind), "stash_slot": index_shape(slots), "header": header})


def pass_beat(lanes: int, score_bits: int, slots: int, header: ShapeLike) -> data.StructLayout:
    """Up to `lanes` scores of one row's pass, and what belongs to the row, which is the same in all of its beats.

    Its members are those of `hw.datapath.softmax.scaled_scores`, with `kind` and `slot` (which counts for FIRST and
    SECOND) in place of `progressive`.
    """
    return data.StructLayout(
        {
            "scores": data.ArrayLayout(signed(score_bits), lanes),
            "count": range(lanes + 1),
            "last": 1,
            "kind": Shape.cast(Kind),
            "slot": index_shape(slots),
            "mantissa": SCALE_MANTISSA_BITS,
            "shift": SCALE_SHIFT_BITS,
            "flat_limit": FLAT_LIMIT_BITS,
            "header": header,
        }
    )


class Progressive(wiring.Component):
    """Stands between the Q x K array and softmax, and asks for a second pass over the rows that softmax finds flat.

    A first pass goes to softmax as it comes, in units of 16, and its scores are stashed in the row's slot. Softmax
    decides from the sum of its exponentials. A row that is not flat has its probabilities, and its slot is free. A
    flat row is announced on `o_again`; the array then multiplies Q with the LSB plane, and these scores, arriving as a
    SECOND pass, are added to 16 x the stashed ones: s = 16 q.k_msb + q.k_lsb = q.k, exactly, without fetching or
    multiplying any MSB twice. No other row waits meanwhile: a row computed again is simply later than its neighbours.

    Where MSB and LSB together exceed an operand, rows come as FIRST_UNSTASHED, and a flat one comes back as SINGLE.
    Such a row has a slot too, since its Q is stashed there; the sender itself knows when SINGLE has read it.

    **Slots** belong to the sender of rows: it gives a first pass a free slot, sends the second pass with the same slot,
    and may give the slot away again when the slot appears on `o_free`. This unit does not know which slots are taken,
    and never holds a beat because of that. It must not: rows enter in one line, so a first pass waiting here for a slot
    would stand in front of the very second pass that would free one. The sender, however, can send the second pass
    first. For the same reason `o_again` and `o_free` must be taken without waiting for `i`.

    **Widths.** |q.k| <= D x 2**(2B-2) = 2**(score_bits - 2) for operands of B bits (docs/numerics.md section 4).
    Scores are stashed where k = 16 k_msb + k_lsb fits B bits; so |16 q.k_msb| has the same bound, since 16 k_msb is
    such an operand, and so has the sum, which is q.k. Stashed scores therefore need `score_bits` - 4 bits.

    Parameters
    ----------
    lanes : int
        Keys per cycle P, at least 1.
    score_bits : int
        Signed width of a score, 8 to 48.
    row_max : int
        Most keys of a row, 2 to 1024.
    slots : int
        Rows whose scores can be stashed at the same time: 1, 2 or 4.
    header : shape-like
        Shape of what travels with a row, at least 1 bit wide.

    Ports
    -----
    i : stream of `pass_beat(lanes, score_bits, slots, header)`, in: from the Q x K array
    o : stream of `scaled_scores(lanes, score_bits, row_header(slots, header))`, out: to softmax
    i_decision : stream of `decision(row_header(slots, header))`, in: from softmax
    o_again : stream of `row_header(slots, header)`, out: a flat row, with the kind its next pass must have
    o_free : stream of slots, out: the slot of a first pass of either kind whose row is not flat, or of a SECOND pass
        that has read all it needs; the lowest first if several wait

    Latency: `delay` = 3 cycles from `i` to `o`; none from `i_decision` to `o_again`; 2 cycles from a decision or from
    the last beat of a second pass on `i` to its slot on `o_free`. Throughput: one beat per cycle for every kind, in any
    order, and one decision per cycle. Back-pressure leaves no bubbles behind; `i.ready` depends on `o.ready` through
    three gates.

    Stashed scores: one `Ram` of `slots` x ceil(row_max / P) beats (the latter rounded up to a power of two for all
    slots but the last). A beat is written when it enters, or read; never both, so no collision.

    Source: SpAtten (HPCA 2021) section III-D.
    """

    delay = 3

    def __init__(self, *, lanes: int, score_bits: int, row_max: int, slots: int, header: ShapeLike) -> None:
        for name, value, low, high in (
            ("lanes", lanes, 1, None),
            ("score_bits", score_bits, 8, 48),
            ("row_max", row_max, 2, 1024),
        ):
            check_integer(name, value, low, high)
        check_integer("slots", slots)
        if slots not in (1, 2, 4):
            raise ValueError(f"slots must be 1, 2 or 4, not {slots!r}")
        check_shape("header", header)
        self.lanes = lanes
        self.score_bits = score_bits
        self.row_max = row_max
        self.slots = slots
        self.header = header
        row = row_header(slots, header)
        super().__init__(
            {
                "i": In(stream.Signature(pass_beat(lanes, score_bits, slots, header))),
                "o": Out(stream.Signature(scaled_scores(lanes, score_bits, row))),
                "i_decision": In(stream.Signature(decision(row))),
                "o_again": Out(stream.Signature(row)),
                "o_free": Out(stream.Signature(index_shape(slots))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        check_stream(m, platform, self.i_decision, "i_decision")
        freed_by_pass = self._passes(m)
        freed_by_decision = self._decisions(m)

        # A pass and a decision can each free a slot in the same cycle, but not the same slot, since a slot has one
        # owner.
        freed = Signal(self.slots)
        leaves = Signal(self.slots)
        first = Signal(index_shape(self.slots))
        for slot in reversed(range(self.slots)):
            with m.If(freed[slot]):
                m.d.comb += first.eq(slot)
        m.d.sync += freed.eq((freed & ~leaves) | freed_by_pass | freed_by_decision)
        with m.If(~self.o_free.valid | self.o_free.ready):
            m.d.comb += leaves.eq(freed & (1 << first))
            m.d.sync += [self.o_free.valid.eq(freed.any()), self.o_free.payload.eq(first)]
        return m

    def _passes(self, m: Module) -> Value:
        """Connects `i` to `o`; returns the slot whose last beat a second pass reads in this cycle, one-hot."""
        beat = self.i.payload
        beats = -(-self.row_max // self.lanes)
        stride_bits = max(1, ceil_log2(beats))
        stash_bits = self.score_bits - LSB_BITS
        m.submodules.stash = stash = Ram(
            shape=data.ArrayLayout(signed(stash_bits), self.lanes),
            depth=max(2, ((self.slots - 1) << stride_bits) + beats),
        )
        stages = elastic_stages(m, self.i.valid, self.o.ready, self.delay)
        takes = stages[0].takes
        m.d.comb += [self.i.ready.eq(stages[0].ready), self.o.valid.eq(stages[-1].valid)]

        # As a beat enters, a first pass writes its scores to the memory, and a second pass reads them.
        index = Signal(stride_bits)
        with m.If(takes):
            m.d.sync += index.eq(Mux(beat.last, 0, index + 1))
        address = Cat(index, beat.slot if self.slots > 1 else Const(0, 0))
        is_second_pass = Signal()
        m.d.comb += [
            is_second_pass.eq(beat.kind == Kind.SECOND),
            stash.write_enable.eq(takes & (beat.kind == Kind.FIRST)),
            stash.write_address.eq(address),
            stash.read_enable.eq(takes & is_second_pass),
            stash.read_address.eq(address),
        ]
        for lane in range(self.lanes):
            m.d.comb += stash.write_data[lane].eq(beat.scores[lane][:stash_bits])

        entered = Signal.like(beat, name="entered", reset_less=True)
        entered_second = Signal(reset_less=True)
        with m.If(stages[0].ready):
            m.d.sync += [Value.cast(entered).eq(Value.cast(beat)), entered_second.eq(is_second_pass)]

        # The memory's word goes into registers first, since an adder right behind the memory would take too long.
        fetched = Signal.like(beat, name="fetched", reset_less=True)
        fetched_stash = Signal(data.ArrayLayout(signed(stash_bits), self.lanes), reset_less=True)
        with m.If(stages[1].ready):
            m.d.sync += Value.cast(fetched).eq(Value.cast(entered))
            m.d.sync += Value.cast(fetched_stash).eq(Mux(entered_second, Value.cast(stash.read_data), 0))

        row = Signal.like(self.o.payload, name="row", reset_less=True)
        with m.If(stages[2].ready):
            for lane in range(self.lanes):
                m.d.sync += row.scores[lane].eq(fetched.scores[lane] + (fetched_stash[lane] << LSB_BITS))
            for name in ("count", "last", "mantissa", "shift", "flat_limit"):
                m.d.sync += row[name].eq(fetched[name])
            m.d.sync += [
                row.progressive.eq((fetched.kind == Kind.FIRST) | (fetched.kind == Kind.FIRST_UNSTASHED)),
                row.header.kind.eq(fetched.kind),
                row.header.stash_slot.eq(fetched.slot),
                Value.cast(row.header.header).eq(Value.cast(fetched.header)),
            ]
        m.d.comb += Value.cast(self.o.payload).eq(Value.cast(row))
        return Mux(takes & is_second_pass & beat.last, 1 << beat.slot, 0)

    def _decisions(self, m: Module) -> Value:
        """Connects `i_decision` to `o_again`; returns the slot that a decision frees in this cycle, one-hot."""
        flat, row = self.i_decision.payload.flat, self.i_decision.payload.header
        m.d.comb += [
            self.o_again.valid.eq(self.i_decision.valid & flat),
            self.i_decision.ready.eq(~flat | self.o_again.ready),
            self.o_again.payload.kind.eq(Mux(row.kind == Kind.FIRST, Kind.SECOND, Kind.SINGLE)),
            self.o_again.payload.stash_slot.eq(row.stash_slot),
            Value.cast(self.o_again.payload.header).eq(Value.cast(row.header)),
        ]
        return Mux(self.i_decision.valid & ~flat, 1 << row.stash_slot, 0)
