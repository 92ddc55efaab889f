"""How the testbenches of what saves, restores and fetches states are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

import dataclasses
from typing import Any

from amaranth.lib import wiring

from spatten.hw.control.saved.token_load import TokenLoad
from spatten.hw.control.sector_reader import SectorReader
from spatten.hw.control.state import StateLoad, StateStore
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import TINY, Config

CONFIGS = {
    "tiny": TINY,
    # Rows of sectors that need several requests, heads beyond one sector, lines as wide as a row.
    "long": TINY.replace(tokens_max=256, heads_max=9, key_buffer_rows=512, value_buffer_rows=512),
    "wide": TINY.replace(tokens_max=64, topk_lanes=32, key_buffer_rows=128, value_buffer_rows=128, heads_max=3),
    # All tokens are less than a sector.
    "few": TINY.replace(tokens_max=4, heads_max=1),
    # Of everything more than one sector.
    "many": TINY.replace(tokens_max=512, topk_lanes=8, heads_max=9, key_buffer_rows=1024, value_buffer_rows=1024),
}
PARTS = {"state_store": StateStore, "state_load": StateLoad, "token_load": TokenLoad}


def _run(component: wiring.Component, bench: str, config: Config) -> dict[str, Any]:
    return {
        "component": component,
        "test_module": f"spatten.sim.verify.benches.{bench}",
        "parameters": {"config": dataclasses.asdict(config), "seeds": seeds(1)},
    }


def state_run(part: str, config: Config) -> dict[str, Any]:
    return _run(PARTS[part](config=config), part, config)


def state_store_mutation_run() -> dict[str, Any]:
    return state_run("state_store", CONFIGS["many"])


def state_load_mutation_run() -> dict[str, Any]:
    return state_run("state_load", CONFIGS["many"])


def token_load_mutation_run() -> dict[str, Any]:
    return state_run("token_load", CONFIGS["many"])


def sector_reader_run(config: Config) -> dict[str, Any]:
    return _run(SectorReader(config=config), "sector_reader", config)


def sector_reader_mutation_run() -> dict[str, Any]:
    return sector_reader_run(CONFIGS["many"])
