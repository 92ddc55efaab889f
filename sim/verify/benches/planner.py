"""Testbench of hw/control/planner.py; tests/hw/control/test_planner.py runs it.

The order in which the planner does things follows the stalls of its neighbours, so it has no twin. `Machine` is all of
its neighbours at once: they do what they like, within their contracts, and check every transfer against what the jobs
need by spec/row_format.py.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.plan.plan_layouts import ORDER_SPAN_MAX, SectorClass, ring_sectors
from spatten.hw.control.planner import Planner
from spatten.hw.datapath.progressive import Kind
from spatten.hw.emit.payload import Payload
from spatten.hw.memory.address_generator import KEY, LINEAR, QUERY, VALUE
from spatten.sim.verify.benches.planner_jobs import (
    Block,
    Record,
    blocks_of,
    flat_requests,
    flat_room,
    live_heads,
    pruned_block,
    prunes_values,
    random_job,
)
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench
from spatten.sim.verify.twin import Anything
from spatten.spec.config import Config
from spatten.spec.constants import STASH_SLOTS
from spatten.spec.job import KeyFetch
from spatten.spec.row_format import key_ring_sectors

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SEQUENCE_BITS: int = PARAMETERS["sequence_bits"]
PLANNER = Planner(config=CONFIG, sequence_bits=SEQUENCE_BITS)
ANY_ROW = Anything(PLANNER.i_flat.payload.shape())
LANES = CONFIG.topk_lanes
JOBS = CONFIG.jobs_in_flight
SECTORS = ring_sectors(CONFIG)
RINGS = {QUERY: "query", KEY: "key", VALUE: "value"}
FETCHES = (KeyFetch.STATIC, KeyFetch.JOINED, KeyFetch.PROGRESSIVE, KeyFetch.PROGRESSIVE)
"""Half of the jobs may have flat rows."""
PASSED_MAX = 6
"""Most requests that go before one of a lower order: they were chosen while this one's issuer was given its block."""
UNDER_WAY_MAX = (1 << (SEQUENCE_BITS - 1)) - 4
"""Most groups that the fetch unit lets be under way."""
CLASSES = {
    QUERY: (SectorClass.QUERY, SectorClass.OTHER),
    KEY: (SectorClass.KEY, SectorClass.LSB),
    VALUE: (SectorClass.VALUE, SectorClass.VALUE),
}


# -- Streams ----------------------------------------------------------------------------------------------------------


class Source:
    """A stream into the planner: a queue of payloads, each shown by chance and then until it is taken."""

    def __init__(self, bench: Bench, name: str, shape: Any, *, rate: float) -> None:
        self.name = name
        self.rate = rate
        self.queue: deque[Any] = deque()
        self.shown: Any = None
        self._source = bench.random(name)
        self._payload = Payload(shape)
        self._signals = [bench.signal(f"{name}__{part}") for part in ("valid", "ready", "payload")]

    def clear(self) -> None:
        self.queue.clear()
        self.shown = None

    def drive(self, *, allowed: bool = True) -> None:
        if self.shown is None and allowed and self.queue and self._source.random() < self.rate:
            self.shown = self.queue.popleft()
            self._signals[2].value = self._payload.pack(self.shown)
        elif self.shown is None:
            self._signals[2].value = self._source.getrandbits(self._payload.width)
        self._signals[0].value = int(self.shown is not None)

    def taken(self) -> Any:
        """What is taken in this cycle, or None."""
        ready = str(self._signals[1].value)
        if self.shown is None:
            return None
        assert ready in ("0", "1"), f"{self.name}.ready is {ready}"
        if ready == "0":
            return None
        taken, self.shown = self.shown, None
        return taken


class Sink:
    """A stream out of the planner, stalled by chance; what is stalled must stay as it is.

    `steady`: once ready, it stays ready until it takes something.
    """

    def __init__(self, bench: Bench, name: str, shape: Any, *, rate: float, steady: bool = False) -> None:
        self.name = name
        self.rate = rate
        self.steady = steady
        self._source = bench.random(name)
        self._payload = Payload(shape)
        self._signals = [bench.signal(f"{name}__{part}") for part in ("valid", "ready", "payload")]
        self.clear()

    def clear(self) -> None:
        self.is_ready = False
        self._stalled: str | None = None

    def drive(self, *, allowed: bool = True) -> None:
        stays = self.steady and self.is_ready
        self.is_ready = stays or (allowed and self._source.random() < self.rate)
        self._signals[1].value = int(self.is_ready)

    def taken(self) -> Any:
        """What is taken in this cycle, or None."""
        valid = str(self._signals[0].value)
        assert valid in ("0", "1"), f"{self.name}.valid is {valid}"
        bits = str(self._signals[2].value) if valid == "1" else None
        assert self._stalled is None or self._stalled == bits, f"{self.name} changed while stalled"
        self._stalled = None if self.is_ready else bits
        if bits is None or not self.is_ready:
            return None
        self.is_ready = False
        # What nobody looks at, such as ids beyond the count, may be X.
        return self._payload.unpack(int(bits.replace("X", "0").replace("Z", "0"), 2))


# -- What the planner's neighbours know -------------------------------------------------------------------------------


@dataclass(eq=False)
class Held:
    """A block that has its space: what it needs, and what has happened to it."""

    kind: str
    """What it is for: query, members, key, value, or pruned (the values of a pruned row)."""
    ring: int
    size: int
    base: int
    entry: int
    uses_left: int
    groups: list[dict[str, Any]]
    """Of each request for a row group what must be on `o`, with its class, and whether it is its rows' last one."""
    order: int | None = None
    """What its bids' order counts, without end; none if the bids are urgent, or of no head."""
    requested: int = 0
    completed: int = 0
    """Requests that have been on `o`, and that the fetch unit has completed."""

    @property
    def rows_groups(self) -> int:
        """Row groups of the block."""
        return sum(group["counts"] for group in self.groups)

    @property
    def completed_groups(self) -> int:
        return sum(group["counts"] for group in self.groups[: self.completed])


@dataclass(eq=False)
class Row:
    """A row of a job on its way from its keys to its values."""

    job: Work
    head: int
    values: Held | None
    header: dict[str, Any] = field(default_factory=dict)
    """What a flat row is announced with."""


@dataclass(eq=False)
class Work:
    """A job from its start on: its record, its live tokens, and the rows that have not left."""

    number: int
    record: Record
    ids: list[int]
    members_left: int
    rows_left: int
    is_started: bool = False
    pruned_left: int = 0
    """Rows under local pruning that have no block yet."""
    order: int = 0
    """Number of its first head among the live heads of all jobs."""
    segments: deque[tuple[Block, bool, bool, bool]] = field(default_factory=deque)
    """Chunks of queries: each with whether it needs a new key block, ends one, and needs a new value block."""

    @property
    def slot(self) -> int:
        return self.number % JOBS


class Ring:
    """The space of a ring buffer, given in the order of the requests and returned in the same order."""

    def __init__(self, bench: Bench, ring: int) -> None:
        self.ring = ring
        shape = range(max(SECTORS) + 1)
        self.allocate = Sink(bench, f"o_allocate__{ring}", shape, rate=0.7)
        self.grant = Source(bench, f"i_block__{ring}", range(max(SECTORS)), rate=0.7)
        self.free = Sink(bench, f"o_free__{ring}", shape, rate=0.9)
        self.clear()

    def clear(self) -> None:
        for stream in (self.allocate, self.grant, self.free):
            stream.clear()
        self.level = self.end = 0
        self.asked: int | None = None
        """The size of the block that is wanted and has no space."""
        self.given: deque[int] = deque()
        """Sizes of the blocks that have space, and that have not been granted to the planner's neighbours."""
        self.held: deque[Held] = deque()

    def drive(self, *, has_space: bool) -> None:
        if self.asked is not None and has_space and self.level + self.asked <= SECTORS[self.ring]:
            self.grant.queue.append(self.end)
            self.level += self.asked
            self.end = (self.end + self.asked) % SECTORS[self.ring]
            self.given.append(self.asked)
            self.asked = None
        self.allocate.drive(allowed=self.asked is None)
        self.grant.drive()
        self.free.drive()

    def is_full(self) -> bool:
        """Another block finds no number or no space."""
        return len(self.held) == CONFIG.blocks or (
            self.asked is not None and self.level + self.asked > SECTORS[self.ring]
        )


def _by_entry(text: str) -> list[str]:
    """The bits of each block, from entry 0 on, in the text of an array that has an element for each."""
    width = len(text) // CONFIG.blocks
    return [text[len(text) - width * (n + 1) : len(text) - width * n] for n in range(CONFIG.blocks)]


class Machine:
    """All neighbours of the planner: job control, rings, fetch unit, readers, and what finds rows flat or prunes them.

    `withheld` names what is kept from the planner for a while: "query", "key" and "value" stop whoever takes and uses
    the blocks of that ring, "query space" and so on its ring buffer, "refetch" whoever reads the keys of flat rows.
    """

    def __init__(self, bench: Bench, *, jobs: int) -> None:
        self.bench = bench
        self.source: random.Random = bench.random("machine")
        self.jobs = jobs
        self.withheld: set[str] = set()
        self.seen: Counter[str] = Counter()
        member = PLANNER.signature.members

        def sink(name: str, rate: float = 0.7, *, steady: bool = False) -> Sink:
            return Sink(bench, name, member[name].signature.members["payload"].shape, rate=rate, steady=steady)

        def source(name: str, rate: float = 0.5) -> Source:
            return Source(bench, name, member[name].signature.members["payload"].shape, rate=rate)

        self.o = sink("o", 0.8)
        self.grants = {
            name: sink(f"o_{name}", steady=True) for name in ("query", "members", "key", "value", "pruned", "again")
        }
        self.i_members, self.i_kept, self.i_flat = source("i_members"), source("i_kept"), source("i_flat")
        self.rings = {ring: Ring(bench, ring) for ring in RINGS}
        self.inputs = {
            name: (bench.signal(name), Payload(shape))
            for name, shape in (
                ("slots", PLANNER.slots.shape()),
                ("started", PLANNER.started.shape()),
                ("live_write", PLANNER.live_write.shape()),
                ("live_read", PLANNER.live_read.shape()),
                ("completed", PLANNER.completed.shape()),
                ("again_read", 1),
                ("again_done", 1),
                *((f"uses__{ring}", PLANNER.uses[ring].shape()) for ring in RINGS),
            )
        }
        self.arrived = {ring: bench.signal(f"arrived_{name}") for ring, name in RINGS.items()}
        self.again_arrived = bench.signal("again_arrived")
        self.watched = {name: bench.signal(name) for name in ("chunk", "sectors", "value_bases", "live_ids")}
        self.live_ids = Payload(PLANNER.live_ids.shape())
        self.chunk = Payload(PLANNER.chunk.shape())
        self.sectors = Payload(PLANNER.sectors.shape())
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        streams: list[Source | Sink] = [self.o, *self.grants.values(), self.i_members, self.i_kept, self.i_flat]
        for stream in streams:
            stream.clear()
        for ring in self.rings.values():
            ring.clear()
        source = self.source
        self.slots: list[Record] = [random_job(source, CONFIG) for _ in range(JOBS)]
        self.works: deque[Work] = deque()
        """Jobs that have a slot: the oldest first; the last of them may not have been started."""
        self.begun = self.started = self.done = 0
        self.order = 0
        self.live_writes: deque[dict[str, Any]] = deque()
        self.lists: dict[tuple[int, int], list[int]] = {}
        """The rows of live lists that were written, by slot and row."""
        self.list_row: list[int] | None = None
        """What was last read of them, besides by the planner."""
        self.list_row_asked: list[int] | None = None
        self.asked_members: deque[dict[str, int]] = deque()
        self.blocks: dict[int, deque[tuple[Block, Work]]] = {ring: deque() for ring in RINGS}
        """Blocks of the started jobs that have not been granted, in order."""
        self.groups: dict[int, deque[tuple[Any, dict[str, Any]]]] = {ring: deque() for ring in (*RINGS, LINEAR)}
        """Requests that are to come on `o`, by ring, and whose they are."""
        self.under_way: deque[tuple[Any, dict[str, Any]]] = deque()
        self.completed = 0
        self.pace = 0.5
        self.queries: deque[Held] = deque()
        self.keys: deque[Held] = deque()
        self.values: deque[Held] = deque()
        self.key: Held | None = None
        self.value: Held | None = None
        self.segments: deque[tuple[Held, Held, bool, list[Row]]] = deque()
        self.events: dict[int, deque[Held]] = {ring: deque() for ring in RINGS}
        """Uses that are to be told."""
        self.waiting: list[Row] = []
        """Rows whose values have been granted, and have not been used."""
        self.kept_rows: deque[tuple[Row, list[list[int]]]] = deque()
        self.flat_rows: deque[Row] = deque()
        """Rows whose keys are fetched again, the oldest first, and what is known of that one's groups."""
        self.flat_groups: list[int] = []
        self.is_reading = False
        self.read = 0
        self.shown: dict[int, list[int]] = {ring: [0] * CONFIG.blocks for ring in RINGS}
        self.shown_text: dict[int, str] = {}
        self.members: deque[Held] = deque()
        self.idle = 0
        """Cycles since something arrived, returned or ended."""
        self.span = 0
        """The most by which the orders of bids have differed."""
        self.passed = dict.fromkeys(RINGS, 0)
        """For each ring how many requests of a higher order have been on `o` before its next one."""

    # -- Inputs -------------------------------------------------------------------------------------------------------

    def drive(self) -> None:
        source, withheld = self.source, self.withheld
        self._begin_jobs()
        if source.random() < 0.03:
            self.pace = source.choice([0.05, 0.5, 1])
        while self.under_way and source.random() < self.pace * 0.6:
            owner, group = self.under_way.popleft()
            self.completed += 1
            if isinstance(owner, Held):
                owner.completed += 1
            elif group["counts"]:
                self.flat_groups[0] += 1
        values: dict[str, Any] = {
            "completed": self.completed % (1 << SEQUENCE_BITS),
            "started": self.started % (2 * JOBS),
            "slots": self.slots,
            "live_write": {"enable": 0, "slot": 0, "row": 0, "ids": [0] * LANES},
            "live_read": {"enable": 0, "slot": 0, "row": 0},
            "again_read": 0,
            "again_done": 0,
        }
        if self.live_writes and source.random() < 0.5:
            values["live_write"] = write = self.live_writes.popleft()
            self.lists[write["slot"], write["row"]] = write["ids"]
        elif self.lists and source.random() < 0.2:
            slot, row = source.choice(list(self.lists))
            values["live_read"] = {"enable": 1, "slot": slot, "row": row}
            self.list_row = self.lists[slot, row]
        for ring, events in self.events.items():
            values[f"uses__{ring}"] = {"valid": 0, "entry": source.randrange(CONFIG.blocks)}
            if events and RINGS[ring] not in withheld and source.random() < 0.5:
                used = events.popleft()
                values[f"uses__{ring}"] = {"valid": 1, "entry": used.entry}
                used.uses_left -= 1
        self._read_flat(values)
        for name, (signal, payload) in self.inputs.items():
            signal.value = payload.pack(values[name])
        for ring, space in self.rings.items():
            space.drive(has_space=f"{RINGS[ring]} space" not in withheld)
        self.o.drive(allowed=len(self.under_way) < UNDER_WAY_MAX)
        for name, sink in self.grants.items():
            ring_name = {"members": "query", "pruned": "value", "again": "refetch"}.get(name, name)
            sink.drive(allowed=ring_name not in withheld)
        for stream in (self.i_members, self.i_kept, self.i_flat):
            stream.drive()

    def _begin_jobs(self) -> None:
        """Give the next job a slot, and start it when its members have been read and its live list is written."""
        source = self.source
        if not self.works or self.works[-1].is_started:
            if self.begun < self.jobs and len(self.works) < JOBS and source.random() < 0.2:
                self._begin_job()
            return
        work = self.works[-1]
        if not work.members_left and not self.live_writes and source.random() < 0.5:
            work.is_started = True
            self.started += 1
            for ring in RINGS:
                for block in blocks_of(CONFIG, work.record, ring):
                    self.blocks[ring].append((block, work))

    def _begin_job(self) -> None:
        source = self.source
        job = random_job(source, CONFIG, order=self.order, fetches=FETCHES)
        self.order += len(live_heads(job))
        tokens = range(CONFIG.tokens_max)
        ids = list(tokens) if job["dense"] else sorted(source.sample(tokens, job["live"]))
        work = Work(
            number=self.begun,
            record=job,
            ids=ids,
            members_left=source.choice([0, 0, 1, 3]),
            rows_left=job["rows"] * len(live_heads(job)),
            pruned_left=len(live_heads(job)) if prunes_values(job) else 0,
            order=self.order - len(live_heads(job)),
        )
        self.begun += 1
        self.slots[work.slot] = job
        if not job["dense"]:
            for line in range(-(-job["live"] // LANES)):
                own = ids[LANES * line : LANES * line + LANES]
                padded = own + [0] * (LANES - len(own))
                self.live_writes.append({"enable": 1, "slot": work.slot, "row": line, "ids": padded})
        for _ in range(work.members_left):
            request = {
                "sector": source.getrandbits(CONFIG.sector_bits),
                "sectors": source.randint(1, 4),
                "rows": source.randint(1, LANES),
            }
            self.i_members.queue.append(request)
            self.asked_members.append(request)
        key_head = value_head = -1
        key_blocks = {head: block for block in blocks_of(CONFIG, job, KEY) for head in block.heads}
        value_blocks = {head: block for block in blocks_of(CONFIG, job, VALUE) for head in block.heads}
        chunks = blocks_of(CONFIG, job, QUERY)
        for number, chunk in enumerate(chunks):
            keys, values = key_blocks[chunk.head], value_blocks.get(chunk.head)
            following = chunks[number + 1].head if number + 1 < len(chunks) else None
            ends = following is None or key_blocks[following] is not keys
            is_new = values is not None and values.head != value_head
            work.segments.append((chunk, keys.head != key_head, ends, is_new))
            key_head, value_head = keys.head, values.head if values is not None else -1
        self.works.append(work)

    def _read_flat(self, values: dict[str, Any]) -> None:
        """Read a group of the flat row that has been offered, if one is there."""
        if not self.is_reading or "refetch" in self.withheld or self.source.random() < 0.5:
            return
        row = self.flat_rows[0]
        groups = -(-row.job.record["live"] // LANES)
        if self.read < self.shown_again:
            assert self.read < self.flat_groups[0], "a group counts as arrived that has not"
            self.read += 1
            values["again_read"] = 1
            if self.read == groups:
                values["again_done"] = 1
                self.is_reading = False
                self.read = 0
                self.flat_rows.popleft()
                self.flat_groups.pop(0)
                self._finish(row)

    # -- Rest ---------------------------------------------------------------------------------------------------------

    def check_rest(self) -> None:
        """Nothing has moved for long: see that all stands still for want of what is withheld, and for nothing else."""
        if self.done == self.jobs:
            return
        self.seen["stood still"] += 1
        assert not self.under_way, "the fetch unit has been asked for what it has not completed"
        for ring, name in RINGS.items():
            assert not self.groups[ring], f"{name} blocks that have their space are not fetched"
            space = self.rings[ring]
            for held in space.held:
                assert self.has_arrived(held), f"{held.kind} block {held.entry} is not told what has arrived"
            if not self.withheld & {name, f"{name} space"} and self.wants_block(ring):
                assert space.is_full(), f"{name} blocks are wanted and have space, but none is taken"
        if "refetch" not in self.withheld:
            assert not self.flat_rows, "the keys of flat rows do not come"

    def wants_block(self, ring: int) -> bool:
        """Whether the next block of a ring is wanted: it is not behind pruned rows that have no block yet."""
        if ring == QUERY and (self.i_members.queue or self.i_members.shown):
            return True
        if ring == VALUE and self.kept_rows:
            return True
        if not self.blocks[ring]:
            return False
        number = self.blocks[ring][0][1].number
        return ring != VALUE or not any(
            prunes_values(work.record) and work.pruned_left for work in self.works if work.number < number
        )

    # -- Outputs ------------------------------------------------------------------------------------------------------

    def sample(self, cycle: int) -> None:
        try:
            self._sample()
        except AssertionError as error:
            raise AssertionError(f"{error}, cycle {cycle}, seed {self.bench.seed}") from None

    def _sample(self) -> None:
        # The ids of a row that is asked for in this cycle come in the next one.
        seen, self.list_row_asked = self.list_row_asked, self.list_row
        if seen is not None:
            ids = self.live_ids.unpack(int(self.watched["live_ids"].value))
            assert ids == seen, f"the live list's row is {ids}, not {seen}"
        self._check_bases()
        granted = {name: sink.taken() for name, sink in self.grants.items()}
        self.i_members.taken()
        self.i_kept.taken()
        self.i_flat.taken()
        freed = {}
        for ring, space in self.rings.items():
            size = space.allocate.taken()
            if size is not None:
                space.asked = size
            base = space.grant.taken()
            names = [name for name in ("query", "members", "key", "value", "pruned") if _ring_of(name) == ring]
            comes = [name for name in names if granted[name] is not None]
            assert len(comes) == (base is not None), f"{RINGS[ring]}: ring grants {base}, {comes} get a block"
            for name in comes:
                self._grant(name, space, base, granted[name])
            freed[ring] = space.free.taken()
        self._see_arrivals()
        self._group(self.o.taken())
        for ring, size in freed.items():
            if size is not None:
                self._free(self.rings[ring], size)
        if granted["again"] is not None:
            self._again(granted["again"])
        self._read_rows()
        while self.works and self.works[0].is_started and not self.works[0].rows_left:
            self.works.popleft()
            self.done += 1
            self.idle = 0

    def _grant(self, name: str, space: Ring, base: int, grant: Any) -> None:
        """A block has its space: note what must be fetched for it."""
        ring = space.ring
        if name == "members":
            request = self.asked_members.popleft()
            block, work = _members_block(request), None
        elif name == "pruned":
            row, id_groups = self.kept_rows.popleft()
            block, work = pruned_block(CONFIG, row.job.record, row.head), row.job
        else:
            assert self.blocks[ring], f"a {name} block that no job wants"
            block, work = self.blocks[ring].popleft()
        if name == "value":
            assert work is not None
            waiting = [other.number for other in self.works if other.number < work.number and other.pruned_left]
            assert not waiting, f"values of job {work.number} get a block before pruned rows of jobs {waiting}"
        entry = grant if ring == VALUE else grant["entry"]
        assert ring == VALUE or grant["base"] == base, f"a {name} block begins at {grant['base']}, not {base}"
        assert all(held.entry != entry for held in space.held), f"{name} block {entry} is held already"
        size = space.given.popleft()
        assert size == block.size, f"a {name} block has {size} sectors, not {block.size}"
        if name == "pruned":
            ids = id_groups
        elif name == "members":
            ids = [list(range(block.rows))]
        else:
            assert work is not None
            lines = range(block.first_rank // LANES, -(-(block.first_rank + block.rows) // LANES))
            last = block.first_rank + block.rows
            ids = [work.ids[max(block.first_rank, LANES * line) : min(last, LANES * line + LANES)] for line in lines]
        advance = LANES if ring == QUERY else LANES // CONFIG.slices
        groups = []
        for number, own in enumerate(ids):
            for fetch in block.fetches:
                groups.append(
                    {
                        "ids": own,
                        "count": len(own),
                        **{key: fetch[key] for key in ("sector", "pitch", "sectors")},
                        "ring": ring,
                        "place": (base + number * advance * block.stride + fetch["place"]) % SECTORS[ring],
                        "stride": block.stride,
                        "class": CLASSES[ring][fetch["other"]],
                        "counts": fetch is block.fetches[-1],
                    }
                )
        held = Held(name, ring, size, base, entry, block.uses, groups)
        if work is not None and name != "pruned":
            held.order = 2 * (work.order + (block.order - work.record["order"])) + {QUERY: -1, KEY: 0, VALUE: 3}[ring]
        space.held.append(held)
        self.shown[ring][entry] = 0
        if not self.groups[ring]:
            self.passed[ring] = 0
        self.groups[ring] += [(held, group) for group in groups]
        {"query": self.queries, "members": self.members, "key": self.keys, "value": self.values}.get(
            name, deque()
        ).append(held)
        if name == "pruned":
            row.values = held
            row.job.pruned_left -= 1
            self.waiting.append(row)
        self.seen[name] += 1
        self.seen["wrapped"] += base + size > SECTORS[ring]
        self.seen["two heads"] += len(block.heads) == 2
        self.seen[f"{RINGS[ring]} blocks all held"] += len(space.held) == CONFIG.blocks

    def _group(self, group: Any) -> None:
        """A request leaves on `o`, or none: `chunk` and `sectors` say the same."""
        chunk = self.chunk.unpack(_bits(self.watched["chunk"]))
        sectors = self.sectors.unpack(_bits(self.watched["sectors"]))
        if group is None:
            assert not chunk["valid"], "a chunk leaves without its group"
            assert not any(sectors), f"sectors {sectors} without a group"
            return
        ring = group["ring"]
        assert self.groups[ring], f"a group in ring {ring} that nothing needs: {group}"
        owner, wanted = self.groups[ring].popleft()
        seen = {name: group[name] for name in group if name != "ids"} | {"ids": group["ids"][: group["count"]]}
        differences = {name: (seen[name], wanted[name]) for name in seen if seen[name] != wanted[name]}
        assert not differences, f"a group of ring {ring} has, not: {differences}"
        amounts = [0] * len(SectorClass)
        amounts[wanted["class"]] = group["count"] * group["sectors"]
        assert sectors == amounts, f"sectors {sectors}, not {amounts}"
        assert chunk["valid"] == (ring == QUERY), "a chunk's valid"
        if isinstance(owner, Held):
            assert owner in self.rings[ring].held, f"a {owner.kind} block is filled after it was freed"
            assert ring != QUERY or chunk["entry"] == owner.entry, "a chunk's entry"
            owner.requested += 1
        else:
            self._check_room(owner, ends_group=wanted["counts"])
        assert ring != QUERY or chunk["ids"][: group["count"]] == wanted["ids"], "a chunk's ids"
        self._see_order(ring, owner)
        self.under_way.append((owner, wanted))

    def _see_order(self, ring: int, owner: Any) -> None:
        """A request waits for those of a lower order, and for a few that were chosen before it could be asked for."""
        # The bids that stand are among the first requests of the rings that are to come.
        orders = {
            other: requests[0][0].order
            for other, requests in self.groups.items()
            if requests and isinstance(requests[0][0], Held) and requests[0][0].order is not None
        }
        if orders:
            span = max(orders.values()) - min(orders.values())
            assert span <= ORDER_SPAN_MAX, f"bids are {span} orders apart"
            self.span = max(self.span, span)
        if ring not in RINGS:
            return
        self.passed[ring] = 0
        for other, waiting in orders.items():
            if owner.order is not None and waiting < owner.order:
                self.passed[other] += 1
                assert self.passed[other] <= PASSED_MAX, f"a group of ring {other} waits for those of ring {ring}"

    def _check_room(self, owner: Row, *, ends_group: bool) -> None:
        """No group of a flat row's keys goes where one lies that has not been read."""
        assert owner is self.flat_rows[0], "keys of a flat row before the row ahead of it has been read"
        to_come = len([1 for row, group in self.groups[LINEAR] if row is owner and group["counts"]])
        issued = -(-owner.job.record["live"] // LANES) - to_come + (not ends_group)
        room, _ = flat_room(CONFIG, owner.job.record, owner_kind(owner))
        assert issued - self.read <= room, f"{issued} groups asked for, {self.read} read, room for {room}"
        self.seen["flat row goes round"] += issued > room

    def _free(self, space: Ring, size: int) -> None:
        """The oldest block's space returns: nobody needs it any more."""
        assert space.held, f"{RINGS[space.ring]}: space returns that was not given"
        held = space.held.popleft()
        assert size == held.size, f"{size} sectors of a {held.kind} block return, not {held.size}"
        assert not held.uses_left, f"a {held.kind} block returns that is still used {held.uses_left} times"
        assert held.completed == len(held.groups), f"a {held.kind} block returns while its groups are under way"
        space.level -= size
        self.idle = 0

    def _check_bases(self) -> None:
        """The value reader is told where each value block begins, as long as it is held."""
        bases = _by_entry(str(self.watched["value_bases"].value))
        for held in self.rings[VALUE].held:
            base, width = bases[held.entry], len(bases[held.entry])
            assert base == f"{held.base:0{width}b}", f"value block {held.entry} begins at {base}, not {held.base:b}"

    def _see_arrivals(self) -> None:
        """A block never counts more row groups than the fetch unit has completed."""
        for ring, signal in self.arrived.items():
            text = str(signal.value)
            if text != self.shown_text.get(ring):
                self.shown_text[ring] = text
                parts = _by_entry(text)
                for held in self.rings[ring].held:
                    self.shown[ring][held.entry] = int(parts[held.entry], 2)
                self.idle = 0
            for held in self.rings[ring].held:
                count = self.shown[ring][held.entry]
                assert count <= held.completed_groups, f"{held.kind} block {held.entry}: {count} groups arrived"
        self.shown_again = int(str(self.again_arrived.value), 2) if self.flat_rows else 0

    def has_arrived(self, held: Held) -> bool:
        """As the planner says."""
        return self.shown[held.ring][held.entry] == held.rows_groups

    # -- Rows ---------------------------------------------------------------------------------------------------------

    def _again(self, segment: Any) -> None:
        """The oldest flat row is offered."""
        assert self.flat_rows, "a flat row is offered that was not found flat"
        assert not self.is_reading, "a flat row is offered while another one is read"
        row = self.flat_rows[0]
        job = row.job.record
        room, sectors = flat_room(CONFIG, job, owner_kind(row))
        assert segment["row"] == row.header, f"the keys of {segment['row']} are offered, not of {row.header}"
        assert segment["limit"] == key_ring_sectors(CONFIG) + room * sectors, "where its keys wrap"
        assert segment["keys"] == job["live"], "how many keys it has"
        groups = -(-job["live"] // LANES)
        assert self.flat_groups[0] >= min(groups, room // 2), "too few of its keys are there"
        self.is_reading = True
        self.seen["flat"] += 1

    def _read_rows(self) -> None:
        source = self.source
        self.idle += 1
        while self.members and self.has_arrived(self.members[0]) and source.random() < 0.5:
            self.events[QUERY].append(self.members.popleft())
            self.works[-1].members_left -= 1
        self._push_segment()
        if self.segments and source.random() < 0.3:
            query, key, ends, rows = self.segments[0]
            if self.has_arrived(query) and self.has_arrived(key):
                self.segments.popleft()
                self.events[QUERY].append(query)
                if ends:
                    self.events[KEY].append(key)
                for row in rows:
                    self._find(row)
        ready = [row for row in self.waiting[:4] if row.values is not None and self.has_arrived(row.values)]
        if ready and source.random() < 0.6:
            row = source.choice(ready)
            self.waiting.remove(row)
            assert row.values is not None
            self.events[VALUE].append(row.values)
            row.job.rows_left -= 1

    def _push_segment(self) -> None:
        """Send the rows of a chunk to the readers once all blocks of it have their space."""
        work = next((work for work in self.works if work.segments), None)
        if work is None or not work.is_started or not self.queries or self.source.random() < 0.3:
            return
        is_progressive = work.record["fetch"] == KeyFetch.PROGRESSIVE
        rows_inside = len(self.flat_rows) + sum(len(rows) for *_, rows in self.segments)
        if is_progressive and rows_inside >= STASH_SLOTS:
            return
        chunk, new_key, ends, new_value = work.segments[0]
        if (new_key and not self.keys) or (new_value and not self.values):
            return
        work.segments.popleft()
        if new_key:
            self.key = self.keys.popleft()
        if new_value:
            self.value = self.values.popleft()
        assert self.key is not None
        values = None if prunes_values(work.record) else self.value
        rows = [Row(work, chunk.head, values) for _ in range(chunk.rows)]
        self.segments.append((self.queries.popleft(), self.key, ends, rows))

    def _find(self, row: Row) -> None:
        """A row has its scores: it is flat, or has its probabilities."""
        job = row.job.record
        if job["fetch"] != KeyFetch.PROGRESSIVE or self.source.random() < 0.3:
            self._finish(row)
            return
        kind = owner_kind(row)
        row.header = ANY_ROW(self.source)
        row.header["kind"] = kind
        row.header["header"] |= {"slot": row.job.slot, "head": row.head}
        self.i_flat.queue.append(row.header)
        self.flat_rows.append(row)
        self.flat_groups.append(0)
        for request in flat_requests(CONFIG, job, kind, row.head, slot=row.job.slot):
            first = request["row"] * LANES
            group = {name: request[name] for name in ("count", "sector", "pitch", "sectors", "ring", "place", "stride")}
            group |= {
                "ids": row.job.ids[first : first + request["count"]],
                "class": request["sector_class"],
                "counts": request["counts"],
            }
            self.groups[LINEAR].append((row, group))

    def _finish(self, row: Row) -> None:
        """A row has its probabilities: it needs its values, or those of them that it keeps."""
        if row.values is not None:
            self.waiting.append(row)
            return
        block = pruned_block(CONFIG, row.job.record, row.head)
        ids = sorted(self.source.sample(row.job.ids[: row.job.record["live"]], block.rows))
        groups = [ids[first : first + LANES] for first in range(0, len(ids), LANES)]
        self.kept_rows.append((row, groups))
        for number, own in enumerate(groups):
            self.i_kept.queue.append(
                {
                    "ids": own + [0] * (LANES - len(own)),
                    "count": len(own),
                    "last": int(number == len(groups) - 1),
                    "slot": row.job.slot,
                    "head": row.head,
                }
            )


def owner_kind(row: Row) -> Kind:
    """The pass over its keys that a flat row needs: with codes that do not fit an operand it starts from scratch."""
    return Kind.SECOND if row.job.record["key_bits"] <= 2 else Kind.SINGLE


def _ring_of(name: str) -> int:
    return {"query": QUERY, "members": QUERY, "key": KEY, "value": VALUE, "pruned": VALUE}[name]


def _members_block(request: dict[str, int]) -> Block:
    sectors = request["sectors"]
    fetch = {"sector": request["sector"], "pitch": sectors, "sectors": sectors, "place": 0, "other": 1}
    return Block(
        ring=QUERY,
        head=0,
        heads=(),
        order=0,
        size=sectors * request["rows"],
        uses=1,
        rows=request["rows"],
        first_rank=0,
        stride=sectors,
        fetches=(fetch,),
    )


def _bits(signal: Any) -> int:
    return int(str(signal.value).replace("X", "0").replace("Z", "0"), 2)


# -- Tests ------------------------------------------------------------------------------------------------------------


async def run(bench: Bench, machine: Machine, *, limit: int = 3000) -> None:
    """Until all jobs have ended and all space has returned; AssertionError if nothing happens for `limit` cycles."""

    def ended() -> bool:
        assert machine.idle < limit, f"nothing happens any more, with {machine.done} jobs done, seed {bench.seed}"
        return machine.done == machine.jobs and not any(ring.held for ring in machine.rings.values())

    await bench.until(ended, what="end of all jobs", limit=200_000)
    assert not any(machine.groups.values()), "requests are missing"
    assert not machine.under_way, "groups are under way that nobody needs"


WITHHELD = ("query", "key", "value", "refetch", "query space", "key space", "value space")


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def every_block_comes_once_and_goes(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    machine = Machine(bench, jobs=PARAMETERS["jobs"])
    await bench.reset()
    await bench.step(150)
    await bench.reset()
    machine.seen.clear()
    await run(bench, machine)
    missed = {name: machine.seen[name] for name, least in PARAMETERS["goals"].items() if machine.seen[name] < least}
    assert not missed, f"the run saw too little of {missed}, of {dict(machine.seen)}, seed {seed}"


@cocotb.test(skip=not PARAMETERS["starves"])
@cocotb.parametrize(seed=PARAMETERS["seeds"], name=WITHHELD)
async def what_starves_one_ring_stops_no_other(dut: HierarchyObject, seed: int, name: str) -> None:
    """Withhold one thing in the middle of some jobs until nothing moves, see that only what needs it stands still, and
    that all jobs end when it is released."""
    bench = Bench(dut, seed=seed)
    machine = Machine(bench, jobs=PARAMETERS["starved_jobs"])
    await bench.reset()
    for number in range(10):
        if number >= 3:
            # Further jobs, if none has needed yet what is withheld.
            if machine.seen["stood still"]:
                break
            machine.jobs += 2
        await bench.step(bench.random(f"{name} {machine.done}").randrange(300))
        machine.withheld.add(name)
        machine.idle = 0
        await bench.until(lambda: machine.idle > 200, what="rest", limit=100_000)
        machine.check_rest()
        machine.withheld.clear()
    await run(bench, machine)
    assert machine.seen["stood still"], f"nothing ever waited for {name}"
