"""DRAM bytes of a job by class, in whole sectors as the fetcher reads and the output packer writes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golden.attention import Job, KeyFetch, Planes, Result
from golden.memory import OUTPUT_BITS
from golden.progressive import recompute_excess
from hw.config import Config


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
    """What a job moves. Heads that share a row fetch it once, and fetch it if either of them needs it."""
    keys = result.keys_fetched
    key, lsb = layout.key_msb.fetch_bytes(result.heads, keys), 0
    if layout.key_lsb is not None:
        again = result.heads[result.flat.any(axis=1)] if job.key_fetch is KeyFetch.PROGRESSIVE else result.heads
        lsb = layout.key_lsb.fetch_bytes(again, keys)
        if job.key_fetch is KeyFetch.PROGRESSIVE and recompute_excess(config, job.key_bits):
            key += layout.key_msb.fetch_bytes(again, keys)
    group = result.heads // layout.value.heads_per_row
    value_rows = sum(int(result.values_fetched[group == g].any(axis=0).sum()) for g in np.unique(group))
    return Traffic(
        query=layout.query.fetch_bytes(result.heads, len(result.rows)),
        key=key,
        value=value_rows * layout.value.fetch_bytes(result.heads[:1], 1),
        lsb=lsb,
        output=result.output.size * OUTPUT_BITS // 8,
    )
