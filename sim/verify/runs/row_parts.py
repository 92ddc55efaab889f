"""How the testbenches of the parts of row control and of the readers are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.row.chunk_blocks import ChunkBlocks
from spatten.hw.control.row.chunk_walker import ChunkWalker
from spatten.hw.control.row.credits import Credits
from spatten.hw.control.row.kept_slots import KeptSlots
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config

ROWS = TINY.replace(
    name="rows", softmax_lanes=4, topk_lanes=8, qk_multipliers=64, pv_multipliers=64, buffer_dim=32, head_dim_max=64
)
"""A slice of 32 operands: a window has two block rows of the smallest heads, the largest heads take two beats; and a
beat of top-k is two of softmax."""


def kept_slots_run(config: Config) -> dict[str, Any]:
    return twin_run(KeptSlots(), config, "kept_slots", cycles=2000)


def kept_slots_mutation_run() -> dict[str, Any]:
    return kept_slots_run(ROWS)


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


RUNS = {
    "kept_slots": kept_slots_run,
    "credits": credits_run,
    "chunk_blocks": chunk_blocks_run,
    "chunk_walker": chunk_walker_run,
}
