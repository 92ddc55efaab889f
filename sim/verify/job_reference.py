"""Random jobs as the job control meets them, and what it must make of each: the reference of its testbenches.

`jobs_of` chooses jobs one after the other, together with all that their neighbours answer, and follows the contexts.
Who is live, who stays, what every record, stream and report must say is computed here with lists and sets.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spatten.golden.memory import Plane
from spatten.hw.control.job_layouts import job_layout
from spatten.hw.control.job_slots import slot_layout
from spatten.hw.emit.payload import Payload
from spatten.spec.config import HEAD_DIMS, LSB_BITS, Config
from spatten.spec.job import Flag, Mode, report_widths
from spatten.spec.row_format import CODE_BITS, SECTOR_BITS

__all__ = ["PlannedJob", "PlannedRow", "added", "has", "in_lines", "jobs_of", "largest", "legal_job", "sizes_of"]

Entry = tuple[int, bool]
"""The importance of a head, and whether it has saturated."""


def has(job: dict[str, Any], flag: Flag) -> bool:
    """Whether a descriptor has a flag."""
    return bool(job["flags"] >> flag & 1)


def legal_job(config: Config, source: random.Random) -> dict[str, Any]:
    """A descriptor with sizes that a job can have; the rest of it is random."""
    payload = Payload(job_layout(config))
    job: dict[str, Any] = payload.unpack(source.getrandbits(payload.width))
    widths = {"query_bits": config.query_bits, "key_bits": config.plane_bits, "value_bits": config.plane_bits}
    job |= {name: CODE_BITS.index(source.choice(bits)) for name, bits in widths.items()}
    job["head_dim"] = HEAD_DIMS.index(source.choice(config.head_dims))
    job["mode"] = source.choice(list(Mode))
    job["context"] = source.randrange(config.contexts)
    keys = job["keys"] = source.choice([config.tokens_max, source.randint(1, config.tokens_max)])
    job["kv_rows"] = source.randint(keys, config.tokens_max)
    job["valid_length"] = source.choice([keys, source.randint(1, keys)])
    job["query_offset"] = source.choice([0, source.randrange(keys), keys - 1 - source.randrange(keys) // 4])
    job["queries"] = 1 if job["mode"] == Mode.GENERATION else source.randint(1, keys - job["query_offset"])
    job["keep_tokens"] = source.randint(1, config.tokens_max)
    job["keep_heads"] = source.randint(1, config.heads_max)
    job["flags"] &= (1 << len(Flag)) - 1
    return job


def sizes_of(config: Config, job: dict[str, Any]) -> dict[str, int]:
    """The sizes of a job, from the golden model's planes, and its rows counted one by one (`job_sizes`)."""

    def plane(rows: int, bits: int) -> Plane:
        dim = HEAD_DIMS[job["head_dim"]]
        return Plane(channels=config.channels, base=0, rows=rows, heads=1, head_dim=dim, bits=bits)

    queries = plane(job["queries"], CODE_BITS[job["query_bits"]])
    end = job["valid_length"]
    new_token_is_valid = job["mode"] != Mode.GENERATION or job["query_offset"] in range(end)
    is_first = has(job, Flag.CLEAR) or has(job, Flag.RESTART)
    rows = [token for token in range(job["query_offset"], job["query_offset"] + job["queries"]) if token < end]
    return {
        "dense": is_first and not has(job, Flag.HAS_KV) and new_token_is_valid,
        "has_rows": bool(rows),
        "rows": len(rows),
        "reach": job["query_offset"] + len(rows) if job["mode"] == Mode.CAUSAL else end,
        "before_queries": job["query_offset"] * queries.row_sectors,
        "query_step": queries.group_stride,
        "key_step": plane(job["kv_rows"], CODE_BITS[job["key_bits"]]).group_stride,
        "lsb_step": plane(job["kv_rows"], LSB_BITS).group_stride,
        "value_step": plane(job["kv_rows"], CODE_BITS[job["value_bits"]]).group_stride,
    }


def largest(values: Sequence[int], k: int) -> list[int]:
    """Places of the k largest values, of equal ones the first, in ascending order."""
    return sorted(sorted(range(len(values)), key=lambda n: (-values[n], n))[:k])


def in_lines(values: Sequence[int], lanes: int) -> list[list[int]]:
    """Values in lines, full except the last; one empty line if there is none."""
    return [list(values[first : first + lanes]) for first in range(0, len(values) or 1, lanes)]


def _bits(places: Sequence[int]) -> int:
    return sum(1 << place for place in places)


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """A row of a job: what it adds to its head, and what else happens to it."""

    job: int
    head: int
    adds: int
    saturates_head: bool
    is_recomputed: bool
    saturated: tuple[int, int]
    """Elements that saturate in the beats before the last one, and in the last one."""


@dataclass(kw_only=True)
class PlannedJob:
    """A job, what its neighbours answer, and what must become of it."""

    number: int
    slot: int
    descriptor: dict[str, Any]
    sizes: dict[str, int]
    live_heads: list[int]
    bitmaps: dict[Flag, int] = field(default_factory=dict)
    loaded: dict[str, Any] | None = None
    """The heads of the state that is loaded."""
    lines: list[dict[str, int]] = field(default_factory=list)
    live: list[int] = field(default_factory=list)
    pinned: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    begun: list[Entry] = field(default_factory=list)
    """The heads of the context when the job has begun."""
    rows: list[PlannedRow] = field(default_factory=list)
    token_keys: list[int] = field(default_factory=list)
    """Candidates of the live tokens."""
    kept_ranks: list[int] = field(default_factory=list)
    """Ranks of the tokens that stay, if the job prunes tokens."""
    head_keys: list[int] = field(default_factory=list)
    """Candidates of all heads, and those that the engine marks, if the job prunes heads."""
    marked_heads: list[int] = field(default_factory=list)
    saturated_tokens: int = 0
    stored: dict[str, Any] | None = None
    """The heads of the state that is stored."""
    report: dict[str, int] = field(default_factory=dict)
    has_work: bool = True
    """Whether any token, head and query row lives."""

    @property
    def dense(self) -> bool:
        return bool(self.sizes["dense"])

    @property
    def is_gathered(self) -> bool:
        """Whether the start comes so far that the live list is asked for."""
        return bool(self.live_heads and (self.sizes["rows"] or not self.dense))

    @property
    def changes_heads(self) -> bool:
        """Whether the job clears, loads or ages the heads of its context."""
        job = self.descriptor
        return has(job, Flag.CLEAR) or has(job, Flag.LOAD_STATE) or bool(job["age_shift"])


class _Contexts:
    """What the contexts keep from job to job; None before the first."""

    def __init__(self, config: Config) -> None:
        self.kept: list[set[int]] = [set(range(config.heads_max)) for _ in range(config.contexts)]
        self.heads: list[list[Entry] | None] = [None] * config.contexts


def jobs_of(config: Config, source: random.Random, count: int, *, ends_empty: bool) -> list[PlannedJob]:
    """`count` random jobs; with `ends_empty` the last one has nothing to compute."""
    contexts = _Contexts(config)
    planner = _Planner(config, source, contexts)
    return [planner.job(number, is_empty=ends_empty and number == count - 1) for number in range(count)]


class _Planner:
    def __init__(self, config: Config, source: random.Random, contexts: _Contexts) -> None:
        self._config = config
        self._source = source
        self._contexts = contexts
        self._order = 0

    def job(self, number: int, *, is_empty: bool) -> PlannedJob:
        """The next job."""
        config, source = self._config, self._source
        descriptor = self._descriptor()
        context = descriptor["context"]
        loaded = self._state() if has(descriptor, Flag.LOAD_STATE) else None
        kept = self._contexts.kept[context]
        if loaded is not None:
            kept = {head for head in range(config.heads_max) if loaded["kept"] >> head & 1}
        if has(descriptor, Flag.CLEAR) or has(descriptor, Flag.RESTART):
            kept = set(range(config.heads_max))
        no_head = is_empty and source.random() < 0.3
        if is_empty and descriptor["query_offset"] and source.random() < 0.5:
            descriptor["valid_length"] = descriptor["query_offset"]
        if no_head:
            descriptor["head_mask"] &= ~_bits(sorted(kept))
        else:
            descriptor["head_mask"] |= 1 << source.choice(sorted(kept))
        live_heads = [head for head in sorted(kept) if descriptor["head_mask"] >> head & 1]
        job = PlannedJob(
            number=number,
            slot=number % config.jobs_in_flight,
            descriptor=descriptor,
            sizes=sizes_of(config, descriptor),
            live_heads=live_heads,
            loaded=loaded,
            has_work=not is_empty,
        )
        self._tokens(job, no_rows=is_empty and not no_head)
        if not is_empty:
            self._record(job)
            self._heads(job)
            self._choice(job)
        return job

    def _descriptor(self) -> dict[str, Any]:
        """A job that its context allows, with at least one valid query row."""
        config, source = self._config, self._source
        job = legal_job(config, source)
        exclusive = 1 << Flag.CLEAR | 1 << Flag.LOAD_STATE | 1 << Flag.RESTART
        choices = [1 << Flag.CLEAR, 1 << Flag.LOAD_STATE, 1 << Flag.LOAD_STATE | 1 << Flag.RESTART]
        if self._contexts.heads[job["context"]] is not None:
            choices += [0, 0, 0, 1 << Flag.RESTART, 1 << Flag.RESTART]
        job["flags"] = job["flags"] & ~exclusive | source.choice(choices)
        job["age_shift"] = source.choice([0, 0, 1, 3, 31])
        if job["valid_length"] <= job["query_offset"] and job["mode"] != Mode.GENERATION:
            job["valid_length"] = job["keys"]
        return job

    def _state(self) -> dict[str, Any]:
        config, source = self._config, self._source
        heads = range(config.heads_max)
        return {
            "importance": [source.getrandbits(config.head_importance_bits) for _ in heads],
            "kept": source.randrange(1, 1 << len(heads)),
            "saturated": source.getrandbits(len(heads)),
        }

    def _tokens(self, job: PlannedJob, *, no_rows: bool) -> None:
        """Which tokens are members, pinned and live."""
        config, source, descriptor = self._config, self._source, job.descriptor
        offset, end = descriptor["query_offset"], descriptor["valid_length"]
        queries = range(offset, offset + descriptor["queries"])
        for flag in (Flag.HAS_KV, Flag.PINNED):
            if has(descriptor, flag):
                job.bitmaps[flag] = source.getrandbits(4 * SECTOR_BITS)
        generates = descriptor["mode"] == Mode.GENERATION
        must_live = {source.choice(rows)} if (rows := [t for t in queries if t < end or generates]) else set()
        if Flag.HAS_KV in job.bitmaps and not generates:
            job.bitmaps[Flag.HAS_KV] |= _bits([*must_live])
        members = [t for t in range(end) if job.bitmaps.get(Flag.HAS_KV, -1) >> t & 1]
        pinned = [t for t in range(descriptor["keys"]) if job.bitmaps.get(Flag.PINNED, 0) >> t & 1]
        for first in range(0, descriptor["keys"], config.topk_lanes):
            line = range(first, first + config.topk_lanes)
            live = _bits([t - first for t in members if t in line])
            # Beyond the tokens that exist the bitmap says something, too.
            is_pinned = _bits([t - first for t in line if job.bitmaps.get(Flag.PINNED, 0) >> t & 1])
            job.lines.append({"live": live, "pinned": is_pinned})
        if job.dense:
            job.live = members
        else:
            share = source.choice([0.2, 0.6, 1.0])
            job.live = sorted({t for t in members if source.random() < share} | must_live)
        if no_rows:
            job.live = [] if generates or source.random() < 0.5 else [t for t in job.live if t not in queries]
            if job.dense:
                # Only the list says that none lives.
                job.live = []
        job.pinned = len({*job.live} & {*pinned, *([offset] if generates else [])})

    def _record(self, job: PlannedJob) -> None:
        descriptor, sizes = job.descriptor, job.sizes
        offset = descriptor["query_offset"]
        queries = range(offset, offset + descriptor["queries"])
        before = [token for token in job.live if token < offset]
        within = [token for token in job.live if token in queries]
        names = slot_layout(self._config).members
        job.record = {name: descriptor[name] for name in names if name in descriptor} | {
            "live_heads": _bits(job.live_heads),
            "live": len(job.live),
            "first_rank": len(before),
            "rows": len(within),
            "reach": len(before) + len(within) if descriptor["mode"] == Mode.CAUSAL else len(job.live),
            "dense": int(job.dense),
            "query_origin": (descriptor["query"] - sizes["before_queries"]) % (1 << self._config.sector_bits),
            **{name: sizes[name] for name in ("query_step", "key_step", "lsb_step", "value_step")},
            "order": self._order % 256,
        }
        self._order += len(job.live_heads)

    def _heads(self, job: PlannedJob) -> None:
        """The importance of the heads when the job begins, and what its rows add."""
        config, source, descriptor = self._config, self._source, job.descriptor
        context, shift = descriptor["context"], descriptor["age_shift"]
        heads = range(config.heads_max)
        entries = self._contexts.heads[context]
        if has(descriptor, Flag.CLEAR):
            entries = [(0, False) for _ in heads]
        elif job.loaded is not None:
            entries = [(value >> shift, False) for value in job.loaded["importance"]]
        elif shift:
            assert entries is not None
            entries = [(value >> shift, False) for value, _ in entries]
        assert entries is not None
        job.begun = list(entries)
        rare = source.choice([0, 0, 0.02])
        for head in job.live_heads:
            for _ in range(job.record["rows"]):
                early = source.choice([0, 0, 1, config.head_dim_max])
                row = PlannedRow(
                    job=job.number,
                    head=head,
                    adds=source.choice([0, 1, 5, source.getrandbits(12)]),
                    saturates_head=source.random() < rare,
                    is_recomputed=source.random() < 0.1,
                    saturated=(early, source.choice([0, 0, 2, config.head_dim_max])),
                )
                job.rows.append(row)
                entries[head] = added(config, entries[head], row)
        self._contexts.heads[context] = entries

    def _choice(self, job: PlannedJob) -> None:
        """Which tokens and heads stay, the state, and the report."""
        config, source, descriptor = self._config, self._source, job.descriptor
        context = descriptor["context"]
        entries = self._contexts.heads[context]
        assert entries is not None
        live = len(job.live)
        job.token_keys = [source.choice([7, source.getrandbits(config.token_importance_bits + 1)]) for _ in job.live]
        kept_tokens = live
        if has(descriptor, Flag.PRUNE_TOKENS):
            job.kept_ranks = largest(job.token_keys, max(descriptor["keep_tokens"], job.pinned))
            kept_tokens = len(job.kept_ranks)
        kept_heads, lost_heads = job.live_heads, 0
        if has(descriptor, Flag.PRUNE_HEADS):
            job.head_keys = [2 * value + 1 if h in job.live_heads else 0 for h, (value, _) in enumerate(entries)]
            job.marked_heads = largest(job.head_keys, descriptor["keep_heads"])
            kept_heads = [head for head in job.marked_heads if head in job.live_heads]
            lost_heads = _bits([head for head in job.live_heads if entries[head][1]])
        self._contexts.kept[context] = set(kept_heads)
        job.saturated_tokens = source.randint(0, live)
        if has(descriptor, Flag.STORE_STATE):
            job.stored = {
                "importance": [value for value, _ in entries],
                "saturated": _bits([head for head, (_, saturated) in enumerate(entries) if saturated]),
                "kept": _bits(kept_heads),
            }
        job.report = {
            "tag": descriptor["tag"],
            "live_tokens": live,
            "kept_tokens": kept_tokens,
            "live_heads": _bits(job.live_heads),
            "kept_heads": _bits(kept_heads),
            "rows": len(job.rows) % (1 << report_widths(config)["rows"]),
            "recomputed": sum(row.is_recomputed for row in job.rows),
            "output_saturated": sum(sum(row.saturated) for row in job.rows),
            "tokens_saturated": job.saturated_tokens,
            "heads_saturated": lost_heads,
        }


def added(config: Config, entry: Entry, row: PlannedRow) -> Entry:
    """A head's importance after a row."""
    value, saturated = entry
    limit = (1 << config.head_importance_bits) - 1
    if saturated or row.saturates_head or value + row.adds > limit:
        return limit, True
    return value + row.adds, False
