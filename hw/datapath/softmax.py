"""Scale and softmax: exact integer scores to integer probabilities, P keys per cycle."""

from fractions import Fraction
from itertools import pairwise
from math import floor, isqrt
from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Shape, ShapeLike, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from spatten.hw.lib.arithmetic import AdderTree, Multiplier
from spatten.hw.lib.assertions import asserts, check_stream
from spatten.hw.lib.connections import optional
from spatten.hw.lib.fifo import Fifo
from spatten.hw.lib.logic import one_hot, or_tree
from spatten.hw.lib.parameters import check_integer, check_shape
from spatten.hw.lib.pipeline import delayed, delayed_valid, register
from spatten.spec.config import SCALE_MANTISSA_BITS, SUM_FRACTION
from spatten.spec.constants import FLAT_LIMIT_BITS, FLAT_LIMIT_FRACTION, SCALE_SHIFT_BITS

_FIFO_DELAY = 2
"""Cycles from a transfer into a `Fifo` to its valid at the output."""

__all__ = ["Softmax", "decision", "prob_beat", "scaled_scores"]

_NORMALISED_BITS = 18
"""Width of a normalised difference n."""
_NORMALISED_POINT = 28
"""A difference is normalised by 2**(28 - shift), so that n x scale mantissa has 28 fraction bits."""
_T_FRACTION = 12
"""Fraction bits of the base-2 exponent t: 6 that index the exponential's table, and 6 between its entries."""
_T_BITS = 5 + _T_FRACTION
_EXP_INDEX_BITS = 6
_MANTISSA_BITS = 17
"""Width of an exponential's mantissa, (0.5, 1.0] with 16 fraction bits."""
_EXPONENT_BITS = 5
_ADDEND_BITS = SUM_FRACTION + 1
"""Width of an exponential as it enters the sum, up to 1.0."""
_RECIPROCAL_INDEX_BITS = 8
_RECIPROCAL_LOW_BITS = 10
_FINE_BITS = 3
"""Lower bits of a shift that are taken apart from its upper bits."""
_RECIPROCAL_BITS = 18
"""Width of a reciprocal, [0.5, 1.0] with 17 fraction bits."""


def scaled_scores(lanes: int, score_bits: int, header: ShapeLike, *, decides: bool = True) -> data.StructLayout:
    """Up to `lanes` scores of one row, and what belongs to the row, which is the same in all of its beats.

    The first `count` lanes are live: all, but in a row's last beat perhaps fewer, at least one. A score is worth
    `mantissa` x 2**-`shift` log2 units. `flat_limit`, with 5 fraction bits, is compared with the row's sum of
    exponentials if the row is `progressive`; both are there only if softmax `decides`. `header` passes through.
    """
    return data.StructLayout(
        {
            "scores": data.ArrayLayout(signed(score_bits), lanes),
            "count": range(lanes + 1),
            "last": 1,
            "mantissa": SCALE_MANTISSA_BITS,
            "shift": SCALE_SHIFT_BITS,
            **optional(decides, flat_limit=FLAT_LIMIT_BITS, progressive=1),
            "header": header,
        }
    )


def prob_beat(lanes: int, prob_bits: int, header: ShapeLike) -> data.StructLayout:
    """The probabilities of the keys of a `scaled_scores`, with its `count`, `last` and `header`; dead lanes are 0."""
    return data.StructLayout(
        {
            "probs": data.ArrayLayout(unsigned(prob_bits), lanes),
            "count": range(lanes + 1),
            "last": 1,
            "header": header,
        }
    )


def decision(header: ShapeLike) -> data.StructLayout:
    """What was decided of a progressive row: if `flat`, it needs its LSBs; if not, its probabilities follow."""
    return data.StructLayout({"flat": 1, "header": header})


class Softmax(wiring.Component):
    """Softmax of rows of exact integer scores, as docs/numerics.md section 5 states it, bit for bit.

    Three passes over a row, each at one beat of P = `lanes` keys per cycle, on different rows at the same time:

    1. The scores go into a queue while a comparator tree finds the row's maximum.
    2. Per key: d = max - s; n = d x 2**(28 - shift), rounded and saturated to 18 bits; t = n x mantissa / 2**16, a
       base-2 exponent with 12 fraction bits, saturated below 32; 2**-t as a mantissa of 17 bits (a table of 64 chords)
       and an exponent of 5. These go into a second queue while an adder tree sums the exponentials with 24 fraction
       bits. Then one reciprocal for the row, from a table of 256 chords.
    3. Per key: mantissa x reciprocal, shifted, rounded, and 1.0 saturated to all ones.

    A `progressive` row is flat when its sum exceeds the limit, so that max(prob) = 1/sum lies below the threshold. The
    comparison needs no probability: `o_decision` has the result before the third pass begins. A flat row's pairs are
    read from the queue and dropped, a beat per cycle, in place of the third pass; that needs no room at `o`. The rows
    behind a flat row wait no longer than behind any other row; skipping the flat row by pointer would start them
    earlier only where a row is shorter than the flat one before it.

    Parameters
    ----------
    lanes : int
        Keys per cycle P, at least 1; any number, not only powers of two.
    score_bits : int
        Signed width of a score, 8 to 48. Two scores of a row must differ by less than 2**(score_bits - 1), which
        exact Q x K sums do (docs/numerics.md section 4).
    prob_bits : int
        Unsigned width of a probability, 8 to 12.
    row_max : int
        Most keys of a row, 2 to 1024.
    header : shape-like
        Shape of what travels with a row, at least 1 bit wide.
    multiplier_stages : int
        Registers in the multipliers of 18 x 16 and 18 x 17 bits, 1 (an FPGA's DSP block) to 3.
    decides : bool
        Whether rows may be progressive; else no row is flat, and there is no `o_decision`.

    Ports
    -----
    i : stream of `scaled_scores(lanes, score_bits, header, decides=decides)`, in
    o : stream of `prob_beat(lanes, prob_bits, header)`, out: rows in order, without the flat ones
    o_decision : stream of `decision(header)`, out: one per progressive row, in order

    Latency: the first probabilities of a row of b beats are valid 2b + `delay` cycles after the transfer of its first
    scores, its decision 2b + `decision_delay`, with nothing in their way. At two multiplier stages `delay` is
    26 + ceil(log2 P) + ceil(log4 P), `decision_delay` 10 less: 31 and 21 for 8 lanes.

    Throughput: one beat per cycle whatever the lengths of the rows and their order, one-beat rows and flat ones
    included: while `o` and `o_decision` are taken as they come, `i.ready` never falls. Rows of equal
    length also leave without a bubble. The reason: a pass can take a row from c cycles after the row's last beat has
    come, c being constant, and takes it when it has done with the rows before. While it makes no pause, it is then
    behind the input by at most c and the length of the longest of these rows, since each row behind the longest took
    as long to come as the pass spends on it. So a queue of ceil(row_max / P) + c beats is enough. It never holds more
    rows than beats, so the queues of row constants, maxima and reciprocals need no more places.

    Back-pressure: pipelines run free, and a beat enters one only when the queue behind the pipeline has room. With `o`
    stalled the unit takes `capacity` beats of rows that are not flat, and the first `output_places` of them go through
    all three passes. A progressive row waits, and all behind it, while `decision_places` decisions have not been
    taken; other rows pass.

    Source: SpAtten (HPCA 2021) section IV-D, softmax; III-D, progressive quantization.
    """

    def __init__(
        self,
        *,
        lanes: int,
        score_bits: int,
        prob_bits: int,
        row_max: int,
        header: ShapeLike,
        multiplier_stages: int = 2,
        decides: bool = True,
    ) -> None:
        for name, value, low, high in (
            ("lanes", lanes, 1, None),
            ("score_bits", score_bits, 8, 48),
            ("prob_bits", prob_bits, 8, 12),
            ("row_max", row_max, 2, 1024),
            ("multiplier_stages", multiplier_stages, 1, 3),
        ):
            check_integer(name, value, low, high)
        check_shape("header", header)
        self.lanes = lanes
        self.score_bits = score_bits
        self.prob_bits = prob_bits
        self.row_max = row_max
        self.header = header
        self.multiplier_stages = multiplier_stages
        self.decides = decides
        super().__init__(
            {
                "i": In(stream.Signature(scaled_scores(lanes, score_bits, header, decides=decides))),
                "o": Out(stream.Signature(prob_beat(lanes, prob_bits, header))),
                **optional(decides, o_decision=Out(stream.Signature(decision(header)))),
            }
        )
        self._normalisers = [_Normaliser(difference_bits=score_bits - 1) for _ in range(lanes)]
        self._scalers = [_Scaler(multiplier_stages=multiplier_stages) for _ in range(lanes)]
        self._exponentials = [_Exponential() for _ in range(lanes)]
        self._addends = [_Addend() for _ in range(lanes)]
        self._tree = AdderTree(shape=_ADDEND_BITS, inputs=lanes, levels_per_stage=2)
        self._reciprocal = _Reciprocal(row_max=row_max)
        z_shape = self._reciprocal.z.shape()
        self._probabilities = [
            _Probability(prob_bits=prob_bits, z_shape=z_shape, multiplier_stages=multiplier_stages)
            for _ in range(lanes)
        ]
        # Cycles from a transfer on `i` to its row's maximum, and to where the second pass can take the row.
        self._maximum_at = 1 + ceil_log2(lanes) + 1
        self._second_at = self._maximum_at + _FIFO_DELAY + 1
        # Cycles from where the second pass takes a beat to its t, its pairs, the sum of its addends, its row's total,
        # and to where the third pass can take the row.
        self._scaled_at = self._normalisers[0].delay + self._scalers[0].delay
        self._paired_at = self._scaled_at + self._exponentials[0].delay
        self._summed_at = self._paired_at + self._addends[0].delay + self._tree.delay
        self._totalled_at = self._summed_at + 1
        self._third_at = self._totalled_at + self._reciprocal.delay + _FIFO_DELAY + 1
        # Cycles from where the third pass takes a beat to its probabilities.
        self._normalised_at = self._probabilities[0].delay
        self.delay = self._second_at + self._third_at + self._normalised_at + _FIFO_DELAY - 2
        self.decision_delay = self._second_at + self._totalled_at + 1 + _FIFO_DELAY - 2
        # Places of the queues: beats of the longest row, and the cycles before a place that was left counts as free. A
        # pass holds one more beat, the one that it takes next.
        beats = -(-row_max // lanes)
        self._score_places = beats + self._second_at - 1
        self._pair_places = beats + self._third_at
        self.output_places = self._normalised_at + _FIFO_DELAY + 1
        self.decision_places = self._totalled_at + 1 + _FIFO_DELAY + 1
        self.capacity = self._score_places + 1 + 1 + self._pair_places + 1 + self.output_places

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        check_stream(m, platform, self.i, "i")
        count_shape = range(self.lanes + 1)
        m.submodules.scores = scores = Fifo(
            shape=data.StructLayout(
                {"scores": data.ArrayLayout(signed(self.score_bits), self.lanes), "count": count_shape, "last": 1}
            ),
            depth=self._score_places,
        )
        # A row stays in these two queues until its last beat leaves `scores`: they hold no more rows than `scores` has
        # beats.
        m.submodules.constants = constants = Fifo(
            shape=data.StructLayout(
                {
                    "mantissa": SCALE_MANTISSA_BITS,
                    "position": SCALE_SHIFT_BITS,
                    **optional(self.decides, flat_limit=FLAT_LIMIT_BITS, progressive=1),
                    "header": self.header,
                }
            ),
            depth=self._score_places + 1,
        )
        m.submodules.maxima = maxima = Fifo(shape=signed(self.score_bits), depth=self._score_places + 1)
        m.submodules.pairs = pairs = Fifo(
            shape=data.StructLayout(
                {
                    "mantissas": data.ArrayLayout(unsigned(_MANTISSA_BITS), self.lanes),
                    "exponents": data.ArrayLayout(unsigned(_EXPONENT_BITS), self.lanes),
                    "count": count_shape,
                    "last": 1,
                }
            ),
            depth=self._pair_places,
        )
        # Likewise a row stays in `reciprocals` until its last beat leaves `pairs`.
        m.submodules.reciprocals = reciprocals = Fifo(
            shape=data.StructLayout(
                {
                    "reciprocal": _RECIPROCAL_BITS,
                    "z": self._reciprocal.z.shape(),
                    **optional(self.decides, dropped=1),
                    "header": self.header,
                }
            ),
            depth=self._pair_places,
        )
        m.submodules.output = output = Fifo(shape=self.o.p.shape(), depth=self.output_places)
        decisions = None
        if self.decides:
            m.submodules.decisions = decisions = Fifo(shape=self.o_decision.p.shape(), depth=self.decision_places)
        if asserts(platform):
            for queue in (constants, maxima, pairs, reciprocals, output, *([decisions] if decisions else [])):
                m.d.sync += Assert(~queue.i.valid | queue.i.ready, "a queue of softmax overflows\n")

        self._first_pass(m, scores, constants, maxima)
        self._second_pass(m, platform, scores, constants, maxima, pairs, reciprocals, decisions)
        self._third_pass(m, platform, pairs, reciprocals, output)
        return m

    def _first_pass(self, m: Module, scores: Fifo, constants: Fifo, maxima: Fifo) -> None:
        """Puts each beat into `scores`, each row's constants into `constants`, and the row's maximum into `maxima`."""
        beat = self.i.payload
        takes = Signal()
        clamp = _NORMALISED_POINT - _NORMALISED_BITS
        m.d.comb += [
            takes.eq(self.i.valid & self.i.ready),
            self.i.ready.eq(scores.i.ready),
            scores.i.valid.eq(self.i.valid),
            scores.i.payload.scores.eq(beat.scores),
            scores.i.payload.count.eq(beat.count),
            scores.i.payload.last.eq(beat.last),
            constants.i.valid.eq(takes & beat.last),
            constants.i.payload.mantissa.eq(beat.mantissa),
            constants.i.payload.position.eq(Mux(beat.shift < clamp, 0, beat.shift - clamp)),
            *([constants.i.payload.flat_limit.eq(beat.flat_limit)] if self.decides else []),
            *([constants.i.payload.progressive.eq(beat.progressive)] if self.decides else []),
            Value.cast(constants.i.payload.header).eq(Value.cast(beat.header)),
        ]
        lowest = Const(-(1 << (self.score_bits - 1)), signed(self.score_bits))
        nodes: list[Value] = [
            register(m, Mux(lane < beat.count, beat.scores[lane], lowest), f"live_score{lane}")
            for lane in range(self.lanes)
        ]
        for level in range(ceil_log2(self.lanes)):
            nodes = [
                register(m, _larger(*nodes[first : first + 2]), f"maximum_level{level}_{first // 2}")
                for first in range(0, len(nodes), 2)
            ]
        valid = delayed_valid(m, takes, self._maximum_at - 1, "maximum_beat")
        last = delayed_valid(m, takes & beat.last, self._maximum_at - 1, "maximum_last")
        is_first = Signal(init=1)
        maximum = Signal(signed(self.score_bits), reset_less=True)
        with m.If(valid):
            m.d.sync += [is_first.eq(last), maximum.eq(Mux(is_first, nodes[0], _larger(maximum, nodes[0])))]
        m.d.comb += [maxima.i.valid.eq(delayed_valid(m, last, 1, "maximum_found")), maxima.i.payload.eq(maximum)]

    def _second_pass(
        self,
        m: Module,
        platform: Any,
        scores: Fifo,
        constants: Fifo,
        maxima: Fifo,
        pairs: Fifo,
        reciprocals: Fifo,
        decisions: Fifo | None,
    ) -> None:
        """Takes rows whose maximum is known, and fills `pairs`, `reciprocals` and `decisions`."""
        takes, takes_last = Signal(), Signal()
        beat_valid, beat = _held(m, scores.o, takes, "second_beat")
        row_valid, row = _held(m, constants.o, takes_last, "second_row")
        maximum_valid, maximum = _held(m, maxima.o, takes_last, "second_maximum")
        m.submodules.pair_room = pair_room = _Room(places=self._pair_places)
        # A row's maximum is known only when the row's constants and all of its scores are in their queues.
        may_take = maximum_valid & pair_room.free
        if decisions is not None:
            m.submodules.decision_room = decision_room = _Room(places=self.decision_places)
            may_take = may_take & (decision_room.free | ~row.progressive)
        m.d.comb += [
            takes.eq(may_take),
            takes_last.eq(takes & beat.last),
            pair_room.takes.eq(takes),
            pair_room.gives.eq(pairs.o.valid & pairs.o.ready),
        ]
        if decisions is not None:
            m.d.comb += [
                decision_room.takes.eq(takes_last & row.progressive),
                decision_room.gives.eq(self.o_decision.valid & self.o_decision.ready),
                self.o_decision.valid.eq(decisions.o.valid),
                decisions.o.ready.eq(self.o_decision.ready),
                Value.cast(self.o_decision.payload).eq(Value.cast(decisions.o.payload)),
            ]
        if asserts(platform):
            m.d.sync += Assert(~takes | (beat_valid & row_valid), "softmax lost scores or constants\n")

        self._exponentiate(m, platform, takes, beat, row, maximum, pairs)
        self._total(m, takes, takes_last, row, reciprocals, decisions)

    def _exponentiate(
        self, m: Module, platform: Any, takes: Signal, beat: Any, row: Any, maximum: Any, pairs: Fifo
    ) -> None:
        """The exponentials of a beat's keys go into `pairs`, and into the adder tree."""
        mantissa = delayed(m, row.mantissa, self._normalisers[0].delay, "second_mantissa")
        count = delayed(m, beat.count, self._scaled_at, "second_count")
        m.submodules.tree = tree = self._tree
        if asserts(platform):
            for lane in range(self.lanes):
                m.d.sync += Assert(
                    ~takes | (lane >= beat.count) | (maximum - beat.scores[lane] < 1 << (self.score_bits - 1)),
                    "scores of a row differ by more than they may\n",
                )
        for lane in range(self.lanes):
            m.submodules[f"normaliser{lane}"] = normaliser = self._normalisers[lane]
            m.submodules[f"scaler{lane}"] = scaler = self._scalers[lane]
            m.submodules[f"exponential{lane}"] = exponential = self._exponentials[lane]
            m.submodules[f"addend{lane}"] = addend = self._addends[lane]
            m.d.comb += [
                normaliser.maximum.eq(maximum),
                normaliser.score.eq(beat.scores[lane]),
                normaliser.position.eq(row.position),
                scaler.normalised.eq(normaliser.normalised),
                scaler.scale.eq(mantissa),
                exponential.t.eq(scaler.t),
                exponential.live.eq(lane < count),
                pairs.i.payload.mantissas[lane].eq(exponential.mantissa),
                pairs.i.payload.exponents[lane].eq(exponential.exponent),
                addend.mantissa.eq(exponential.mantissa),
                addend.next_exponent.eq(exponential.next_exponent),
                tree.i[lane].eq(addend.addend),
            ]
        m.d.comb += [
            pairs.i.valid.eq(delayed_valid(m, takes, self._paired_at, "paired_beat")),
            pairs.i.payload.last.eq(delayed(m, beat.last, self._paired_at, "paired_last")),
            pairs.i.payload.count.eq(delayed(m, count, self._exponentials[0].delay, "paired_count")),
        ]

    def _total(
        self, m: Module, takes: Signal, takes_last: Signal, row: Any, reciprocals: Fifo, decisions: Fifo | None
    ) -> None:
        """Adds up a row's sums; the total decides whether the row is flat, and its reciprocal is taken."""
        valid = delayed_valid(m, takes, self._summed_at, "summed_beat")
        last = delayed_valid(m, takes_last, self._summed_at, "summed_last")
        is_first = Signal(init=1)
        total = Signal(self._reciprocal.total.shape(), reset_less=True)
        with m.If(valid):
            m.d.sync += [is_first.eq(last), total.eq(Mux(is_first, 0, total) + self._tree.o)]

        known = delayed_valid(m, last, 1, "total_known")
        progressive: Any = None
        if decisions is not None:
            progressive = delayed(m, row.progressive, self._totalled_at, "total_progressive")
        header = delayed(m, row.header, self._totalled_at, "total_header")
        flat = Signal(reset_less=True)
        if decisions is not None:
            limit = delayed(m, row.flat_limit, self._totalled_at, "total_limit")
            m.d.sync += flat.eq(total > (limit << (SUM_FRACTION - FLAT_LIMIT_FRACTION)))
        m.submodules.reciprocal = reciprocal = self._reciprocal
        if decisions is not None:
            m.d.comb += [
                decisions.i.valid.eq(delayed_valid(m, known & progressive, 1, "decision_known")),
                decisions.i.payload.flat.eq(flat),
                Value.cast(decisions.i.payload.header).eq(delayed(m, header, 1, "decision_header")),
            ]
        m.d.comb += [
            reciprocal.total.eq(total),
            reciprocals.i.valid.eq(delayed_valid(m, known, reciprocal.delay, "reciprocal_known")),
            reciprocals.i.payload.reciprocal.eq(reciprocal.mantissa),
            reciprocals.i.payload.z.eq(reciprocal.z),
        ]
        if decisions is not None:
            drops = flat & delayed(m, progressive, 1, "flat_progressive")
            m.d.comb += reciprocals.i.payload.dropped.eq(delayed(m, drops, reciprocal.delay - 1, "dropped"))
        m.d.comb += [
            Value.cast(reciprocals.i.payload.header).eq(delayed(m, header, reciprocal.delay, "reciprocal_header")),
        ]

    def _third_pass(self, m: Module, platform: Any, pairs: Fifo, reciprocals: Fifo, output: Fifo) -> None:
        """Takes rows whose reciprocal is known, and sends them to `o`, except the beats of dropped rows."""
        takes, passes = Signal(), Signal()
        beat_valid, beat = _held(m, pairs.o, takes, "third_beat")
        row_valid, row = _held(m, reciprocals.o, takes & beat.last, "third_row")
        m.submodules.output_room = output_room = _Room(places=self.output_places)
        m.d.comb += [
            # A row's reciprocal is known only when all of the row's pairs are in their queue.
            takes.eq(row_valid & (output_room.free | row.dropped if self.decides else output_room.free)),
            passes.eq(takes & ~row.dropped if self.decides else takes),
            output_room.takes.eq(passes),
            output_room.gives.eq(self.o.valid & self.o.ready),
            self.o.valid.eq(output.o.valid),
            output.o.ready.eq(self.o.ready),
            Value.cast(self.o.payload).eq(Value.cast(output.o.payload)),
        ]
        if asserts(platform):
            m.d.sync += Assert(~takes | beat_valid, "softmax lost pairs\n")

        for lane in range(self.lanes):
            m.submodules[f"probability{lane}"] = probability = self._probabilities[lane]
            m.d.comb += [
                probability.mantissa.eq(beat.mantissas[lane]),
                probability.exponent.eq(beat.exponents[lane]),
                probability.reciprocal.eq(row.reciprocal),
                probability.z.eq(row.z),
                output.i.payload.probs[lane].eq(probability.prob),
            ]
        m.d.comb += [
            output.i.valid.eq(delayed_valid(m, passes, self._normalised_at, "normalised_beat")),
            output.i.payload.count.eq(delayed(m, beat.count, self._normalised_at, "normalised_count")),
            output.i.payload.last.eq(delayed(m, beat.last, self._normalised_at, "normalised_last")),
            Value.cast(output.i.payload.header).eq(delayed(m, row.header, self._normalised_at, "normalised_header")),
        ]


class _Room(wiring.Component):
    """Whether a beat may enter a free-running pipeline: each beat inside has a place in the queue behind it.

    `takes` (only while `free`): a beat enters. `gives`: a beat leaves the queue. `free`: out, from a register.
    """

    def __init__(self, *, places: int) -> None:
        self._places = places
        super().__init__({"takes": In(1), "gives": In(1), "free": Out(1, init=1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        used = Signal(range(self._places + 1))
        with m.If(self.takes & ~self.gives):
            m.d.sync += [used.eq(used + 1), self.free.eq(used != self._places - 1)]
        with m.If(self.gives & ~self.takes):
            m.d.sync += [used.eq(used - 1), self.free.eq(1)]
        return m


class _Normaliser(wiring.Component):
    """sat(round((maximum - score) x 2**(18 - position))), unsigned with 18 bits.

    `position` is shift - 10, or 0 for a smaller shift, where any difference but 0 saturates. `delay` cycles.
    """

    delay = 2

    def __init__(self, *, difference_bits: int) -> None:
        self._difference_bits = difference_bits
        score = signed(difference_bits + 1)
        super().__init__(
            {
                "maximum": In(score),
                "score": In(score),
                "position": In(SCALE_SHIFT_BITS),
                "normalised": Out(_NORMALISED_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # The difference with the point of the result, and the half unit below it, were the shift 0.
        difference = Signal(self._difference_bits)
        m.d.comb += difference.eq(self.maximum - self.score)
        placed = difference << (_NORMALISED_BITS + 1)
        # The shift's upper bits first; what lies above all that its lower bits can bring down only saturates.
        kept = _NORMALISED_BITS + 1 + (1 << _FINE_BITS) - 1
        coarse, fine = self.position[_FINE_BITS:], register(m, self.position[:_FINE_BITS], "fine")
        by_coarse = Signal(kept, reset_less=True)
        exceeds = Signal(reset_less=True)
        above = [
            placed[low : low + (1 << _FINE_BITS)].any() & (coarse <= (low - kept >> _FINE_BITS))
            for low in range(kept, len(placed), 1 << _FINE_BITS)
        ]
        m.d.sync += [by_coarse.eq(placed >> (coarse << _FINE_BITS)), exceeds.eq(Cat(above).any())]
        shifted = Signal(_NORMALISED_BITS + 1)
        m.d.comb += shifted.eq(by_coarse >> fine)
        above = [by_coarse[_NORMALISED_BITS + 1 + n] & (fine <= n) for n in range(kept - len(shifted))]
        rounded = _rounded(m, Cat(shifted, Cat(exceeds, *above).any()), _NORMALISED_BITS)
        m.d.sync += self.normalised.eq(rounded)
        return m


class _Scaler(wiring.Component):
    """t = round(n x scale / 2**16), saturated to 17 bits. `delay` cycles."""

    def __init__(self, *, multiplier_stages: int) -> None:
        self._multiplier = Multiplier(a_shape=_NORMALISED_BITS, b_shape=SCALE_MANTISSA_BITS, stages=multiplier_stages)
        self.delay = self._multiplier.delay + 1
        super().__init__({"normalised": In(_NORMALISED_BITS), "scale": In(SCALE_MANTISSA_BITS), "t": Out(_T_BITS)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = self._multiplier
        m.d.comb += [multiplier.a.eq(self.normalised), multiplier.b.eq(self.scale)]
        m.d.sync += self.t.eq(_rounded(m, multiplier.o[_NORMALISED_POINT - _T_FRACTION - 1 :], _T_BITS))
        return m


class _Chord(wiring.Component):
    """A falling function by chords: table[index] - round((table[index] - table[index + 1]) x low / 2**low_bits).

    The output is 0 where the input is not `live`. `delay` cycles. A line has an entry of the table and the step down to
    the next one; it passes `reads` registers: two where a flow makes a block RAM of the table, which is so late that
    the multiplier must not follow at once.
    """

    def __init__(self, *, table: list[int], low_bits: int, reads: int = 1) -> None:
        self._reads = reads
        self._steps = [start - end for start, end in pairwise(table)]
        self._starts = table[:-1]
        step_bits = max(self._steps).bit_length()
        self._multiplier = Multiplier(a_shape=low_bits, b_shape=step_bits, stages=1)
        self.delay = reads + self._multiplier.delay + 1
        super().__init__(
            {
                "index": In(range(len(self._starts))),
                "low": In(low_bits),
                "live": In(1, init=1),
                "o": Out(max(table).bit_length()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        low_bits = len(self.low)
        line = data.StructLayout({"start": len(self.o), "step": len(self._multiplier.b)})
        lines = [{"start": start, "step": step} for start, step in zip(self._starts, self._steps, strict=True)]
        # The table is logic, since in standard cells a memory has no contents at power-up.
        read = Signal(line, reset_less=True)
        with m.Switch(self.index):
            for index, each in enumerate(lines):
                with m.Case(index):
                    m.d.sync += read.eq(Const(each, line))
        read = delayed(m, read, self._reads - 1, "read_after")
        m.submodules.multiplier = multiplier = self._multiplier
        start = delayed(m, read.start, multiplier.delay, "start")
        live = delayed(m, self.live, self._reads + multiplier.delay, "chord_live")
        falling = Signal.like(self.o, name="falling")
        m.d.comb += [
            multiplier.a.eq(delayed(m, self.low, self._reads, "chord_low")),
            multiplier.b.eq(read.step),
            # The rounded product is subtracted: its upper bits, and its half unit as a borrow.
            falling.eq(start - multiplier.o[low_bits:] - multiplier.o[low_bits - 1]),
        ]
        m.d.sync += self.o.eq(Mux(live, falling, 0))
        return m


class _Exponential(wiring.Component):
    """2**-t as mantissa x 2**-exponent; the mantissa is 0 where the key is not `live`. `delay` cycles.

    `next_exponent` is the exponent one cycle early.
    """

    def __init__(self) -> None:
        self._chord = _Chord(table=_exp_table(), low_bits=_T_FRACTION - _EXP_INDEX_BITS)
        self.delay = self._chord.delay
        super().__init__(
            {
                "t": In(_T_BITS),
                "live": In(1),
                "mantissa": Out(_MANTISSA_BITS),
                "exponent": Out(_EXPONENT_BITS),
                "next_exponent": Out(_EXPONENT_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.chord = chord = self._chord
        low_bits = _T_FRACTION - _EXP_INDEX_BITS
        m.d.comb += [
            chord.low.eq(self.t[:low_bits]),
            chord.index.eq(self.t[low_bits:_T_FRACTION]),
            chord.live.eq(self.live),
            self.mantissa.eq(chord.o),
            self.next_exponent.eq(delayed(m, self.t[_T_FRACTION:], self.delay - 1, "exponent")),
            self.exponent.eq(register(m, self.next_exponent, "exponent_now")),
        ]
        return m


class _Addend(wiring.Component):
    """round(mantissa x 2**-exponent), with 24 fraction bits, of a mantissa up to 1.0. `delay` cycles.

    The exponent comes one cycle before the mantissa, and waits in the form that the shift takes.
    """

    delay = 1

    def __init__(self) -> None:
        super().__init__(
            {"mantissa": In(_MANTISSA_BITS), "next_exponent": In(_EXPONENT_BITS), "addend": Out(_ADDEND_BITS)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        placed = self.mantissa << (1 + _ADDEND_BITS - _MANTISSA_BITS)
        by_fine = _shifted_down(placed, register(m, _fine(self.next_exponent), "fine"))
        coarse = register(m, self.next_exponent[_FINE_BITS:], "coarse")
        shifted = Signal(1 + _ADDEND_BITS)
        m.d.comb += shifted.eq(by_fine >> (coarse << _FINE_BITS))
        # Up to 1.0: nothing to saturate.
        m.d.sync += self.addend.eq(shifted[1:] + shifted[0])
        return m


class _Reciprocal(wiring.Component):
    """1/total as mantissa x 2**-z, for a total of 1.0 to `row_max`. `delay` cycles, one total per cycle."""

    def __init__(self, *, row_max: int) -> None:
        self._chord = _Chord(table=_reciprocal_table(), low_bits=_RECIPROCAL_LOW_BITS, reads=2)
        self.delay = 1 + self._chord.delay
        super().__init__(
            {
                "total": In(SUM_FRACTION + row_max.bit_length()),
                "mantissa": Out(_RECIPROCAL_BITS),
                "z": Out(range(row_max.bit_length())),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.chord = chord = self._chord
        # Of the bits above 1.0 the leading one, each compared with those above it only.
        bits = range(len(self.total) - SUM_FRACTION)
        leads = [~self.total[SUM_FRACTION + z + 1 :].any() & (self.total[SUM_FRACTION + z] if z else 1) for z in bits]
        leading = Signal.like(self.z, name="leading")
        m.d.comb += leading.eq(or_tree([Mux(lead, z, 0) for z, lead in enumerate(leads)]))
        # The fraction bits behind it, as many as the table and its chords take.
        fraction_bits = _RECIPROCAL_INDEX_BITS + _RECIPROCAL_LOW_BITS
        fraction = Signal(fraction_bits, reset_less=True)
        m.d.sync += fraction.eq(
            or_tree(
                [
                    Mux(lead, self.total[SUM_FRACTION + z - fraction_bits : SUM_FRACTION + z], 0)
                    for z, lead in enumerate(leads)
                ]
            )
        )
        m.d.comb += [
            chord.index.eq(fraction[_RECIPROCAL_LOW_BITS:]),
            chord.low.eq(fraction[:_RECIPROCAL_LOW_BITS]),
            self.mantissa.eq(chord.o),
            self.z.eq(delayed(m, leading, self.delay, "z")),
        ]
        return m


class _Probability(wiring.Component):
    """round(mantissa x reciprocal / 2**(33 - prob_bits + exponent + z)), 1.0 saturated to all ones. `delay` cycles."""

    def __init__(self, *, prob_bits: int, z_shape: Shape, multiplier_stages: int) -> None:
        self._multiplier = Multiplier(a_shape=_RECIPROCAL_BITS, b_shape=_MANTISSA_BITS, stages=multiplier_stages)
        self.delay = self._multiplier.delay + 1
        super().__init__(
            {
                "mantissa": In(_MANTISSA_BITS),
                "exponent": In(_EXPONENT_BITS),
                "reciprocal": In(_RECIPROCAL_BITS),
                "z": In(z_shape),
                "prob": Out(prob_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        prob_bits = len(self.prob)
        m.submodules.multiplier = multiplier = self._multiplier
        m.d.comb += [multiplier.a.eq(self.reciprocal), multiplier.b.eq(self.mantissa)]
        exponent = Signal(_EXPONENT_BITS + 1)
        m.d.comb += exponent.eq(self.exponent + self.z)
        exponent = delayed(m, exponent, multiplier.delay - 1, "exponent")
        # The product is at most 2**33, so that a shift beyond prob_bits + 1 leaves not even the half unit.
        shifts = register(m, one_hot(exponent, prob_bits + 2), "shifts")

        shifted = Signal(prob_bits + 2)
        point = _MANTISSA_BITS - 1 + _RECIPROCAL_BITS - 1 - prob_bits
        m.d.comb += shifted.eq(_shifted_down(multiplier.o[point - 1 :], shifts))
        m.d.sync += self.prob.eq(_rounded(m, shifted, prob_bits))
        return m


def _exp_table() -> list[int]:
    """round(2**16 x 2**(-i/64)) for i = 0 to 64, from roots of integers."""
    table = []
    for i in range(65):
        # 2**(64 x 17) / 2**i has twice the entry as its 64th root: six square roots, each rounded down.
        root = 1 << (64 * 17 - i)
        for _ in range(6):
            root = isqrt(root)
        table.append((root + 1) >> 1)
    return table


def _reciprocal_table() -> list[int]:
    """round(2**17 / (1 + i/256)) for i = 0 to 256."""
    return [floor(Fraction(256 << (_RECIPROCAL_BITS - 1), 256 + i) + Fraction(1, 2)) for i in range(257)]


def _held(m: Module, source: Any, taken: Value, name: str) -> tuple[Signal, Any]:
    """Valid and payload of a register behind a stream from a queue, empty or with what is there until it is `taken`.

    What decides whether a beat may be taken then comes from registers, since a block RAM is late.
    """
    valid = Signal(name=f"{name}_valid")
    payload = Signal(source.payload.shape(), name=name, reset_less=True)
    m.d.comb += source.ready.eq(~valid | taken)
    with m.If(source.ready):
        m.d.sync += [valid.eq(source.valid), payload.eq(source.payload)]
    return valid, payload


def _larger(*values: Value) -> Value:
    """The larger of two values, or a single value as it is."""
    return values[0] if len(values) == 1 else Mux(values[0] > values[1], values[0], values[1])


def _fine(shift: Value) -> Value:
    """The lower bits of a shift, one-hot: so the shift by them is two LUTs deep, not three."""
    return one_hot(shift[:_FINE_BITS], 1 << _FINE_BITS)


def _shifted_down(value: Value, shifts: Value) -> Value:
    """`value` >> the shift that `shifts` says one-hot; 0 if it says none."""
    return or_tree([Mux(bit, value[n:], 0) for n, bit in enumerate(shifts)])


def _rounded(m: Module, value: Value, bits: int) -> Value:
    """`value` / 2, rounded half up and saturated to `bits`."""
    # All that exceeds the result's bits comes down to one bit above them: a short sum, and a bit or two that saturate.
    inside, above = value[1 : bits + 1], value[bits + 1 :].any()
    rounded = Signal(bits + 2, name="rounded")
    m.d.comb += rounded.eq(Cat(inside, above) + value[0])
    return rounded[:bits] | rounded[bits:].any().replicate(bits)
