"""The DRAM image: disjoint rows, channels and skew, pairs of heads, and what comes back is what went in."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatten.golden import GoldenError
from spatten.golden.memory import Memory, OutputRegion, Plane
from spatten.spec.config import HEAD_DIMS, PAPER, PLANE_BITS, SECTOR_BYTES, TINY, Config
from tests.golden.reference import packed

CHANNELS = (1, 2, 16)
WIDTHS = (*PLANE_BITS, 16)


def machine(channels: int) -> Config:
    return PAPER.replace(channels=channels)


def plane(**changes: int) -> Plane:
    return Plane(**({"channels": 16, "base": 0, "rows": 20, "heads": 12, "head_dim": 64, "bits": 8} | changes))


def row_sectors_of(layout: Plane, head: int, row: int) -> range:
    first = int(layout.row_address(head // layout.heads_per_row, row))
    return range(first, first + layout.row_sectors)


@pytest.mark.parametrize(
    ("dim", "bits", "heads_per_row", "row_bytes"),
    [
        (64, 4, 1, 32),
        (64, 6, 2, 96),
        (64, 8, 1, 64),
        (64, 10, 2, 160),
        (64, 12, 1, 96),
        (64, 16, 1, 128),
        (128, 6, 1, 96),
        (128, 10, 1, 160),
        (32, 8, 1, 32),
        (32, 4, 2, 32),
        (32, 6, 2, 64),
        (32, 12, 2, 96),
        (16, 16, 1, 32),
        (16, 10, 2, 64),
        (16, 4, 2, 32),
    ],
)
def test_rows_are_whole_sectors(dim: int, bits: int, heads_per_row: int, row_bytes: int) -> None:
    layout = plane(head_dim=dim, bits=bits)
    assert layout.heads_per_row == heads_per_row
    assert layout.row_sectors * SECTOR_BYTES == row_bytes
    assert layout.groups == 12 // heads_per_row
    assert layout.fetch_bytes(np.array([0, 1, 4]), 7) == {1: 3, 2: 2}[heads_per_row] * 7 * row_bytes
    assert plane(head_dim=dim, bits=bits, heads=11).groups == -(-11 // heads_per_row)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_rows_lie_in_disjoint_sectors_inside_the_plane(channels: int, bits: int, dim: int) -> None:
    layout = plane(channels=channels, base=3 * channels, rows=9, heads=5, head_dim=dim, bits=bits)
    seen: dict[int, tuple[int, int]] = {}
    for head in range(5):
        for row in range(9):
            for sector in row_sectors_of(layout, head, row):
                owner = (head // layout.heads_per_row, row)
                assert seen.setdefault(sector, owner) == owner, "two rows share a sector"
                assert layout.base <= sector < layout.base + layout.sectors
    assert len(seen) == layout.groups * 9 * layout.row_sectors
    assert layout.sectors % channels == 0, "the next plane can follow"


@given(
    channels=st.sampled_from([2, 4, 8, 16]),
    rows=st.integers(1, 1024),
    dim=st.sampled_from(HEAD_DIMS),
    bits=st.sampled_from(WIDTHS),
)
def test_groups_start_one_row_further_over_the_channels(channels: int, rows: int, dim: int, bits: int) -> None:
    layout = plane(channels=channels, base=5 * channels, rows=rows, head_dim=dim, bits=bits)
    starts = [int(layout.row_address(group, 0)) % channels for group in range(layout.groups)]
    assert starts == [group * layout.row_sectors % channels for group in range(layout.groups)]
    assert int(layout.row_address(1, 0)) >= int(layout.row_address(0, rows - 1)) + layout.row_sectors


def test_the_skew_balances_what_aligned_bases_would_not() -> None:
    """One token kept, 16 heads of 64 bytes on 16 channels: all channels share the load."""
    layout = plane(heads=16, rows=1024)
    load = np.zeros(16, np.int64)
    for head in range(16):
        for sector in row_sectors_of(layout, head, 300):
            load[sector % 16] += 1
    assert load.tolist() == [2] * 16
    assert gcd(layout.row_sectors, 16) == 2


def test_a_sector_lies_where_the_contract_says() -> None:
    memory = Memory(machine(16), 100)
    assert memory.bytes.shape == (16, 7, 32)
    data = np.arange(32, dtype=np.uint8)
    memory.write(np.array([37]), data[None])
    assert memory.bytes[37 % 16, 37 // 16].tolist() == data.tolist()
    assert np.count_nonzero(memory.bytes.any(axis=-1)) == 1
    assert memory.read(np.array([[37]])).tolist() == [[data.tolist()]]


@settings(max_examples=150)
@given(
    channels=st.sampled_from(CHANNELS),
    dim=st.sampled_from(HEAD_DIMS),
    bits=st.sampled_from(WIDTHS),
    heads=st.integers(1, 7),
    rows=st.integers(1, 12),
    signed=st.booleans(),
    seed=st.integers(0, 1 << 30),
)
def test_what_is_stored_is_loaded(
    channels: int, dim: int, bits: int, heads: int, rows: int, signed: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    layout = plane(channels=channels, base=channels, rows=rows, heads=heads, head_dim=dim, bits=bits)
    memory = Memory(machine(channels), layout.base + layout.sectors)
    codes = random.integers(0, 1 << bits, (heads, rows, dim)) - (signed << (bits - 1))
    memory.store(layout, codes)
    some = np.sort(random.permutation(rows)[: random.integers(1, rows + 1)])
    assert np.array_equal(memory.load(layout, some, signed=signed), codes[:, some])


@pytest.mark.parametrize(("dim", "bits"), [(64, 6), (64, 10), (64, 8), (32, 12), (16, 6), (16, 4)])
def test_the_bytes_of_a_row(dim: int, bits: int) -> None:
    """A pair of heads follow each other bit by bit, an odd last head leaves zeros."""
    random = np.random.default_rng(dim + bits)
    layout = plane(channels=2, base=4, rows=6, heads=3, head_dim=dim, bits=bits)
    memory = Memory(machine(2), layout.base + layout.sectors)
    codes = random.integers(-(1 << (bits - 1)), 1 << (bits - 1), (3, 6, dim))
    memory.store(layout, codes)
    for group in range(layout.groups):
        for row in range(6):
            share = codes[group * layout.heads_per_row : (group + 1) * layout.heads_per_row, row].ravel().tolist()
            expected = packed(share, bits).ljust(layout.row_sectors * SECTOR_BYTES, b"\0")
            image = b""
            for sector in row_sectors_of(layout, group * layout.heads_per_row, row):
                image += memory.bytes[sector % 2, sector // 2].tobytes()
            assert image == expected
    assert not memory.bytes[:, :2].any(), "nothing before the plane's base"


def test_rows_are_appended_without_touching_others() -> None:
    random = np.random.default_rng(5)
    layout = plane(channels=2, rows=8, heads=3, bits=6)
    memory = Memory(machine(2), layout.sectors)
    prompt, token = random.integers(-32, 32, (3, 5, 64)), random.integers(-32, 32, (3, 1, 64))
    memory.store(layout, prompt)
    memory.store(layout, token, first_row=5)
    assert np.array_equal(memory.load(layout, np.arange(6)), np.concatenate([prompt, token], axis=1))
    assert not memory.load(layout, np.arange(6, 8)).any()


@pytest.mark.parametrize(
    ("shape", "first_row"), [((3, 4, 64), 5), ((3, 4, 64), -1), ((2, 4, 64), 0), ((3, 4, 32), 0), ((3, 9, 64), 0)]
)
def test_what_does_not_fit_a_plane_is_refused(shape: tuple[int, int, int], first_row: int) -> None:
    layout = plane(channels=2, rows=8, heads=3)
    memory = Memory(machine(2), layout.sectors)
    with pytest.raises(GoldenError) as caught:
        memory.store(layout, np.ones(shape, np.int64), first_row)
    assert str(caught.value) == (
        f"the plane holds 3 heads of 8 rows of 64, not rows {first_row} to {first_row + shape[1] - 1} of shape {shape}"
    )
    assert not memory.bytes.any()


def test_a_plane_starts_at_channel_0() -> None:
    with pytest.raises(GoldenError) as caught:
        plane(channels=16, base=24)
    assert str(caught.value) == "a region must start at a multiple of 16 sectors, not at sector 24"
    with pytest.raises(GoldenError, match="a region must start at a multiple of 16 sectors, not at sector -16"):
        plane(channels=16, base=-16)


@settings(max_examples=60)
@given(
    channels=st.sampled_from(CHANNELS),
    dim=st.sampled_from(HEAD_DIMS),
    heads=st.integers(1, 5),
    seed=st.integers(0, 1 << 30),
)
def test_output_region(channels: int, dim: int, heads: int, seed: int) -> None:
    """Row by row, heads side by side, 16-bit sign-extended, at a fixed stride; the rest stays."""
    random = np.random.default_rng(seed)
    rows, base = 6, 2 * channels
    region = OutputRegion(channels=channels, base=base, heads=heads, head_dim=dim)
    assert region.row_sectors * SECTOR_BYTES == 2 * heads * dim
    memory = Memory(machine(channels), base + rows * region.row_sectors + 3)
    memory.bytes[:] = 0xA5
    some_heads = np.sort(random.permutation(heads)[: random.integers(1, heads + 1)])
    some_rows = np.sort(random.permutation(rows)[: random.integers(1, rows + 1)])
    output = random.integers(-(1 << 15), 1 << 15, (len(some_heads), len(some_rows), dim))
    region.store(memory, some_heads, some_rows, output)
    sectors = memory.bytes.shape[0] * memory.bytes.shape[1]
    image = b"".join(memory.bytes[g % channels, g // channels].tobytes() for g in range(sectors))
    expected = bytearray(b"\xa5" * len(image))
    for i, head in enumerate(some_heads.tolist()):
        for j, row in enumerate(some_rows.tolist()):
            start = SECTOR_BYTES * base + 2 * dim * (row * heads + head)
            expected[start : start + 2 * dim] = b"".join(
                int(x).to_bytes(2, "little", signed=True) for x in output[i, j]
            )
    assert image == bytes(expected)
    assert np.array_equal(region.load(memory, some_heads, some_rows), output)


@settings(max_examples=60)
@given(channels=st.sampled_from(CHANNELS), tokens=st.integers(1, 1024), seed=st.integers(0, 1 << 30))
def test_bitmap(channels: int, tokens: int, seed: int) -> None:
    """Bit i of byte i div 8 is token i; the rest of the last sector is zero, and other sectors stay."""
    members = np.random.default_rng(seed).random(tokens) < 0.5
    memory = Memory(TINY.replace(channels=channels), 8 * channels)
    memory.bytes[:] = 0xA5
    base = 2 * channels
    memory.store_bitmap(base, members)
    assert memory.load_bitmap(base, tokens).tolist() == members.tolist()
    flat = memory.read(np.arange(8 * channels)).ravel().tolist()
    for token, member in enumerate(members):
        assert flat[32 * base + token // 8] >> (token % 8) & 1 == member
    sectors = -(-tokens // 256)
    assert set(flat[: 32 * base]) == {0xA5}
    assert set(flat[32 * (base + sectors) :]) <= {0xA5}
    last = flat[32 * base + tokens // 8 : 32 * (base + sectors)]
    assert sum(last[1:]) == 0
    assert not last or last[0] >> (tokens % 8) == 0


def test_a_bitmap_starts_at_channel_0() -> None:
    memory = Memory(TINY.replace(channels=2), 8)
    with pytest.raises(GoldenError, match="a region must start at a multiple of 2 sectors, not at sector 1"):
        memory.store_bitmap(1, np.ones(4, np.bool_))
