"""What the parts of row control and of the readers pass to each other."""

from __future__ import annotations

from amaranth.hdl import Shape, unsigned
from amaranth.lib import data
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import BITS_CODE, DIM_CODE, window_layout
from spatten.hw.control.job_layouts import score_scale
from spatten.hw.control.job_slots import row_layout
from spatten.hw.control.plan.plan_layouts import groups_max
from spatten.hw.control.segments import beats_max, key_header, key_segment, query_segment, row_windows
from spatten.hw.datapath.progressive import Kind
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import index_shape
from spatten.hw.memory.block_table import entry_shape
from spatten.hw.memory.ring_buffer import window_request
from spatten.spec.config import Config, Feature
from spatten.spec.constants import FLAT_LIMIT_BITS, STASH_SLOTS
from spatten.spec.row_format import BANKS, key_ring_sectors, lsb_sectors, value_ring_sectors

__all__ = [
    "asked_query",
    "groups_shape",
    "key_beat",
    "key_window",
    "placed_segment",
    "prob_beat",
    "query_beat",
    "row_chunk",
    "row_segment",
    "stashed_query",
    "value_row",
    "value_window",
]


def groups_shape(config: Config) -> Shape:
    """Shape of a number of row groups of a block."""
    return Shape.cast(range(groups_max(config) + 1))


# -- Row control ------------------------------------------------------------------------------------------------------


def row_chunk(config: Config) -> data.StructLayout:
    """A chunk of a head's query rows: all that its segment says, but for its blocks and its stash slot.

    slot, head, accumulate, prune : go with its rows (`hw.control.job_slots.row_layout`, which may lack `prune`)
    rows : how many there are
    dim : code of the head dimension
    query_bits, query_odd_head, offset : as `bits`, `odd_head` and `offset` of a `query_segment`
    kind, scale, flat_limit, keys, causal, joined : as in a `key_segment`
    key_bits, key_odd_head : as `bits` and `odd_head` of a `key_segment`
    stashes : its row (there is one) may have to be computed again, so a stash slot is needed
    begins_keys, begins_values : its head's keys or values are in a block that no chunk before had
    ends_keys : no later chunk has keys in this block

    Without progressive recompute there are no `kind`, `flat_limit` and `stashes`.
    """
    recomputes = config.has(Feature.PROGRESSIVE)
    row = row_layout(config).members
    query, key = query_segment(config).members, key_segment(config).members
    return data.StructLayout(
        {
            **{name: row[name] for name in ("slot", "head", "accumulate", "prune") if name in row},
            "rows": query["rows"],
            "dim": DIM_CODE,
            "query_bits": BITS_CODE,
            "query_odd_head": 1,
            "offset": query["offset"],
            **optional(recomputes, kind=Shape.cast(Kind)),
            "scale": score_scale(),
            **optional(recomputes, flat_limit=unsigned(FLAT_LIMIT_BITS)),
            "keys": key["keys"],
            "causal": 1,
            "key_bits": BITS_CODE,
            "joined": 1,
            "key_odd_head": 1,
            **optional(recomputes, stashes=1),
            "begins_keys": 1,
            "begins_values": 1,
            "ends_keys": 1,
        }
    )


def row_segment(config: Config) -> data.StructLayout:
    """A segment for both readers."""
    return data.StructLayout({"query": query_segment(config), "key": key_segment(config)})


# -- Query reader -----------------------------------------------------------------------------------------------------


def query_beat(config: Config) -> data.StructLayout:
    """What goes with a beat of a query from the query ring to the converter and on.

    part : what the converter needs of the window
    beat, last : which beat of the query it is, from 0 on, and whether it is the last
    stashes, stash_slot : the query is to be stashed in that slot as well; only with progressive recompute
    """
    return data.StructLayout(
        {
            "part": window_layout().members["part"],
            "beat": range(max(2, beats_max(config))),
            "last": 1,
            **optional(config.has(Feature.PROGRESSIVE), stashes=1, stash_slot=index_shape(STASH_SLOTS)),
        }
    )


def stashed_query() -> data.StructLayout:
    """In the cycle in which `valid` is set, the query that has been stashed in `stash_slot` is asked for."""
    return data.StructLayout({"valid": 1, "stash_slot": index_shape(STASH_SLOTS)})


def asked_query(config: Config) -> data.StructLayout:
    """In the cycle in which `valid` is set, a query has been asked for, its last beat or as a whole.

    place : which row of its query block it is
    offset : what is to be subtracted of its token's id to get the number of its row
    again, row : it is a stashed query, and the number of its row is this; only with progressive recompute
    """
    members = query_segment(config).members
    return data.StructLayout(
        {
            "valid": 1,
            "place": range(config.topk_lanes),
            "offset": members["offset"],
            **({"again": 1, "row": members["row"]} if config.has(Feature.PROGRESSIVE) else {}),
        }
    )


# -- Key reader -------------------------------------------------------------------------------------------------------


def placed_segment(config: Config) -> data.StructLayout:
    """A segment of keys, and how its windows are read."""
    return data.StructLayout({"segment": key_segment(config), "windows": row_windows(config)})


def key_beat(config: Config) -> data.StructLayout:
    """What goes with a window of keys to the converter and to the array (`hw.datapath.qk.key_beat`).

    part : what the converter needs of the window
    count : keys in the window
    group : log2 of the keys of a window that is not the row's last
    dim : code of the head dimension
    last : it is the last beat of the row
    scores : goes with the row's scores
    """
    return data.StructLayout(
        {
            "part": window_layout().members["part"],
            "count": range(config.softmax_lanes + 1),
            "group": range(max(ceil_log2(config.softmax_lanes), 1) + 1),
            "dim": DIM_CODE,
            "last": 1,
            "scores": key_header(config),
        }
    )


def key_window(config: Config) -> data.StructLayout:
    """A window of keys, and what happens when it is read.

    request : to the key ring; the number of the row is yet missing
    entry, linear : its block, or whether it lies in the refetch area (`hw.control`)
    group : the row group of the block that its keys are in
    fills : a beat of scores is complete with it, which takes a place at the end of the array
    ends_row, ends_block : it is the last that the row reads, and the last that anybody reads of the block
    again_read, again_done : of a row that is computed again: it is the last window that the row reads of a group; it
        is the row's last window
    freed : with `again_done` of kind SINGLE, the row's stash slot, a bit for each; that of kind SECOND is set free by
        `hw.datapath.progressive.Progressive`

    Without progressive recompute there are no `linear`, `again_read`, `again_done` and `freed`.
    """
    recomputes = config.has(Feature.PROGRESSIVE)
    request = window_request(key_ring_sectors(config) + lsb_sectors(config), BANKS, key_beat(config))
    return data.StructLayout(
        {
            "request": request,
            "entry": entry_shape(config.blocks),
            **optional(recomputes, linear=1),
            "group": range(groups_max(config)),
            "fills": 1,
            "ends_row": 1,
            "ends_block": 1,
            **optional(recomputes, again_read=1, again_done=1, freed=STASH_SLOTS),
        }
    )


# -- Value reader -----------------------------------------------------------------------------------------------------


def prob_beat(config: Config, lanes: int) -> data.StructLayout:
    """A beat of a row's probabilities: those of the next `count` keys, 1 to `lanes`; `last` ends the row.

    Only the last beat of a row may have less than `lanes`.
    """
    probs = data.ArrayLayout(unsigned(config.prob_bits), lanes)
    return data.StructLayout({"probs": probs, "count": range(lanes + 1), "last": 1})


def value_row(config: Config) -> data.StructLayout:
    """A row whose probabilities come next.

    is_pruned : only its largest probabilities come, and its values have a block of their own; only with local pruning
    row : goes with it
    entry, base : the block of its values, and the sector of the value ring where that begins
    dim : code of the head dimension
    windows : how its values are read
    """
    return data.StructLayout(
        {
            **optional(config.has(Feature.PRUNE_VALUES), is_pruned=1),
            "row": row_layout(config),
            "entry": entry_shape(config.blocks),
            "base": range(value_ring_sectors(config)),
            "dim": DIM_CODE,
            "windows": row_windows(config),
        }
    )


def value_window(config: Config) -> data.StructLayout:
    """A window of values, and what happens when it is read.

    request : to the value ring; the header is what the converter needs of the window
    entry, group : its block, and the row group of the block that its values are in
    fills : a beat of the row's output is complete with it, which takes a place at the end of the array
    ends_row : it is the last that the row reads
    """
    return data.StructLayout(
        {
            "request": window_request(value_ring_sectors(config), BANKS, window_layout().members["part"]),
            "entry": entry_shape(config.blocks),
            "group": range(groups_max(config)),
            "fills": 1,
            "ends_row": 1,
        }
    )
