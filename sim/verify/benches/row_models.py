"""For the testbenches of row control and of the readers: queues as they are in time, and jobs and rows at random."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from spatten.hw.control.job_slots import slot_layout
from spatten.hw.datapath.converter import part_code
from spatten.sim.verify.twin import Anything
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.job import Flag, KeyFetch, Mode
from spatten.spec.row_format import BANKS, CODE_BITS, RowFormat, heads_per_row, row_format

LSB_CODE = CODE_BITS.index(LSB_BITS)


class Queue:
    """A queue as `hw.lib.fifo.Fifo` is in time: an entry is out two cycles after it went in, at the earliest."""

    def __init__(self, depth: int, *, latency: int = 2) -> None:
        self.depth = depth
        self.latency = latency
        self._entries: deque[tuple[int, Any]] = deque()
        self._now = 0

    @property
    def valid(self) -> bool:
        """Whether an entry is out."""
        return bool(self._entries) and self._entries[0][0] + self.latency <= self._now

    @property
    def ready(self) -> bool:
        """Whether an entry can go in: the one that is out has a place of its own."""
        return len(self._entries) - self.valid < self.depth

    @property
    def first(self) -> Any:
        """The entry that is out."""
        return self._entries[0][1]

    def __len__(self) -> int:
        return len(self._entries)

    def clock(self, *, pushes: bool = False, entry: Any = None, pops: bool = False) -> None:
        """Go to the next cycle; in this one an entry goes in, and the one that is out is taken."""
        if pops:
            assert self.valid
            self._entries.popleft()
        if pushes:
            assert len(self._entries) <= self.depth
            self._entries.append((self._now, entry))
        self._now += 1


class Buffer(Queue):
    """A queue as `hw.lib.fifo.SkidBuffer` is in time: two entries, each out in the next cycle."""

    def __init__(self) -> None:
        super().__init__(depth=2, latency=1)

    @property
    def ready(self) -> bool:
        return len(self._entries) < self.depth


class Job:
    """A job in flight at random, of any mode and format that the configuration has; or a progressive one."""

    def __init__(
        self, config: Config, source: random.Random, anything: Anything, *, is_progressive: bool = False
    ) -> None:
        self.config = config
        self.mode = Mode.GENERATION if is_progressive else source.choice(list(Mode))
        generates = self.mode is Mode.GENERATION
        fetches = list(KeyFetch) if generates else [KeyFetch.STATIC, KeyFetch.JOINED]
        self.fetch = KeyFetch.PROGRESSIVE if is_progressive else source.choice(fetches)
        self.head_dim = source.choice(config.head_dims)
        self.query_bits = source.choice(config.query_bits)
        self.key_bits = source.choice(config.plane_bits)
        self.value_bits = source.choice(config.plane_bits)
        self.prunes = generates and source.random() < 0.4
        self.accumulates = source.random() < 0.5
        self.heads = sorted(source.sample(range(config.heads_max), source.randint(1, config.heads_max)))
        self.live = source.randint(1, config.tokens_max)
        self.rows = 1 if generates else source.randint(1, self.live)
        self.first_rank = self.live - 1 if generates else self.live - self.rows
        self.scales = {
            head: {"mantissa": source.getrandbits(16), "shift": source.randrange(4, 64)} for head in self.heads
        }
        flags = {Flag.ACCUMULATE: self.accumulates, Flag.PRUNE_VALUES: self.prunes}
        self.record: dict[str, Any] = {
            **anything(source),
            "mode": self.mode,
            "fetch": self.fetch,
            "head_dim": HEAD_DIMS.index(self.head_dim),
            "query_bits": CODE_BITS.index(self.query_bits),
            "key_bits": CODE_BITS.index(self.key_bits),
            "value_bits": CODE_BITS.index(self.value_bits),
            "live_heads": sum(1 << head for head in self.heads),
            "live": self.live,
            "rows": self.rows,
            "first_rank": self.first_rank,
            "flags": sum(1 << flag for flag, is_set in flags.items() if is_set),
        }

    @property
    def keys(self) -> RowFormat:
        """The format of its blocks of keys."""
        return self.format(self.key_bits, joined=self.fetch is KeyFetch.JOINED)

    @property
    def values(self) -> RowFormat:
        """The format of its blocks of values."""
        return self.format(self.value_bits)

    def format(self, bits: int, *, joined: bool = False) -> RowFormat:
        """A format of its head dimension."""
        return row_format(head_dim=self.head_dim, slice_width=self.config.slice_width, bits=bits, joined=joined)

    def excess(self) -> int:
        """Bits that MSB and LSB of its keys have more than an operand."""
        return max(0, self.key_bits + LSB_BITS - self.config.operand_bits)

    def chunks(self) -> list[tuple[int, range, dict[str, int]]]:
        """Head, ranks and what the walk says of each chunk of its rows, in their order."""
        lanes = self.config.topk_lanes
        ranks = range(self.first_rank, self.first_rank + self.rows)
        parts = [range(max(n, ranks.start), min(n + lanes, ranks.stop)) for n in range(0, ranks.stop, lanes)]
        found = []
        for head in self.heads:
            mine = [part for part in parts if part]
            for part in mine:
                # Of two heads that share block rows the even one comes first.
                pair = {head & ~1, head | 1}
                sharing = {
                    name: sorted(pair & set(self.heads)) if row.heads == 2 else [head]
                    for name, row in (("keys", self.keys), ("values", self.values))
                }
                notes = {
                    "begins_keys": part is mine[0] and head == sharing["keys"][0],
                    "begins_values": part is mine[0] and head == sharing["values"][0],
                    "ends_keys": part is mine[-1] and head == sharing["keys"][-1],
                    "query_odd_head": heads_per_row(self.head_dim, self.query_bits) == 2 and head % 2,
                    "key_odd_head": self.keys.heads == 2 and head % 2,
                }
                found.append((head, part, {name: int(value) for name, value in notes.items()}))
        return found


class Jobs:
    """Jobs that are started one after the other, as many at a time as there are slots.

    `progressive` is the share of jobs that are made progressive; of the others some are as well.
    """

    def __init__(self, config: Config, source: random.Random, *, progressive: float = 0) -> None:
        self.config = config
        self._source = source
        self._progressive = progressive
        self._anything = Anything(slot_layout(config))
        self.started = 0
        self.records: list[dict[str, Any]] = [{} for _ in range(config.jobs_in_flight)]

    def start(self) -> tuple[int, Job]:
        """Start a job: its slot and itself."""
        is_progressive = self._progressive > 0 and self._source.random() < self._progressive
        job = Job(self.config, self._source, self._anything, is_progressive=is_progressive)
        slot = self.started % self.config.jobs_in_flight
        self.records[slot] = job.record
        self.started += 1
        return slot, job

    def other_scale(self) -> dict[str, int]:
        """A write of a scale that nobody reads, of a head that does not take part; or what looks like one and is not
        enabled."""
        slot = self._source.randrange(len(self.records))
        live_heads = self.records[slot].get("live_heads", 0)
        dead_heads = [head for head in range(self.config.heads_max) if not live_heads >> head & 1]
        writes = bool(dead_heads) and self._source.random() < 0.5
        return {
            "enable": int(writes),
            "slot": slot,
            "head": self._source.choice(dead_heads) if writes else self._source.randrange(self.config.heads_max),
            "mantissa": self._source.getrandbits(16),
            "shift": self._source.getrandbits(6),
        }

    @property
    def count(self) -> int:
        """How many have been started, as the ports say it."""
        return self.started % (2 * self.config.jobs_in_flight)


def block_rows_per_window(config: Config, row: RowFormat) -> int:
    """Block rows of a lane in a window: as many as the banks, the slice and softmax allow."""
    most = min(max(1, config.slice_width // row.head_dim), config.softmax_lanes // config.slices)
    return row.rows_per_read(most, BANKS)


def windows_record(config: Config, row: RowFormat, head: int, *, is_lsb: bool = False) -> dict[str, Any]:
    """How the windows of keys or values of a format are read, for the first or second head of a block."""
    rows = block_rows_per_window(config, row)
    keys = rows * config.slices
    parts: list[dict[str, Any]] = [{} for _ in range(max(1, config.head_dim_max // config.slice_width))]
    for beat in range(row.beats):
        part = row.parts[head, beat]
        parts[beat] = {
            "start": part.start,
            "sectors": part.sectors,
            "part": part_code(row, head, beat, banks=BANKS, is_unsigned=is_lsb),
        }
    return {
        "parts": parts,
        "log_keys": keys.bit_length() - 1,
        "window_keys": keys,
        "beats": row.beats,
        "stride": row.stride,
        "step": rows * row.stride,
    }


def any_format(config: Config, source: random.Random, *, is_key: bool) -> tuple[RowFormat, int, bool]:
    """A format of a block at random, one of its heads, and whether it is an LSB plane alone."""
    joined = is_key and source.random() < 0.5
    bits = source.choice(config.plane_bits)
    is_lsb = is_key and not joined and bits == LSB_BITS and source.random() < 0.5
    row = row_format(head_dim=source.choice(config.head_dims), slice_width=config.slice_width, bits=bits, joined=joined)
    return row, source.randrange(row.heads), is_lsb
