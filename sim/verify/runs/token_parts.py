"""How the testbenches of the parts of the token importance unit are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth.lib import wiring

from spatten.hw.control.saved.state_layouts import layouts
from spatten.hw.datapath.rank_memory import RankMemory
from spatten.hw.datapath.tokens.context_memory import ContextMemory
from spatten.hw.datapath.tokens.context_reader import ContextReader
from spatten.hw.datapath.tokens.context_writer import ContextWriter
from spatten.hw.datapath.tokens.line_ager import LineAger
from spatten.hw.datapath.tokens.live_masks import LiveMasks
from spatten.hw.datapath.tokens.rank_packer import RankPacker
from spatten.hw.datapath.tokens.scatter_control import ScatterControl
from spatten.hw.datapath.tokens.slot_reader import SlotReader
from spatten.hw.datapath.tokens.token_jobs import TokenJobs
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config

SMALL = TINY.replace(
    name="small", tokens_max=32, topk_lanes=4, contexts=3, jobs_in_flight=4, key_buffer_rows=64, value_buffer_rows=64
)
"""Several lines of several tokens, a number of contexts that is no power of two."""


def _run(component: Callable[..., wiring.Component], bench: str, config: Config, cycles: int) -> dict[str, Any]:
    return twin_run(component(layouts=layouts(config)), config, bench, cycles=cycles)


def context_memory_run(config: Config) -> dict[str, Any]:
    return _run(ContextMemory, "context_memory", config, 2000)


def context_memory_mutation_run() -> dict[str, Any]:
    return context_memory_run(SMALL)


def context_reader_run(config: Config) -> dict[str, Any]:
    return _run(ContextReader, "context_reader", config, 4000)


def context_reader_mutation_run() -> dict[str, Any]:
    return context_reader_run(SMALL)


def context_writer_run(config: Config) -> dict[str, Any]:
    return _run(ContextWriter, "context_writer", config, 2000)


def context_writer_mutation_run() -> dict[str, Any]:
    return context_writer_run(SMALL)


def line_ager_run(config: Config) -> dict[str, Any]:
    return _run(LineAger, "line_ager", config, 2000)


def line_ager_mutation_run() -> dict[str, Any]:
    return line_ager_run(SMALL)


def live_masks_run(config: Config) -> dict[str, Any]:
    return _run(LiveMasks, "live_masks", config, 2000)


def live_masks_mutation_run() -> dict[str, Any]:
    return live_masks_run(SMALL)


def rank_memory_run(config: Config, *, prob_lanes: int = 2) -> dict[str, Any]:
    sizes = {
        "tokens": config.tokens_max,
        "prob_bits": config.prob_bits,
        "importance_bits": config.token_importance_bits,
        "prob_lanes": prob_lanes,
        "lanes": config.topk_lanes,
        "slots": config.jobs_in_flight,
    }
    return twin_run(RankMemory(**sizes), config, "rank_memory", cycles=4000, sizes=sizes)


def rank_memory_mutation_run() -> dict[str, Any]:
    return rank_memory_run(SMALL)


def rank_packer_run(config: Config) -> dict[str, Any]:
    return _run(RankPacker, "rank_packer", config, 3000)


def rank_packer_mutation_run() -> dict[str, Any]:
    return rank_packer_run(SMALL)


def scatter_control_run(config: Config) -> dict[str, Any]:
    return _run(ScatterControl, "scatter_control", config, 4000)


def scatter_control_mutation_run() -> dict[str, Any]:
    return scatter_control_run(SMALL)


def slot_reader_run(config: Config) -> dict[str, Any]:
    return _run(SlotReader, "slot_reader", config, 3000)


def slot_reader_mutation_run() -> dict[str, Any]:
    return slot_reader_run(SMALL)


def token_jobs_run(config: Config) -> dict[str, Any]:
    return _run(TokenJobs, "token_jobs", config, 2000)


def token_jobs_mutation_run() -> dict[str, Any]:
    return token_jobs_run(SMALL)


RUNS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "context_memory": context_memory_run,
    "context_reader": context_reader_run,
    "context_writer": context_writer_run,
    "line_ager": line_ager_run,
    "live_masks": live_masks_run,
    "rank_memory": rank_memory_run,
    "rank_packer": rank_packer_run,
    "scatter_control": scatter_control_run,
    "slot_reader": slot_reader_run,
    "token_jobs": token_jobs_run,
}
