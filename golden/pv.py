"""prob x V (SpAtten section IV-F): the head's output rows."""

from __future__ import annotations

from golden import IntArray
from golden.rounding import round_shift, saturate
from hw.config import Config


def outputs(config: Config, prob: IntArray, value: IntArray) -> tuple[IntArray, int]:
    """prob [..., r, n] times aligned V [..., n, d]: output [..., r, d] and how many elements saturated.

    The sum is exact in `config.pv_accumulator_bits`, rounded once by `prob_bits`, saturated to `operand_bits`.
    """
    return saturate(round_shift(prob @ value, config.prob_bits), config.operand_bits)
