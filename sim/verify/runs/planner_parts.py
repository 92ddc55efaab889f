"""How the testbenches of the planner's parts are run, each in sim/verify/benches/<part>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.plan.bid_arbiter import BidArbiter
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config


def bid_arbiter_run(config: Config) -> dict[str, Any]:
    return twin_run(BidArbiter(config=config), config, "bid_arbiter", cycles=2000)


def bid_arbiter_mutation_run() -> dict[str, Any]:
    return bid_arbiter_run(TINY)


RUNS = {"bid_arbiter": bid_arbiter_run}
