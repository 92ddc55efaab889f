"""Packed planes and operands: against strings of bits, and at every edge of every width."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden.convert import align, join, narrow, pack, split, unpack
from spatten.spec.config import PLANE_BITS
from tests.golden.reference import clip, half_up, packed, times_power

WIDTHS = (*PLANE_BITS, 16)
BITS = st.sampled_from(WIDTHS)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_split_and_join_every_code(bits: int) -> None:
    codes = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.int64)
    msb, lsb = split(codes)
    assert msb.tolist() == [code // 16 for code in codes.tolist()]
    assert lsb.tolist() == [code % 16 for code in codes.tolist()]
    assert (msb.min(), msb.max()) == (-(1 << (bits - 5)), (1 << (bits - 5)) - 1), "the MSB plane's range"
    assert np.array_equal(join(msb, lsb), codes)


def test_split_by_hand() -> None:
    msb, lsb = split(np.array([-127, -1, 0, 15, 16, 127, -16, -17], np.int64))
    assert msb.tolist() == [-8, -1, 0, 0, 1, 7, -1, -2]
    assert lsb.tolist() == [1, 15, 0, 15, 0, 15, 0, 15]


def test_pack_by_hand() -> None:
    assert pack(np.array([[0x1, 0xA, 0x3]], np.int64), 4).tolist() == [[0xA1, 0x03]]
    assert pack(np.array([[-1, 0, 1, 2]], np.int64), 6).tolist() == [[0x3F, 0x10, 0x08]]
    assert pack(np.array([[0x123, -0x123]], np.int64), 12).tolist() == [[0x23, 0xD1, 0xED]]
    assert pack(np.array([[-2, 0x1234]], np.int64), 16).tolist() == [[0xFE, 0xFF, 0x34, 0x12]]


@given(BITS, st.data())
def test_pack_is_the_bit_string(bits: int, data: st.DataObject) -> None:
    signed = data.draw(st.booleans())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    n = data.draw(st.integers(1, 40))
    rows = data.draw(st.lists(st.lists(st.integers(low, high), min_size=n, max_size=n), min_size=1, max_size=4))
    codes = np.array(rows, np.int64)
    image = pack(codes, bits)
    assert image.dtype == np.uint8
    assert [bytes(row) for row in image] == [packed(row, bits) for row in rows]
    assert np.array_equal(unpack(image, bits, n, signed=signed), codes)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("signed", [True, False])
def test_every_code_survives_packing(bits: int, signed: bool) -> None:
    codes = np.arange(1 << bits, dtype=np.int64) - (signed << (bits - 1))
    assert np.array_equal(unpack(pack(codes, bits), bits, len(codes), signed=signed), codes)


def test_leading_axes_are_rows() -> None:
    codes = np.random.default_rng(1).integers(-32, 32, (2, 3, 5, 16))
    image = pack(codes, 6)
    assert image.shape == (2, 3, 5, 12)
    assert np.array_equal(unpack(image, 6, 16, signed=True), codes)


@pytest.mark.parametrize(("bits", "operand_bits"), [(16, 12), (14, 12), (16, 15), (8, 4), (12, 8)])
def test_narrow_every_code(bits: int, operand_bits: int) -> None:
    codes = list(range(-(1 << (bits - 1)), 1 << (bits - 1)))
    expected = [clip(times_power(code, operand_bits - bits), operand_bits) for code in codes]
    assert narrow(np.array(codes, np.int64), bits, operand_bits).tolist() == expected


def test_narrow_12_plus_4_at_12_bits_by_hand() -> None:
    codes = np.array([0, 7, 8, 9, -7, -8, -9, 24, -24, 32_759, 32_760, 32_767, -32_768, -32_760, -32_761], np.int64)
    assert narrow(codes, 16, 12).tolist() == [0, 0, 1, 1, 0, 0, -1, 2, -1, 2047, 2047, 2047, -2048, -2047, -2048]


@given(st.integers(-(1 << 11), (1 << 11) - 1), st.sampled_from([12, 14, 16]))
def test_narrow_leaves_what_fits(code: int, operand_bits: int) -> None:
    assert narrow(np.array([code], np.int64), 12, operand_bits).tolist() == [code]


@given(BITS, st.data())
def test_align_fills_the_operand(bits: int, data: st.DataObject) -> None:
    operand_bits = data.draw(st.integers(bits, 16))
    codes = data.draw(st.lists(st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1), min_size=1, max_size=8))
    aligned = align(np.array(codes, np.int64), bits, operand_bits).tolist()
    assert aligned == [code * 2 ** (operand_bits - bits) for code in codes]
    assert all(clip(code, operand_bits) == code for code in aligned)
    assert align(np.array([-(1 << (bits - 1))], np.int64), bits, operand_bits)[0] == -(1 << (operand_bits - 1))


def test_the_naive_forms_themselves() -> None:
    assert [half_up(Fraction(x, 2)) for x in (-3, -1, 1, 3)] == [-1, 0, 1, 2]
    assert all(times_power(x, -3) == half_up(Fraction(x, 8)) for x in range(-40, 40))
    assert packed([1, 2, 3], 4) == bytes([0x21, 0x03])
