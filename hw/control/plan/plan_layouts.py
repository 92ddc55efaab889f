"""What the planner takes from its neighbours, and what its parts pass to each other: blocks, fetches, bids, groups."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Shape, unsigned
from amaranth.lib import data
from amaranth.utils import ceil_log2

from spatten.hw.control.format_tables import PASSES_MAX
from spatten.hw.control.job_slots import head_shape, row_layout, slot_shape
from spatten.hw.datapath.progressive import row_header
from spatten.hw.lib.connections import optional
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE, row_group
from spatten.hw.memory.block_table import block_request, entry_shape, granted_block
from spatten.spec.config import Config, Feature
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.row_format import SECTORS_MAX, key_ring_sectors, lsb_sectors, query_ring_sectors, value_ring_sectors

__all__ = [
    "ORDER_BITS",
    "ORDER_SPAN_MAX",
    "SECTOR_CLASSES",
    "SectorClass",
    "again_row",
    "block_event",
    "block_issue",
    "block_size_shape",
    "emitted_group",
    "fetched_group",
    "fetches_max",
    "flat_row",
    "group_advance",
    "group_bid",
    "group_request",
    "groups_max",
    "id_shape",
    "kept_ids",
    "live_read",
    "live_row_shape",
    "live_write",
    "members_request",
    "place_bits",
    "plane_fetch",
    "query_chunk",
    "ring_grant",
    "ring_request",
    "ring_sectors",
    "sectors_shape",
    "uses_max",
]


class SectorClass(IntEnum):
    """What sectors are fetched for, as the performance counters tell it apart."""

    QUERY = 0
    KEY = 1
    LSB = 2
    VALUE = 3
    OTHER = 4
    """Bitmaps and saved states."""


SECTOR_CLASSES = {
    QUERY: (SectorClass.QUERY, SectorClass.OTHER),
    KEY: (SectorClass.KEY, SectorClass.LSB),
    VALUE: (SectorClass.VALUE, SectorClass.VALUE),
}
"""For each ring the class of most fetches, and that of those marked `other`: bitmaps and states in the query ring, LSBs
in the key ring."""


ORDER_BITS = 8
"""Width of an order: of two bids that with the lower one comes first, modulo 256, by the sign of their difference."""
ORDER_SPAN_MAX = 124
"""The most by which the orders of two bids that stand may differ, with room to 128. Heads in a row differ by 2; queries
come 1 before their head, values 3 behind. No row goes to the readers before its values have their space, so row control
is at most 16 blocks of two heads ahead of the values that are fetched, and keys at most 16 such blocks ahead of row
control: 63 heads from the first to the last one, 2 x 63 - 3 = 123."""


# -- Sizes ------------------------------------------------------------------------------------------------------------


def ring_sectors(config: Config) -> tuple[int, int, int]:
    """Sectors of a lane of the query, the key and the value ring."""
    return query_ring_sectors(config), key_ring_sectors(config), value_ring_sectors(config)


def place_bits(config: Config) -> int:
    """Width of a sector's place in a lane of any ring, or of the key buffer behind its ring."""
    sectors = ring_sectors(config)
    return (max(*sectors, sectors[KEY] + lsb_sectors(config)) - 1).bit_length()


def groups_max(config: Config) -> int:
    """Most row groups of a block, which are also the rows of a job's live list."""
    return -(-config.tokens_max // config.topk_lanes)


def uses_max(config: Config, ring: int) -> int:
    """Most uses of a block: each row of one or two heads uses a value block, until it is given up; a query or key block
    has one use, the last read of it."""
    return 2 * config.tokens_max if ring == VALUE else 1


def id_shape(config: Config) -> Shape:
    """Shape of a token's id."""
    return unsigned(max(1, ceil_log2(config.tokens_max)))


def live_row_shape(config: Config) -> Shape:
    """Shape of a row's number in a job's live list."""
    return Shape.cast(range(max(2, groups_max(config))))


def block_size_shape(config: Config) -> Shape:
    """Shape of the sectors that a block takes of each lane of its ring."""
    return Shape.cast(range(max(ring_sectors(config)) + 1))


def sectors_shape(config: Config) -> Shape:
    """Shape of the sectors of a row group."""
    return Shape.cast(range(SECTORS_MAX * config.topk_lanes + 1))


def group_advance(config: Config, ring: int) -> int:
    """Block rows of a lane from one row group of a block to the next: the query ring has one lane."""
    return config.topk_lanes if ring == QUERY else config.topk_lanes // config.slices


# -- From and to the planner's neighbours -----------------------------------------------------------------------------


def members_request(config: Config) -> data.StructLayout:
    """A request for `rows` consecutive rows, 1 to `topk_lanes`, of 1 to 4 `sectors` each, from a first `sector` on."""
    rows = range(config.topk_lanes + 1)
    return data.StructLayout({"sector": unsigned(config.sector_bits), "sectors": range(5), "rows": rows})


def kept_ids(config: Config) -> data.StructLayout:
    """Ids of the V rows that a head's row keeps, packed: `count` of them, `last` ends the row."""
    ids = data.ArrayLayout(range(config.tokens_max), config.topk_lanes)
    count = range(config.topk_lanes + 1)
    return data.StructLayout(
        {"ids": ids, "count": count, "last": 1, "slot": slot_shape(config), "head": head_shape(config)}
    )


def flat_row(config: Config) -> data.StructLayout:
    """A row that softmax has found flat (`hw.control`), so that its keys are needed again; it is a
    `hw.datapath.progressive.row_header`: the `kind` of its next pass, the `stash_slot` of its query and scores, and as
    its `header` a `row_layout`."""
    return row_header(STASH_SLOTS, row_layout(config))


def again_row(config: Config) -> data.StructLayout:
    """A row to be computed again, when its keys arrive in the refetch area (`hw.control`).

    row : the flat row
    limit : the first sector that the row's groups do not use; what would lie there lies at the area's first sector
    keys : how many keys there are
    """
    row = flat_row(config)
    sectors = range(key_ring_sectors(config) + lsb_sectors(config) + 1)
    return data.StructLayout({"row": row, "limit": sectors, "keys": range(config.tokens_max + 1)})


def live_read(config: Config) -> data.StructLayout:
    """A read of a `row` of the live list of the job in `slot`."""
    return data.StructLayout({"enable": 1, "slot": slot_shape(config), "row": live_row_shape(config)})


def live_write(config: Config) -> data.StructLayout:
    """A write of a `row` of the live list of the job in `slot`: the next `topk_lanes` of its live tokens' ids."""
    return data.StructLayout(
        {
            "enable": 1,
            "slot": slot_shape(config),
            "row": live_row_shape(config),
            "ids": data.ArrayLayout(id_shape(config), config.topk_lanes),
        }
    )


def query_chunk(config: Config) -> data.StructLayout:
    """The token ids of query block `entry`."""
    ids = data.ArrayLayout(id_shape(config), config.topk_lanes)
    return data.StructLayout({"valid": 1, "entry": entry_shape(config.blocks), "ids": ids})


def block_event(config: Config) -> data.StructLayout:
    """Something has happened once to block `entry`: it has been used, or a row group of it has arrived."""
    return data.StructLayout({"valid": 1, "entry": entry_shape(config.blocks)})


def fetched_group(config: Config) -> data.StructLayout:
    """A row group as the fetch unit gets it (`hw.memory.address_generator.row_group`)."""
    return row_group(
        rows=config.topk_lanes,
        id_bits=id_shape(config).width,
        sector_bits=config.sector_bits,
        place_bits=place_bits(config),
    )


# -- Between the planner's parts --------------------------------------------------------------------------------------


def ring_request(config: Config, ring: int) -> data.StructLayout:
    """A request for a block of a ring (`hw.memory.block_table.block_request`)."""
    return block_request(sectors=ring_sectors(config)[ring], uses_max=uses_max(config, ring))


def ring_grant(config: Config, ring: int) -> data.StructLayout:
    """A block of a ring that has its space."""
    return granted_block(sectors=ring_sectors(config)[ring], entries=config.blocks)


def plane_fetch(config: Config) -> data.StructLayout:
    """A fetch that fills a part of each block row.

    sector, pitch : where the row of token id 0 begins, and the sectors from one id's row to the next
    sectors, place : how many are fetched of each row, and where in the block row they go
    other : the fetch is of its ring's second class (`SECTOR_CLASSES`)
    """
    return data.StructLayout({"sector": unsigned(config.sector_bits), "pitch": 4, "sectors": 4, "place": 3, "other": 1})


def fetches_max(ring: int) -> int:
    """Most fetches that fill a block of a ring: only keys have a second plane, which may be needed in two parts."""
    return PASSES_MAX if ring == KEY else 1


def block_issue(config: Config, ring: int) -> data.StructLayout:
    """A block of a ring that has its space, as its issuer gets it.

    slot : its job's
    entry, place : its number, and the sector of each lane of its ring where it begins
    stride : sectors of a block row
    first_row, skip : where its ids begin in the job's live list: the row, and how many ids before them in that row
    count : its rows
    dense : its ids are their ranks, 0, 1, 2, ... for first_row = 0
    kept : its ids come from local pruning (`kept_ids`); only with local pruning
    fetch, passes : the fetches that fill it, and how many these are; only keys have `passes`, others have one fetch
    order : what its head counts among the heads of all rings, modulo 256: what has the lower order comes first
    """
    most = fetches_max(ring)
    return data.StructLayout(
        {
            "slot": slot_shape(config),
            "entry": entry_shape(config.blocks),
            "place": unsigned(place_bits(config)),
            "stride": 4,
            "first_row": live_row_shape(config),
            "skip": unsigned(max(1, ceil_log2(config.topk_lanes))),
            "count": range(config.tokens_max + 1),
            "dense": 1,
            **optional(config.has(Feature.PRUNE_VALUES), kept=1),
            **({"passes": range(most + 1)} if most > 1 else {}),
            "fetch": data.ArrayLayout(plane_fetch(config), most),
            "order": ORDER_BITS,
        }
    )


def group_request(config: Config) -> data.StructLayout:
    """A row group that is to be fetched, before its ids are looked up.

    slot, row, skip : its job, the row of the live list that its ids are in, and how many ids before them in that row
    count : its ids
    dense, kept : its ids are their ranks; they come from local pruning (`kept`, only with local pruning)
    entry : its block's
    ring, sector, pitch, sectors, place, stride : as in `hw.memory.address_generator.row_group`
    sector_class : a `SectorClass`
    counts : it is the last of the fetches that fill its rows: when it has arrived, one more group of the block has
    """
    return data.StructLayout(
        {
            "slot": slot_shape(config),
            "row": live_row_shape(config),
            "skip": unsigned(max(1, ceil_log2(config.topk_lanes))),
            "count": range(config.topk_lanes + 1),
            "dense": 1,
            **optional(config.has(Feature.PRUNE_VALUES), kept=1),
            "entry": entry_shape(config.blocks),
            "ring": 2,
            "sector": unsigned(config.sector_bits),
            "pitch": 4,
            "sectors": 4,
            "place": unsigned(place_bits(config)),
            "stride": 4,
            "sector_class": range(len(SectorClass)),
            "counts": 1,
        }
    )


def group_bid(config: Config) -> data.StructLayout:
    """A bid for the fetch unit.

    valid : `request` is wanted; a bid stands until it wins
    urgent : it goes before what is not urgent; only with local pruning
    next_order : of the bid that stands in the next cycle: of bids that are alike in this the one with the lower number
        wins, modulo 256
    request : a `group_request`
    """
    return data.StructLayout(
        {
            "valid": 1,
            **optional(config.has(Feature.PRUNE_VALUES), urgent=1),
            "next_order": ORDER_BITS,
            "request": group_request(config),
        }
    )


def emitted_group(config: Config) -> data.StructLayout:
    """A row group on its way to the fetch unit, its block `entry`, and of its request `sector_class` and `counts`."""
    return data.StructLayout(
        {
            "group": fetched_group(config),
            "entry": entry_shape(config.blocks),
            "sector_class": range(len(SectorClass)),
            "counts": 1,
        }
    )
