"""How planes, blocks and windows are laid out, as tables for circuits: spec/row_format.py looked up by a job's codes.

Tables are indexed by codes of the job: `dim` (0 to 3 for 16 to 128), `bits` (0 to 5 for 4, 6, 8, 10, 12, 16). Each
function adds a table to a module and returns its entry, combinationally; it is arbitrary for what the configuration has
not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amaranth.hdl import Cat, Const, Module, Shape, Signal, Value, unsigned
from amaranth.lib import data

from spatten.hw.datapath.converter import part_code, part_layout
from spatten.hw.lib.logic import select
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.row_format import BANKS, CODE_BITS, RowFormat, heads_per_row, row_format, row_sectors

__all__ = [
    "BANKS",
    "BITS_CODE",
    "BLOCK",
    "DIM_CODE",
    "LSB_CODE",
    "PASSES_MAX",
    "PLANE",
    "READ",
    "block_table",
    "by_bits",
    "lookup",
    "part_table",
    "plane_table",
    "read_table",
    "rows_per_read",
    "window_layout",
]

DIM_CODE = Shape.cast(range(len(HEAD_DIMS)))
"""Shape of the code of a head dimension."""
BITS_CODE = Shape.cast(range(len(CODE_BITS)))
"""Shape of the code of a code's bits."""
LSB_CODE = Const(CODE_BITS.index(LSB_BITS), BITS_CODE)
"""The code of the bits of an LSB plane."""
PASSES_MAX = 3
"""Most fetches that fill a block row."""
PLANE = data.StructLayout({"sectors": unsigned(4), "paired": 1})
"""A plane: sectors of a row, and whether two heads share it."""
_PASS = data.StructLayout({"is_lsb": 1, "heads": unsigned(2), "first": unsigned(3), "sectors": unsigned(4), "place": 3})
BLOCK = data.StructLayout(
    {"paired": 1, "stride": unsigned(4), "passes": range(PASSES_MAX + 1), "fetch": data.ArrayLayout(_PASS, PASSES_MAX)}
)
"""A block of keys or values: whether it serves two heads, sectors of a block row, and the fetches that fill such a row:
for each its plane, the heads of the block that need it (a bit each), the first sector in the plane's row, the number of
sectors, and their place in the block row."""
READ = data.StructLayout({"log_rows": unsigned(2), "beats": unsigned(4)})
"""How a block is read: log2 of the block rows of a lane that are in a window, and the beats of a block row."""


def window_layout() -> data.StructLayout:
    """A window of a block row, and where in it the operands are (`hw.datapath.converter.part_layout`)."""
    return data.StructLayout({"start": unsigned(3), "sectors": unsigned(3), "part": part_layout(BANKS)})


def lookup(m: Module, index: Value, layout: data.StructLayout, entries: Mapping[int, Any], name: str) -> Any:
    """The entry at `index`, combinationally; an arbitrary one, or zero, where there is no entry.

    Bits of the index that tell no entries apart are not looked at.
    """
    bits = list(range(len(index)))
    for bit in reversed(range(len(index))):
        fewer = [b for b in bits if b != bit]
        if len({tuple(key >> b & 1 for b in fewer) for key in entries}) == len(entries):
            bits = fewer
    result = Signal(layout, name=name)
    if not bits:
        (entry,) = entries.values()
        m.d.comb += result.eq(Const(entry, layout))
        return result
    if bits[0] >= BITS_CODE.width + DIM_CODE.width:
        # Flags alone tell the entries apart. A flag may be given as the inverse of another signal: a case of it would
        # become one of two signals.
        chosen = {
            sum((key >> bit & 1) << place for place, bit in enumerate(bits)): Const(entry, layout).as_value()
            for key, entry in entries.items()
        }
        m.d.comb += Value.cast(result).eq(select(chosen, Cat(index[bit] for bit in bits)))
        return result
    with m.Switch(Cat(index[bit] for bit in bits)):
        for key, entry in entries.items():
            with m.Case(sum((key >> bit & 1) << place for place, bit in enumerate(bits))):
                m.d.comb += result.eq(Const(entry, layout))
        if len(entries) < 1 << len(bits):
            with m.Default():
                m.d.comb += Value.cast(result).eq(0)
    return result


def by_bits(config: Config, code: Value, number: Callable[[int], int]) -> Value:
    """`number(bits)`, where `bits` is the width of a K or V plane that `code` stands for."""
    width = max(number(bits) for bits in config.plane_bits).bit_length() or 1
    return select({CODE_BITS.index(bits): Const(number(bits), width) for bits in config.plane_bits}, code)


def plane_table(m: Module, config: Config, *, dim: Value, bits: Value, name: str) -> Any:
    """`PLANE` of a plane of codes; `bits` may be constant."""
    entries = {
        (HEAD_DIMS.index(head_dim), code): {
            "sectors": row_sectors(head_dim, width),
            "paired": heads_per_row(head_dim, width) - 1,
        }
        for head_dim in config.head_dims
        for code, width in enumerate(CODE_BITS)
        if width in config.query_bits
    }
    if isinstance(bits, Const):
        # A table with constant bits in its index looks as if entries were missing, and Verilator takes it for a latch.
        return lookup(m, dim, PLANE, {d: entry for (d, code), entry in entries.items() if code == bits.value}, name)
    numbered = {_index(dim=d, bits=code): entry for (d, code), entry in entries.items()}
    return lookup(m, Cat(bits[: BITS_CODE.width], dim), PLANE, numbered, name)


def _index(*, bits: int, dim: int, joined: int = 0, head: int = 0) -> int:
    """The number that `Cat(bits, dim, joined, head)` has, or what is first of it."""
    index = 0
    for value, width in ((head, 1), (joined, 1), (dim, DIM_CODE.width), (bits, BITS_CODE.width)):
        index = index << width | value
    return index


def _formats(config: Config) -> dict[tuple[int, int, int], RowFormat]:
    """The row formats that the configuration's jobs can ask for, by (dim, bits, joined)."""
    return {
        (HEAD_DIMS.index(head_dim), code, joined): row_format(
            head_dim=head_dim, slice_width=config.slice_width, bits=width, joined=bool(joined)
        )
        for head_dim in config.head_dims
        for code, width in enumerate(CODE_BITS)
        for joined in (0, 1)
        if width in (config.plane_bits if joined else config.query_bits)
    }


def block_table(m: Module, config: Config, *, dim: Value, bits: Value, joined: Value, name: str) -> Any:
    """`BLOCK` of a block."""
    entries = {}
    for (dim_code, code, is_joined), row in _formats(config).items():
        fetches = [
            {
                "is_lsb": int(fetch.plane == "lsb"),
                "heads": sum(1 << head for head in fetch.heads),
                "first": fetch.first,
                "sectors": fetch.sectors,
                "place": fetch.place,
            }
            for fetch in row.fetches
        ]
        fetches += [{"is_lsb": 0, "heads": 0, "first": 0, "sectors": 0, "place": 0}] * (PASSES_MAX - len(fetches))
        entries[_index(bits=code, dim=dim_code, joined=is_joined)] = {
            "paired": row.heads - 1,
            "stride": row.stride,
            "passes": len(row.fetches),
            "fetch": fetches,
        }
    return lookup(m, Cat(bits[: BITS_CODE.width], dim, joined), BLOCK, entries, name)


def rows_per_read(config: Config, row: RowFormat) -> int:
    """Block rows of a lane in one window; a beat has `slices` times as many tokens, since each slice has a lane."""
    most = min(max(1, config.slice_width // row.head_dim), config.softmax_lanes // config.slices)
    return row.rows_per_read(most, BANKS)


def read_table(m: Module, config: Config, *, dim: Value, bits: Value, joined: Value, name: str) -> Any:
    """`READ` of a block."""
    entries = {
        _index(bits=code, dim=dim_code, joined=is_joined): {
            "log_rows": rows_per_read(config, row).bit_length() - 1,
            "beats": row.beats,
        }
        for (dim_code, code, is_joined), row in _formats(config).items()
    }
    return lookup(m, Cat(bits[: BITS_CODE.width], dim, joined), READ, entries, name)


def part_table(
    m: Module,
    config: Config,
    *,
    dim: Value,
    bits: Value,
    joined: Value,
    head: Value,
    beat: int,
    is_lsb: Value,
    name: str,
) -> Any:
    """`window_layout` of a head (0 or 1) of a block and a beat; `is_lsb`: an LSB plane read alone."""
    entries = {}
    for (dim_code, code, is_joined), row in _formats(config).items():
        for head_number, beat_number in row.parts:
            if beat_number == beat:
                part = row.parts[head_number, beat_number]
                entries[_index(bits=code, dim=dim_code, joined=is_joined, head=head_number)] = {
                    "start": part.start,
                    "sectors": part.sectors,
                    "part": part_code(row, head_number, beat_number, banks=BANKS),
                }
    entry = lookup(m, Cat(bits[: BITS_CODE.width], dim, joined, head), window_layout(), entries, f"{name}_entry")
    window = Signal(window_layout(), name=name)
    m.d.comb += [Value.cast(window).eq(Value.cast(entry)), window.part.unsigned.eq(is_lsb)]
    return window
