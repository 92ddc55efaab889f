"""Sizes and payloads of the unit that holds the importance of tokens, and the ageing that its halves share."""

from amaranth.hdl import Mux, ShapeLike, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from spatten.hw.datapath.rank_memory import rank_probs, rank_word
from spatten.hw.lib.logic import index_shape

__all__ = ["AGE_BITS", "Layouts", "age_by_high_bits", "age_by_low_bits", "unstalled"]

AGE_BITS = 5
"""Width of a job's age shift: 0 to 31."""
LOW_AGE_BITS = 2
"""Bits of the age shift that are applied directly behind a memory; the others follow a register later."""


class Layouts:
    """Payloads of the streams of a `TokenImportance` and between its parts, from the unit's parameters, which it keeps.

    The unit and its parts name the members in their lists of ports; what lies inside the unit only is described here.
    """

    def __init__(
        self,
        *,
        tokens: int,
        prob_bits: int,
        importance_bits: int,
        prob_lanes: int,
        lanes: int,
        contexts: int,
        slots: int,
    ) -> None:
        self.tokens = tokens
        self.prob_bits = prob_bits
        self.importance_bits = importance_bits
        self.prob_lanes = prob_lanes
        self.lanes = lanes
        self.contexts = contexts
        self.slots = slots
        self.lines = tokens // lanes
        """Id lines of a context, and rows of a slot."""
        slot = index_shape(slots)
        context = index_shape(contexts)
        count = range(lanes + 1)
        lines = self.lines
        importance = data.ArrayLayout(importance_bits, lanes)

        # The streams of the unit; see `TokenImportance`.
        self.probs = rank_probs(prob_bits=prob_bits, lanes=prob_lanes, slots=slots)
        self.gather = data.StructLayout(
            {
                "context": context,
                "slot": slot,
                "clear": 1,
                "restart": 1,
                "age_shift": AGE_BITS,
                "lines": range(lines + 1),
                "generates": 1,
                "generating_token": range(tokens),
            }
        )
        self.members = data.StructLayout({"live": unsigned(lanes), "pinned": unsigned(lanes)})
        self.live = data.StructLayout({"ids": data.ArrayLayout(range(tokens), lanes), "count": count, "last": 1})
        self.gathered = data.StructLayout({"slot": slot, "live": range(tokens + 1), "pinned": range(tokens + 1)})
        self.scatter = data.StructLayout({"slot": slot, "prune": 1})
        self.candidates = data.StructLayout(
            {"keys": data.ArrayLayout(importance_bits + 1, lanes), "count": count, "last": 1}
        )
        self.kept = unsigned(lanes)
        self.scattered = data.StructLayout({"slot": slot, "saturated": range(tokens + 1)})
        self.state = data.StructLayout({"importance": importance, "kept": unsigned(lanes)})
        self.access = data.StructLayout(
            {"context": context, "line": index_shape(lines), "write": 1, "state": self.state}
        )

        # Between the parts.
        self.slot, self.context = slot, context
        self.line = index_shape(lines)
        """Number of an id line, or of a rank row."""
        self.line_count = range(lines + 1)
        self.words = data.ArrayLayout(rank_word(importance_bits), lanes)
        """A rank row of a slot."""
        self.job = data.StructLayout(
            {
                "context": context,
                "lines": self.line_count,
                "clear": 1,
                "age_shift": AGE_BITS,
                "live": range(tokens + 1),
            }
        )
        """What a job's gather leaves for its scatter: parts of its command, and how many tokens are live."""
        self.id_line = data.StructLayout(
            {
                "line": self.line,
                "last": 1,
                "live": unsigned(lanes),
                "pinned": unsigned(lanes),
                "importance": importance,
            }
        )
        """An id line on its way from its context: its number, whether it is the job's last, and its tokens."""
        self.final_row = data.StructLayout(
            {"importance": importance, "pinned": unsigned(lanes), "saturated": unsigned(lanes), "last": 1}
        )
        """A rank row at the end of its job: importance, clipped where the token has `saturated` in this job."""


def unstalled(shape: ShapeLike) -> wiring.Signature:
    """A stream whose taker is always ready."""
    return wiring.Signature({"valid": Out(1), "payload": Out(shape)})


def age_by_low_bits(value: Value, age_shift: Value) -> Value:
    """`value` shifted right by the part of `age_shift` that is in its low bits."""
    return _shift(value, age_shift, range(LOW_AGE_BITS))


def age_by_high_bits(value: Value, age_shift: Value) -> Value:
    """`value` shifted right by the part of `age_shift` that is in its high bits."""
    return _shift(value, age_shift, range(LOW_AGE_BITS, AGE_BITS))


def _shift(value: Value, distance: Value, bits: range) -> Value:
    for bit in bits:
        value = Mux(distance[bit], value >> (1 << bit), value)
    return value
