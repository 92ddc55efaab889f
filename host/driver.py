"""The driver: allocates the accelerator's memory, lays planes out in it, submits jobs and reads their results.

    with Device(transport) as device:
        plane = device.plane(rows=128, heads=12, head_dim=64, bits=8)
        device.store(plane, codes)
        region = device.output(queries=128, heads=12, head_dim=64)
        tag = device.submit(job, at, heads=mask, context=0)
        report = device.wait(tag)
        output = device.load_output(region, report.live_heads, rows)

It sits on a `host.transport.Transport` alone: a simulation or a board. docs/registers.md has the registers, and
docs/integration.md what the driver does with each of them.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from golden import BoolArray, IntArray
from golden.attention import Addresses, Job, KeyFetch, Mode
from golden.cascade import Context
from golden.convert import pack, unpack
from golden.memory import OUTPUT_BITS, OutputRegion, Plane
from golden.state import restore, save, state_sectors
from host.allocator import Allocator
from host.transport import BusError, Transport
from hw.config import HEAD_DIMS, LSB_BITS, SECTOR_BYTES, Config
from hw.errors import SpattenError
from hw.job import Fetch, Flag, job_fields
from hw.job import Mode as JobMode
from hw.register_map import (
    DESCRIPTOR_VERSION,
    MAGIC,
    NO_WORD,
    PAGE_BITS,
    Access,
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

PAGE_BYTES = 4096
"""Unit of a channel's base address."""
ADDRESS_END = PAGE_BYTES << PAGE_BITS
"""First byte that a channel's AXI master cannot address: 2**40."""
JOB_CYCLES = 50_000_000
"""Within which a job must be done, or the queue have room, unless the caller says otherwise."""
SLICE_CYCLES = 20_000
"""Longest time without a look at the accelerator."""
DRAIN_CYCLES = 2_000_000
"""Within which a drain must end. TIMEOUT after a reset is less, so CHANNELS_STUCK has its names by then."""
STUCK_CYCLES = 20_000
"""That channels are given to end a drain once CHANNELS_STUCK has named them."""
TAGS = 1 << 16


class DeviceError(SpattenError, RuntimeError):
    """The accelerator did not do what was asked."""

    exit_status = 1


class JobRejectedError(DeviceError):
    """The doorbell refused a job.

    `reason` says why, a `RejectReason` where this driver knows it; `word` is the word of the descriptor, or None.
    """

    def __init__(self, reason: int, word: int | None) -> None:
        where = "" if word is None else f" (word {word} of the descriptor)"
        what = reason.what if isinstance(reason, RejectReason) else f"unknown reason {reason}"
        super().__init__(f"the job was refused: {what}{where}")
        self.reason = reason
        self.word = word


class DeviceFailedError(DeviceError):
    """The accelerator stopped; all jobs in flight, their reports and every context are lost.

    `code` says why, an `ErrorCode` where this driver knows it. `channel` is that of a bus error, and `is_write` whether
    it answered a write; both are None for other errors. `stuck` names the channels that do not answer, and `drained`
    is False where the accelerator still waits for what the channels have in flight.
    """

    def __init__(
        self,
        code: int,
        channel: int | None,
        stuck: list[int],
        *,
        is_write: bool | None = None,
        drained: bool = True,
    ) -> None:
        why = code.what if isinstance(code, ErrorCode) else f"unknown error {code}"
        where = "" if channel is None else f" (channel {channel})"
        what = f"; it still drains: {_undrained([])}" if not drained and not stuck else ""
        if stuck:
            what = f"; {_undrained(stuck)}: reset both sides"
        super().__init__(f"the accelerator stopped: {why}{where}{what}")
        self.code = code
        self.channel = channel
        self.is_write = is_write
        self.stuck = stuck
        self.drained = drained


def _undrained(stuck: list[int]) -> str:
    """Why the accelerator does not drain."""
    if stuck:
        return f"channels {stuck} do not answer"
    return "no channel is named, since TIMEOUT has not passed since the drain began, or is 0"


class DeviceTimeoutError(DeviceError):
    """What was waited for did not happen in time: a job's end, room in the job queue, the end of a drain."""


class OutOfMemoryError(DeviceError):
    """There is no room for a plane."""

    exit_status = 2


class AddressRangeError(DeviceError):
    """What a job reads or writes would end beyond the memory that there is.

    Beyond the last sector that the accelerator can address it would go on at sector 0. `field` is that of its first
    sector in the descriptor, `end` the sector behind its last.
    """

    def __init__(self, field: str, first: int, end: int, limit: int, what: str) -> None:
        super().__init__(f"{field} begins at sector {first} and would end at {end}: {what} {limit} sectors")
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
    sectors: int | None = None,
) -> dict[str, int]:
    """A job as the fields of `hw.job.job_fields`, by name.

    `heads` [job.heads] are those with K and V in this layer. `load`, `store`: first sector of the state to begin with,
    and to save at the end; the same if both are given. `sectors` of memory are there, over all channels; None: as many
    as the accelerator can address.

    Raises `AddressRangeError`: the accelerator itself checks where a region begins, and not where it ends. Raises
    `GoldenError` for a job that the configuration cannot run, and ValueError for what does not belong to the job.
    """
    job.check(config)
    if np.shape(heads) != (job.heads,):
        raise ValueError(f"heads must be a flag for each of the {job.heads} heads, not of shape {np.shape(heads)}")
    if load is not None and store is not None and load != store:
        raise ValueError(f"a job loads and stores one state: load = {load!r} must be store = {store!r}")
    state = load if store is None else store
    split = job.key_fetch is not KeyFetch.STATIC
    if split and at.key_lsb is None:
        raise ValueError(f"key_lsb must be the sector of the LSB plane where K is fetched {job.key_fetch.value}")
    limit, what = 1 << config.sector_bits, "the accelerator can address"
    if sectors is not None and sectors < limit:
        limit, what = sectors, "the driver may use"
    for name, first, count in _regions(config, job, at, state):
        if first + count > limit:
            raise AddressRangeError(name, first, first + count, limit, what)
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
    """One accelerator: its memory, its job queue and its counters. It has one driver at a time.

    Whatever an earlier one left is dropped: jobs by a soft reset, reports, an error.

    Parameters
    ----------
    transport : Transport
    sectors : int or None
        Sectors of memory, over all channels, that the driver may use, from sector 0 on; None: all that the accelerator
        can address. Channel c has sectors c, c + channels, ... of them.
    bases : sequence of int or None
        Where the memory of each channel begins: byte addresses of its AXI master, multiples of 4,096; None: where the
        BASE registers say, which is 0 after a reset. Channels with one memory behind them need regions that do not
        overlap; the driver does not know what is behind them.

    What the driver sets up - BASE0, BASE1, ..., TIMEOUT, INTERRUPT_ENABLE - it writes again after `reset`. Registers
    that are written past it are not known to it.

    Raises `DeviceError` if what answers is not an accelerator of this version, or not the one that was generated,
    `DeviceTimeoutError` if what is in flight does not end, and ValueError for sectors and bases that cannot be. Every
    method that reaches the accelerator raises `DeviceError` once the device is closed, and `TransportError`.
    """

    def __init__(self, transport: Transport, *, sectors: int | None = None, bases: Sequence[int] | None = None) -> None:
        self.transport = transport
        self._is_closed = False
        self.map = self._identify()
        self.config = self.map.config
        limit = 1 << self.config.sector_bits
        if sectors is not None and not self.config.channels <= operator.index(sectors) <= limit:
            raise ValueError(f"sectors must be {self.config.channels} to {limit}, not {sectors!r}")
        self.sectors = limit if sectors is None else sectors
        self._memory = Allocator(self.sectors, self.config.channels)
        self._fields = {field.name: field for field in job_fields(self.config)}
        self._words: dict[int, int] = {}
        """What the words of the descriptor hold, as far as it is known."""
        self._reports: dict[int, Report] = {}
        """Taken, and not asked for yet."""
        self._waiting: deque[int] = deque()
        """Tags of jobs that have not reported."""
        self._tag = 0
        self.contexts = Contexts(self.config.contexts)
        descriptor_group = self.map["DOORBELL"].group
        self._settings = {
            register.name: self._read(register.name)
            for register in self.map.values()
            if register.access is Access.RW and register.group != descriptor_group
        }
        """What the registers that set the accelerator up are to hold."""
        found = [self._settings[f"BASE{channel}"] * PAGE_BYTES for channel in range(self.config.channels)]
        self._bases = self._checked_bases(found if bases is None else bases)
        self.enable_interrupts()
        self._take_over()
        if bases is not None:
            self.set_bases(bases)

    # -- Registers ----------------------------------------------------------------------------------------------------

    def _identify(self) -> RegisterMap:
        """The registers of the configuration that the accelerator says it has."""
        some = RegisterMap(Config())

        def read(name: str) -> int:
            return self.transport.read_register(some[name].offset)

        magic = read("ID")
        if magic != MAGIC:
            raise DeviceError(f"what answers is not this accelerator: its ID is {magic:#010x}, not {MAGIC:#010x}")
        versions = some["VERSION"].unpack(read("VERSION"))
        wanted = some["VERSION"].unpack(some["VERSION"].reset)
        if versions != wanted:
            raise DeviceError(f"the accelerator's registers have the versions {versions}; this driver knows {wanted}")
        values: dict[str, int] = {
            register.name.lower(): read(register.name)
            for register in some.values()
            if register.group == some["CHANNELS"].group
        }
        try:
            found = RegisterMap(Config(name="device", **values))
        except ValueError as error:
            raise DeviceError(f"the accelerator says that it has a configuration that cannot be: {error}") from error
        channels = found.config.channels
        if self.transport.channels != channels:
            raise DeviceError(f"the accelerator has {channels} channels, and its transport {self.transport.channels}")
        return found

    def _open_transport(self) -> Transport:
        if self._is_closed:
            raise DeviceError("the device is closed")
        return self.transport

    def _read(self, name: str) -> int:
        return self._open_transport().read_register(self.map[name].offset)

    def _write(self, name: str, value: int) -> None:
        self._open_transport().write_register(self.map[name].offset, value)

    def _set(self, name: str, value: int) -> None:
        """Write a register that sets the accelerator up, now and after every reset."""
        self._write(name, value)
        self._settings[name] = value

    def status(self) -> dict[str, int]:
        """The fields of STATUS."""
        return self.map["STATUS"].unpack(self._read("STATUS"))

    def counters(self) -> dict[str, int]:
        """All performance counters, by the names of `hw.job.events_layout`."""
        result = {}
        for name in event_names(self.config):
            low, high = self.map.counter(name)
            value = self._read(low.name)
            result[name] = value | self._read(high.name) << 32
        return result

    def clear_counters(self) -> None:
        """All counters start again from zero."""
        self._write("CONTROL", self.map["CONTROL"].pack(clear_counters=1))

    def stuck_channels(self) -> list[int]:
        """The channels that CHANNELS_STUCK names: they have had TIMEOUT cycles to drain, and still have not."""
        mask = self._read("CHANNELS_STUCK")
        return [channel for channel in range(self.config.channels) if mask >> channel & 1]

    @property
    def bases(self) -> tuple[int, ...]:
        """Where the memory of each channel begins: the byte address of its AXI master."""
        return self._bases

    def set_bases(self, bases: Sequence[int]) -> None:
        """Let the memory of each channel begin elsewhere, as the constructor's `bases`.

        Bytes stay at the addresses of the AXI masters, so whatever was stored is in no plane any more.

        Raises `DeviceError` unless the accelerator is idle, and ValueError for bases that cannot be.
        """
        checked = self._checked_bases(bases)
        if not self.status()["idle"]:
            raise DeviceError("the accelerator must be idle while the bases of its channels change")
        for channel, base in enumerate(checked):
            self._set(f"BASE{channel}", base // PAGE_BYTES)
        self._bases = checked

    def _checked_bases(self, bases: Iterable[int]) -> tuple[int, ...]:
        checked = tuple(operator.index(base) for base in bases)
        channels = self.config.channels
        if len(checked) != channels:
            raise ValueError(f"bases must be {channels} byte addresses, one of each channel, not {len(checked)}")
        size = -(-self.sectors // channels) * SECTOR_BYTES
        for channel, base in enumerate(checked):
            if base % PAGE_BYTES:
                raise ValueError(f"bases[{channel}] must be a multiple of {PAGE_BYTES} bytes, not {base}")
            if not 0 <= base <= ADDRESS_END - size:
                raise ValueError(
                    f"bases[{channel}] must be 0 to {(ADDRESS_END - size) // PAGE_BYTES * PAGE_BYTES:#x}, not "
                    f"{base:#x}: the driver may use {size} bytes of each channel, and addresses end at {ADDRESS_END:#x}"
                )
        return checked

    @property
    def timeout(self) -> int:
        """Cycles without any activity after which a busy accelerator is stopped; 0: never."""
        return self._settings["TIMEOUT"]

    def set_timeout(self, cycles: int) -> None:
        """Choose `timeout`, 0 to 2**32 - 1. With 0, channels that do not answer are never named."""
        self._set("TIMEOUT", self.map["TIMEOUT"].pack(value=cycles))

    def enable_interrupts(self, *, done: bool = True, error: bool = True) -> None:
        """Choose what raises the interrupt: a report, an error. The constructor enables both.

        Nothing depends on them but how soon it is noticed: without, `wait` looks every 20,000 cycles.
        """
        self._set("INTERRUPT_ENABLE", self.map["INTERRUPT_ENABLE"].pack(done=bool(done), error=bool(error)))

    # -- Resets and failures ------------------------------------------------------------------------------------------

    def soft_reset(self) -> None:
        """Drop all jobs and contexts; done when the machine is idle. Memory and all settings stay.

        Raises `DeviceTimeoutError` if a channel hangs.
        """
        self._write("CONTROL", self.map["CONTROL"].pack(soft_reset=1))
        is_drained = self._drain()
        self._forget()
        if not is_drained:
            self._raise_undrained()

    def reset(self) -> None:
        """Reset the accelerator and what is in flight, and set it up again; its memory stays, jobs and contexts go."""
        transport = self._open_transport()
        self._words.clear()
        self._waiting.clear()
        self._reports.clear()
        self.contexts.forget()
        transport.reset()
        for name, value in self._settings.items():
            self._write(name, value)

    def _take_over(self) -> None:
        """Drop what an earlier driver may have left."""
        if self.status()["idle"]:
            self._forget()
        else:
            self.soft_reset()
        self._clear_error()

    def _forget(self) -> None:
        """Wait for no job any more. Reports outlive a failure and a soft reset; a later job may have the same tag."""
        self._waiting.clear()
        self._reports.clear()
        self.contexts.forget()
        for _ in range(self.status()["reports"]):
            self._write("REPORT_POP", 1)

    def _clear_error(self) -> None:
        self._write("ERROR", self.map["ERROR"].pack(valid=1))

    def _drain(self) -> bool:
        """Wait until nothing drains; False if that takes too long.

        Time passes by waiting for an interrupt, so all are disabled meanwhile: one that is pending would end each wait.
        """
        if not self.status()["draining"]:
            return True
        enabled = self._settings["INTERRUPT_ENABLE"]
        self._write("INTERRUPT_ENABLE", 0)
        left, part = DRAIN_CYCLES, 100
        while self.status()["draining"] and left > 0:
            if self.stuck_channels():
                left = min(left, STUCK_CYCLES)
            part = min(2 * part, SLICE_CYCLES, left)
            self._wait_for_interrupt(part)
            left -= part
        self._write("INTERRUPT_ENABLE", enabled)
        return not self.status()["draining"]

    def _raise_undrained(self) -> NoReturn:
        raise DeviceTimeoutError(f"the accelerator does not drain; {_undrained(self.stuck_channels())}")

    def _fail(self) -> NoReturn:
        """Raise what ERROR holds, and clear it once the machine has drained."""
        error = self.map["ERROR"].unpack(self._read("ERROR"))
        is_drained = self._drain()
        stuck = self.stuck_channels()
        self._clear_error()
        self._forget()
        code = {int(one): one for one in ErrorCode}.get(error["code"], error["code"])
        is_bus = code in (ErrorCode.SLAVE_ERROR, ErrorCode.DECODE_ERROR)
        raise DeviceFailedError(
            code,
            error["channel"] if is_bus else None,
            stuck,
            is_write=bool(error["is_write"]) if is_bus else None,
            drained=is_drained,
        )

    # -- Memory -------------------------------------------------------------------------------------------------------

    def allocate(self, sectors: int) -> int:
        """First sector of a free region, a multiple of the channels. Raises `OutOfMemoryError`."""
        self._open_transport()
        base = self._memory.allocate(sectors)
        if base is None:
            raise OutOfMemoryError(
                f"no room for {self._memory.rounded(sectors)} sectors of {SECTOR_BYTES} bytes: the largest free region "
                f"has {self._memory.largest}"
            )
        return base

    def free(self, base: int, sectors: int) -> None:
        """Give a region back, as a whole; also when the device is closed.

        Raises ValueError unless a region begins at `base`, has been allocated with `sectors`, and was not freed since.
        """
        self._memory.free(base, sectors)

    def plane(self, *, rows: int, heads: int, head_dim: int, bits: int) -> Plane:
        """Room for a plane of codes; `free(plane.base, plane.sectors)` gives it back."""
        config = self.config
        if rows < 1:
            raise ValueError(f"rows must be at least 1, not {rows!r}")
        if not 1 <= heads <= config.heads_max:
            raise ValueError(f"heads must be 1 to {config.heads_max}, not {heads!r}")
        for name, value, known in (("head_dim", head_dim, config.head_dims), ("bits", bits, config.query_bits)):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, not {value!r}")
        plane = Plane(channels=config.channels, base=0, rows=rows, heads=heads, head_dim=head_dim, bits=bits)
        return replace(plane, base=self.allocate(plane.sectors))

    def output(self, *, queries: int, heads: int, head_dim: int) -> OutputRegion:
        """Room for a job's output; `free(region.base, queries * region.row_sectors)` gives it back."""
        region = OutputRegion(channels=self.config.channels, base=0, heads=heads, head_dim=head_dim)
        return replace(region, base=self.allocate(queries * region.row_sectors))

    def store(self, plane: Plane, codes: IntArray, rows: IntArray | None = None, heads: IntArray | None = None) -> None:
        """Write codes [heads, rows, head_dim] into rows `rows` of a plane, all from 0 on if None.

        `heads` are the heads that `codes` has, all if None; what the others have in a row that is shared is lost.

        Raises ValueError for codes of another shape or more bits than the plane's, for rows and heads that it does not
        have, and for a plane whose memory is not allocated.
        """
        self._check_channels(plane)
        if codes.ndim != 3:
            raise ValueError(f"codes must be of three dimensions (heads, rows, head_dim), not of shape {codes.shape}")
        count = codes.shape[1]
        at = _numbers("rows", np.arange(count) if rows is None else rows, plane.rows)
        which = _numbers("heads", np.arange(plane.heads) if heads is None else heads, plane.heads)
        _check_codes(codes, (len(which), len(at), plane.head_dim), plane.bits)
        if not codes.size:
            return
        everything = np.zeros((plane.groups * plane.heads_per_row, count, plane.head_dim), np.int64)
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
        """Write a set of tokens at sector `base` of memory that is allocated."""
        packed = np.packbits(members, bitorder="little")
        image = np.zeros(-(-len(packed) // SECTOR_BYTES) * SECTOR_BYTES, np.uint8)
        image[: len(packed)] = packed
        sectors = base + np.arange(len(image) // SECTOR_BYTES)
        self._write_sectors(sectors, image.reshape(-1, SECTOR_BYTES))

    def load_output(self, region: OutputRegion, heads: IntArray, rows: IntArray) -> IntArray:
        """Output [h, r, d] of heads and rows of a region. Only what the job computed is there, the rest is older.

        Raises ValueError for heads and rows that it does not have, and for memory that is not allocated.
        """
        self._check_channels(region)
        which, at = _numbers("heads", heads, region.heads), _numbers("rows", rows, None)
        first = region.base + at[None, :] * region.row_sectors + which[:, None] * region.head_sectors
        sectors = first[..., None] + np.arange(region.head_sectors)
        image = self._read_sectors(sectors.ravel()).reshape(*first.shape, region.head_sectors * SECTOR_BYTES)
        return unpack(image, OUTPUT_BITS, region.head_dim, signed=True)

    def load_state(self, base: int) -> Context:
        """The state of a context that a job saved at sector `base` of memory that is allocated."""
        sectors = base + np.arange(state_sectors(self.config))
        context = Context(self.config)
        restore(context, self._read_sectors(sectors))
        return context

    def store_state(self, base: int, context: Context) -> None:
        """Write a state at sector `base` of memory that is allocated, for a job to load."""
        sizes = [(one.tokens_max, one.heads_max) for one in (context.config, self.config)]
        if sizes[0] != sizes[1]:
            raise ValueError("context must be of {} tokens and {} heads, not {} and {}".format(*sizes[1], *sizes[0]))
        self._write_sectors(base + np.arange(state_sectors(self.config)), save(context))

    def _check_channels(self, what: Plane | OutputRegion) -> None:
        if what.channels != self.config.channels:
            raise ValueError(
                f"what lies in memory must be laid out over {self.config.channels} channels, not {what.channels}"
            )

    def _check_allocated(self, sectors: IntArray) -> None:
        """Raise ValueError unless all lie in one region."""
        first, last = int(sectors.min()), int(sectors.max())
        if not self._memory.holds(first, last + 1):
            raise ValueError(
                f"sectors {first} to {last} must be of one region that is allocated: it was freed, ends earlier, or "
                "never was"
            )

    def _runs(self, sectors: IntArray) -> list[tuple[int, int, IntArray]]:
        """Channel, first byte, and places in `sectors` of each run of consecutive sectors of a channel."""
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
                    runs.append((channel, self._bases[channel] + int(numbers[0]) * SECTOR_BYTES, places))
        return runs

    def _write_sectors(self, sectors: IntArray, data: NDArray[np.uint8]) -> None:
        transport = self._open_transport()
        if not len(sectors):
            return
        self._check_allocated(sectors)
        for channel, address, places in self._runs(sectors):
            transport.write_memory(channel, address, data[places].tobytes())

    def _read_sectors(self, sectors: IntArray) -> NDArray[np.uint8]:
        transport = self._open_transport()
        data = np.empty((len(sectors), SECTOR_BYTES), np.uint8)
        if not len(sectors):
            return data
        self._check_allocated(sectors)
        for channel, address, places in self._runs(sectors):
            image = transport.read_memory(channel, address, len(places) * SECTOR_BYTES)
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
        timeout_cycles: int = JOB_CYCLES,
    ) -> int:
        """Queue a job; its tag, which no job has whose report is still to be taken by `wait`.

        Waits for room in the queue, by taking reports, at most so many cycles. `load` and `store` as of `descriptor`.

        Raises what `descriptor` does, `JobRejectedError` for a job that the accelerator refuses, `DeviceFailedError`,
        and `DeviceTimeoutError` where there is no room; nothing is queued then.
        """
        tag = self._next_tag()
        values = descriptor(
            self.config, job, at, tag=tag, context=context, heads=heads, load=load, store=store, sectors=self.sectors
        )
        self.submit_fields(values, timeout_cycles=timeout_cycles)
        return tag

    def _is_taken(self, tag: int) -> bool:
        return tag in self._reports or tag in self._waiting

    def _next_tag(self) -> int:
        for _ in range(TAGS):
            tag = self._tag
            self._tag = (tag + 1) % TAGS
            if not self._is_taken(tag):
                return tag
        raise DeviceError(f"there is no tag left: {TAGS} jobs have reports that `wait` was not asked for")

    def submit_fields(self, values: dict[str, int], *, timeout_cycles: int = JOB_CYCLES) -> None:
        """Queue a job that is given as all the fields of its descriptor; waits and raises as `submit` does."""
        tag = values.get("tag")
        if tag is None:
            raise ValueError("the descriptor must have a tag")
        if self._is_taken(tag):
            raise ValueError(f"tag must be of no job whose report is still to be taken, not {tag!r}")
        if self.status()["draining"] and not self._drain():
            self._raise_undrained()
        if not self._wait_until(lambda: bool(self.status()["queue_free"]), timeout_cycles):
            raise DeviceTimeoutError(f"the job queue had no room within {timeout_cycles} cycles")
        self.write_descriptor(values)
        try:
            self._write("DOORBELL", DESCRIPTOR_VERSION)
        except BusError as error:
            if self.status()["failed"]:
                self._fail()
            reject = self.map["REJECT"].unpack(self._read("REJECT"))
            reason = {int(one): one for one in RejectReason}.get(reject["reason"], reject["reason"])
            if reason == RejectReason.NONE:
                raise DeviceError(
                    f"the doorbell was answered with an error, and REJECT has no reason: {error}"
                ) from error
            raise JobRejectedError(reason, None if reject["word"] == NO_WORD else reject["word"]) from None
        self._waiting.append(tag)

    def write_descriptor(self, values: dict[str, int]) -> None:
        """Write the words of the descriptor that differ from those of the job before; `values` has all fields.

        Raises ValueError for a field that is missing or unknown, or a value that it cannot hold; nothing is written.
        """
        words: dict[int, int] = {}
        for name, value in values.items():
            field = self._fields.get(name)
            if field is None:
                raise ValueError(f"the descriptor has no field {name!r}")
            if not 0 <= value < 1 << field.width:
                raise ValueError(f"{name} must be 0 to {(1 << field.width) - 1}, not {value!r}")
            words[field.word] = words.get(field.word, 0) | value << field.bit
        missing = [name for name in self._fields if name not in values]
        if missing:
            raise ValueError(f"the descriptor must have all fields, also {', '.join(missing)}")
        for word, value in words.items():
            if self._words.get(word) != value:
                # Whether a write that fails took place is not known.
                self._words.pop(word, None)
                self._write(f"JOB{word}", value)
                self._words[word] = value

    def wait(self, tag: int, *, timeout_cycles: int = JOB_CYCLES, progress: Callable[[], Any] | None = None) -> Report:
        """The report of a job, which is given once. `progress` is called now and then.

        Raises `DeviceTimeoutError` after so many cycles, in which case the job may be waited for again,
        `DeviceFailedError` if the accelerator stops, and ValueError for a tag that no job has: none was queued with it,
        its report was given, or it was lost in a failure or a reset.
        """

        def is_done() -> bool:
            if not self._is_taken(tag):
                raise ValueError(f"no job with the tag {tag!r} is waited for")
            return tag in self._reports

        if not self._wait_until(is_done, timeout_cycles, progress):
            raise DeviceTimeoutError(f"the job with the tag {tag} was not done within {timeout_cycles} cycles")
        return self._reports.pop(tag)

    def _wait_until(
        self, holds: Callable[[], bool], timeout_cycles: int, progress: Callable[[], Any] | None = None
    ) -> bool:
        """Take reports until something holds; False if it does not after so many cycles without a report."""
        left = timeout_cycles
        while not holds():
            if self._take_report():
                continue
            if left <= 0:
                return False
            part = min(left, SLICE_CYCLES)
            # The time of an interrupt is not known; one without a report must not keep this from coming to an end.
            if not (self._wait_for_interrupt(part) and self._take_report()):
                left -= part
            if progress is not None:
                progress()
        return True

    def _wait_for_interrupt(self, cycles: int) -> bool:
        return self._open_transport().wait_for_interrupt(timeout_cycles=cycles)

    def _take_report(self) -> bool:
        """Take a report if there is one; raise `DeviceFailedError` if the accelerator has stopped."""
        status = self.status()
        if status["failed"]:
            self._fail()
        if not status["reports"]:
            return False
        report = self._pop_report()
        if report.tag not in self._waiting:
            raise DeviceError(f"a job reported with the tag {report.tag}, which this driver did not queue")
        self._waiting.remove(report.tag)
        self._reports[report.tag] = report
        return True

    def take_report(self) -> Report:
        """The oldest report in the queue, whatever its job, for whoever rings the doorbell without `submit`.

        Raises `DeviceError` if there is none.
        """
        if not self.status()["reports"]:
            raise DeviceError("no report waits")
        return self._pop_report()

    def _pop_report(self) -> Report:
        values: dict[str, Any] = {}
        for register in self.map.reports:
            values |= register.unpack(self._read(register.name))
        self._write("REPORT_POP", 1)
        for name in ("live_heads", "kept_heads", "heads_saturated"):
            values[name] = np.flatnonzero([values[name] >> head & 1 for head in range(self.config.heads_max)])
        return Report(**values)

    def close(self) -> None:
        """Let go of the transport; closing again does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _numbers(name: str, numbers: IntArray, count: int | None) -> IntArray:
    """Row or head numbers [n] that are all different; ValueError unless they are 0 to `count` - 1, None: any."""
    array = np.asarray(numbers)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ValueError(f"{name} must be a list of numbers, not of shape {array.shape} and type {array.dtype}")
    if len(np.unique(array)) != len(array):
        raise ValueError(f"{name} must all be different, not {array.tolist()}")
    low = array.min(initial=0)
    high = array.max(initial=0)
    if low < 0 or (count is not None and high >= count):
        most = "on" if count is None else f"to {count - 1}"
        raise ValueError(f"{name} must be from 0 {most}, not {low if low < 0 else high}")
    return array.astype(np.int64)


def _check_codes(codes: IntArray, shape: tuple[int, int, int], bits: int) -> None:
    """ValueError unless `codes` have this shape and fit `bits` bits, with a sign or, as of an LSB plane, without."""
    if codes.shape != shape:
        raise ValueError(f"codes must be of shape {shape} (heads, rows, head_dim), not {codes.shape}")
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes must be integers, not {codes.dtype}")
    low, high = int(codes.min(initial=0)), int(codes.max(initial=0))
    half = 1 << bits - 1
    if low < -half or high >= (half if low < 0 else 2 * half):
        raise ValueError(
            f"codes must be {-half} to {half - 1}, or 0 to {2 * half - 1} without a sign, not {low} to {high}"
        )
