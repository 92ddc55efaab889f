"""DRAM bytes of a job by class, in whole sectors as the fetcher reads and the output packer writes them."""

from __future__ import annotations

from dataclasses import dataclass

from spatten.golden import IntArray
from spatten.golden.attention import Planes, Result
from spatten.golden.memory import OUTPUT_BITS, Plane
from spatten.golden.progressive import recompute_excess
from spatten.spec.config import SECTOR_BYTES, Config
from spatten.spec.job import Job, KeyFetch


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes by class."""

    query: int = 0
    key: int = 0
    value: int = 0
    lsb: int = 0
    output: int = 0

    @property
    def fetched(self) -> int:
        """Bytes read: Q, K, V and LSB planes."""
        return self.query + self.key + self.value + self.lsb

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            query=self.query + other.query,
            key=self.key + other.key,
            value=self.value + other.value,
            lsb=self.lsb + other.lsb,
            output=self.output + other.output,
        )


def traffic(config: Config, job: Job, layout: Planes, result: Result) -> Traffic:
    """What a job moves.

    Heads that share rows of K, or of V where all of it is fetched, fetch them once. What a head
    alone asks for it fetches for itself, from shared rows too: its Q rows, the LSBs of its flat row, the V rows of its
    largest probabilities.
    """
    keys = result.keys_fetched
    key, lsb = layout.key_msb.fetch_bytes(result.heads, keys), 0
    if layout.key_lsb is not None:
        lsb = layout.key_lsb.fetch_bytes(result.heads, keys)
        if job.key_fetch is KeyFetch.PROGRESSIVE:
            again = result.heads[result.flat.any(axis=1)]
            lsb = _alone(layout.key_lsb, again, keys)
            if recompute_excess(config, job.key_bits):
                key += _alone(layout.key_msb, again, keys)
    if job.keep_values is None:
        value = layout.value.fetch_bytes(result.heads, keys)
    else:
        value = _alone(layout.value, result.heads[:1], int(result.values_fetched.sum()))
    return Traffic(
        query=_alone(layout.query, result.heads, len(result.rows)),
        key=key,
        value=value,
        lsb=lsb,
        output=result.output.size * OUTPUT_BITS // 8,
    )


def _alone(plane: Plane, heads: IntArray, rows: int) -> int:
    """Bytes of `rows` rows of each of `heads`, where heads that share a row each fetch it."""
    return len(heads) * rows * plane.row_sectors * SECTOR_BYTES
