"""How the testbenches of the planner's parts are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.plan.arrival_ledger import ArrivalLedger
from spatten.hw.control.plan.bid_arbiter import BidArbiter
from spatten.hw.control.plan.block_plan import BlockPlan
from spatten.hw.control.plan.block_walker import BlockWalker
from spatten.hw.control.plan.group_emitter import GroupEmitter
from spatten.hw.control.plan.group_issuer import GroupIssuer
from spatten.hw.control.plan.key_walker import KeyWalker
from spatten.hw.control.plan.pruned_walker import PrunedWalker
from spatten.hw.control.plan.query_walker import QueryWalker
from spatten.hw.control.plan.refetch import Refetch
from spatten.hw.control.plan.refetch_plan import RefetchPlan
from spatten.hw.control.plan.value_walker import ValueWalker
from spatten.hw.memory.address_generator import KEY, QUERY, VALUE
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config

EVERY_FORMAT = TINY.replace(
    name="every_format", topk_lanes=4, head_dim_max=128, key_buffer_rows=128, value_buffer_rows=128
)
"""`tiny` with every kind of block: of one and of two heads, of one to three fetches, of row groups of two lanes."""
MANY_GROUPS = EVERY_FORMAT.replace(
    name="many_groups", topk_lanes=2, tokens_max=32, key_buffer_rows=256, value_buffer_rows=256
)
"""The same with more row groups of a block than there is room for behind the key ring."""


def bid_arbiter_run(config: Config) -> dict[str, Any]:
    return twin_run(BidArbiter(config=config), config, "bid_arbiter", cycles=2000)


def bid_arbiter_mutation_run() -> dict[str, Any]:
    return bid_arbiter_run(TINY)


def block_plan_run(config: Config, *, ring: int = KEY) -> dict[str, Any]:
    return twin_run(BlockPlan(config=config, ring=ring), config, "block_plan", cycles=1500, ring=ring)


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


def group_issuer_run(config: Config, *, ring: int = QUERY) -> dict[str, Any]:
    return twin_run(GroupIssuer(config=config, ring=ring), config, "group_issuer", cycles=2000, ring=ring)


def group_issuer_mutation_run() -> dict[str, Any]:
    return group_issuer_run(EVERY_FORMAT, ring=VALUE)


def group_emitter_run(config: Config) -> dict[str, Any]:
    return twin_run(GroupEmitter(config=config), config, "group_emitter", cycles=2000)


def group_emitter_mutation_run() -> dict[str, Any]:
    return group_emitter_run(EVERY_FORMAT)


def arrival_ledger_run(config: Config) -> dict[str, Any]:
    ledger = ArrivalLedger(config=config, sequence_bits=4)
    return twin_run(ledger, config, "arrival_ledger", cycles=2000, sequence_bits=4)


def arrival_ledger_mutation_run() -> dict[str, Any]:
    return arrival_ledger_run(EVERY_FORMAT)


def refetch_plan_run(config: Config) -> dict[str, Any]:
    return twin_run(RefetchPlan(config=config), config, "refetch_plan", cycles=3000)


def refetch_plan_mutation_run() -> dict[str, Any]:
    return refetch_plan_run(EVERY_FORMAT)


def refetch_run(config: Config) -> dict[str, Any]:
    return twin_run(Refetch(config=config), config, "refetch", cycles=15000)


def refetch_mutation_run() -> dict[str, Any]:
    return refetch_run(MANY_GROUPS)


RUNS = {
    "bid_arbiter": lambda: bid_arbiter_run(TINY),
    "block_plan, keys": lambda: block_plan_run(EVERY_FORMAT),
    "block_plan, values": lambda: block_plan_run(EVERY_FORMAT, ring=VALUE),
    "block_walker, queries": lambda: block_walker_run(EVERY_FORMAT),
    "block_walker, keys": lambda: block_walker_run(EVERY_FORMAT, ring=KEY),
    "block_walker, values": lambda: block_walker_run(EVERY_FORMAT, ring=VALUE),
    "pruned_walker": lambda: pruned_walker_run(EVERY_FORMAT),
    "key_walker": lambda: key_walker_run(EVERY_FORMAT),
    "query_walker": lambda: query_walker_run(EVERY_FORMAT),
    "value_walker": lambda: value_walker_run(EVERY_FORMAT),
    "group_issuer, queries": lambda: group_issuer_run(EVERY_FORMAT),
    "group_issuer, keys": lambda: group_issuer_run(EVERY_FORMAT, ring=KEY),
    "group_issuer, values": lambda: group_issuer_run(EVERY_FORMAT, ring=VALUE),
    "group_emitter": lambda: group_emitter_run(EVERY_FORMAT),
    "arrival_ledger": lambda: arrival_ledger_run(EVERY_FORMAT),
    "refetch_plan": lambda: refetch_plan_run(EVERY_FORMAT),
    "refetch": lambda: refetch_run(MANY_GROUPS),
}
