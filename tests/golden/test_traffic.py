"""Bytes of a job, on cases worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden.attention import Result, planes
from spatten.golden.traffic import Traffic, traffic
from spatten.spec.config import PAPER, Config
from spatten.spec.job import Addresses, Job, KeyFetch, Mode, ScoreScale


def job(**changes: Any) -> Job:
    fields: dict[str, Any] = {
        "mode": Mode.SUMMARIZATION,
        "head_dim": 64,
        "heads": 12,
        "keys": 40,
        "queries": 40,
        "query_bits": 12,
        "key_bits": 8,
        "value_bits": 8,
    }
    fields |= changes
    return Job(**fields, score_scales=(ScoreScale(40_000, 20),) * fields["heads"])


def moved(
    of: Job,
    *,
    heads: list[int],
    tokens: int,
    rows: int,
    flat: list[int] | None = None,
    values: list[list[int]] | None = None,
    config: Config = PAPER,
) -> Traffic:
    """Traffic of a job with these live heads, numbers of tokens and rows, flat heads and V rows (positions) a head."""
    fetched = np.ones((len(heads), tokens), np.int64)
    if values is not None:
        fetched[:] = 0
        for i, some in enumerate(values):
            fetched[i, some] = 1
    result = Result(
        heads=np.array(heads),
        tokens=np.arange(tokens),
        rows=np.arange(rows),
        output=np.zeros((len(heads), rows, of.head_dim), np.int64),
        kept_tokens=np.arange(tokens),
        kept_heads=np.array(heads),
        flat=np.isin(heads, flat or [])[:, None].repeat(rows, axis=1),
        keys_fetched=tokens,
        values_fetched=fetched,
        output_saturated=0,
        pinned=np.zeros(tokens, np.bool_),
        prob=np.zeros((len(heads), rows, tokens), np.int64),
    )
    at = Addresses(query=0, key_msb=0, key_lsb=0, value=0, output=0)
    return traffic(config, of, planes(config, of, at), result)


GENERATION: dict[str, Any] = {"mode": Mode.GENERATION, "queries": 1}
PROGRESSIVE: dict[str, Any] = GENERATION | {"key_fetch": KeyFetch.PROGRESSIVE}


def test_a_whole_prompt_at_8_bits() -> None:
    """12 heads of 40 tokens: Q 96 bytes, K and V 64 bytes, output 128 bytes a row."""
    found = moved(job(), heads=list(range(12)), tokens=40, rows=40)
    assert found == Traffic(query=480 * 96, key=480 * 64, value=480 * 64, lsb=0, output=480 * 128)
    assert found.fetched == 480 * (96 + 64 + 64)


def test_what_is_pruned_is_not_fetched() -> None:
    found = moved(job(), heads=[0, 3, 4], tokens=25, rows=20)
    assert found == Traffic(query=60 * 96, key=75 * 64, value=75 * 64, lsb=0, output=60 * 128)


def test_pairs_at_6_bits_are_fetched_once_and_whole() -> None:
    """Heads 0, 1, 4 live in pairs {0, 1} and {4, 5}: two rows of 96 bytes a token, not three of 48; three of Q."""
    found = moved(job(query_bits=6, key_bits=6, value_bits=6), heads=[0, 1, 4], tokens=10, rows=7)
    assert found == Traffic(query=3 * 7 * 96, key=2 * 10 * 96, value=2 * 10 * 96, lsb=0, output=21 * 128)


def test_pairs_at_10_bits_and_an_odd_head() -> None:
    found = moved(job(key_bits=10, heads=5), heads=[4], tokens=10, rows=40)
    assert found.key == 10 * 160


def test_joined_planes_are_both_read() -> None:
    """8 + 4 bits: 64 and 32 bytes; 6 + 4 bits: pairs of 96 bytes, and 32 bytes a head."""
    found = moved(job(key_bits=12, key_fetch=KeyFetch.JOINED), heads=[1, 2], tokens=10, rows=10)
    assert (found.key, found.lsb) == (20 * 64, 20 * 32)
    found = moved(job(key_bits=10, key_fetch=KeyFetch.JOINED), heads=[1, 2], tokens=10, rows=10)
    assert (found.key, found.lsb) == (2 * 10 * 96, 20 * 32)


def test_lsbs_of_flat_heads_only() -> None:
    found = moved(job(key_bits=12, **PROGRESSIVE), heads=[0, 3, 7, 8], tokens=30, rows=1, flat=[3, 8])
    assert found == Traffic(query=4 * 96, key=4 * 30 * 64, value=4 * 30 * 64, lsb=2 * 30 * 32, output=4 * 128)
    assert moved(job(key_bits=12, **PROGRESSIVE), heads=[0, 3], tokens=30, rows=1).lsb == 0


def test_beyond_the_operand_both_planes_of_flat_heads_are_fetched_again() -> None:
    """12 + 4 bits on 12-bit operands: 96 + 32 bytes again; at 16-bit operands the first scores stay."""
    of = job(key_bits=16, **PROGRESSIVE)
    found = moved(of, heads=[0, 3, 7], tokens=30, rows=1, flat=[7])
    assert (found.key, found.lsb) == ((3 + 1) * 30 * 96, 30 * 32)
    found = moved(of, heads=[0, 3, 7], tokens=30, rows=1, flat=[7], config=PAPER.replace(operand_bits=16))
    assert (found.key, found.lsb) == (3 * 30 * 96, 30 * 32)


def test_10_plus_4_refetches_pairs() -> None:
    of = job(key_bits=14, **PROGRESSIVE)
    found = moved(of, heads=[0, 1, 2], tokens=30, rows=1, flat=[1, 2])
    assert (found.key, found.lsb) == ((2 + 2) * 30 * 160, 2 * 30 * 32)


def test_lsb_planes_of_small_heads_come_in_pairs() -> None:
    """4 bits at D = 32 are half a sector: two heads share one, which each fetches when it is flat."""
    found = moved(job(key_bits=12, head_dim=32, **PROGRESSIVE), heads=[0, 1, 4], tokens=30, rows=1, flat=[0, 1, 4])
    assert found.lsb == 3 * 30 * 32


def test_v_rows_that_survive_local_pruning() -> None:
    found = moved(job(keep_values=2, **GENERATION), heads=[0, 1], tokens=30, rows=1, values=[[1, 2], [3, 4]])
    assert found.value == 4 * 64


def test_v_rows_of_a_pair_after_local_pruning() -> None:
    """Token 3 of pair {0, 1} is fetched twice: each head fetches the rows of its own largest probabilities."""
    of = job(value_bits=6, keep_values=2, **GENERATION)
    found = moved(of, heads=[0, 1, 4], tokens=30, rows=1, values=[[1, 3], [3, 4], [2, 9]])
    assert found.value == 6 * 96
    assert moved(job(value_bits=6, **GENERATION), heads=[0, 1, 4], tokens=30, rows=1).value == 2 * 30 * 96


@pytest.mark.parametrize("dim", [16, 32, 64, 128])
def test_output_bytes(dim: int) -> None:
    assert moved(job(head_dim=dim), heads=[0, 5], tokens=10, rows=3).output == 2 * 3 * dim * 2


def test_traffic_adds_up() -> None:
    one = Traffic(query=1, key=2, value=3, lsb=4, output=5)
    other = Traffic(query=10, key=20, value=30, lsb=40, output=50)
    assert one + other == Traffic(query=11, key=22, value=33, lsb=44, output=55)
    assert (one + other).fetched == 110
    assert Traffic() + one == one
