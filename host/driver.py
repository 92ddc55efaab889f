"""The driver: allocates the accelerator's memory, lays planes out in it, submits jobs and reads their results.

    with Device(transport) as device:
        plane = device.plane(rows=128, heads=12, head_dim=64, bits=8)
        device.store(plane, codes)
        ticket = device.submit(job, at, heads=mask, context=0)
        report = device.wait(ticket)
        output = device.load_output(layout, report)

It sits on a `host.transport.Transport` alone: a simulation or a board. docs/registers.md has the registers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from golden import BoolArray, IntArray
from golden.attention import Addresses, Job, KeyFetch, Mode
from golden.cascade import Context
from golden.convert import pack, unpack
from golden.memory import OUTPUT_BITS, OutputRegion, Plane
from golden.state import restore, save, state_sectors
from host.transport import BusError, Transport
from hw.config import HEAD_DIMS, LSB_BITS, SECTOR_BYTES, Config
from hw.errors import SpattenError
from hw.job import Fetch, Flag, job_fields
from hw.job import Mode as JobMode
from hw.register_map import (
    DESCRIPTOR_VERSION,
    MAGIC,
    NO_WORD,
    ErrorCode,
    RegisterMap,
    RejectReason,
    event_names,
)
from hw.row_format import CODE_BITS

__all__ = [
    "AddressRangeError",
    "Contexts",
    "Device",
    "DeviceError",
    "DeviceFailedError",
    "DeviceTimeoutError",
    "JobRejectedError",
    "OutOfMemoryError",
    "Report",
    "descriptor",
]

_MODES = {
    Mode.SUMMARIZATION: JobMode.SUMMARIZATION,
    Mode.CAUSAL: JobMode.CAUSAL,
    Mode.GENERATION: JobMode.GENERATION,
}
_FETCHES = {
    KeyFetch.STATIC: Fetch.STATIC,
    KeyFetch.JOINED: Fetch.JOINED,
    KeyFetch.PROGRESSIVE: Fetch.PROGRESSIVE,
}


class DeviceError(SpattenError, RuntimeError):
    """The accelerator did not do what was asked."""

    exit_status = 1


class JobRejectedError(DeviceError):
    """The doorbell refused a job; `reason` says why, `word` is the word of the descriptor, or None."""

    def __init__(self, reason: RejectReason, word: int | None) -> None:
        where = "" if word is None else f" (word {word} of the descriptor)"
        super().__init__(f"the job was refused: {reason.what}{where}")
        self.reason = reason
        self.word = word


class DeviceFailedError(DeviceError):
    """The accelerator stopped; all jobs in flight and every context are lost. `code` says why.

    `channel` is that of a bus error, or None; `stuck` names the channels that do not answer.
    """

    def __init__(self, code: ErrorCode, channel: int | None, stuck: list[int]) -> None:
        where = "" if channel is None else f" (channel {channel})"
        what = f"; channels {stuck} do not answer: reset both sides" if stuck else ""
        super().__init__(f"the accelerator stopped: {code.what}{where}{what}")
        self.code = code
        self.channel = channel
        self.stuck = stuck


class DeviceTimeoutError(DeviceError):
    """A job was not done in time."""


class OutOfMemoryError(DeviceError):
    """There is no room for a plane."""

    exit_status = 2


class AddressRangeError(DeviceError):
    """What a job reads or writes would end beyond the memory that the accelerator can address, and go on at sector 0.

    `field` is that of its first sector in the descriptor, `end` the sector behind its last.
    """

    def __init__(self, field: str, first: int, end: int, limit: int) -> None:
        super().__init__(
            f"{field} begins at sector {first} and would end at {end}: the accelerator can address {limit} sectors"
        )
        self.field = field
        self.end = end


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a job reported."""

    tag: int
    live_tokens: int
    kept_tokens: int
    live_heads: IntArray
    """Numbers of the heads that were computed."""
    kept_heads: IntArray
    rows: int
    """Query rows of all heads, modulo 65,536."""
    recomputed: int
    """Of them, how many were flat and were computed again with their LSBs."""
    output_saturated: int
    tokens_saturated: int
    heads_saturated: IntArray


def _regions(config: Config, job: Job, at: Addresses, state: int | None) -> Iterator[tuple[str, int, int]]:
    """What a job reads and writes: the descriptor's field, first sector, and sectors from there to the last."""
    split = job.key_fetch is not KeyFetch.STATIC
    kv_rows = job.keys if at.kv_rows is None else at.kv_rows
    shape = {"channels": config.channels, "base": 0, "heads": job.heads, "head_dim": job.head_dim}
    for name, first, rows, bits in (
        ("query", at.query, job.queries, job.query_bits),
        ("key", at.key_msb, kv_rows, job.key_bits - LSB_BITS if split else job.key_bits),
        ("key_lsb", at.key_lsb if split else None, kv_rows, LSB_BITS),
        ("value", at.value, kv_rows, job.value_bits),
    ):
        if first is not None:
            plane = Plane(rows=rows, bits=bits, **shape)
            yield name, first, int(plane.row_address(plane.groups - 1, rows))
    yield "output", at.output, job.queries * OutputRegion(**shape).row_sectors
    for name, first, sectors in (
        ("has_kv", at.has_kv, -(-job.keys // (8 * SECTOR_BYTES))),
        ("pinned", at.pinned, -(-job.keys // (8 * SECTOR_BYTES))),
        ("state", state, state_sectors(config)),
    ):
        if first is not None:
            yield name, first, sectors


def descriptor(
    config: Config,
    job: Job,
    at: Addresses,
    *,
    tag: int,
    context: int,
    heads: BoolArray,
    load: int | None = None,
    store: int | None = None,
) -> dict[str, int]:
    """A job as the fields of `hw.job.job_fields`, by name.

    `heads` [job.heads] are those with K and V in this layer. `load`, `store`: first sector of the state to begin with,
    and to save at the end; the same if both are given.

    Raises `AddressRangeError`: the accelerator itself checks where a region begins, and not where it ends.
    """
    if load is not None and store is not None and load != store:
        raise ValueError(f"a job loads and stores one state: load = {load!r} must be store = {store!r}")
    state = load if store is None else store
    limit = 1 << config.sector_bits
    for name, first, sectors in _regions(config, job, at, state):
        if first + sectors > limit:
            raise AddressRangeError(name, first, first + sectors, limit)
    split = job.key_fetch is not KeyFetch.STATIC
    flags = {
        Flag.CLEAR: job.clear,
        Flag.RESTART: job.restart,
        Flag.ACCUMULATE: job.accumulate,
        Flag.PRUNE_TOKENS: job.keep_tokens is not None,
        Flag.PRUNE_HEADS: job.keep_heads is not None,
        Flag.PRUNE_VALUES: job.keep_values is not None,
        Flag.HAS_KV: at.has_kv is not None,
        Flag.PINNED: at.pinned is not None,
        Flag.LOAD_STATE: load is not None,
        Flag.STORE_STATE: store is not None,
    }
    values = {
        "tag": tag,
        "mode": int(_MODES[job.mode]),
        "fetch": int(_FETCHES[job.key_fetch]),
        "context": context,
        "flags": sum(1 << flag for flag, is_set in flags.items() if is_set),
        "age_shift": job.age_shift,
        "head_dim": HEAD_DIMS.index(job.head_dim),
        "query_bits": CODE_BITS.index(job.query_bits),
        "key_bits": CODE_BITS.index(job.key_bits - LSB_BITS if split else job.key_bits),
        "value_bits": CODE_BITS.index(job.value_bits),
        "heads": job.heads,
        "head_mask": sum(1 << int(head) for head in np.flatnonzero(heads)),
        "keys": job.keys,
        "kv_rows": job.keys if at.kv_rows is None else at.kv_rows,
        "valid_length": job.keys if job.valid_length is None else job.valid_length,
        "queries": job.queries,
        "query_offset": job.query_offset,
        "keep_tokens": job.keep_tokens or 0,
        "keep_values": job.keep_values or 0,
        "keep_heads": job.keep_heads or 0,
        "multiplier": job.importance_multiplier,
        "flat_limit": job.flat_limit,
        "query": at.query,
        "key": at.key_msb,
        "key_lsb": at.key_lsb or 0,
        "value": at.value,
        "output": at.output,
        "has_kv": at.has_kv or 0,
        "pinned": at.pinned or 0,
        "state": state or 0,
    }
    for head in range(config.heads_max):
        scale = job.score_scales[head] if head < job.heads else None
        values[f"mantissa{head}"] = 0 if scale is None else scale.mantissa
        values[f"shift{head}"] = 0 if scale is None else scale.shift
    return values


class Contexts:
    """Which of its users each context of an accelerator holds the state of.

    There may be more users than contexts: the one that has not run for the longest loses its context, and must bring
    its state from memory when it runs again.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.forget()

    def forget(self) -> None:
        """No context holds anything, as after a reset."""
        self._free = list(range(self._count))
        self._of: dict[object, int] = {}

    def take(self, user: object) -> tuple[int, bool]:
        """The context that `user` is to run in now, and whether it holds its state."""
        context = self._of.pop(user, None)
        is_held = context is not None
        if context is None:
            context = self._free.pop(0) if self._free else self._of.pop(next(iter(self._of)))
        self._of[user] = context  # the last, as the one that ran last
        return context, is_held

    def give_back(self, user: object) -> None:
        """`user` will not run again."""
        context = self._of.pop(user, None)
        if context is not None:
            self._free.append(context)


class Device:
    """One accelerator: its memory, its job queue and its counters.

    Parameters
    ----------
    transport : Transport
    sectors : int or None
        Sectors of memory, over all channels, that the driver may use, from sector 0 on; None: all that the accelerator
        can address.

    Raises `DeviceError` if what answers is not an accelerator of this version, or not the one that was generated.
    """

    def __init__(self, transport: Transport, *, sectors: int | None = None) -> None:
        self.transport = transport
        self.config = self._identify()
        self.map = RegisterMap(self.config)
        limit = 1 << self.config.sector_bits
        if sectors is not None and not self.config.channels <= sectors <= limit:
            raise ValueError(f"sectors must be {self.config.channels} to {limit}, not {sectors!r}")
        self.sectors = limit if sectors is None else sectors
        self._fields = {field.name: field for field in job_fields(self.config)}
        self._words: dict[int, int] = {}
        self._free: list[tuple[int, int]] = [(0, self.sectors // self.config.channels * self.config.channels)]
        self._reports: dict[int, Report] = {}
        self._waiting: deque[int] = deque()
        self._tag = 0
        self.contexts = Contexts(self.config.contexts)
        self._write("INTERRUPT_ENABLE", self.map["INTERRUPT_ENABLE"].pack(done=1, error=1))

    # -- Registers ----------------------------------------------------------------------------------------------------

    def _identify(self) -> Config:
        """The configuration that the accelerator says it has."""
        some = RegisterMap(Config())
        magic = self.transport.read_register(some["ID"].offset)
        if magic != MAGIC:
            raise DeviceError(f"what answers is not this accelerator: its ID is {magic:#010x}, not {MAGIC:#010x}")
        versions = some["VERSION"].unpack(self.transport.read_register(some["VERSION"].offset))
        wanted = some["VERSION"].unpack(some["VERSION"].reset)
        if versions != wanted:
            raise DeviceError(f"the accelerator's registers have the versions {versions}; this driver knows {wanted}")
        values: dict[str, int] = {}
        for register in some.values():
            if register.group == "Configuration":
                values[register.name.lower()] = self.transport.read_register(register.offset)
        return Config(name="device", **values)

    def _read(self, name: str) -> int:
        return self.transport.read_register(self.map[name].offset)

    def _write(self, name: str, value: int) -> None:
        self.transport.write_register(self.map[name].offset, value)

    def status(self) -> dict[str, int]:
        """The fields of STATUS."""
        return self.map["STATUS"].unpack(self._read("STATUS"))

    def counters(self) -> dict[str, int]:
        """All performance counters, by the names of `hw.job.events_layout`."""
        result = {}
        for name in event_names(self.config):
            low, high = self.map.counter(name)
            value = self.transport.read_register(low.offset)
            result[name] = value | self.transport.read_register(high.offset) << 32
        return result

    def clear_counters(self) -> None:
        """All counters start again from zero."""
        self._write("CONTROL", self.map["CONTROL"].pack(clear_counters=1))

    def soft_reset(self) -> None:
        """Drop all jobs and contexts; done when the machine is idle. Raises `DeviceTimeoutError` if a channel hangs."""
        self._write("CONTROL", self.map["CONTROL"].pack(soft_reset=1))
        for _ in range(10_000):
            if not self.status()["draining"]:
                self._forget()
                return
        self._forget()
        stuck = self._stuck()
        which = f"channels {stuck} do not answer" if stuck else "TIMEOUT has not passed since a channel last answered"
        raise DeviceTimeoutError(f"the accelerator does not drain; {which}")

    def _forget(self) -> None:
        """Wait for no job any more. Reports outlive a failure and a soft reset; a later job may have the same tag."""
        self._waiting.clear()
        self._reports.clear()
        self.contexts.forget()
        for _ in range(self.status()["reports"]):
            self._write("REPORT_POP", 1)

    def _stuck(self) -> list[int]:
        mask = self._read("CHANNELS_STUCK")
        return [channel for channel in range(self.config.channels) if mask >> channel & 1]

    def reset(self) -> None:
        """Reset the accelerator and what is in flight; its memory stays, jobs and contexts are lost."""
        self.transport.reset()
        self._words.clear()
        self._waiting.clear()
        self._reports.clear()
        self.contexts.forget()
        self._write("INTERRUPT_ENABLE", self.map["INTERRUPT_ENABLE"].pack(done=1, error=1))

    # -- Memory -------------------------------------------------------------------------------------------------------

    def allocate(self, sectors: int) -> int:
        """First sector of a free region, a multiple of the channels. Raises `OutOfMemoryError`."""
        size = -(-sectors // self.config.channels) * self.config.channels
        for index, (base, room) in enumerate(self._free):
            if room >= size:
                self._free[index] = (base + size, room - size)
                return base
        most = max((room for _, room in self._free), default=0)
        raise OutOfMemoryError(
            f"no room for {size} sectors of {SECTOR_BYTES} bytes: the largest free region has {most}"
        )

    def free(self, base: int, sectors: int) -> None:
        """Give a region back."""
        size = -(-sectors // self.config.channels) * self.config.channels
        merged: list[tuple[int, int]] = []
        for start, length in sorted([*self._free, (base, size)]):
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + length)
            elif length:
                merged.append((start, length))
        self._free = merged

    def plane(self, *, rows: int, heads: int, head_dim: int, bits: int) -> Plane:
        """Room for a plane of codes."""
        plane = Plane(channels=self.config.channels, base=0, rows=rows, heads=heads, head_dim=head_dim, bits=bits)
        return replace(plane, base=self.allocate(plane.sectors))

    def output(self, *, queries: int, heads: int, head_dim: int) -> OutputRegion:
        """Room for a job's output."""
        region = OutputRegion(channels=self.config.channels, base=0, heads=heads, head_dim=head_dim)
        return replace(region, base=self.allocate(queries * region.row_sectors))

    def store(self, plane: Plane, codes: IntArray, rows: IntArray | None = None, heads: IntArray | None = None) -> None:
        """Write codes [heads, rows, head_dim] into rows `rows` of a plane, all from 0 on if None.

        `heads` are the heads that `codes` has, all if None; what the others have in a row that is shared is lost.
        """
        count = codes.shape[1]
        at = np.arange(count, dtype=np.int64) if rows is None else rows
        everything = np.zeros((plane.groups * plane.heads_per_row, count, plane.head_dim), np.int64)
        which = np.arange(plane.heads, dtype=np.int64) if heads is None else heads
        everything[which] = codes
        share = plane.heads_per_row
        grouped = everything.reshape(plane.groups, share, count, plane.head_dim).transpose(0, 2, 1, 3)
        packed = pack(grouped.reshape(plane.groups, count, -1), plane.bits)
        image = np.zeros((plane.groups, count, plane.row_sectors * SECTOR_BYTES), np.uint8)
        image[..., : packed.shape[-1]] = packed
        groups = plane.groups_of(which)
        first = plane.row_address(groups[:, None], at[None, :])
        sectors = first[..., None] + np.arange(plane.row_sectors)
        self._write_sectors(sectors.ravel(), image[groups].reshape(-1, SECTOR_BYTES))

    def store_bitmap(self, base: int, members: BoolArray) -> None:
        """Write a set of tokens at sector `base`."""
        packed = np.packbits(members, bitorder="little")
        image = np.zeros(-(-len(packed) // SECTOR_BYTES) * SECTOR_BYTES, np.uint8)
        image[: len(packed)] = packed
        sectors = base + np.arange(len(image) // SECTOR_BYTES)
        self._write_sectors(sectors, image.reshape(-1, SECTOR_BYTES))

    def load_output(self, region: OutputRegion, heads: IntArray, rows: IntArray) -> IntArray:
        """Output [h, r, d] of heads and rows of a region."""
        first = region.base + rows[None, :] * region.row_sectors + heads[:, None] * region.head_sectors
        sectors = first[..., None] + np.arange(region.head_sectors)
        image = self._read_sectors(sectors.ravel())
        return unpack(image.reshape(len(heads), len(rows), -1), OUTPUT_BITS, region.head_dim, signed=True)

    def load_state(self, base: int) -> Context:
        """The state of a context that a job saved at sector `base`."""
        sectors = base + np.arange(state_sectors(self.config))
        context = Context(self.config)
        restore(context, self._read_sectors(sectors))
        return context

    def store_state(self, base: int, context: Context) -> None:
        """Write a state at sector `base`, for a job to load."""
        self._write_sectors(base + np.arange(state_sectors(self.config)), save(context))

    def _runs(self, sectors: IntArray) -> list[tuple[int, int, IntArray]]:
        """Channel, first local sector, and places in `sectors` of each run of consecutive local sectors."""
        channels = self.config.channels
        runs = []
        for channel in range(channels):
            mine = np.flatnonzero(sectors % channels == channel)
            local = sectors[mine] // channels
            order = np.argsort(local, kind="stable")
            mine, local = mine[order], local[order]
            cuts = np.flatnonzero(np.diff(local) != 1) + 1
            for places, numbers in zip(np.split(mine, cuts), np.split(local, cuts), strict=True):
                if len(places):
                    runs.append((channel, int(numbers[0]), places))
        return runs

    def _write_sectors(self, sectors: IntArray, data: NDArray[np.uint8]) -> None:
        for channel, local, places in self._runs(sectors):
            self.transport.write_memory(channel, local * SECTOR_BYTES, data[places].tobytes())

    def _read_sectors(self, sectors: IntArray) -> NDArray[np.uint8]:
        data = np.empty((len(sectors), SECTOR_BYTES), np.uint8)
        for channel, local, places in self._runs(sectors):
            image = self.transport.read_memory(channel, local * SECTOR_BYTES, len(places) * SECTOR_BYTES)
            data[places] = np.frombuffer(image, np.uint8).reshape(-1, SECTOR_BYTES)
        return data

    # -- Jobs ---------------------------------------------------------------------------------------------------------

    def submit(
        self,
        job: Job,
        at: Addresses,
        *,
        heads: BoolArray,
        context: int,
        load: int | None = None,
        store: int | None = None,
    ) -> int:
        """Queue a job; its tag. Waits for room in the queue, by taking reports. `load` and `store` as of `descriptor`.

        Raises `AddressRangeError`, `JobRejectedError` for a job that the accelerator refuses, and `DeviceFailedError`.
        """
        tag = self._tag
        self._tag = (self._tag + 1) & 0xFFFF
        self.submit_fields(
            descriptor(self.config, job, at, tag=tag, context=context, heads=heads, load=load, store=store)
        )
        return tag

    def submit_fields(self, values: dict[str, int]) -> None:
        """Queue a job that is given as the fields of its descriptor."""
        for _ in range(10_000):
            if self.status()["queue_free"]:
                break
            if not self._take_report():
                self.transport.wait_for_interrupt(timeout_cycles=100_000)
        self.write_descriptor(values)
        try:
            self._write("DOORBELL", DESCRIPTOR_VERSION)
        except BusError:
            self._check_failed()
            reject = self.map["REJECT"].unpack(self._read("REJECT"))
            where = None if reject["word"] == NO_WORD else reject["word"]
            reason = {int(one): one for one in RejectReason}[reject["reason"]]
            raise JobRejectedError(reason, where) from None
        self._waiting.append(values["tag"])

    def write_descriptor(self, values: dict[str, int]) -> None:
        """Write the words of the descriptor that differ from those of the job before."""
        words: dict[int, int] = {}
        for name, value in values.items():
            field = self._fields.get(name)
            if field is None:
                raise ValueError(f"the descriptor has no field {name!r}")
            if not 0 <= value < 1 << field.width:
                raise ValueError(f"{name} must be 0 to {(1 << field.width) - 1}, not {value!r}")
            words[field.word] = words.get(field.word, 0) | value << field.bit
        for word, value in words.items():
            if self._words.get(word) != value:
                self._write(f"JOB{word}", value)
                self._words[word] = value

    def wait(self, tag: int, *, timeout_cycles: int = 50_000_000, progress: Callable[[], Any] | None = None) -> Report:
        """The report of a job. `progress` is called now and then.

        Raises `DeviceTimeoutError` after so many cycles, and `DeviceFailedError` if the accelerator stops.
        """
        slice_cycles = 20_000
        for _ in range(-(-timeout_cycles // slice_cycles)):
            while self._take_report():
                pass
            if tag in self._reports:
                return self._reports.pop(tag)
            if tag not in self._waiting:
                raise ValueError(f"no job with the tag {tag!r} is waited for")
            self.transport.wait_for_interrupt(timeout_cycles=slice_cycles)
            if progress is not None:
                progress()
        raise DeviceTimeoutError(f"the job with the tag {tag} was not done within {timeout_cycles} cycles")

    def _take_report(self) -> bool:
        """Take a report if there is one."""
        self._check_failed()
        if not self.status()["reports"]:
            return False
        report = self.take_report()
        self._reports[report.tag] = report
        self._waiting.remove(report.tag)
        return True

    def take_report(self) -> Report:
        """The oldest report in the queue, of which there must be one."""
        values: dict[str, Any] = {}
        for register in self.map.reports:
            values |= register.unpack(self.transport.read_register(register.offset))
        self._write("REPORT_POP", 1)
        for name in ("live_heads", "kept_heads", "heads_saturated"):
            values[name] = np.flatnonzero([values[name] >> head & 1 for head in range(self.config.heads_max)])
        return Report(**values)

    def _check_failed(self) -> None:
        """Raise what ERROR holds, and clear it once the machine has drained."""
        if not self.status()["failed"]:
            return
        error = self.map["ERROR"].unpack(self._read("ERROR"))
        for _ in range(10_000):
            if not self.status()["draining"] or self._stuck():
                break
        stuck = self._stuck()
        self._write("ERROR", 0xFFFF_FFFF)
        self._forget()
        code = {int(one): one for one in ErrorCode}[error["code"]]
        is_bus = code in (ErrorCode.SLAVE_ERROR, ErrorCode.DECODE_ERROR)
        raise DeviceFailedError(code, error["channel"] if is_bus else None, stuck)

    def close(self) -> None:
        """Let go of the transport."""
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
