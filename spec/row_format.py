"""How a row of packed codes lies in a ring buffer, and where a slice of the arrays finds its operands in it.

The K and V buffers hold sectors as they come from DRAM, packed; operands are made when a row is read. A **block** is
what one or two heads need of one plane, or of the MSB and LSB planes together. Its **block row** is one token's part
of it: `stride` sectors in consecutive places of one lane of the ring. `RowFormat.fetches` says which sectors of which
plane go to which places of a block row, `RowFormat.parts` which window of it a slice needs in one beat.

- A plane whose head row is no whole number of sectors shares its sectors between two heads (golden/memory.py,
  `Plane`); such a block serves both heads, and stays in the ring until both are done.
- A head dimension above the slice width takes several beats, each with a part of the head's operands.
- All sectors of a window are read at once, so they must be few: sectors are ordered within the block row such that an
  LSB sector lies beside the MSB sectors whose codes it completes.

>>> row = row_format(head_dim=64, slice_width=64, bits=6, joined=True)
>>> row.heads, row.stride, [(f.plane, f.heads, f.sectors, f.place) for f in row.fetches]
(2, 5, [('lsb', (0,), 1, 0), ('msb', (0, 1), 3, 1), ('lsb', (1,), 1, 4)])
>>> row.parts[1, 0]
Part(start=2, sectors=3, msb_offset=128, lsb_offset=512)

That is head 1 of a pair with 6 + 4 bits: half of the MSB sectors' last one and a half, and the LSB sector behind.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spatten.spec.config import HEAD_DIMS, LSB_BITS, PLANE_BITS, SECTOR_BYTES, Config, Feature

__all__ = [
    "BANKS",
    "CODE_BITS",
    "SECTORS_MAX",
    "SECTOR_BITS",
    "Part",
    "RowFormat",
    "SectorRun",
    "heads_per_row",
    "key_formats",
    "key_ring_sectors",
    "lsb_sectors",
    "query_ring_sectors",
    "row_format",
    "row_sectors",
    "value_formats",
    "value_ring_sectors",
]

SECTOR_BITS = 8 * SECTOR_BYTES
BANKS = 4
"""Banks of a lane of a ring buffer: sector a of a lane lies in bank a mod 4, word a div 4. No window of a slice of up
to `spec.config.SLICE_WIDTH_MAX` operands is longer."""
SECTORS_MAX = 8
"""Most sectors of a row that one fetch takes, and of a block row."""
CODE_BITS = (*PLANE_BITS, 16)
"""Widths a packed code can have; 16 only in a Q plane."""


@dataclass(frozen=True)
class SectorRun:
    """Consecutive sectors of one token's row of a plane, and where in the block row they go."""

    plane: str
    """"msb" or "lsb"; a block of one plane has only "msb", whatever that plane holds."""
    heads: tuple[int, ...]
    """Heads of the block (0, 1) that need these sectors."""
    first: int
    """First sector of the plane's row that is fetched."""
    sectors: int
    """How many sectors are fetched from there on."""
    place: int
    """First sector of the block row that it fills."""


@dataclass(frozen=True)
class Part:
    """What a slice needs of a block row in one beat, as a window of consecutive sectors."""

    start: int
    """First sector of the window, in the block row."""
    sectors: int
    """Sectors of the window."""
    msb_offset: int
    """Bit of the window where the first operand's code begins: a multiple of twice the part's operands."""
    lsb_offset: int
    """Bit where the first operand's LSB begins: a multiple of four times the part's operands, or of a sector if that is
    less. 0 without LSBs."""


@dataclass(frozen=True)
class RowFormat:
    """The layout of a block row."""

    head_dim: int
    bits: int
    """Bits of a code in the plane, or in the MSB plane of a joined block."""
    joined: bool
    """Whether the block holds MSB and LSB planes."""
    heads: int
    """Heads that a block serves: 1 or 2."""
    stride: int
    """Sectors of a block row."""
    fetches: tuple[SectorRun, ...]
    """In the order of their places, which they fill without gap or overlap."""
    parts: Mapping[tuple[int, int], Part]
    """By head of the block and beat."""

    @property
    def beats(self) -> int:
        """Beats of one key or value: 1, more where the head dimension exceeds the slice width."""
        return 1 + max(beat for _, beat in self.parts)

    def window_sectors(self, part: Part, rows: int) -> int:
        """Sectors from the first to the last that `rows` consecutive block rows need for the same part."""
        return (rows - 1) * self.stride + part.sectors

    def rows_per_read(self, most: int, banks: int) -> int:
        """Consecutive block rows of a lane that one window of `banks` sectors covers: a power of two up to `most`.

        A slice wider than the head dimension works on several tokens at once if their windows fit together. 0 if not
        even one row fits, which no configuration has.
        """
        longest = max(self.parts.values(), key=lambda part: part.sectors)
        rows = 1
        while 2 * rows <= most and self.window_sectors(longest, 2 * rows) <= banks:
            rows *= 2
        return rows if self.window_sectors(longest, rows) <= banks else 0


def heads_per_row(head_dim: int, bits: int) -> int:
    """Heads that share a row of a plane: 1, or 2 where one head's row is no whole number of sectors."""
    return 1 if head_dim * bits % SECTOR_BITS == 0 else 2


def row_sectors(head_dim: int, bits: int) -> int:
    """Sectors of a row of a plane."""
    return -(-heads_per_row(head_dim, bits) * head_dim * bits // SECTOR_BITS)


@functools.cache
def row_format(*, head_dim: int, slice_width: int, bits: int, joined: bool = False) -> RowFormat:
    """The layout of a block of codes of `bits` bits, with their LSB plane if `joined`.

    `slice_width` is the operands that a slice of the arrays takes from a lane per beat, a power of two from 16 up.
    """
    if head_dim not in HEAD_DIMS:
        raise ValueError(f"head_dim must be one of {HEAD_DIMS}, not {head_dim!r}")
    if slice_width < HEAD_DIMS[0] or slice_width & (slice_width - 1):
        raise ValueError(f"slice_width must be a power of two of at least {HEAD_DIMS[0]}, not {slice_width!r}")
    if bits not in (PLANE_BITS if joined else CODE_BITS):
        raise ValueError(f"bits must be one of {PLANE_BITS if joined else CODE_BITS}, not {bits!r}")

    width = min(head_dim, slice_width)
    fetches = _fetches(head_dim, width, bits, joined)
    heads = 1 + max(fetch.heads[-1] for fetch in fetches)
    parts: dict[tuple[int, int], Part] = {}
    for head in range(heads):
        for beat in range(head_dim // width):
            msb = _first_bit(fetches, "msb", head, head_dim, bits, beat * width)
            runs = [(msb, width * bits)]
            lsb = 0
            if joined:
                lsb = _first_bit(fetches, "lsb", head, head_dim, LSB_BITS, beat * width)
                runs.append((lsb, width * LSB_BITS))
            start = min(first for first, _ in runs) // SECTOR_BITS
            end = max(-(-(first + length) // SECTOR_BITS) for first, length in runs)
            base = start * SECTOR_BITS
            parts[head, beat] = Part(start, end - start, msb - base, lsb - base if joined else 0)
    stride = fetches[-1].place + fetches[-1].sectors
    return RowFormat(head_dim, bits, joined, heads, stride, fetches, MappingProxyType(parts))


def _fetches(head_dim: int, width: int, bits: int, joined: bool) -> tuple[SectorRun, ...]:
    """The fetches of a block row, in an order that keeps the windows short."""
    msb_heads, msb_sectors = heads_per_row(head_dim, bits), row_sectors(head_dim, bits)
    lsb_heads, lsb_sectors = heads_per_row(head_dim, LSB_BITS), row_sectors(head_dim, LSB_BITS)
    order: list[tuple[str, tuple[int, ...], int, int]]
    if not joined:
        order = [("msb", tuple(range(msb_heads)), 0, msb_sectors)]
    elif lsb_heads < msb_heads:
        # The heads share the middle MSB sector; each head's LSBs lie at the head's own end.
        order = [("lsb", (0,), 0, lsb_sectors), ("msb", (0, 1), 0, msb_sectors), ("lsb", (1,), 0, lsb_sectors)]
    elif msb_heads < lsb_heads:
        order = [("msb", (0,), 0, msb_sectors), ("lsb", (0, 1), 0, lsb_sectors), ("msb", (1,), 0, msb_sectors)]
    else:
        both = tuple(range(msb_heads))
        # Beats of the first MSBs find their LSBs in front of the MSBs, the other beats behind.
        before = lsb_sectors // 2 if width < head_dim else 0
        order = [("msb", both, 0, msb_sectors), ("lsb", both, before, lsb_sectors - before)]
        if before:
            order.insert(0, ("lsb", both, 0, before))
    fetches: list[SectorRun] = []
    place = 0
    for plane, heads, first, sectors in order:
        fetches.append(SectorRun(plane, heads, first, sectors, place))
        place += sectors
    return tuple(fetches)


def _first_bit(fetches: tuple[SectorRun, ...], plane: str, head: int, head_dim: int, bits: int, operand: int) -> int:
    """Bit of the block row at which the code of a head's operand begins in a plane of `bits` per code."""
    place_in_row = head if heads_per_row(head_dim, bits) == 2 else 0
    sector, bit = divmod((place_in_row * head_dim + operand) * bits, SECTOR_BITS)
    for fetch in fetches:
        if fetch.plane == plane and head in fetch.heads and fetch.first <= sector < fetch.first + fetch.sectors:
            return (fetch.place + sector - fetch.first) * SECTOR_BITS + bit
    raise AssertionError(f"sector {sector} of the {plane} plane is not fetched for head {head}")


# -- Of a configuration -----------------------------------------------------------------------------------------------


def key_formats(config: Config) -> Iterator[RowFormat]:
    """Every layout of a block of keys: each plane width alone (an LSB plane is one of 4 bits) and joined with LSBs."""
    for joined in (False, True):
        yield from _formats(config, joined=joined)


def value_formats(config: Config) -> Iterator[RowFormat]:
    """Every layout of a block of values: each plane width."""
    return _formats(config, joined=False)


def _formats(config: Config, *, joined: bool) -> Iterator[RowFormat]:
    for head_dim in config.head_dims:
        for bits in config.plane_bits:
            yield row_format(head_dim=head_dim, slice_width=config.slice_width, bits=bits, joined=joined)


def key_ring_sectors(config: Config) -> int:
    """Sectors of a lane of the key buffer: `key_buffer_rows` rows, and at least the largest block that must fit."""
    return _ring_sectors(config, config.key_buffer_rows, max(row.stride for row in key_formats(config)))


def value_ring_sectors(config: Config) -> int:
    """Sectors of a lane of the value buffer: `value_buffer_rows` rows, and at least the largest block."""
    return _ring_sectors(config, config.value_buffer_rows, max(row.stride for row in value_formats(config)))


def query_ring_sectors(config: Config) -> int:
    """Sectors of the query ring: two groups of the longest rows, and never less than the fetch unit asks for."""
    return max(2 * SECTORS_MAX * config.topk_lanes, 32)


def lsb_sectors(config: Config) -> int:
    """Sectors of a lane of the key buffer in which a row that is computed again has its keys: four of its groups."""
    if not config.has(Feature.PROGRESSIVE):
        return 0
    return 4 * SECTORS_MAX * config.topk_lanes // config.slices


def _ring_sectors(config: Config, rows: int, stride: int) -> int:
    buffer = -(-rows * config.buffer_dim * config.operand_bits // (SECTOR_BITS * config.slices))
    block = -(-config.tokens_max // config.slices) * stride
    least = SECTORS_MAX * (config.topk_lanes // config.slices + 1)
    return -(-max(buffer, block, least) // BANKS) * BANKS
