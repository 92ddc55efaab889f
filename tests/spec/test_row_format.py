"""Block rows: every code of every layout is where its part says, whatever the planes' widths."""

from __future__ import annotations

import doctest
from typing import Any

import numpy as np
import pytest

import spatten.spec.row_format
from spatten.golden import GoldenError
from spatten.golden.convert import unpack
from spatten.golden.converter import block_rows
from spatten.hw.control.format_tables import BLOCK, READ, window_layout
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import EIGHTH, HEAD_DIMS, LSB_BITS, NAMED, PAPER, PLANE_BITS, SLICE_WIDTH_MAX, TINY, ULX3S
from spatten.spec.row_format import (
    BANKS,
    CODE_BITS,
    SECTOR_BITS,
    heads_per_row,
    key_formats,
    key_ring_sectors,
    row_format,
    row_sectors,
    value_formats,
    value_ring_sectors,
)

LAYOUTS = [
    row_format(head_dim=head_dim, slice_width=slice_width, bits=bits, joined=joined)
    for head_dim in HEAD_DIMS
    for slice_width in (16, 32, 64, 128)
    for joined in (False, True)
    for bits in (PLANE_BITS if joined else CODE_BITS)
]


@pytest.mark.parametrize("seed", seeds())
def test_every_part_finds_its_codes_in_the_sectors_that_were_fetched(seed: int) -> None:
    source = np.random.default_rng(seed)
    tokens = 3
    for row in LAYOUTS:
        half = 1 << row.bits - 1
        msb = source.integers(-half, half, (row.heads, tokens, row.head_dim))
        lsb = source.integers(0, 1 << LSB_BITS, msb.shape) if row.joined else None
        sectors = block_rows(row, msb, lsb)
        width = row.head_dim // row.beats
        for (head, beat), part in row.parts.items():
            window = sectors[:, part.start : part.start + part.sectors].reshape(tokens, -1)
            operands = slice(beat * width, (beat + 1) * width)
            # Offsets are whole bytes: spatten.golden.convert.unpack starts at the first.
            got = unpack(window[:, part.msb_offset // 8 :], row.bits, width, signed=True)
            np.testing.assert_array_equal(got, msb[head, :, operands], err_msg=f"{row} head {head} beat {beat}")
            if lsb is not None:
                got = unpack(window[:, part.lsb_offset // 8 :], LSB_BITS, width, signed=False)
                np.testing.assert_array_equal(got, lsb[head, :, operands], err_msg=f"{row} head {head} beat {beat}")


def test_parts_by_definition() -> None:
    """Where each code lies, found by laying the sectors that are fetched side by side and counting bits: without the
    offsets that the table was made with."""
    for row in LAYOUTS:
        # Bit by bit what the block row holds: (plane, head of the block, operand, bit of the code).
        holds: list[tuple[str, int, int, int] | None] = []
        for fetch in row.fetches:
            bits = row.bits if fetch.plane == "msb" else LSB_BITS
            plane_row = [
                (fetch.plane, head, operand, bit)
                for head in fetch.heads
                for operand in range(row.head_dim)
                for bit in range(bits)
            ]
            first = fetch.first * SECTOR_BITS
            sectors = plane_row[first : first + fetch.sectors * SECTOR_BITS]
            holds += [*sectors, *[None] * (fetch.sectors * SECTOR_BITS - len(sectors))]
        width = row.head_dim // row.beats
        for (head, beat), part in row.parts.items():
            window = holds[part.start * SECTOR_BITS : (part.start + part.sectors) * SECTOR_BITS]
            for plane, bits, offset in (("msb", row.bits, part.msb_offset), ("lsb", LSB_BITS, part.lsb_offset)):
                if plane == "msb" or row.joined:
                    wanted = [(plane, head, beat * width + n, bit) for n in range(width) for bit in range(bits)]
                    assert window[offset : offset + width * bits] == wanted, f"{row} head {head} beat {beat}"


def test_every_head_and_beat_has_a_part_and_every_part_is_needed_whole() -> None:
    for row in LAYOUTS:
        assert sorted(row.parts) == [(head, beat) for head in range(row.heads) for beat in range(row.beats)]
        width = row.head_dim // row.beats
        for part in row.parts.values():
            ends = [(part.msb_offset, part.msb_offset + width * row.bits)]
            if row.joined:
                ends.append((part.lsb_offset, part.lsb_offset + width * LSB_BITS))
            first, last = min(ends)[0], max(end for _, end in ends) - 1
            assert 0 <= first < SECTOR_BITS, f"{part} of {row} begins with a sector that it does not need"
            assert last // SECTOR_BITS == part.sectors - 1, f"{part} of {row} ends elsewhere"
            assert part.start + part.sectors <= row.stride
            # What hw/datapath/converter.py builds its shifters on.
            assert part.msb_offset % (2 * width) == 0
            assert part.lsb_offset % min(LSB_BITS * width, SECTOR_BITS) == 0


def test_fetches_fill_the_block_row_once_and_take_each_sector_once() -> None:
    for row in LAYOUTS:
        places = [fetch.place + s for fetch in row.fetches for s in range(fetch.sectors)]
        assert places == list(range(row.stride))
        taken = [
            (fetch.plane, fetch.heads[0] // heads_per_row(row.head_dim, bits), fetch.first + s)
            for fetch in row.fetches
            for bits in [row.bits if fetch.plane == "msb" else LSB_BITS]
            for s in range(fetch.sectors)
        ]
        wanted = [
            (plane, group, sector)
            for plane, bits in [("msb", row.bits), ("lsb", LSB_BITS)][: 1 + row.joined]
            for group in range(row.heads // heads_per_row(row.head_dim, bits))
            for sector in range(row_sectors(row.head_dim, bits))
        ]
        assert sorted(taken) == sorted(wanted)


def test_tables_hold_every_layout() -> None:
    for row in LAYOUTS:
        assert READ.const({"beats": row.beats}).beats == row.beats
        assert BLOCK.const({"stride": row.stride, "passes": len(row.fetches)}).stride == row.stride
        for fetch in row.fetches:
            numbers = {"first": fetch.first, "sectors": fetch.sectors, "place": fetch.place}
            held = BLOCK.const({"fetch": [numbers]}).fetch[0]
            assert {name: held[name] for name in numbers} == numbers
        for part in row.parts.values():
            held = window_layout().const({"start": part.start})
            assert held.start == part.start


def test_windows_are_as_short_as_the_banks_of_the_named_configurations_need() -> None:
    for row in LAYOUTS:
        longest = max(part.sectors for part in row.parts.values())
        assert longest <= (BANKS if row.head_dim // row.beats <= SLICE_WIDTH_MAX else 2 * BANKS), str(row)
    wide = row_format(head_dim=128, slice_width=2 * SLICE_WIDTH_MAX, bits=8)
    assert [part.sectors for part in wide.parts.values()] == [BANKS]
    wide = row_format(head_dim=128, slice_width=2 * SLICE_WIDTH_MAX, bits=10)
    assert max(part.sectors for part in wide.parts.values()) > BANKS


def test_rows_per_read_is_the_most_that_one_window_covers() -> None:
    for row in LAYOUTS:
        for most in (1, 2, 4, 8):
            for banks in (4, 8):
                rows = row.rows_per_read(most, banks)
                longest = max(part.sectors for part in row.parts.values())
                fitting = [n for n in (1, 2, 4, 8) if n <= most and (n - 1) * row.stride + longest <= banks]
                assert rows == max(fitting, default=0)
    assert row_format(head_dim=16, slice_width=64, bits=8).rows_per_read(4, 4) == 4
    assert row_format(head_dim=16, slice_width=64, bits=12).rows_per_read(4, 4) == 2
    assert row_format(head_dim=32, slice_width=64, bits=8, joined=True).rows_per_read(2, 4) == 1


@pytest.mark.parametrize(
    ("arguments", "heads", "stride", "parts"),
    [
        # One head a row, 2 sectors; the window is the row.
        ((64, 64, 8, False), 1, 2, {(0, 0): (0, 2, 0, 0)}),
        # 640 bits a head: the middle of five sectors belongs to both heads.
        ((64, 64, 10, False), 2, 5, {(0, 0): (0, 3, 0, 0), (1, 0): (2, 3, 128, 0)}),
        # The same with each head's LSB sector at its end of the five.
        ((64, 64, 10, True), 2, 7, {(0, 0): (0, 4, 256, 0), (1, 0): (3, 4, 128, 768)}),
        # Two beats; the LSB sector of the first before the MSBs, that of the second behind.
        ((128, 64, 12, True), 1, 8, {(0, 0): (0, 4, 256, 0), (0, 1): (4, 4, 0, 768)}),
        # Whole MSB sectors around the LSB sector that two heads share.
        ((32, 32, 8, True), 2, 3, {(0, 0): (0, 2, 0, 256), (1, 0): (1, 2, 256, 128)}),
    ],
)
def test_layouts_by_hand(arguments: tuple[int, int, int, bool], heads: int, stride: int, parts: Any) -> None:
    head_dim, slice_width, bits, joined = arguments
    row = row_format(head_dim=head_dim, slice_width=slice_width, bits=bits, joined=joined)
    assert (row.heads, row.stride) == (heads, stride)
    found = {key: (part.start, part.sectors, part.msb_offset, part.lsb_offset) for key, part in row.parts.items()}
    assert found == parts


@pytest.mark.parametrize("config", NAMED.values(), ids=NAMED.keys())
def test_rings_hold_the_buffer_and_the_largest_block(config: Any) -> None:
    for sectors, rows, formats in [
        (key_ring_sectors(config), config.key_buffer_rows, key_formats(config)),
        (value_ring_sectors(config), config.value_buffer_rows, value_formats(config)),
    ]:
        assert sectors % BANKS == 0
        assert sectors * config.slices * SECTOR_BITS >= rows * config.buffer_dim * config.operand_bits
        for row in formats:
            assert sectors * config.slices >= config.tokens_max * row.stride


def test_rings_of_the_named_configurations() -> None:
    assert [key_ring_sectors(config) for config in (PAPER, EIGHTH, ULX3S, TINY)] == [1024, 8192, 1984, 32]
    assert [value_ring_sectors(config) for config in (PAPER, EIGHTH, ULX3S, TINY)] == [768, 6144, 2048, 24]
    # More buffer than the largest block needs: 4096 x 64 x 12 bits over 8 lanes.
    assert key_ring_sectors(PAPER.replace(key_buffer_rows=4096)) == 1536
    # Few tokens: what a group of 16 rows of 8 sectors over 8 lanes may take, and another row.
    assert key_ring_sectors(PAPER.replace(tokens_max=16, key_buffer_rows=32, head_dim_max=128)) == 24


def test_formats_of_a_configuration() -> None:
    assert len(list(key_formats(PAPER))) == 2 * 4 * 5
    assert [(row.head_dim, row.bits) for row in value_formats(TINY)] == [(d, b) for d in (16, 32) for b in PLANE_BITS]
    assert [row.bits for row in value_formats(TINY.replace(operand_bits=8, head_dim_max=16))] == [4, 6, 8]


def test_examples_of_the_documentation() -> None:
    assert doctest.testmod(spatten.spec.row_format).attempted == 3
    assert doctest.testmod(spatten.spec.row_format).failed == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"head_dim": 48, "slice_width": 64, "bits": 8}, r"head_dim must be one of \(16, 32, 64, 128\), not 48"),
        ({"head_dim": 64, "slice_width": 24, "bits": 8}, "slice_width must be a power of two of at least 16, not 24"),
        ({"head_dim": 64, "slice_width": 8, "bits": 8}, "slice_width must be a power of two of at least 16, not 8"),
        ({"head_dim": 64, "slice_width": 64, "bits": 5}, r"bits must be one of \(4, 6, 8, 10, 12, 16\), not 5"),
        (
            {"head_dim": 64, "slice_width": 64, "bits": 16, "joined": True},
            r"bits must be one of \(4, 6, 8, 10, 12\), not 16",
        ),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        row_format(**arguments)


def test_golden_refuses_codes_of_another_block() -> None:
    row = row_format(head_dim=16, slice_width=16, bits=8, joined=True)
    codes = np.zeros((2, 1, 16), np.int64)
    with pytest.raises(GoldenError, match="the block holds 2 heads of 16 codes, not 1 of 16"):
        block_rows(row, codes[:1], codes[:1])
    with pytest.raises(GoldenError, match="a joined block needs LSBs"):
        block_rows(row, codes)
    with pytest.raises(GoldenError, match="a block of one plane has no LSBs"):
        block_rows(row_format(head_dim=16, slice_width=16, bits=8), codes, codes)
