"""How the testbenches of the planner's parts are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.plan.bid_arbiter import BidArbiter
from spatten.hw.control.plan.block_plan import BlockPlan
from spatten.hw.control.plan.block_walker import BlockWalker
from spatten.hw.control.plan.key_walker import KeyWalker
from spatten.hw.control.plan.pruned_walker import PrunedWalker
from spatten.hw.control.plan.query_walker import QueryWalker
from spatten.hw.control.plan.value_walker import ValueWalker
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config

EVERY_FORMAT = TINY.replace(
    name="every_format", topk_lanes=4, head_dim_max=128, key_buffer_rows=128, value_buffer_rows=128
)
"""`tiny` with every kind of block: of one and of two heads, of one to three fetches, of row groups of two lanes."""


def bid_arbiter_run(config: Config) -> dict[str, Any]:
    return twin_run(BidArbiter(config=config), config, "bid_arbiter", cycles=2000)


def bid_arbiter_mutation_run() -> dict[str, Any]:
    return bid_arbiter_run(TINY)


def block_plan_run(config: Config, *, ring: int = KEY, all_heads: bool = False) -> dict[str, Any]:
    plan = BlockPlan(config=config, ring=ring, all_heads=all_heads)
    return twin_run(plan, config, "block_plan", cycles=1500, ring=ring, all_heads=all_heads)


def block_plan_mutation_run() -> dict[str, Any]:
    return block_plan_run(EVERY_FORMAT)


def block_walker_run(config: Config, *, ring: int = QUERY) -> dict[str, Any]:
    return twin_run(BlockWalker(config=config, ring=ring), config, "block_walker", cycles=2500, ring=ring)


def block_walker_mutation_run() -> dict[str, Any]:
    return block_walker_run(EVERY_FORMAT, ring=VALUE)


def pruned_walker_run(config: Config) -> dict[str, Any]:
    return twin_run(PrunedWalker(config=config), config, "pruned_walker", cycles=2500)


def pruned_walker_mutation_run() -> dict[str, Any]:
    return pruned_walker_run(EVERY_FORMAT)


def key_walker_run(config: Config) -> dict[str, Any]:
    return twin_run(KeyWalker(config=config), config, "key_walker", cycles=2500)


def key_walker_mutation_run() -> dict[str, Any]:
    return key_walker_run(EVERY_FORMAT)


def query_walker_run(config: Config) -> dict[str, Any]:
    return twin_run(QueryWalker(config=config), config, "query_walker", cycles=2500)


def query_walker_mutation_run() -> dict[str, Any]:
    return query_walker_run(EVERY_FORMAT)


def value_walker_run(config: Config) -> dict[str, Any]:
    return twin_run(ValueWalker(config=config), config, "value_walker", cycles=3500)


def value_walker_mutation_run() -> dict[str, Any]:
    return value_walker_run(EVERY_FORMAT)


RUNS = {
    "bid_arbiter": lambda: bid_arbiter_run(TINY),
    "block_plan, keys": lambda: block_plan_run(EVERY_FORMAT),
    "block_plan, values": lambda: block_plan_run(EVERY_FORMAT, ring=VALUE),
    "block_plan, pruned rows": lambda: block_plan_run(EVERY_FORMAT, ring=VALUE, all_heads=True),
    "block_walker, queries": lambda: block_walker_run(EVERY_FORMAT),
    "block_walker, keys": lambda: block_walker_run(EVERY_FORMAT, ring=KEY),
    "block_walker, values": lambda: block_walker_run(EVERY_FORMAT, ring=VALUE),
    "pruned_walker": lambda: pruned_walker_run(EVERY_FORMAT),
    "key_walker": lambda: key_walker_run(EVERY_FORMAT),
    "query_walker": lambda: query_walker_run(EVERY_FORMAT),
    "value_walker": lambda: value_walker_run(EVERY_FORMAT),
}
