"""Bit-width conversion: packed planes of 4/6/8/10/12 bits to operands and back (SpAtten section IV-E).

An unsigned or signed plane of `bits` per value is packed little-endian without gaps: value i of a row occupies bits
i*bits .. i*bits + bits - 1 of the row. A value of m + 4 bits is split into an MSB plane, q >> 4 (floor, signed), and
an LSB plane, q & 15 (unsigned).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spatten.golden import IntArray
from spatten.golden.rounding import round_shift, saturate
from spatten.spec.config import LSB_BITS


def split(code: IntArray) -> tuple[IntArray, IntArray]:
    """MSB plane (signed) and LSB plane (unsigned) of codes with `LSB_BITS` low bits."""
    return code >> LSB_BITS, code & ((1 << LSB_BITS) - 1)


def join(msb: IntArray, lsb: IntArray) -> IntArray:
    """Inverse of `split`."""
    return (msb << LSB_BITS) + lsb


def pack(code: IntArray, bits: int) -> NDArray[np.uint8]:
    """Rows of codes [..., n] (signed or unsigned, `bits` wide) to bytes [..., ceil(n*bits/8)], zero-padded."""
    shifts = np.arange(bits, dtype=np.int64)
    binary = (code[..., None] >> shifts & 1).astype(np.uint8)
    return np.packbits(binary.reshape(*code.shape[:-1], -1), axis=-1, bitorder="little")


def unpack(packed: NDArray[np.uint8], bits: int, count: int, *, signed: bool) -> IntArray:
    """Inverse of `pack`: bytes [..., b] to `count` codes [..., count]."""
    binary = np.unpackbits(packed, axis=-1, bitorder="little", count=count * bits)
    binary = binary.reshape(*packed.shape[:-1], count, bits).astype(np.int64)
    code: IntArray = binary @ (np.int64(1) << np.arange(bits, dtype=np.int64))
    return code - (binary[..., -1] << bits) if signed else code


def narrow(code: IntArray, bits: int, operand_bits: int) -> IntArray:
    """Round codes of more than `operand_bits` to operands (12+4 bits on a 12-bit machine); others pass unchanged.

    The result is in units of 2**max(0, bits - operand_bits); the top half unit saturates.
    """
    excess = max(0, bits - operand_bits)
    return saturate(round_shift(code, excess), operand_bits)[0]


def align(code: IntArray, bits: int, operand_bits: int) -> IntArray:
    """Shift V codes up so that their largest magnitude fills an operand: prob x V then rounds at one place."""
    return code << (operand_bits - bits)
