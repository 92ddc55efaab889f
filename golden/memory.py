"""The DRAM image: where planes and outputs lie in the channels (docs/numerics.md, section 3).

A global 32-byte sector g lies in channel g mod C at local sector g div C; addresses inside a channel are local.
Planes are head-major, rows indexed by original token id. A row that is no whole number of sectors shares its
sectors with the next head (6 and 10 bits at D = 64: pairs of 96 and 160 bytes). Each group of heads starts one row
further over the channels than the one before, since the kept token ids are common to all heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spatten.golden import BoolArray, GoldenError, IntArray
from spatten.golden.convert import pack, unpack
from spatten.spec.config import SECTOR_BYTES, Config

OUTPUT_BITS = 16
"""Outputs are stored as sign-extended 16-bit integers."""


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _check_base(base: int, channels: int) -> None:
    if base < 0 or base % channels:
        raise GoldenError(f"a region must start at a multiple of {channels} sectors, not at sector {base}")


def _bitmap_sectors(base: int, tokens: int, channels: int) -> IntArray:
    _check_base(base, channels)
    return base + np.arange(_ceil_div(tokens, 8 * SECTOR_BYTES), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A plane of packed codes: K MSB, K LSB, V or Q."""

    channels: int
    base: int
    """First global sector; a multiple of `channels`."""
    rows: int
    """Rows of each head (token ids or query rows)."""
    heads: int
    head_dim: int
    bits: int

    def __post_init__(self) -> None:
        _check_base(self.base, self.channels)

    @property
    def heads_per_row(self) -> int:
        """Heads that share a row: 1, or 2 where one head's row is no whole number of sectors."""
        return 1 if self.head_dim * self.bits % (8 * SECTOR_BYTES) == 0 else 2

    @property
    def groups(self) -> int:
        """Groups of `heads_per_row` heads; the last may have an unused place."""
        return _ceil_div(self.heads, self.heads_per_row)

    @property
    def row_sectors(self) -> int:
        """Sectors of one row of a group."""
        return _ceil_div(self.heads_per_row * self.head_dim * self.bits, 8 * SECTOR_BYTES)

    @property
    def group_stride(self) -> int:
        """Sectors between groups: whole channels and one row of skew."""
        return _ceil_div(self.rows * self.row_sectors, self.channels) * self.channels + self.row_sectors

    @property
    def sectors(self) -> int:
        """Sectors of the whole plane, rounded up so that the next plane may follow."""
        return _ceil_div(self.groups * self.group_stride, self.channels) * self.channels

    def row_address(self, group: IntArray | int, row: IntArray | int) -> IntArray:
        """First global sector of a row of a group of heads."""
        return np.asarray(self.base + group * self.group_stride + row * self.row_sectors, np.int64)

    def groups_of(self, heads: IntArray) -> IntArray:
        """Groups that must be fetched for these heads, ascending."""
        return np.unique(heads // self.heads_per_row)

    def fetch_bytes(self, heads: IntArray, rows: int) -> int:
        """Bytes fetched for `rows` rows of each of `heads`, in whole sectors, a shared row once."""
        return len(self.groups_of(heads)) * rows * self.row_sectors * SECTOR_BYTES


class Memory:
    """The contents of all channels: [channels, sectors, 32] bytes."""

    def __init__(self, config: Config, sectors: int) -> None:
        self.config = config
        self.bytes = np.zeros((config.channels, _ceil_div(sectors, config.channels), SECTOR_BYTES), np.uint8)

    def write(self, sectors: IntArray, data: NDArray[np.uint8]) -> None:
        """Write data [..., 32] to global sectors [...]."""
        self.bytes[sectors % self.config.channels, sectors // self.config.channels] = data

    def read(self, sectors: IntArray) -> NDArray[np.uint8]:
        """Read global sectors [...] as bytes [..., 32]."""
        return self.bytes[sectors % self.config.channels, sectors // self.config.channels]

    def store(self, plane: Plane, codes: IntArray, first_row: int = 0) -> None:
        """Write codes [heads, rows, head_dim], from row `first_row` on, as the plane lays them out."""
        heads, rows, dim = codes.shape
        if (heads, dim) != (plane.heads, plane.head_dim) or not 0 <= first_row <= plane.rows - rows:
            raise GoldenError(
                f"the plane holds {plane.heads} heads of {plane.rows} rows of {plane.head_dim}, "
                f"not rows {first_row} to {first_row + rows - 1} of shape {codes.shape}"
            )
        share = plane.heads_per_row
        padded = np.zeros((plane.groups * share, rows, dim), np.int64)
        padded[:heads] = codes
        grouped = padded.reshape(plane.groups, share, rows, dim).transpose(0, 2, 1, 3).reshape(plane.groups, rows, -1)
        packed = pack(grouped, plane.bits)
        image = np.zeros((plane.groups, rows, plane.row_sectors * SECTOR_BYTES), np.uint8)
        image[..., : packed.shape[-1]] = packed
        self.write(self._sectors(plane, first_row + np.arange(rows)), image.reshape(*image.shape[:2], -1, SECTOR_BYTES))

    def load(self, plane: Plane, rows: IntArray, *, signed: bool = True) -> IntArray:
        """Read rows [n] of all heads: codes [heads, n, head_dim]."""
        share = plane.heads_per_row
        image = self.read(self._sectors(plane, rows)).reshape(plane.groups, len(rows), -1)
        codes = unpack(image, plane.bits, share * plane.head_dim, signed=signed)
        codes = codes.reshape(plane.groups, len(rows), share, plane.head_dim).transpose(0, 2, 1, 3)
        return codes.reshape(plane.groups * share, len(rows), plane.head_dim)[: plane.heads]

    def store_bitmap(self, base: int, members: BoolArray) -> None:
        """Write a set of tokens [n] at global sector `base`: bit i of byte i div 8 is token i, in whole sectors."""
        sectors = _bitmap_sectors(base, len(members), self.config.channels)
        image = np.zeros(len(sectors) * SECTOR_BYTES, np.uint8)
        packed = np.packbits(members, bitorder="little")
        image[: len(packed)] = packed
        self.write(sectors, image.reshape(-1, SECTOR_BYTES))

    def load_bitmap(self, base: int, tokens: int) -> BoolArray:
        """Read a set of `tokens` tokens back, [tokens]."""
        image = self.read(_bitmap_sectors(base, tokens, self.config.channels)).ravel()
        return np.unpackbits(image, bitorder="little", count=tokens).astype(np.bool_)

    def _sectors(self, plane: Plane, rows: IntArray) -> IntArray:
        first = plane.row_address(np.arange(plane.groups)[:, None], rows[None, :])
        return first[..., None] + np.arange(plane.row_sectors)


@dataclass(frozen=True, kw_only=True)
class OutputRegion:
    """Where results go: row by row, all heads of a row side by side, 16 bits an element."""

    channels: int
    base: int
    """First global sector; a multiple of `channels`."""
    heads: int
    head_dim: int

    def __post_init__(self) -> None:
        _check_base(self.base, self.channels)

    @property
    def row_sectors(self) -> int:
        """Sectors of a row: the fixed stride."""
        return self.heads * self.head_sectors

    @property
    def head_sectors(self) -> int:
        """Sectors of one head's part of a row."""
        return self.head_dim * OUTPUT_BITS // (8 * SECTOR_BYTES)

    def store(self, memory: Memory, heads: IntArray, rows: IntArray, output: IntArray) -> None:
        """Write output [h, r, d] of `heads` and `rows`; whatever else lies in the region stays."""
        first = self.base + rows[None, :] * self.row_sectors + heads[:, None] * self.head_sectors
        data = pack(output, OUTPUT_BITS).reshape(*output.shape[:2], self.head_sectors, SECTOR_BYTES)
        memory.write(first[..., None] + np.arange(self.head_sectors), data)

    def load(self, memory: Memory, heads: IntArray, rows: IntArray) -> IntArray:
        """Read output [h, r, d] back."""
        first = self.base + rows[None, :] * self.row_sectors + heads[:, None] * self.head_sectors
        image = memory.read(first[..., None] + np.arange(self.head_sectors))
        return unpack(image.reshape(len(heads), len(rows), -1), OUTPUT_BITS, self.head_dim, signed=True)
