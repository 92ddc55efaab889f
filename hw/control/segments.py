"""Segments, which are rows that are worked on alike, as row control sends them to the readers of the rings; and the
windows in which rows are read."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Shape, Signal
from amaranth.lib import data
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import (
    BITS_CODE,
    BLOCK,
    DIM_CODE,
    block_table,
    part_table,
    read_table,
    window_layout,
)
from spatten.hw.control.job_layouts import score_scale
from spatten.hw.control.job_slots import head_place, row_layout
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import index_shape
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import Config, Feature
from spatten.spec.constants import FLAT_LIMIT_BITS, STASH_SLOTS
from spatten.spec.row_format import SECTORS_MAX, key_ring_sectors, lsb_sectors, query_ring_sectors

__all__ = [
    "beats_max",
    "key_header",
    "key_segment",
    "query_segment",
    "row_windows",
    "scale_write",
    "set_windows",
    "window_parts",
]


def query_segment(config: Config) -> data.StructLayout:
    """The queries of a segment: where the rows of a chunk lie, in what format; or which stashed query is used again.

    entry, base : their block in the query ring, and the sector where it begins
    rows : how many there are, at least 1
    dim, bits : codes of the head dimension and of a code's bits (`hw.control.format_tables`)
    odd_head : of the two heads that share a row of the plane they are those of the odd one
    stashes, stash_slot : the query (`rows` is 1) is to be stashed in that slot as well
    offset : what is to be subtracted of a token's id to get the number of its row
    again, row : with `again` the query is the one in `stash_slot`, `row` is the number of its row, and `rows` is 1;
        all other members are ignored

    Without progressive recompute there are no `stashes`, `stash_slot`, `again` and `row`.
    """
    recomputes = config.has(Feature.PROGRESSIVE)
    return data.StructLayout(
        {
            "entry": entry_shape(config.blocks),
            "base": range(query_ring_sectors(config)),
            "rows": range(config.topk_lanes + 1),
            "dim": DIM_CODE,
            "bits": BITS_CODE,
            "odd_head": 1,
            **optional(recomputes, stashes=1, again=1, stash_slot=index_shape(STASH_SLOTS)),
            "offset": range(config.tokens_max),
            **optional(recomputes, row=range(config.tokens_max)),
        }
    )


def key_segment(config: Config) -> data.StructLayout:
    """The keys of a segment, which all its rows read: where they lie, in what format; and what goes with the scores.

    row, kind, stash_slot, mantissa, shift, flat_limit : go to softmax with each row's scores (`key_header`); the
        key reader replaces the number in `row` by the one that comes with the row's query
    entry, base : their block in the key ring, and the sector where it begins
    linear, limit : they lie in the refetch area instead (`hw.control`), from sector `base` on; what would lie at sector
        `limit` lies at `base` again
    ends_block : no later segment reads this block
    rows : how many rows there are, at least 1
    keys, causal : keys of the first row, at least 1; each further row has one more if `causal` is set, else as many
    dim, bits, joined : codes of the head dimension and of a code's bits, and whether MSB and LSB planes are joined
    odd_head : of the two heads that a block serves they are those of the odd one
    lsb : they are an LSB plane alone, whose codes are unsigned

    Without progressive recompute there are no `kind`, `stash_slot`, `flat_limit`, `linear`, `limit` and `lsb`.
    """
    recomputes = config.has(Feature.PROGRESSIVE)
    sectors = key_ring_sectors(config) + lsb_sectors(config)
    return data.StructLayout(
        {
            "row": row_layout(config),
            **optional(recomputes, kind=Shape.cast(Kind), stash_slot=index_shape(STASH_SLOTS)),
            "entry": entry_shape(config.blocks),
            "base": range(sectors),
            **optional(recomputes, linear=1, limit=range(sectors + 1)),
            "ends_block": 1,
            "rows": range(config.topk_lanes + 1),
            "keys": range(config.tokens_max + 1),
            "causal": 1,
            "dim": DIM_CODE,
            "bits": BITS_CODE,
            "joined": 1,
            "odd_head": 1,
            **optional(recomputes, lsb=1),
            **score_scale().members,
            **optional(recomputes, flat_limit=FLAT_LIMIT_BITS),
        }
    )


def key_header(config: Config) -> data.StructLayout:
    """What goes with a score beat to softmax; without progressive recompute the row and its scale alone."""
    recomputes = config.has(Feature.PROGRESSIVE)
    return data.StructLayout(
        {
            "row": row_layout(config),
            **optional(recomputes, kind=Shape.cast(Kind), stash_slot=index_shape(STASH_SLOTS)),
            **score_scale().members,
            **optional(recomputes, flat_limit=FLAT_LIMIT_BITS),
        }
    )


def scale_write(config: Config) -> data.StructLayout:
    """A write of a head's score scale, for the job in `slot`."""
    return data.StructLayout(
        {
            "enable": 1,
            **head_place(config).members,
            **score_scale().members,
        }
    )


def beats_max(config: Config) -> int:
    """Most beats that a key takes."""
    return max(1, config.head_dim_max // config.slice_width)


def window_parts(m: Module, config: Config, *, segment: Any, joined: Any, lsb: Any) -> list[Any]:
    """For each beat of a key, query or value what is needed of a block row (`hw.control.format_tables.window_layout`).

    `segment` has `dim`, `bits` and `odd_head`, as in `key_segment`; so `joined` and `lsb`.
    """
    return [
        part_table(
            m,
            config,
            dim=segment.dim,
            bits=segment.bits,
            joined=joined,
            head=segment.odd_head,
            beat=beat,
            is_lsb=lsb,
            name=f"part{beat}",
        )
        for beat in range(beats_max(config))
    ]


def row_windows(config: Config) -> data.StructLayout:
    """How the windows of a row's keys or values are read.

    parts : for each beat of a key or value, where its window begins and what is read of the window
    log_keys, window_keys : log2 of the keys in a window, and their number
    beats : beats of a key or value
    stride : sectors of a block row
    step : sectors of a lane from one window to the next
    """
    return data.StructLayout(
        {
            "parts": data.ArrayLayout(window_layout(), beats_max(config)),
            "log_keys": range(ceil_log2(config.softmax_lanes) + 2),
            "window_keys": range(config.softmax_lanes + 1),
            "beats": range(beats_max(config) + 1),
            "stride": BLOCK["stride"].shape,
            "step": range(SECTORS_MAX * SECTORS_MAX + 1),
        }
    )


def set_windows(m: Module, config: Config, windows: Any, *, segment: Any, joined: Any, lsb: Any) -> None:
    """Set `windows`, a `row_windows`, as a segment's head dimension and code width have them; see `window_parts`."""
    read = read_table(m, config, dim=segment.dim, bits=segment.bits, joined=joined, name="read")
    block = block_table(m, config, dim=segment.dim, bits=segment.bits, joined=joined, name="block")
    log_keys = Signal(windows.log_keys.shape())
    m.d.comb += [
        log_keys.eq(read.log_rows + ceil_log2(config.slices)),
        windows.log_keys.eq(log_keys),
        windows.window_keys.eq(Const(1, 1) << log_keys),
        windows.beats.eq(read.beats),
        windows.stride.eq(block.stride),
        windows.step.eq(block.stride << read.log_rows),
    ]
    parts = window_parts(m, config, segment=segment, joined=joined, lsb=lsb)
    m.d.comb += [windows.parts[beat].eq(part) for beat, part in enumerate(parts)]
