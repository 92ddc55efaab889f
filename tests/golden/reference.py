"""What the golden model is tested against: `docs/numerics.md` again, naively.

In Python integers, strings and sets, and in float64. Nothing here imports the golden model, and nothing is vectorised
where golden is: lists, exact integers of any size and `Fraction`. The float64 functions are the mathematics that the
integers approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def half_up(value: Fraction) -> int:
    """floor(value + 1/2)."""
    return floor(value + Fraction(1, 2))


def times_power(value: int, power: int) -> int:
    """value x 2**power, rounded half up."""
    return value << power if power >= 0 else (2 * value + (1 << -power)) >> (1 - power)


def clip(value: int, bits: int) -> int:
    """The closest signed integer of `bits`."""
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, value))


def fits(value: int, bits: int, *, signed: bool = True) -> bool:
    """Whether an integer has a representation of `bits`."""
    return clip(value, bits) == value if signed else 0 <= value < 1 << bits


# -- Bits -------------------------------------------------------------------------------------------------------------


def packed(codes: Sequence[int], bits: int) -> bytes:
    """Codes as a string of zeros and ones, the lowest bit first, cut into bytes."""
    ones = "".join(format(code % (1 << bits), f"0{bits}b")[::-1] for code in codes)
    ones += "0" * (-len(ones) % 8)
    return bytes(int(ones[i : i + 8][::-1], 2) for i in range(0, len(ones), 8))


# -- Top-k ------------------------------------------------------------------------------------------------------------


def survivors(values: Sequence[int], k: int) -> list[int]:
    """Indices of the k largest in their order, the lower index first among equals."""
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])


# -- Softmax ----------------------------------------------------------------------------------------------------------


def _exp_table() -> list[int]:
    """round(2**(16 - i/64)): the a with (a - 1/2)**64 <= 2**(1024 - i), decided in integers."""
    table = []
    a = 1 << 16
    for i in range(65):
        while (2 * a - 1) ** 64 > 1 << (64 + 1024 - i):
            a -= 1
        table.append(a)
    return table


EXP = _exp_table()
RECIPROCAL = [half_up(Fraction(1 << 17) / (1 + Fraction(i, 256))) for i in range(257)]


@dataclass
class SoftmaxRow:
    """The integers of one row, by the steps of section 5."""

    t: list[int] = field(default_factory=list)
    total: int = 0
    prob: list[int] = field(default_factory=list)
    widest_product: int = 0


def softmax_row(scores: Sequence[int], mantissa: int, shift: int, prob_bits: int) -> SoftmaxRow:
    """Section 5 on the keys of one row, all live."""
    row = SoftmaxRow()
    exponentials = []
    largest = max(scores)
    for score in scores:
        n = min(times_power(largest - score, 28 - shift), (1 << 18) - 1)
        t = min(times_power(n * mantissa, -16), (1 << 17) - 1)
        whole, fraction = divmod(t, 1 << 12)
        i, j = divmod(fraction, 64)
        m = EXP[i] - times_power((EXP[i] - EXP[i + 1]) * j, -6)
        row.t.append(t)
        row.total += times_power(m << 8, -whole)
        exponentials.append((m, whole))
    z = row.total.bit_length() - 25
    f = (row.total << 18 >> (24 + z)) - (1 << 18)
    i, j = divmod(f, 1024)
    inverse = RECIPROCAL[i] - times_power((RECIPROCAL[i] - RECIPROCAL[i + 1]) * j, -10)
    for m, whole in exponentials:
        row.widest_product = max(row.widest_product, m * inverse)
        row.prob.append(min((1 << prob_bits) - 1, times_power(m * inverse, -(33 - prob_bits + whole + z))))
    return row


def float_softmax(scores: IntArray, mantissa: int, shift: int) -> FloatArray:
    """Softmax of integer score rows [..., n] in float64, with exactly the scale mantissa x 2**-shift in log2 units."""
    power = np.exp2((scores - scores.max(axis=-1, keepdims=True)) * (mantissa * 2.0**-shift))
    return np.asarray(power / power.sum(axis=-1, keepdims=True), np.float64)


def ideal_codes(prob: FloatArray, prob_bits: int) -> FloatArray:
    """The best codes of `prob_bits` for probabilities: rounded half up, 1.0 saturated to all ones."""
    return np.minimum(np.floor(prob * (1 << prob_bits) + 0.5), (1 << prob_bits) - 1)


# -- Cascade and attention --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The widths of section 5 to 9."""

    operand_bits: int
    prob_bits: int
    head_dim_max: int
    token_bits: int
    head_bits: int


@dataclass(kw_only=True)
class Outcome:
    """A job's results by (head, row) and by id."""

    tokens: list[int]
    heads: list[int]
    rows: list[int]
    prob: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """Final probabilities of the live tokens, before local V pruning; 0 beyond a causal row's length."""
    fetched: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """Positions, in the list of live tokens, of the V rows fetched."""
    output: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    flat: set[tuple[int, int]] = field(default_factory=set)
    saturated: int = 0
    kept_tokens: list[int] = field(default_factory=list)
    kept_heads: list[int] = field(default_factory=list)


class Cascade:
    """The state of one sequence: sets of ids and importance by id."""

    def __init__(self, machine: Machine, tokens: int, heads: int) -> None:
        self.machine = machine
        self.all_tokens, self.all_heads = set(range(tokens)), set(range(heads))
        self.clear()

    def clear(self) -> None:
        self.token_importance = dict.fromkeys(self.all_tokens, 0)
        self.head_importance = dict.fromkeys(self.all_heads, 0)
        self.saturated = 0
        self.restart()

    def restart(self) -> None:
        self.tokens, self.heads = set(self.all_tokens), set(self.all_heads)

    def age(self, shift: int) -> None:
        for importance in (self.token_importance, self.head_importance):
            for i in importance:
                importance[i] //= 2**shift

    def add(self, importance: dict[int, int], i: int, addend: int, bits: int) -> None:
        total = importance[i] + addend
        self.saturated += total >= 1 << bits
        importance[i] = min(total, (1 << bits) - 1)

    def prune_tokens(self, live: list[int], keep: int, pinned: set[int]) -> list[int]:
        stay = pinned & set(live)
        others = sorted(set(live) - stay, key=lambda i: (-self.token_importance[i], i))
        kept = sorted(stay | set(others[: max(0, keep - len(stay))]))
        self.tokens = set(kept)
        return kept

    def prune_heads(self, live: list[int], keep: int) -> list[int]:
        kept = sorted(sorted(live, key=lambda i: (-self.head_importance[i], i))[:keep])
        self.heads = set(kept)
        return kept

    def job(
        self,
        job: Any,
        query: list[list[list[int]]],
        key: list[list[list[int]]],
        value: list[list[list[int]]],
        *,
        has_kv: set[int],
        pinned: set[int],
        heads: set[int],
    ) -> Outcome:
        """One layer. Q is [heads][queries][d], K and V codes are [heads][keys][d]; only what is live is looked at."""
        if job.clear:
            self.clear()
        if job.restart:
            self.restart()
        self.age(job.age_shift)
        mode, fetch = job.mode.label, job.key_fetch.label
        first, queries = job.query_offset, job.queries
        usable = {i for i in has_kv if i < (job.keys if job.valid_length is None else job.valid_length)}
        live_tokens = self.tokens & usable
        if mode == "generation":
            live_tokens, pinned = live_tokens | {first}, pinned | {first}
        tokens, live_heads = sorted(live_tokens), sorted(self.heads & heads)
        rows = [i for i in tokens if first <= i < first + queries]
        found = Outcome(tokens=tokens, heads=live_heads, rows=rows)
        if not (tokens and live_heads and rows):
            return found
        machine = self.machine
        excess = max(0, job.key_bits - machine.operand_bits)
        token_sums = dict.fromkeys(tokens, 0)
        for h in live_heads:
            scale = job.score_scales[h]
            head_sum = 0
            for row in rows:
                seen = [t for t in tokens if t <= row] if mode == "causal" else tokens
                q = query[h][row - first]

                def dot(codes: list[int], q: list[int] = q) -> int:
                    return sum(a * b for a, b in zip(q, codes, strict=True))

                def all_bits(
                    seen: list[int] = seen, h: int = h, scale: Any = scale, dot: Callable[[list[int]], int] = dot
                ) -> SoftmaxRow:
                    operands = [
                        [clip(times_power(code, -excess), machine.operand_bits) for code in key[h][t]] for t in seen
                    ]
                    return softmax_row(
                        [dot(k) for k in operands], scale.mantissa, scale.shift - excess, machine.prob_bits
                    )

                if fetch == "progressive":
                    msb = [[code // 16 for code in key[h][t]] for t in seen]
                    softmax = softmax_row([dot(k) for k in msb], scale.mantissa, scale.shift - 4, machine.prob_bits)
                    if Fraction(softmax.total, 1 << 24) > Fraction(job.flat_limit, 32):
                        found.flat.add((h, row))
                        softmax = all_bits()
                else:
                    softmax = all_bits()
                prob = softmax.prob
                for t, p in zip(seen, prob, strict=True):
                    token_sums[t] += p
                keep = len(seen) if job.keep_values is None else min(job.keep_values, len(seen))
                fetched = survivors(prob, keep)
                up = machine.operand_bits - job.value_bits
                output = []
                for d in range(job.head_dim):
                    exact = sum(prob[i] * (value[h][seen[i]][d] << up) for i in fetched)
                    rounded = times_power(exact, -machine.prob_bits)
                    output.append(clip(rounded, machine.operand_bits))
                    found.saturated += output[-1] != rounded
                head_shift = machine.operand_bits - 1 + (machine.head_dim_max - 1).bit_length()
                head_sum += times_power(sum(map(abs, output)) * job.importance_multiplier, -head_shift)
                found.prob[h, row] = prob + [0] * (len(tokens) - len(seen))
                found.fetched[h, row] = fetched
                found.output[h, row] = output
            self.add(self.head_importance, h, head_sum, machine.head_bits)
        for t in tokens:
            self.add(self.token_importance, t, token_sums[t], machine.token_bits)
        found.kept_tokens = self.prune_tokens(
            tokens, len(tokens) if job.keep_tokens is None else job.keep_tokens, pinned
        )
        found.kept_heads = self.prune_heads(live_heads, len(live_heads) if job.keep_heads is None else job.keep_heads)
        return found


def float_attention(scores: IntArray, mantissa: int, shift: int, value: IntArray) -> FloatArray:
    """Attention of one row in float64, from the same integer scores [n] and operands V [n, d]."""
    return float_softmax(scores, mantissa, shift) @ value.astype(np.float64)


def output_bound(n: int, largest_value: int, prob_bits: int) -> float:
    """How far an output row of n keys may lie from `float_attention`, in output units.

    Half a unit for the output's own rounding. Each probability is off by half an LSB of its own rounding (1.0 as all
    ones: another half), and by what came before: 2**-12 log2 in t (1.7e-4), chord and tables of the exponential
    (6e-5), both once for the key itself and once through the sum, the reciprocal (2e-5), n x 2**-25 in the sum.
    Relative to p that is below 6e-4, and a row's p add up to 1: together at most 2**prob_bits x 6e-4 LSB.
    """
    lsbs = n / 2 + 0.5 + (1 << prob_bits) * (6e-4 + n * 2.0**-25)
    return 0.5 + lsbs * largest_value * 2.0**-prob_bits
