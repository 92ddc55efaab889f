"""The driver: allocates the accelerator's memory, lays planes out in it, submits jobs and reads their results.

    with Device(transport) as device:
        plane = device.plane(rows=128, heads=12, head_dim=64, bits=8)
        device.store(plane, codes)
        region = device.output(queries=128, heads=12, head_dim=64)
        tag = device.submit(job, at, heads=mask, context=0)
        report = device.wait(tag)
        output = device.load_output(region, report.live_heads, rows)

It sits on a `host.driver.transport.Transport` alone: a simulation or a board. docs/registers.md has the registers, and
docs/integration.md what the driver does with each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spatten.golden import BoolArray, IntArray
from spatten.golden.cascade import Context
from spatten.golden.convert import pack, unpack
from spatten.golden.memory import OUTPUT_BITS, OutputRegion, Plane
from spatten.golden.state import importance_sectors, kept_sectors, restore, save, state_sectors
from spatten.host.driver.allocator import Allocator
from spatten.host.driver.encoding import Report, check_codes, checked_numbers, descriptor
from spatten.host.driver.errors import OutOfMemoryError
from spatten.host.driver.operations import Operation, ReadMemory, WriteMemory
from spatten.host.driver.protocol import JOB_CYCLES, Protocol
from spatten.host.driver.readings import Reading
from spatten.host.driver.transport import Transport
from spatten.spec.config import SECTOR_BYTES
from spatten.spec.job import Addresses, Job

__all__ = ["Device"]

T = TypeVar("T")


class Device(Protocol):
    """One accelerator: its memory, its job queue and its counters. It has one driver at a time.

    Whatever an earlier driver left is dropped: its jobs by a soft reset, its reports and its error.

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

    What the driver sets up - BASE0, BASE1, ..., TIMEOUT, INTERRUPT_ENABLE - it writes again after `reset`. It does not
    know what others write to registers.

    Raises `DeviceError` if what answers is not an accelerator of this version, or not the one that was generated,
    `DeviceTimeoutError` if what is in flight does not end, and ValueError for impossible sectors and bases. Every
    method that reaches the accelerator raises `DeviceError` once the device is closed, and any `TransportError`.
    """

    def __init__(self, transport: Transport, *, sectors: int | None = None, bases: Sequence[int] | None = None) -> None:
        super().__init__(transport, sectors=sectors, bases=bases)
        self._memory = Allocator(self.sectors, self.config.channels)

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
        """Give a region back, as a whole; a closed device does so, too.

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

        `heads` are the heads of `codes`, all if None; where heads share a row, the codes of heads not given are lost.

        Raises ValueError for codes of another shape or more bits than the plane's, for rows and heads that the plane
        does not have, and for a plane whose memory is not allocated.
        """
        self._store(self.store_operations(plane, codes, rows, heads))

    def store_operations(
        self, plane: Plane, codes: IntArray, rows: IntArray | None = None, heads: IntArray | None = None
    ) -> list[Operation]:
        """What `store` does, to be done with a job; raises the same."""
        self._open_transport()
        self._check_channels(plane)
        if codes.ndim != 3:
            raise ValueError(f"codes must be of three dimensions (heads, rows, head_dim), not of shape {codes.shape}")
        count = codes.shape[1]
        at = checked_numbers("rows", np.arange(count) if rows is None else rows, plane.rows)
        which = checked_numbers("heads", np.arange(plane.heads) if heads is None else heads, plane.heads)
        check_codes(codes, (len(which), len(at), plane.head_dim), plane.bits)
        if not codes.size:
            return []
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
        return self._write_operations(sectors.ravel(), image[groups].reshape(-1, SECTOR_BYTES))

    def store_bitmap(self, base: int, members: BoolArray) -> None:
        """Write a set of tokens at sector `base` of memory that is allocated."""
        self._store(self.bitmap_operations(base, members))

    def bitmap_operations(self, base: int, members: BoolArray) -> list[Operation]:
        """What `store_bitmap` does, to be done with a job; raises the same."""
        packed = np.packbits(members, bitorder="little")
        image = np.zeros(-(-len(packed) // SECTOR_BYTES) * SECTOR_BYTES, np.uint8)
        image[: len(packed)] = packed
        sectors = base + np.arange(len(image) // SECTOR_BYTES)
        return self._write_operations(sectors, image.reshape(-1, SECTOR_BYTES))

    def load_output(self, region: OutputRegion, heads: IntArray, rows: IntArray) -> IntArray:
        """Output [h, r, d] of heads and rows of a region. Only what the job computed is new, the rest is older.

        Raises ValueError for heads and rows that the region does not have, and for memory that is not allocated.
        """
        return self.output_reading(region, heads, rows).value

    def output_reading(self, region: OutputRegion, heads: IntArray, rows: IntArray) -> Reading[IntArray]:
        """What `load_output` gives, to be read when it is asked for, or with a job; raises the same."""
        self._check_channels(region)
        which, at = checked_numbers("heads", heads, region.heads), checked_numbers("rows", rows, None)
        first = region.base + at[None, :] * region.row_sectors + which[:, None] * region.head_sectors
        sectors = first[..., None] + np.arange(region.head_sectors)

        def decode(data: NDArray[np.uint8]) -> IntArray:
            image = data.reshape(*first.shape, region.head_sectors * SECTOR_BYTES)
            return unpack(image, OUTPUT_BITS, region.head_dim, signed=True)

        return self._sector_reading(sectors.ravel(), decode)

    def load_state(self, base: int) -> Context:
        """The state of a context that a job saved at sector `base` of memory that is allocated."""
        return self._state_reading(base, np.arange(state_sectors(self.config))).value

    def kept_reading(self, base: int) -> Reading[Context]:
        """A state of which only `kept_tokens` and `kept_heads` are read, when asked for, or with a job."""
        return self._state_reading(base, kept_sectors(self.config))

    def importance_reading(self, base: int) -> Reading[Context]:
        """A state of which only the importance of tokens and heads is read, when asked for, or with a job."""
        return self._state_reading(base, importance_sectors(self.config))

    def _state_reading(self, base: int, places: IntArray) -> Reading[Context]:
        """The state at sector `base`, of which only the sectors `places`, from 0 on, are read."""

        def decode(data: NDArray[np.uint8]) -> Context:
            image = np.zeros((state_sectors(self.config), SECTOR_BYTES), np.uint8)
            image[places] = data
            context = Context(self.config)
            restore(context, image)
            return context

        return self._sector_reading(base + places, decode)

    def store_state(self, base: int, context: Context) -> None:
        """Write a state at sector `base` of memory that is allocated, for a job to load."""
        sizes = [(one.tokens_max, one.heads_max) for one in (context.config, self.config)]
        if sizes[0] != sizes[1]:
            raise ValueError("context must be of {} tokens and {} heads, not {} and {}".format(*sizes[1], *sizes[0]))
        self._store(self._write_operations(base + np.arange(state_sectors(self.config)), save(context)))

    def _check_channels(self, what: Plane | OutputRegion) -> None:
        if what.channels != self.config.channels:
            raise ValueError(
                f"what lies in memory must be laid out over {self.config.channels} channels, not {what.channels}"
            )

    def _check_allocated(self, sectors: IntArray) -> None:
        """Raise ValueError unless all `sectors` lie in one region that is allocated."""
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

    def _write_operations(self, sectors: IntArray, data: NDArray[np.uint8]) -> list[Operation]:
        self._open_transport()
        if not len(sectors):
            return []
        self._check_allocated(sectors)
        return [
            WriteMemory(channel=channel, address=address, data=data[places].tobytes())
            for channel, address, places in self._runs(sectors)
        ]

    def _store(self, operations: Sequence[Operation]) -> None:
        """Write to memory, once what was put off has been read."""
        if operations:
            self._execute_and_take(self._put_off.take(), operations)

    def _sector_reading(self, sectors: IntArray, decode: Callable[[NDArray[np.uint8]], T]) -> Reading[T]:
        """A reading of sectors, of which `decode` makes the value."""
        self._open_transport()
        runs = []
        if len(sectors):
            self._check_allocated(sectors)
            runs = self._runs(sectors)

        def place(images: Sequence[Any]) -> T:
            data = np.empty((len(sectors), SECTOR_BYTES), np.uint8)
            for (_, _, places), image in zip(runs, images, strict=True):
                data[places] = np.frombuffer(image, np.uint8).reshape(-1, SECTOR_BYTES)
            return decode(data)

        operations = [
            ReadMemory(channel=channel, address=address, size=len(places) * SECTOR_BYTES)
            for channel, address, places in runs
        ]
        return Reading(operations, place, self._execute)

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
        """Queue a job; its tag, which differs from those of all jobs whose reports `wait` has yet to return.

        Waits for room in the queue, by taking reports, at most `timeout_cycles`. `load` and `store` are `descriptor`'s.

        Raises what `descriptor` does, `JobRejectedError` for a job that the accelerator refuses, `DeviceFailedError`,
        and `DeviceTimeoutError` where there is no room; nothing is queued then.
        """
        tag = self._next_tag()
        values = descriptor(
            self.config, job, at, tag=tag, context=context, heads=heads, load=load, store=store, sectors=self.sectors
        )
        self.submit_fields(values, timeout_cycles=timeout_cycles)
        return tag

    def run(
        self,
        job: Job,
        at: Addresses,
        *,
        heads: BoolArray,
        context: int,
        load: int | None = None,
        store: int | None = None,
        writes: Sequence[Operation] = (),
        readings: Sequence[Reading[Any]] = (),
        later: Sequence[Reading[Any]] = (),
        timeout_cycles: int = JOB_CYCLES,
    ) -> Report:
        """Run a job, and with it all that it takes and gives, in one batch of the transport; its report.

        The batch does `writes`, queues the job, waits for its report, and reads `readings`. Jobs that were queued
        before are waited for first. The counters begin again from zero, so they are those of the job.

        `later` are put off: each is read when it is asked for, or else before the driver does anything that may change
        what it reads - the next job, a write to memory, a reset, its end -, with that, unless nobody refers to the
        reading any more. So its value is that after this job, whenever it is asked for. Where it could not be read in
        time, since the accelerator did not answer, asking for it raises `DeviceError`.

        Raises what `submit` and `wait` raise, and what `writes` and `readings` raise; no reading is put off then.
        """
        tag = self._next_tag()
        values = descriptor(
            self.config, job, at, tag=tag, context=context, heads=heads, load=load, store=store, sectors=self.sectors
        )
        return self.run_fields(values, writes=writes, readings=readings, later=later, timeout_cycles=timeout_cycles)
