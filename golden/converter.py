"""Operands from packed sectors (SpAtten section IV-E): what a block row holds, and what a beat of it means.

`golden.convert` has the arithmetic of one code; here codes are laid into block rows (spec/row_format.py) and become the
operands that the arrays compute with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spatten.golden import BoolArray, GoldenError, IntArray
from spatten.golden.convert import align, join, narrow
from spatten.golden.memory import Memory, Plane
from spatten.spec.config import LSB_BITS, PAPER
from spatten.spec.row_format import RowFormat


def block_rows(row: RowFormat, msb: IntArray, lsb: IntArray | None = None) -> NDArray[np.uint8]:
    """Sectors [tokens, stride, 32] of a block of codes [heads, tokens, head_dim], as they come from DRAM planes."""
    heads, tokens, head_dim = msb.shape
    if (heads, head_dim) != (row.heads, row.head_dim):
        raise GoldenError(f"the block holds {row.heads} heads of {row.head_dim} codes, not {heads} of {head_dim}")
    if (lsb is not None) != row.joined:
        raise GoldenError("a joined block needs LSBs" if row.joined else "a block of one plane has no LSBs")
    planes = {"msb": (msb, row.bits)} | ({} if lsb is None else {"lsb": (lsb, LSB_BITS)})
    sectors = np.zeros((tokens, row.stride, 32), np.uint8)
    for name, (codes, bits) in planes.items():
        channels = PAPER.channels
        plane = Plane(channels=channels, base=0, rows=tokens, heads=heads, head_dim=head_dim, bits=bits)
        memory = Memory(PAPER, plane.sectors)
        memory.store(plane, codes)
        for fetch in row.fetches:
            if fetch.plane == name:
                first = plane.row_address(fetch.heads[0] // plane.heads_per_row, np.arange(tokens)) + fetch.first
                places = np.arange(fetch.sectors)
                sectors[:, fetch.place + places] = memory.read(first[:, None] + places)
    return sectors


def key_operands(msb: IntArray, lsb: IntArray | None, *, bits: int, operand_bits: int) -> IntArray:
    """Operands of keys: a plane's codes as they are, or MSB and LSB joined and rounded to the operand width."""
    return msb if lsb is None else narrow(join(msb, lsb), bits + LSB_BITS, operand_bits)


def value_operands(code: IntArray, *, bits: int, operand_bits: int) -> IntArray:
    """Operands of values: codes shifted up to fill the operand."""
    return align(code, bits, operand_bits)


def beat_operands(
    row: RowFormat, operands: IntArray, *, head: int, beat: int, slices: int, slice_width: int
) -> tuple[IntArray, BoolArray]:
    """Operands [heads, tokens, head_dim] of consecutive tokens as a beat has them, and which of them mean something.

    Both [slices, slice_width]. Token q is in slice q mod `slices`; a slice's tokens follow each other.
    """
    _, tokens, head_dim = operands.shape
    width = min(head_dim, slice_width)
    values = np.zeros((slices, slice_width), np.int64)
    means = np.zeros((slices, slice_width), np.bool_)
    part = operands[head, :, beat * width : (beat + 1) * width]
    for q in range(tokens):
        place = (q % slices, slice(q // slices * width, (q // slices + 1) * width))
        values[place] = part[q]
        means[place] = True
    return values, means


def windows(row: RowFormat, sectors: NDArray[np.uint8], *, head: int, beat: int, slices: int) -> NDArray[np.uint8]:
    """Sectors [slices, n, 32] of each slice's window: from the first to the last sector that any of its tokens needs.

    `sectors` [tokens, stride, 32] are block rows of consecutive tokens, a whole number for each slice.
    """
    part = row.parts[head, beat]
    tokens = len(sectors)
    # Consecutive block rows of a lane lie one behind the other.
    lanes = sectors.reshape(tokens // slices, slices, row.stride, 32).transpose(1, 0, 2, 3).reshape(slices, -1, 32)
    return lanes[:, part.start : part.start + row.window_sectors(part, tokens // slices)]
