"""The cycle model: its arithmetic against what is known without it, and the figures that the machine must reach."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from spatten.sim.measure.benchmarks import BERT_CYCLES
from spatten.sim.measure.cycles import (
    Latencies,
    MemoryModel,
    Queues,
    cascade_works,
    generation,
    predict,
    summarization,
    targets,
)
from spatten.spec.config import EIGHTH, PAPER, TINY, ULX3S, Config
from spatten.spec.job import Mode


@pytest.mark.parametrize("length", [20, 32])
def test_a_layer_takes_its_lines_and_a_constant(length: int) -> None:
    """Twice the heads take twice the lines more: what is left is the same filling and draining of the pipeline."""
    lines = length * -(-length // 8)
    six, twelve = (
        predict(PAPER, [summarization(heads=heads, head_dim=64, length=length, bits=8)]) for heads in (6, 12)
    )
    assert twelve.score_beats == twelve.value_beats == 12 * lines
    assert twelve.cycles - six.cycles == 6 * lines
    assert six.cycles - 6 * lines > 100


@pytest.mark.parametrize(("config", "head_dim", "keys"), [(PAPER, 128, 4), (EIGHTH, 32, 2), (EIGHTH, 128, 0.5)])
def test_narrow_arrays_take_more_reads(config: Config, head_dim: int, keys: float) -> None:
    result = predict(config, [summarization(heads=2, head_dim=head_dim, length=16, bits=8)])
    assert result.score_beats == result.value_beats == 2 * 16 * 16 / keys


def test_bytes_and_multiplications_are_those_of_the_job() -> None:
    work = summarization(heads=3, head_dim=64, length=20, bits=8)
    job = predict(PAPER, [work]).jobs[0]
    assert job.fetched_bytes == 3 * 20 * 64 * 3
    assert job.written_bytes == 3 * 20 * 128
    assert job.macs == 2 * 3 * 20 * 20 * 64
    causal = predict(PAPER, [summarization(heads=3, head_dim=64, length=20, bits=8, causal=True)]).jobs[0]
    assert causal.macs == 2 * 3 * 64 * (20 * 21 // 2)
    # 6 bits at 64 operands: two heads share 96 bytes; flat rows fetch 32 bytes a token; a quarter of V
    tokens = np.arange(0, 80, 2)
    pruned = generation(
        heads=4, head_dim=64, tokens=tokens, kv_rows=80, key_bits=6, value_bits=8, keep_values=10,
        flat=(True, False, False, True),
    )  # fmt: skip
    job = predict(PAPER, [pruned]).jobs[0]
    assert job.fetched_bytes == 4 * 96 + 2 * 40 * 96 + 2 * 40 * 32 + 4 * 10 * 64


@pytest.mark.parametrize("config", [PAPER, EIGHTH, ULX3S, TINY], ids=lambda config: config.name)
@pytest.mark.parametrize("bits", [4, 6, 8, 10, 12])
def test_every_configuration_and_width_comes_to_an_end(config: Config, bits: int) -> None:
    length = min(13, config.tokens_max)
    dim = config.head_dim_max
    works = [
        summarization(heads=3, head_dim=dim, length=length, bits=bits),
        summarization(heads=3, head_dim=dim, length=length, bits=bits, causal=True, joined=True),
        generation(
            heads=3, head_dim=dim, tokens=np.arange(0, length, 2), kv_rows=length, key_bits=bits, value_bits=bits,
            keep_values=3, flat=(True, False, True), prune=True,
        ),
    ]  # fmt: skip
    result = predict(config, works)
    assert all(job.finished > job.started >= job.doorbell for job in result.jobs)
    assert [job.rows for job in result.jobs] == [3 * length, 3 * length, 3]


def test_a_queue_overlaps_its_jobs() -> None:
    work = summarization(heads=12, head_dim=64, length=32, bits=8)
    alone = predict(PAPER, [work]).cycles
    queued = predict(PAPER, [dataclasses.replace(work, context=n) for n in range(4)])
    assert queued.cycles < alone + 3 * 12 * 32 * 4 + 10
    # the same sequence's next job waits for its scores
    same = predict(PAPER, [work] * 4)
    assert same.cycles > queued.cycles + 100


def test_what_is_slower_takes_longer() -> None:
    tokens = np.arange(300)
    work = generation(heads=4, head_dim=64, tokens=tokens, kv_rows=300, key_bits=8, value_bits=8)
    normal = predict(PAPER, [work]).cycles
    assert predict(PAPER, [work], memory=MemoryModel(16, latency=90)).cycles == normal + 50
    assert predict(PAPER, [work], memory=MemoryModel(16, sector_beats=2)).cycles > normal + 200
    assert predict(PAPER, [work], latencies=Latencies(score=Latencies().score + 10)).cycles == normal + 10
    assert predict(PAPER, [work], queues=Queues(outstanding=8)).cycles > 2 * normal


def test_cascade_works_prune_what_the_paper_prunes() -> None:
    works = cascade_works(contexts=2, steps=1)
    assert [len(work.tokens) for work in works[::2]] == [993, 893, 694, 197, 197, 197, 197, 98, 98, 98, 98, 98]
    assert all(work.mode is Mode.GENERATION for work in works)
    for earlier, later in zip(works[::2], works[2::2], strict=False):
        assert set(later.tokens) <= set(earlier.tokens)


@pytest.mark.slow
def test_every_figure_is_within_reach() -> None:
    """L = 384 takes a minute: `spatten cycles`, and `make bench` beside the circuit."""
    lengths = (12, 32, 128)
    assert {*lengths, 384} == set(BERT_CYCLES)
    for target in targets(lengths=lengths):
        assert target.reached, target
