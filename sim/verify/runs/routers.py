"""How the testbenches of what joins the units are run, each in sim/verify/benches/<component>.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.control.output_router import OutputRouter
from spatten.hw.control.prob_router import ProbRouter
from spatten.hw.control.write_merger import WriteMerger
from spatten.sim.verify.runs.twin import twin_run
from spatten.spec.config import TINY, Config


def prob_router_run(config: Config) -> dict[str, Any]:
    return twin_run(ProbRouter(config=config), config, "prob_router", cycles=1500)


def prob_router_mutation_run() -> dict[str, Any]:
    return prob_router_run(TINY)


def output_router_run(config: Config) -> dict[str, Any]:
    return twin_run(OutputRouter(config=config), config, "output_router", cycles=1500)


def output_router_mutation_run() -> dict[str, Any]:
    return output_router_run(TINY)


def write_merger_run(config: Config) -> dict[str, Any]:
    return twin_run(WriteMerger(config=config), config, "write_merger", cycles=1500)


def write_merger_mutation_run() -> dict[str, Any]:
    return write_merger_run(TINY)


RUNS = {"prob_router": prob_router_run, "output_router": output_router_run, "write_merger": write_merger_run}
