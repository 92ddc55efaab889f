"""Segments, which are rows that are worked on alike, as row control sends them to the readers of the rings; and the
windows in which rows are read."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Signal, unsigned
from amaranth.lib import data
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import block_table, part_table, read_table, window_layout
from spatten.hw.control.job_slots import row_layout
from spatten.hw.datapath.progressive import slot_shape
from spatten.hw.memory.block_table import entry_shape
from spatten.spec.config import SCALE_MANTISSA_BITS, Config
from spatten.spec.constants import BLOCKS, FLAT_LIMIT_BITS, KEPT_SLOTS, SCALE_SHIFT_BITS
from spatten.spec.row_format import key_ring_sectors, lsb_sectors, query_ring_sectors

__all__ = [
    "beats_max",
    "key_header",
    "key_segment",
    "parts_of",
    "query_segment",
    "scale_write",
    "set_windows",
    "windows",
]


def query_segment(config: Config) -> data.StructLayout:
    """The queries of a segment: where the rows of a chunk lie, in what format; or which kept query is used again."""
    return data.StructLayout(
        {
            "entry": entry_shape(BLOCKS),
            "base": range(query_ring_sectors(config)),
            "rows": range(config.topk_lanes + 1),
            "dim": 2,
            "bits": 3,
            "second": 1,
            "keeps": 1,
            "again": 1,
            "kept_slot": slot_shape(KEPT_SLOTS),
            "offset": range(config.tokens_max),
            "row": range(config.tokens_max),
        }
    )


def key_segment(config: Config) -> data.StructLayout:
    """The keys of a segment, which all its rows read: where they lie, in what format; and what goes with the scores."""
    sectors = key_ring_sectors(config) + lsb_sectors(config)
    return data.StructLayout(
        {
            "row": row_layout(config),
            "kind": 2,
            "kept_slot": slot_shape(KEPT_SLOTS),
            "entry": entry_shape(BLOCKS),
            "base": range(sectors),
            "linear": 1,
            "limit": range(sectors + 1),
            "ends_block": 1,
            "rows": range(config.topk_lanes + 1),
            "keys": range(config.tokens_max + 1),
            "causal": 1,
            "dim": 2,
            "bits": 3,
            "joined": 1,
            "second": 1,
            "lsb": 1,
            "mantissa": SCALE_MANTISSA_BITS,
            "shift": SCALE_SHIFT_BITS,
            "flat_limit": FLAT_LIMIT_BITS,
        }
    )


def key_header(config: Config) -> data.StructLayout:
    """What goes with a score beat to softmax."""
    return data.StructLayout(
        {
            "row": row_layout(config),
            "kind": 2,
            "kept_slot": slot_shape(KEPT_SLOTS),
            "mantissa": SCALE_MANTISSA_BITS,
            "shift": SCALE_SHIFT_BITS,
            "flat_limit": FLAT_LIMIT_BITS,
        }
    )


def scale_write(config: Config) -> data.StructLayout:
    """A write of a head's score scale, for the job in `slot`."""
    slot = unsigned(max(1, ceil_log2(config.jobs_in_flight)))
    head = unsigned(max(1, ceil_log2(config.heads_max)))
    return data.StructLayout(
        {"enable": 1, "slot": slot, "head": head, "mantissa": SCALE_MANTISSA_BITS, "shift": SCALE_SHIFT_BITS}
    )


def beats_max(config: Config) -> int:
    """Most beats that a key takes."""
    return max(1, config.head_dim_max // config.slice_width)


def parts_of(m: Module, config: Config, *, segment: Any, joined: Any, lsb: Any, name: str) -> list[Any]:
    """The window of each beat of a segment's block rows."""
    return [
        part_table(
            m,
            config,
            dim=segment.dim,
            bits=segment.bits,
            joined=joined,
            head=segment.second,
            beat=beat,
            is_lsb=lsb,
            name=f"{name}{beat}",
        )
        for beat in range(beats_max(config))
    ]


def windows(config: Config) -> dict[str, Any]:
    """Members of a layout: how the windows of a row are read.

    parts : for each beat of a key or value, where its window begins and what is read of the window
    log_keys, window_keys : log2 of the keys in a window, and their number
    beats : beats of a key or value
    stride : sectors of a row in a lane
    step : sectors of a window in a lane
    """
    return {
        "parts": data.ArrayLayout(window_layout(), beats_max(config)),
        "log_keys": range(ceil_log2(config.softmax_lanes) + 2),
        "window_keys": range(config.softmax_lanes + 1),
        "beats": range(beats_max(config) + 1),
        "stride": 4,
        "step": range(8 * 8 + 1),
    }


def set_windows(m: Module, config: Config, made: Any, *, segment: Any, joined: Any, lsb: Any) -> None:
    """Set the members of `windows` in `made`, as a segment's head dimension and code width have them."""
    entries = parts_of(m, config, segment=segment, joined=joined, lsb=lsb, name="part_entry")
    read = read_table(m, config, dim=segment.dim, bits=segment.bits, joined=joined, name="read_entry")
    form = block_table(m, config, dim=segment.dim, bits=segment.bits, joined=joined, name="form_entry")
    log_keys = Signal(made.log_keys.shape(), name="log_keys")
    m.d.comb += [
        log_keys.eq(read.log_rows + ceil_log2(config.slices)),
        made.log_keys.eq(log_keys),
        made.window_keys.eq(Const(1, 1) << log_keys),
        made.beats.eq(read.beats),
        made.stride.eq(form.stride),
        made.step.eq(form.stride << read.log_rows),
    ]
    m.d.comb += [made.parts[n].eq(entry) for n, entry in enumerate(entries)]
