"""How the testbench of `topk` is run: sim/verify/benches/topk.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.quick_select import QuickSelect
from spatten.hw.datapath.topk import TopK
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config


def run_arguments(
    width: int,
    lanes: int,
    n_max: int,
    digit_bits: int | None = None,
    header: int | None = None,
    *,
    rows: int = 2,
    seed_count: int = 1,
    measures: bool = False,
) -> dict[str, Any]:
    size: dict[str, Any] = {"width": width, "lanes": lanes, "n_max": n_max, "digit_bits": digit_bits}
    component = TopK(**size, header=header)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.topk",
        "parameters": {
            "width": width,
            "lanes": lanes,
            "n_max": n_max,
            "digit_bits": component.digit_bits,
            "passes_max": QuickSelect(**size).passes_max,
            "filter_stages": TopK.FILTER_STAGES,
            "header": header,
            "seeds": seeds(seed_count),
            "rows": rows,
            "measures": measures,
        },
        "seed": seeds()[0],
        "timeout_seconds": 600,
    }


def mutation_run() -> dict[str, Any]:
    return run_arguments(4, 2, 15, 2, 2, rows=1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The engine for tokens and heads."""
    engine = instances.token_topk(config)
    return instance_run(engine, run_arguments(**sizes(engine), measures=True))


def value_measurement_run(config: Config) -> dict[str, Any]:
    """The engine for local V pruning."""
    engine = instances.value_topk(config)
    return instance_run(engine, run_arguments(**sizes(engine), measures=True))
