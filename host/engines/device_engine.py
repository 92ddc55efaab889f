"""An accelerator as an attention engine: what `host/engines/quantized_engine.py` decides runs on a
`host.driver.device.Device`.

A sequence holds memory of the device for as long as it lives: for each layer its K and V planes and the bitmap of the
tokens that they have, and once for all layers Q, the output, the pinned tokens and the cascade state. Every job saves
the state there, which tells what was kept, and allows more live sequences than the device has contexts.

A job, with all that it takes and all that the next layer needs of it, is one batch of the device's transport. Only the
new rows of K and V are written. Importance and counters are read when somebody asks for them (`Device.run`).
"""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np

from spatten.golden import IntArray
from spatten.golden.cascade import Context
from spatten.golden.convert import split
from spatten.golden.memory import OutputRegion, Plane
from spatten.golden.state import state_sectors
from spatten.golden.traffic import Traffic
from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceError
from spatten.host.driver.operations import Operation
from spatten.host.engines.engine import Derived, ModelShape
from spatten.host.engines.quantized_engine import Computed, LayerWork, QuantizedEngine, QuantizedSequence, Settings
from spatten.host.engines.saved_context import SavedContext
from spatten.spec.config import LSB_BITS, SECTOR_BYTES, Config
from spatten.spec.job import Addresses, Job, KeyFetch

__all__ = ["DeviceEngine", "DeviceSequence"]


class DeviceEngine(QuantizedEngine):
    """Makes sequences computed by an accelerator under given settings. Several engines may share a device.

    Parameters
    ----------
    device : Device
    settings : Settings or None
    room : int or None
        Tokens that the planes of a causal model's sequence have room for, prompt and continuation; None: all that
        the accelerator can take.
    """

    def __init__(
        self, device: Device, settings: Settings | None = None, *, room: int | None = None, name: str = "device"
    ) -> None:
        super().__init__(settings, device.config, name)
        if room is not None and not 1 <= room <= device.config.tokens_max:
            raise ValueError(f"room must be 1 to {device.config.tokens_max}, not {room!r}")
        self.device = device
        self.room = device.config.tokens_max if room is None else room

    def start(self, shape: ModelShape, length: int) -> DeviceSequence:
        """Raises `GoldenError` for a model or a length that the device cannot hold, `OutOfMemoryError` without room."""
        self.check(shape, length)
        if length > self.room:
            raise ValueError(f"length must be at most room = {self.room}, not {length!r}")
        return DeviceSequence(self.device, self.settings, shape, length, self.room if shape.causal else length)


@dataclass(frozen=True, kw_only=True)
class _LayerPlanes:
    """Where a layer's K and V lie, and which tokens have them."""

    key: Plane
    """All bits of K's codes, or their MSBs where there is a `key_lsb`."""
    key_lsb: Plane | None
    value: Plane
    has_kv: int


class _Regions:
    """The memory of a sequence, and its claim to a context."""

    def __init__(self, device: Device, config: Config) -> None:
        self.device = device
        self.config = config
        self._taken: list[tuple[int, int]] = []

    def allocate(self, sectors: int) -> int:
        base = self.device.allocate(sectors)
        self._taken.append((base, sectors))
        return base

    def plane(self, *, rows: int, heads: int, head_dim: int, bits: int) -> Plane:
        plane = self.device.plane(rows=rows, heads=heads, head_dim=head_dim, bits=bits)
        self._taken.append((plane.base, plane.sectors))
        return plane

    def release(self) -> None:
        while self._taken:
            self.device.free(*self._taken.pop())
        self.device.contexts.give_back(self)


class DeviceSequence(QuantizedSequence):
    """One sequence on an accelerator. Its memory is given back by `close`, or when nothing refers to it any more.

    `kv_rows` is the number of tokens that it has room for.
    """

    def __init__(self, device: Device, settings: Settings, shape: ModelShape, length: int, kv_rows: int) -> None:
        super().__init__(device.config, settings, shape)
        self._device = device
        self._kv_rows = kv_rows
        self._regions = regions = _Regions(device, device.config)
        self._release = weakref.finalize(self, regions.release)
        try:
            bitmap = -(-kv_rows // (8 * SECTOR_BYTES))
            sizes = {"heads": shape.heads, "head_dim": shape.head_dim}
            self._query = regions.plane(rows=length, bits=settings.query_width(self.config), **sizes)
            self._planes = [
                _LayerPlanes(
                    key=regions.plane(rows=kv_rows, bits=settings.key_bits, **sizes),
                    key_lsb=regions.plane(rows=kv_rows, bits=LSB_BITS, **sizes) if settings.lsb else None,
                    value=regions.plane(rows=kv_rows, bits=settings.value_bits, **sizes),
                    has_kv=regions.allocate(bitmap),
                )
                for _ in range(shape.layers)
            ]
            self._pinned_at = regions.allocate(bitmap)
            region = OutputRegion(channels=device.config.channels, base=0, **sizes)
            self._output = OutputRegion(
                channels=device.config.channels, base=regions.allocate(length * region.row_sectors), **sizes
            )
            self._state = regions.allocate(state_sectors(device.config))
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """Give the memory back; closing again does nothing, any job after it raises `DeviceError`."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def compute(self, work: LayerWork) -> Computed:
        if not self._release.alive:
            raise DeviceError("the sequence is closed")
        device, job, live = self._device, work.job, work.live
        if job.keys > self._kv_rows:
            raise DeviceError(f"the sequence has room for {self._kv_rows} tokens, not {job.keys}")
        at = self._addresses(work)
        context, has_state = device.contexts.take(self._regions)
        load = None if has_state or job.clear else self._state
        before, counters = self.context, device.counters_reading()
        importance = device.importance_reading(self._state)
        output = device.output_reading(self._output, live.heads, live.rows - job.query_offset)
        kept = device.kept_reading(self._state)
        try:
            if isinstance(before, SavedContext):
                before.let_go()
            report = device.run(
                job,
                at,
                heads=work.bitmaps.heads,
                context=context,
                load=load,
                store=self._state,
                writes=self._inputs(work),
                readings=[output, kept],
                later=[importance, counters],
            )
        except BaseException:
            device.contexts.give_back(self._regions)  # the state in memory is that of the job before
            raise
        self.context = SavedContext.of(kept.value, importance)
        values = len(live.tokens) if job.keep_values is None else min(job.keep_values, len(live.tokens))
        return Computed(
            output=output.value,
            kept_tokens=np.flatnonzero(self.context.kept_tokens).astype(np.int64),
            kept_heads=np.flatnonzero(self.context.kept_heads).astype(np.int64),
            recomputed=report.recomputed,
            values_fetched=len(live.heads) * values,
            saturated=report.output_saturated,
            lazy_importance=Derived(importance, _importance_of),
            lazy_traffic=Derived(counters, functools.partial(_traffic, self.config)),
            lazy_counters=counters,
        )

    def _inputs(self, work: LayerWork) -> list[Operation]:
        """Writes of what a job reads, of K and V only the new tokens' rows."""
        device, live = self._device, work.live
        layer, cache, tokens = self._planes[work.layer], self.cache(work.layer), work.new_tokens
        # All heads of a token are written, since two of them may share sectors.
        key = cache.key[:, tokens]
        operations: list[Operation] = []
        if layer.key_lsb is not None:
            key, lsb = split(key)
            operations += device.store_operations(layer.key_lsb, lsb, tokens)
        operations += device.store_operations(layer.key, key, tokens)
        operations += device.store_operations(layer.value, cache.value[:, tokens], tokens)
        operations += device.bitmap_operations(layer.has_kv, work.bitmaps.has_kv)
        operations += device.bitmap_operations(self._pinned_at, work.bitmaps.pinned)
        rows = live.rows - work.job.query_offset
        return operations + device.store_operations(self._query_plane(work.job), work.query, rows, live.heads)

    def _addresses(self, work: LayerWork) -> Addresses:
        layer = self._planes[work.layer]
        return Addresses(
            query=self._query.base,
            key_msb=layer.key.base,
            key_lsb=None if layer.key_lsb is None or work.job.key_fetch is KeyFetch.STATIC else layer.key_lsb.base,
            value=layer.value.base,
            output=self._output.base,
            kv_rows=self._kv_rows,
            has_kv=layer.has_kv,
            pinned=self._pinned_at,
        )

    def _query_plane(self, job: Job) -> Plane:
        """The plane of Q with a job's number of rows; no job has more rows than the prompt."""
        return replace(self._query, rows=job.queries)


def _importance_of(context: Context) -> tuple[IntArray, IntArray]:
    return context.token_importance, context.head_importance


def _traffic(config: Config, counters: dict[str, int]) -> Traffic:
    """Bytes by class; the saved state, which was written too, does not count as output."""

    def size(name: str) -> int:
        return counters[f"{name}_sectors"] * SECTOR_BYTES

    return Traffic(
        query=size("query"),
        key=size("key"),
        value=size("value"),
        lsb=size("lsb"),
        output=size("output") - state_sectors(config) * SECTOR_BYTES,
    )
