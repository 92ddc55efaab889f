"""Progressive quantization (SpAtten section III-D): MSBs first, LSBs only for rows whose softmax is flat.

Scores of an MSB plane alone are in units of 16. Where MSB + LSB fit an operand the second pass keeps these
scores and adds Q.LSB to 16 x Q.MSB; where they exceed it (12+4 bits on a 12-bit machine) both planes are fetched again
and rounded to operands.
"""

from __future__ import annotations

from spatten.golden import IntArray
from spatten.golden.convert import narrow, split
from spatten.golden.qk import scores
from spatten.spec.config import LSB_BITS, Config


def msb_scores(query: IntArray, key: IntArray) -> IntArray:
    """First pass: Q [..., r, d] times the MSB plane of K codes [..., n, d], in units of 2**LSB_BITS."""
    return scores(query, split(key)[0])


def recompute_excess(config: Config, key_bits: int) -> int:
    """Bits by which MSB + LSB exceed an operand: recomputed scores are in units of 2**this."""
    return max(0, key_bits - config.operand_bits)


def recomputed_scores(config: Config, msb_score: IntArray, query: IntArray, key: IntArray, key_bits: int) -> IntArray:
    """Second pass, from the kept first-pass scores where that is exact; in units of 2**`recompute_excess`."""
    if recompute_excess(config, key_bits):
        return scores(query, narrow(key, key_bits, config.operand_bits))
    return (msb_score << LSB_BITS) + scores(query, split(key)[1])
