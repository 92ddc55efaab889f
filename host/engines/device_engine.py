"""An accelerator as an attention engine: what `host/engines/quantized_engine.py` decides runs on a
`host.driver.device.Device`.

A sequence holds memory of the device for as long as it lives: for each layer its K and V planes and the bitmap of the
tokens that they have, and once for all layers Q, the output, the pinned tokens and the cascade state. Every job saves
the state there, which tells what was kept, and allows more live sequences than the device has contexts. A device that
cannot save states computes without token pruning, and for as many sequences at a time as it has contexts.

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

from spatten.golden import GoldenError, IntArray
from spatten.golden.cascade import Context
from spatten.golden.convert import split
from spatten.golden.memory import OutputRegion, Plane
from spatten.golden.state import state_sectors
from spatten.golden.traffic import Traffic
from spatten.host.driver.device import Device
from spatten.host.driver.errors import DeviceError
from spatten.host.driver.operations import Operation
from spatten.host.driver.readings import Reading
from spatten.host.engines.engine import Derived, Known, Lazy, ModelShape
from spatten.host.engines.quantized_engine import (
    Computed,
    LayerWork,
    QuantizedEngine,
    QuantizedSequence,
    Settings,
    layer_counts,
)
from spatten.host.engines.saved_context import SavedContext
from spatten.spec.config import LSB_BITS, SECTOR_BYTES, Config, Feature
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
        """Raises `GoldenError` for a model or a length that the device cannot hold, or pruning that it cannot tell, and
        `OutOfMemoryError` without room."""
        self.check(shape, length)
        if not self.config.has(Feature.SAVED_STATES):
            most = self.room if shape.causal else length
            if any(count < most for count in layer_counts(self.settings.tokens, most, shape.layers)):
                raise GoldenError(
                    f"the configuration {self.config.name!r} takes tokens that are not pruned: it lacks saved_states, "
                    "and only a saved state tells which tokens stay"
                )
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
            self._state: int | None = None
            if device.config.has(Feature.SAVED_STATES):
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

    @property
    def knows_importance(self) -> bool:
        return self._state is not None

    def compute(self, work: LayerWork) -> Computed:
        if not self._release.alive:
            raise DeviceError("the sequence is closed")
        device, job, live = self._device, work.job, work.live
        if job.keys > self._kv_rows:
            raise DeviceError(f"the sequence has room for {self._kv_rows} tokens, not {job.keys}")
        at = self._addresses(work)
        context, has_state = device.contexts.take(self._regions)
        load = None if has_state or job.clear else self._state
        if self._state is None and not has_state and not job.clear:
            device.contexts.give_back(self._regions)
            raise DeviceError(
                f"the sequence's state is lost: on a device without saved_states at most {self.config.contexts} "
                "sequences can be under way, one in each context"
            )
        before, counters = self.context, device.counters_reading()
        output = device.output_reading(self._output, live.heads, live.rows - job.query_offset)
        saved = None if self._state is None else self._state_readings(self._state)
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
                readings=[output, *([] if saved is None else saved[:1])],
                later=[*([] if saved is None else saved[1:]), counters],
            )
        except BaseException:
            device.contexts.give_back(self._regions)  # the state in memory is that of the job before
            raise
        importance: Lazy[tuple[IntArray, IntArray] | None] = Known(None)
        if saved is not None:
            self.context = SavedContext.of(saved[0].value, saved[1])
            importance = Derived(saved[1], _importance_of)
        else:
            # Nothing else tells which tokens stay; but all do that are live.
            self.context.kept_tokens = np.isin(np.arange(self.config.tokens_max), live.tokens)
            self.context.kept_heads = np.isin(np.arange(self.config.heads_max), report.kept_heads)
        values = len(live.tokens) if job.keep_values is None else min(job.keep_values, len(live.tokens))
        return Computed(
            output=output.value,
            kept_tokens=np.flatnonzero(self.context.kept_tokens).astype(np.int64),
            kept_heads=np.flatnonzero(self.context.kept_heads).astype(np.int64),
            recomputed=report.recomputed,
            values_fetched=len(live.heads) * values,
            saturated=report.output_saturated,
            lazy_importance=importance,
            lazy_traffic=Derived(counters, functools.partial(_traffic, self.config, saved is not None)),
            lazy_counters=counters,
        )

    def _state_readings(self, state: int) -> tuple[Reading[Context], Reading[Context]]:
        """What is kept in a saved state, and the importance in it."""
        return self._device.kept_reading(state), self._device.importance_reading(state)

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


def _traffic(config: Config, saves: bool, counters: dict[str, int]) -> Traffic:
    """Bytes by class; the saved state, which was written too if the job saves one, does not count as output."""

    def size(name: str) -> int:
        return counters[f"{name}_sectors"] * SECTOR_BYTES

    return Traffic(
        query=size("query"),
        key=size("key"),
        value=size("value"),
        lsb=size("lsb"),
        output=size("output") - (state_sectors(config) * SECTOR_BYTES if saves else 0),
    )
