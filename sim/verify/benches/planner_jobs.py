"""Jobs for the testbenches of the planner and of its parts, and which blocks these jobs need, by spec/row_format.py."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spatten.hw.control.format_tables import PASSES_MAX
from spatten.hw.control.job_slots import slot_layout
from spatten.hw.control.plan.plan_layouts import SectorClass, fetches_max, ring_sectors
from spatten.hw.datapath.progressive import Kind
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.job import Flag, KeyFetch, Mode
from spatten.spec.row_format import (
    CODE_BITS,
    RowFormat,
    heads_per_row,
    key_ring_sectors,
    lsb_sectors,
    row_format,
    row_sectors,
)

Record = dict[str, Any]
"""A job as `hw.control.job_slots.slot_layout` has it."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of a ring, as its job needs it."""

    ring: int
    head: int
    heads: tuple[int, ...]
    """The live heads that it serves."""
    order: int
    """Number of its first head among the live heads of all jobs."""
    size: int
    """Sectors of a lane."""
    uses: int
    rows: int
    first_rank: int
    stride: int
    fetches: tuple[dict[str, int], ...]
    """As `hw.control.plan.plan_layouts.plane_fetch` has them."""


def random_job(
    source: random.Random,
    config: Config,
    *,
    order: int = 0,
    prunes: bool | None = None,
    fetches: Sequence[KeyFetch] = tuple(KeyFetch),
) -> Record:
    """A job that could have started; `prunes`: whether it prunes values locally, by chance if None."""
    if prunes is None:
        prunes = source.random() < 0.3
    live = source.randint(1, config.tokens_max)
    flags = prunes << Flag.PRUNE_VALUES
    fetch = source.choice(fetches)
    rows = 1 if prunes or fetch is KeyFetch.PROGRESSIVE else source.choice([1, source.randint(1, live)])
    is_causal = rows > 1 and source.random() < 0.3
    first_rank = source.randint(0, live - rows)
    record = {name: source.getrandbits(field.width) for name, field in _fields(config)}
    record |= {
        "mode": Mode.CAUSAL if is_causal else Mode.GENERATION if rows == 1 else Mode.SUMMARIZATION,
        "fetch": fetch,
        "flags": flags,
        "head_dim": HEAD_DIMS.index(source.choice(config.head_dims)),
        "query_bits": CODE_BITS.index(source.choice(config.query_bits)),
        "key_bits": CODE_BITS.index(source.choice(config.plane_bits)),
        "value_bits": CODE_BITS.index(source.choice(config.plane_bits)),
        "live_heads": source.randrange(1, 1 << config.heads_max),
        "live": live,
        "rows": rows,
        "first_rank": first_rank,
        "reach": first_rank + rows if is_causal else live,
        "keep_values": source.randint(1, source.choice([live, config.tokens_max])),
        "dense": source.getrandbits(1),
        "order": order % 256,
    }
    return record


def _fields(config: Config) -> list[tuple[str, Any]]:
    return [(name, field) for name, field in slot_layout(config)]


def live_heads(job: Record) -> list[int]:
    """The heads that take part, ascending."""
    return [head for head in range(job["live_heads"].bit_length()) if job["live_heads"] >> head & 1]


def prunes_values(job: Record) -> bool:
    """Whether local pruning chooses the values of the job's rows."""
    return bool(job["flags"] >> Flag.PRUNE_VALUES & 1)


def head_dim(job: Record) -> int:
    return HEAD_DIMS[job["head_dim"]]


def block_format(config: Config, job: Record, ring: int) -> RowFormat:
    """How the block rows of a job's keys or values are laid out."""
    bits, joined = (job["key_bits"], job["fetch"] == KeyFetch.JOINED) if ring == KEY else (job["value_bits"], False)
    return row_format(head_dim=head_dim(job), slice_width=config.slice_width, bits=CODE_BITS[bits], joined=joined)


def format_code(layout: RowFormat) -> dict[str, Any]:
    """A layout as `hw.control.format_tables.BLOCK` has it."""
    fetches = [
        {
            "is_lsb": int(run.plane == "lsb"),
            "heads": sum(1 << head for head in run.heads),
            "first": run.first,
            "sectors": run.sectors,
            "place": run.place,
        }
        for run in layout.fetches
    ]
    unused = [None] * (PASSES_MAX - len(fetches))
    return {
        "paired": layout.heads - 1,
        "stride": layout.stride,
        "passes": len(fetches),
        "fetch": [*fetches, *unused],
    }


def query_plane(job: Record) -> dict[str, int]:
    """The plane of a job's queries, as `hw.control.format_tables.PLANE` has it."""
    bits = CODE_BITS[job["query_bits"]]
    return {"sectors": row_sectors(head_dim(job), bits), "paired": heads_per_row(head_dim(job), bits) - 1}


def plane_fetches(
    config: Config, job: Record, layout: RowFormat, *, head: int, wanted: set[int], ring: int, lsb_alone: bool = False
) -> tuple[dict[str, int], ...]:
    """The fetches of a block of `layout` for the heads `wanted`, of the pair of `head` if the layout pairs heads.

    `lsb_alone` : the layout is that of an LSB plane read by itself.
    """
    first_head = head - head % layout.heads
    fetches = []
    for run in layout.fetches:
        heads = [first_head + number for number in run.heads]
        if not wanted & set(heads):
            continue
        is_lsb = run.plane == "lsb" or lsb_alone
        width = 4 if is_lsb else CODE_BITS[job["key_bits" if ring == KEY else "value_bits"]]
        plane = "lsb" if is_lsb else "key" if ring == KEY else "value"
        origin = job["key_lsb"] if is_lsb else job[plane]
        group = heads[0] // heads_per_row(head_dim(job), width)
        fetches.append(
            {
                "sector": (origin + group * job[f"{plane}_step"] + run.first) % (1 << config.sector_bits),
                "pitch": row_sectors(head_dim(job), width),
                "sectors": run.sectors,
                "place": run.place,
                "other": int(is_lsb),
            }
        )
    return tuple(fetches)


def blocks_of(config: Config, job: Record, ring: int) -> list[Block]:
    """All blocks of a job in a ring, in order, without those of pruned rows."""
    if ring == QUERY:
        return _query_blocks(config, job)
    if ring == VALUE and prunes_values(job):
        return []
    layout = block_format(config, job, ring)
    blocks = []
    heads = live_heads(job)
    while heads:
        served = [head for head in heads if head // layout.heads == heads[0] // layout.heads]
        blocks.append(
            Block(
                ring=ring,
                head=heads[0],
                heads=tuple(served),
                order=job["order"] + len(live_heads(job)) - len(heads),
                size=-(-job["reach"] // config.slices) * layout.stride,
                uses=1 if ring == KEY else len(served) * job["rows"],
                rows=job["reach"],
                first_rank=0,
                stride=layout.stride,
                fetches=plane_fetches(config, job, layout, head=heads[0], wanted=set(served), ring=ring),
            )
        )
        heads = heads[len(served) :]
    return blocks


def _query_blocks(config: Config, job: Record) -> list[Block]:
    """A chunk for every row of the live list that has query rows, for each head."""
    bits = CODE_BITS[job["query_bits"]]
    sectors = row_sectors(head_dim(job), bits)
    blocks = []
    ranks = range(job["first_rank"], job["first_rank"] + job["rows"])
    lines = sorted({rank // config.topk_lanes for rank in ranks})
    for number, head in enumerate(live_heads(job)):
        sector = job["query_origin"] + head // heads_per_row(head_dim(job), bits) * job["query_step"]
        fetch = {"sector": sector % (1 << config.sector_bits), "pitch": sectors, "sectors": sectors}
        for line in lines:
            chunk = [rank for rank in ranks if rank // config.topk_lanes == line]
            blocks.append(
                Block(
                    ring=QUERY,
                    head=head,
                    heads=(head,),
                    order=job["order"] + number,
                    size=len(chunk) * sectors,
                    uses=1,
                    rows=len(chunk),
                    first_rank=chunk[0],
                    stride=sectors,
                    fetches=({**fetch, "place": 0, "other": 0},),
                )
            )
    return blocks


def pruned_rows(config: Config, job: Record) -> int:
    """Values that each row of a job under local pruning keeps."""
    return min(job["keep_values"], job["live"])


def pruned_block(config: Config, job: Record, head: int) -> Block:
    """The value block of a pruned row."""
    layout = block_format(config, job, VALUE)
    rows = pruned_rows(config, job)
    pair = {head - head % layout.heads + number for number in range(layout.heads)}
    return Block(
        ring=VALUE,
        head=head,
        heads=(head,),
        order=0,
        size=-(-rows // config.slices) * layout.stride,
        uses=1,
        rows=rows,
        first_rank=0,
        stride=layout.stride,
        fetches=plane_fetches(config, job, layout, head=head, wanted=pair, ring=VALUE),
    )


class JobFeed:
    """Starts random jobs, one after the other, as long as there are slots: `slots` and `started` of the planner."""

    def __init__(self, source: random.Random, config: Config, *, rate: float = 0.1, prunes: bool | None = None) -> None:
        self.source = source
        self.config = config
        self.rate = rate
        self.prunes = prunes
        self.jobs = config.jobs_in_flight
        self.reset()

    def reset(self) -> None:
        self.count = 0
        """Jobs started."""
        self.ended = 0
        """Jobs whose records are gone."""
        self.order = 0
        self._records: list[Record | None] = [None] * self.jobs

    def record(self, number: int) -> Record:
        """The record of job `number`, which is in flight."""
        record = self._records[number % self.jobs]
        assert record is not None
        return record

    def inputs(self) -> dict[str, Any]:
        """Maybe start a job; the two ports as they are from this cycle on."""
        if self.count - self.ended < self.jobs and self.source.random() < self.rate:
            job = random_job(self.source, self.config, order=self.order, prunes=self.prunes)
            self.order += len(live_heads(job))
            self._records[self.count % self.jobs] = job
            self.count += 1
        return self.ports()

    def ports(self) -> dict[str, Any]:
        return {"slots": self._records, "started": self.count % (2 * self.jobs)}

    def end(self) -> None:
        """The oldest job has left: nothing of its record is looked at from the next cycle on."""
        self._records[self.ended % self.jobs] = None
        self.ended += 1


class Walk:
    """When a `BlockWalker` wants which block: it counts cycles, and has all blocks of a job from the start."""

    def __init__(self, config: Config, ring: int) -> None:
        self.config = config
        self.ring = ring
        self.reset()

    def reset(self) -> None:
        self.taken = 0
        """Jobs walked to their end."""
        self.blocks: deque[Block] = deque()
        self.delay = 0
        self.is_asked = False
        self.pruned = False
        """The walk waits for the blocks of a job's pruned rows."""

    @property
    def stands(self) -> bool:
        """A block is wanted, or has been asked for, and has not been granted."""
        return bool(self.blocks) and not self.delay

    @property
    def wants(self) -> bool:
        """A block is wanted, and has not been asked for."""
        return self.stands and not self.is_asked

    @property
    def block(self) -> Block:
        return self.blocks[0]

    def left_heads(self) -> set[int]:
        """Heads that are still to be walked."""
        return {head for block in self.blocks for head in block.heads}

    def clock(self, feed: JobFeed, *, accepts: bool, granted: bool, pruned_left: int = 0) -> None:
        """Go to the next cycle; `accepts`: the wanted block is asked for."""
        if self.delay:
            self.delay -= 1
        elif self.wants:
            self.is_asked = accepts
        elif self.blocks:
            if granted:
                before = self.blocks.popleft()
                self.is_asked = False
                self.delay = 2 if self.blocks and self.block.head != before.head else 0
                self.taken += not self.blocks
        elif self.pruned:
            if not pruned_left:
                self.pruned = False
                self.taken += 1
        elif self.taken < feed.count:
            self.blocks.extend(blocks_of(self.config, feed.record(self.taken), self.ring))
            self.pruned = not self.blocks
            self.delay = 1 if self.pruned else 3


class KeptIds:
    """Brings the ids of pruned rows, job after job: `kept_ids`, shown until they are taken."""

    def __init__(self, source: random.Random, config: Config, feed: JobFeed, *, rate: float = 0.3) -> None:
        self.source = source
        self.config = config
        self.feed = feed
        self.rate = rate
        self.reset()

    def reset(self) -> None:
        self.job = 0
        """Jobs whose rows have all been taken, or that have none."""
        self._is_begun = False
        self._groups: deque[dict[str, Any]] = deque()
        self.shown: dict[str, Any] | None = None

    def show(self, limit: int) -> dict[str, Any] | None:
        """What stands there in this cycle, of the jobs below `limit`."""
        while not self._is_begun and self.job < limit:
            job = self.feed.record(self.job)
            if prunes_values(job):
                self._is_begun = True
                for head in live_heads(job):
                    self._groups += self._row(job, head)
            else:
                self.job += 1
        if self.shown is None and self._groups and self.source.random() < self.rate:
            self.shown = self._groups.popleft()
        return self.shown

    def _row(self, job: Record, head: int) -> list[dict[str, Any]]:
        lanes = self.config.topk_lanes
        rows = pruned_rows(self.config, job)
        ids = sorted(self.source.sample(range(self.config.tokens_max), rows))
        groups = []
        for first in range(0, rows, lanes):
            group = ids[first : first + lanes]
            groups.append(
                {
                    "ids": [*group, *[None] * (lanes - len(group))],
                    "count": len(group),
                    "last": int(first + lanes >= rows),
                    "slot": self.job % self.config.jobs_in_flight,
                    "head": head,
                }
            )
        return groups

    def take(self) -> None:
        """At the end of the cycle: what is shown has been taken."""
        self.shown = None
        if not self._groups:
            self._is_begun = False
            self.job += 1


class PrunedWalk:
    """When a `PrunedWalker` wants which block, and the rows that have none."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        self.row: Block | None = None
        """The block of the row that is worked on, from its first ids to its last ones."""
        self.number = 0
        """The row's job."""
        self.delay = 0
        self.is_asked = self.is_granted = False
        self.left: dict[int, int] = {}
        """By job the rows without a block, from two cycles after the job's start on."""
        self._counted: deque[int] = deque([0, 0])

    @property
    def stands(self) -> bool:
        return self.row is not None and not self.delay and not self.is_granted

    @property
    def wants(self) -> bool:
        return self.stands and not self.is_asked

    @property
    def block(self) -> Block:
        assert self.row is not None
        return self.row

    def clock(
        self, feed: JobFeed, *, kept: dict[str, Any] | None, number: int, accepts: bool, granted: bool, ends: bool
    ) -> None:
        """Go to the next cycle; `kept` : ids of a row of job `number`; `ends`: its last ones are taken."""
        self._counted.append(feed.count)
        for job in range(self._counted.popleft(), self._counted[0]):
            self.left[job] = len(live_heads(feed.record(job)))
        if self.row is None:
            if kept is not None:
                self.row, self.number = pruned_block(self.config, feed.record(number), kept["head"]), number
                self.delay, self.is_asked, self.is_granted = 3, False, False
        elif self.delay:
            self.delay -= 1
        elif self.wants:
            self.is_asked = accepts
        elif not self.is_granted:
            self.is_granted = granted
            self.left[self.number] -= granted
        elif ends:
            self.row, self.is_granted = None, False


class Grants:
    """A ring's block table as a walker sees it: one request at a time, granted later, both late by chance."""

    def __init__(self, source: random.Random, config: Config, ring: int) -> None:
        self.source = source
        self.sectors = ring_sectors(config)[ring]
        self.blocks = config.blocks
        self.reset()

    def reset(self) -> None:
        self.is_owed = False
        self.shown: dict[str, int] | None = None

    def inputs(self) -> dict[str, Any]:
        self.ready = not self.is_owed and self.source.random() < 0.6
        if self.is_owed and self.shown is None and self.source.random() < 0.5:
            self.shown = {"entry": self.source.randrange(self.blocks), "base": self.source.randrange(self.sectors)}
        return {
            "o_request": {"ready": self.ready},
            "i_grant": {"valid": self.shown is not None, "payload": self.shown},
        }

    def clock(self, *, asked: bool, granted: bool) -> None:
        """Go to the next cycle; `asked`: there was a request; `granted`: the block has been taken."""
        if granted:
            self.is_owed, self.shown = False, None
        elif asked and self.ready:
            self.is_owed = True


def issue_of(block: Block, *, lanes: int) -> dict[str, Any]:
    """Of a block what `hw.control.plan.plan_layouts.block_issue` has, without what its grant and its job add."""
    most = fetches_max(block.ring)
    return {
        "stride": block.stride,
        "first_row": block.first_rank // lanes,
        "skip": block.first_rank % lanes,
        "count": block.rows,
        **({"passes": len(block.fetches)} if most > 1 else {}),
        "fetch": [*block.fetches, *[None] * (most - len(block.fetches))],
    }


# -- Flat rows --------------------------------------------------------------------------------------------------------


def flat_format(config: Config, job: Record, kind: int) -> RowFormat:
    """How the keys of a flat row are laid out: those of its LSB plane, or of both planes if `kind` is SINGLE."""
    bits = LSB_BITS if kind == Kind.SECOND else CODE_BITS[job["key_bits"]]
    return row_format(head_dim=head_dim(job), slice_width=config.slice_width, bits=bits, joined=kind != Kind.SECOND)


def flat_fetches(config: Config, job: Record, kind: int, head: int) -> dict[int, dict[str, int]]:
    """By their numbers in the layout the fetches that bring the keys of `head`."""
    layout = flat_format(config, job, kind)
    own = head % layout.heads
    found = {}
    for number, run in enumerate(layout.fetches):
        if own in run.heads:
            alone = RowFormat(layout.head_dim, layout.bits, layout.joined, layout.heads, layout.stride, (run,), {})
            [found[number]] = plane_fetches(
                config, job, alone, head=head, wanted={head}, ring=KEY, lsb_alone=kind == Kind.SECOND
            )
    return found


def flat_room(config: Config, job: Record, kind: int) -> tuple[int, int]:
    """How many groups of a flat row's keys find room behind the key ring, and the sectors of a lane that each takes."""
    sectors = flat_format(config, job, kind).stride * (config.topk_lanes // config.slices)
    return lsb_sectors(config) // sectors, sectors


def flat_requests(config: Config, job: Record, kind: int, head: int, *, slot: int) -> list[dict[str, Any]]:
    """All `group_request`s of a flat row, in order."""
    lanes = config.topk_lanes
    room, sectors = flat_room(config, job, kind)
    fetches = list(flat_fetches(config, job, kind, head).values())
    requests = []
    for group in range(-(-job["live"] // lanes)):
        place = key_ring_sectors(config) + group % room * sectors
        for number, fetch in enumerate(fetches):
            requests.append(
                {
                    "slot": slot,
                    "row": group,
                    "skip": 0,
                    "count": min(lanes, job["live"] - group * lanes),
                    "dense": job["dense"],
                    "kept": 0,
                    "ring": LINEAR,
                    "sector": fetch["sector"],
                    "pitch": fetch["pitch"],
                    "sectors": fetch["sectors"],
                    "place": place + fetch["place"],
                    "stride": flat_format(config, job, kind).stride,
                    "sector_class": SectorClass.LSB if fetch["other"] else SectorClass.KEY,
                    "counts": number == len(fetches) - 1,
                }
            )
    return requests


class Queue:
    """A `hw.lib.fifo.Fifo` from outside: an entry can leave from the second cycle after it came on."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._stored: deque[Any] = deque()
        self.first: Any = None
        """What stands at the output."""

    def __len__(self) -> int:
        return len(self._stored) + (self.first is not None)

    @property
    def is_ready(self) -> bool:
        return len(self._stored) < self.depth

    def clock(self, *, pops: bool, pushed: Any) -> None:
        """Go to the next cycle; `pops`: the first entry is taken; `pushed`: what enters, or None."""
        if pops:
            self.first = None
        if self.first is None and self._stored:
            self.first = self._stored.popleft()
        if pushed is not None:
            self._stored.append(pushed)
