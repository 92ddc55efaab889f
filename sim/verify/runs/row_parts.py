"""How the testbenches of the parts of row control and of the readers are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.query_reader import QUERIES
from spatten.hw.control.row.again_segments import AgainSegments
from spatten.hw.control.row.beat_splitter import BeatSplitter
from spatten.hw.control.row.chunk_blocks import ChunkBlocks
from spatten.hw.control.row.chunk_walker import ChunkWalker
from spatten.hw.control.row.credits import Credits
from spatten.hw.control.row.key_windows import KeyWindows
from spatten.hw.control.row.query_store import QueryStore
from spatten.hw.control.row.query_windows import QueryWindows
from spatten.hw.control.row.row_numbers import RowNumbers
from spatten.hw.control.row.row_queue import RowQueue
from spatten.hw.control.row.score_scales import ScoreScales
from spatten.hw.control.row.segment_windows import SegmentWindows
from spatten.hw.control.row.stash_slots import StashSlots
from spatten.hw.control.row.value_rows import ValueRows
from spatten.hw.control.row.value_windows import ValueWindows
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config

ROWS = TINY.replace(
    name="rows", softmax_lanes=4, topk_lanes=8, qk_multipliers=64, pv_multipliers=64, buffer_dim=32, head_dim_max=64
)
"""A slice of 32 operands: a window has two block rows of the smallest heads, the largest heads take two beats; and a
beat of top-k is two of softmax."""


LONG = ROWS.replace(name="long", tokens_max=64, key_buffer_rows=128, value_buffer_rows=128)
"""Rows of more keys than there is room for behind the key ring."""


def stash_slots_run(config: Config) -> dict[str, Any]:
    return twin_run(StashSlots(), config, "stash_slots", cycles=2000)


def stash_slots_mutation_run() -> dict[str, Any]:
    return stash_slots_run(ROWS)


def credits_run(config: Config, places: int = 13) -> dict[str, Any]:
    return twin_run(Credits(places=places), config, "credits", cycles=4000, places=places)


def credits_mutation_run() -> dict[str, Any]:
    return credits_run(ROWS)


def chunk_blocks_run(config: Config) -> dict[str, Any]:
    return twin_run(ChunkBlocks(config=config), config, "chunk_blocks", cycles=3000)


def chunk_blocks_mutation_run() -> dict[str, Any]:
    return chunk_blocks_run(ROWS)


def chunk_walker_run(config: Config) -> dict[str, Any]:
    return twin_run(ChunkWalker(config=config), config, "chunk_walker", cycles=4000)


def chunk_walker_mutation_run() -> dict[str, Any]:
    return chunk_walker_run(ROWS)


def again_segments_run(config: Config) -> dict[str, Any]:
    return twin_run(AgainSegments(config=config), config, "again_segments", cycles=3000)


def again_segments_mutation_run() -> dict[str, Any]:
    return again_segments_run(ROWS)


def score_scales_run(config: Config) -> dict[str, Any]:
    return twin_run(ScoreScales(config=config), config, "score_scales", cycles=2000)


def score_scales_mutation_run() -> dict[str, Any]:
    return score_scales_run(ROWS)


def segment_windows_run(config: Config) -> dict[str, Any]:
    return twin_run(SegmentWindows(config=config), config, "segment_windows", cycles=1500)


def segment_windows_mutation_run() -> dict[str, Any]:
    return segment_windows_run(ROWS)


def key_windows_run(config: Config) -> dict[str, Any]:
    return twin_run(KeyWindows(config=config), config, "key_windows", cycles=4000)


def key_windows_mutation_run() -> dict[str, Any]:
    return key_windows_run(LONG)


def query_windows_run(config: Config) -> dict[str, Any]:
    return twin_run(QueryWindows(config=config), config, "query_windows", cycles=3000)


def query_windows_mutation_run() -> dict[str, Any]:
    return query_windows_run(ROWS)


def row_numbers_run(config: Config) -> dict[str, Any]:
    return twin_run(RowNumbers(config=config, queries=QUERIES), config, "row_numbers", cycles=3000, queries=QUERIES)


def row_numbers_mutation_run() -> dict[str, Any]:
    return row_numbers_run(ROWS)


def query_store_run(config: Config) -> dict[str, Any]:
    return twin_run(QueryStore(config=config), config, "query_store", cycles=2000)


def query_store_mutation_run() -> dict[str, Any]:
    return query_store_run(ROWS)


def row_queue_run(config: Config) -> dict[str, Any]:
    return twin_run(
        RowQueue(config=config, lanes=config.topk_lanes), config, "row_queue", cycles=4000, lanes=config.topk_lanes
    )


def row_queue_mutation_run() -> dict[str, Any]:
    return row_queue_run(ROWS)


def beat_splitter_run(config: Config) -> dict[str, Any]:
    return twin_run(BeatSplitter(config=config), config, "beat_splitter", cycles=1, beats=80)


def beat_splitter_mutation_run() -> dict[str, Any]:
    return beat_splitter_run(ROWS)


def value_rows_run(config: Config) -> dict[str, Any]:
    return twin_run(ValueRows(config=config), config, "value_rows", cycles=3000)


def value_rows_mutation_run() -> dict[str, Any]:
    return value_rows_run(ROWS)


def value_windows_run(config: Config) -> dict[str, Any]:
    return twin_run(ValueWindows(config=config), config, "value_windows", cycles=4000)


def value_windows_mutation_run() -> dict[str, Any]:
    return value_windows_run(ROWS)


RUNS = {
    "stash_slots": stash_slots_run,
    "credits": credits_run,
    "chunk_blocks": chunk_blocks_run,
    "chunk_walker": chunk_walker_run,
    "again_segments": again_segments_run,
    "score_scales": score_scales_run,
    "segment_windows": segment_windows_run,
    "key_windows": key_windows_run,
    "query_windows": query_windows_run,
    "row_numbers": row_numbers_run,
    "query_store": query_store_run,
    "row_queue": row_queue_run,
    "beat_splitter": beat_splitter_run,
    "value_rows": value_rows_run,
    "value_windows": value_windows_run,
}
