"""What goes to the accelerator and comes from it, in software's terms: descriptors, reports, and checks of arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spatten.golden import BoolArray, IntArray
from spatten.golden.memory import OutputRegion, Plane
from spatten.golden.state import state_sectors
from spatten.host.driver.errors import AddressRangeError
from spatten.spec.config import LSB_BITS, SECTOR_BYTES, Config
from spatten.spec.job import Addresses, Job, KeyFetch, Submission, job_fields

__all__ = ["Report", "check_codes", "checked_numbers", "descriptor"]


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
    """How many of `rows` were flat and were computed again with their LSBs."""
    output_saturated: int
    tokens_saturated: int
    heads_saturated: IntArray


def _regions(config: Config, job: Job, at: Addresses, state: int | None) -> Iterator[tuple[str, int, int]]:
    """The regions that a job reads and writes: the descriptor's field, first sector, and number of sectors."""
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
    """A job as the fields of `spec.job.job_fields`, by name.

    `heads` [job.heads] marks the heads with K and V in this layer. `load` and `store` are the first sectors of the
    state to begin with and of the state to save at the end, and equal if both are given. `sectors` is the size of the
    memory, over all channels; None: as much as the accelerator can address.

    Raises `AddressRangeError`: the accelerator itself checks where a region begins, and not where it ends. Raises
    `JobError` for a job that the configuration cannot run or states that it cannot load and store, and ValueError for
    arguments that do not fit the job.
    """
    mask = sum(1 << int(head) for head in np.flatnonzero(heads))
    submission = Submission(job=job, at=at, tag=tag, context=context, head_mask=mask, load=load, store=store)
    submission.check(config)
    if np.shape(heads) != (job.heads,):
        raise ValueError(f"heads must be a flag for each of the {job.heads} heads, not of shape {np.shape(heads)}")
    if load is not None and store is not None and load != store:
        raise ValueError(f"a job loads and stores one state: load = {load!r} must be store = {store!r}")
    if job.key_fetch is not KeyFetch.STATIC and at.key_lsb is None:
        raise ValueError(f"key_lsb must be the sector of the LSB plane where K is fetched {job.key_fetch.label}")
    limit, what = 1 << config.sector_bits, "the accelerator can address"
    if sectors is not None and sectors < limit:
        limit, what = sectors, "the driver may use"
    for name, first, count in _regions(config, job, at, submission.state):
        if first + count > limit:
            raise AddressRangeError(name, first, first + count, limit, what)
    return {field.name: int(field.encode(submission)) for field in job_fields(config)}


def checked_numbers(name: str, numbers: IntArray, count: int | None) -> IntArray:
    """Row or head numbers [n] that are all different; ValueError unless they are 0 to `count` - 1 (None: 0 or more)."""
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


def check_codes(codes: IntArray, shape: tuple[int, int, int], bits: int) -> None:
    """ValueError unless `codes` have this shape and fit `bits` bits, signed or, as in an LSB plane, unsigned."""
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
