"""How the testbench of `token_importance` is run: sim/verify/benches/token_importance.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.token_importance import TokenImportance
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run
from spatten.spec.config import TINY, Config


def config_of(tokens: int, prob_lanes: int, lanes: int, contexts: int) -> Config:
    return TINY.replace(
        name="small",
        tokens_max=tokens,
        softmax_lanes=prob_lanes,
        topk_lanes=lanes,
        contexts=contexts,
        key_buffer_rows=2 * tokens,
        value_buffer_rows=2 * tokens,
    )


def unit(config: Config, slots: int) -> TokenImportance:
    return TokenImportance(
        tokens=config.tokens_max,
        prob_bits=config.prob_bits,
        importance_bits=config.token_importance_bits,
        prob_lanes=config.softmax_lanes,
        lanes=config.topk_lanes,
        contexts=config.contexts,
        slots=slots,
    )


def run_arguments(config: Config, slots: int, *, jobs: int = 10, resets: int = 4) -> dict[str, Any]:
    component = unit(config, slots)
    bits = (component.lanes - 1).bit_length()
    completes = 5 + min(3, 1 + bits) + -(-bits // 2)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.token_importance",
        "parameters": {
            "config": config.as_dict(),
            "slots": slots,
            "seeds": seeds(1),
            "jobs": jobs,
            "resets": resets,
            "live_latency": completes + 2,
            "gather_latency": completes + 1,
        },
        "seed": seeds()[0],
    }


def mutation_run() -> dict[str, Any]:
    """A small run that checks everything."""
    return run_arguments(config_of(32, 2, 2, 2), 2, jobs=6, resets=3)


def measurement_run(config: Config) -> dict[str, Any]:
    """The unit at a configuration's size."""
    run = run_arguments(config, config.jobs_in_flight, jobs=6, resets=1)
    return instance_run(instances.token_importance(config), run)
