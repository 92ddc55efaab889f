"""How the testbench of `quick_select` is run: sim/verify/benches/quick_select.py."""

from __future__ import annotations

from typing import Any

from spatten.hw import instances
from spatten.hw.datapath.quick_select import QuickSelect
from spatten.hw.lib.packer import Compactor
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.instance import instance_run, sizes
from spatten.spec.config import Config


def run_arguments(
    width: int,
    lanes: int,
    n_max: int,
    digit_bits: int | None = None,
    header: Any = None,
    *,
    rows: int = 2,
    seed_count: int = 1,
    lengths: tuple[int, ...] = (),
    shares: tuple[int, ...] = (2, 4),
    measured_rows: int = 0,
    checks: bool = True,
) -> dict[str, Any]:
    component = QuickSelect(width=width, lanes=lanes, n_max=n_max, digit_bits=digit_bits, header=header)
    return {
        "component": component,
        "test_module": "spatten.sim.verify.benches.quick_select",
        "parameters": {
            "width": width,
            "lanes": lanes,
            "n_max": n_max,
            "digit_bits": component.digit_bits,
            "passes_max": component.passes_max,
            "compaction": Compactor(shape=width, lanes=lanes).delay,
            "header": header,
            "seeds": seeds(seed_count),
            "rows": rows,
            "checks": checks,
            "lengths": lengths,
            "shares": shares,
            "measured_rows": measured_rows,
        },
        "seed": seeds()[0],
        "timeout_seconds": 600,
    }


def mutation_run() -> dict[str, Any]:
    return run_arguments(4, 2, 9, 1, 2, rows=1)


def row_lengths(n_max: int) -> tuple[int, ...]:
    """Lengths of the rows to measure."""
    return tuple(n for n in (64, 98, 256, 512, 1024) if n <= n_max) or (n_max,)


def measurement_run(config: Config) -> dict[str, Any]:
    """The engine for tokens and heads."""
    return _measurement_run(instances.quick_select(config), 25)


def value_measurement_run(config: Config) -> dict[str, Any]:
    """The engine for local V pruning."""
    return _measurement_run(instances.value_topk(config).select, 5)


def _measurement_run(engine: QuickSelect, rows: int) -> dict[str, Any]:
    lengths = row_lengths(engine.n_max)
    run = run_arguments(**sizes(engine), lengths=lengths, measured_rows=rows, checks=False)
    return instance_run(engine, run)
