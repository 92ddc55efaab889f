"""How the testbench of `topk` is run: sim/verify/benches/topk.py."""

from __future__ import annotations

from typing import Any

from spatten.hw.datapath.quick_select import QuickSelect
from spatten.hw.datapath.topk import PackedTopK, TopK
from spatten.hw.lib.packer import Compactor
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import Config


def run_arguments(
    packed: bool,
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
    sizes: dict[str, Any] = {"width": width, "lanes": lanes, "n_max": n_max, "digit_bits": digit_bits}
    component = PackedTopK(**sizes, header=header) if packed else TopK(**sizes, header=header)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.topk",
        "parameters": {
            "packed": packed,
            "width": width,
            "lanes": lanes,
            "n_max": n_max,
            "digit_bits": component.digit_bits,
            "passes_max": QuickSelect(**sizes).passes_max,
            "filter_stages": TopK.FILTER_STAGES,
            "compaction": Compactor(shape=width, lanes=lanes).delay,
            "header": header,
            "seeds": seeds(seed_count),
            "rows": rows,
            "measures": measures,
        },
        "seed": seeds()[0],
        "timeout_seconds": 600,
    }


def mutation_run() -> dict[str, Any]:
    return run_arguments(False, 4, 2, 15, 2, 2, rows=1)


def measurement_run(config: Config) -> dict[str, Any]:
    """The engine for tokens and heads."""
    width = max(config.token_importance_bits, config.head_importance_bits) + 1
    return run_arguments(False, width, config.topk_lanes, max(config.tokens_max, config.heads_max), measures=True)


def value_measurement_run(config: Config) -> dict[str, Any]:
    """The engine for local V pruning."""
    return run_arguments(True, config.prob_bits, config.topk_lanes, config.tokens_max, measures=True)
