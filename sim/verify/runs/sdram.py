"""How the testbenches of the SDRAM controller are run: sim/verify/benches/sdram.py and, of the model,
sdram_model.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spatten.hw.board.sdram_bank import SdramBank
from spatten.hw.board.sdram_cutter import BurstCutter
from spatten.hw.board.sdram_timing import AS4C16M16, SdramTiming
from spatten.hw.board.sdram_upkeep import SdramUpkeep
from spatten.sim.verify.cosim import seeds
from spatten.sim.verify.runs.twin import twin_run
from spatten.sim.verify.sdram_part import SdramBoard, SdramModel, verilog

CLOCK_MHZ = 80
ADDRESS_BITS = 40
POWER_UP_NS = 2_500
"""In the place of 200 us: what comes after it is the same."""
PART = dataclasses.replace(AS4C16M16, power_up=POWER_UP_NS)
SETTINGS = {"CLOCK_PS": 1_000_000 // CLOCK_MHZ, "POWER_UP_NS": POWER_UP_NS}
"""Of the model: all timings are the module's own."""

TIMINGS = {
    "board": SdramTiming.of(dataclasses.replace(PART, row_bits=8, refresh_window=1e6), clock_mhz=CLOCK_MHZ),
    "fast": SdramTiming.of(
        dataclasses.replace(PART, row_bits=8, refresh_window=7e5, power_up=90), clock_mhz=166, batch=3
    ),
}
"""Of the parts by themselves: a board's, and one in which every timing has another number of cycles."""
BREACHES: dict[str, dict[str, int]] = {
    "POWER_UP": {"POWER_UP_NS": 2_700},
    "INITIALISATION": {"POWER_UP_REFRESHES": 9},
    "MODE_VALUE": {"CAS_LATENCY": 2},
    "T_RCD": {"T_RCD_PS": 26_000},
    "T_RP": {"T_RP_PS": 26_000},
    "T_RAS": {"T_RAS_PS": 120_000},
    "T_RAS_MOST": {"T_RAS_MOST_PS": 15_000_000},
    "T_RC": {"T_RC_PS": 140_000},
    "T_RRD": {"T_RRD_PS": 70_000},
    "T_WR": {"T_WR_PS": 26_000},
    "T_MRD": {"MODE_CYCLES": 8},
    "T_RFC": {"T_RFC_PS": 76_000},
    "WINDOW": {"WINDOW_NS": 60_000},
    "BUS_CONFLICT": {"IDLE_EDGES": 2},
}
"""What the model is made to want in excess of what the controller was told, by the rule that is then broken."""


def run_arguments(
    *,
    tests: str,
    operations: int = 300,
    settings: Mapping[str, int] | None = None,
    strip_initial: bool = False,
    row_bits: int = 13,
    column_bits: int = 9,
    cas_latency: int = 3,
    **parameters: Any,
) -> dict[str, Any]:
    """One of the testbench's groups of `tests`: "traffic", "brief", "rates" or "breach". A part of fewer `row_bits` is
    refreshed as often as the whole one."""
    part = dataclasses.replace(
        PART,
        row_bits=row_bits,
        column_bits=column_bits,
        cas_latency=cas_latency,
        refresh_window=PART.refresh_window / (1 << PART.row_bits - row_bits),
    )
    timing = SdramTiming.of(part, clock_mhz=CLOCK_MHZ)
    sizes = {"ROW_BITS": row_bits, "COLUMN_BITS": column_bits, "CAS_LATENCY": cas_latency}
    window = {"WINDOW_NS": int(part.refresh_window)}
    board = SdramBoard(timing=timing, settings={**SETTINGS, **sizes, **window, **(settings or {})})
    return {
        "component": board,
        "test_module": "spatten.sim.verify.benches.sdram",
        "parameters": {
            "tests": tests,
            "byte_bits": part.byte_bits,
            "operations": operations,
            "seeds": seeds(1),
            **parameters,
        },
        "verilog": verilog(board, strip_initial=strip_initial),
        "timeout_seconds": 300,
    }


def part_run(bench: str, timing: str, cycles: int) -> dict[str, Any]:
    """A part of the controller with its twin: `bench` is "sdram_bank" or "sdram_upkeep"."""
    component = {"sdram_bank": SdramBank, "sdram_upkeep": SdramUpkeep}[bench](timing=TIMINGS[timing])
    return twin_run(component, None, bench, cycles=cycles, timing=timing)


def cutter_run() -> dict[str, Any]:
    """What cuts the bursts."""
    return {
        "component": BurstCutter(part=PART, address_bits=ADDRESS_BITS, id_bits=1),
        "test_module": "spatten.sim.verify.benches.sdram_cutter",
        "parameters": {"seeds": seeds(1)},
    }


def model_run(cas_latency: int = 3) -> dict[str, Any]:
    """The rules of the model by themselves."""
    settings = {
        **{"CLOCK_PS": 10_000, "POWER_UP_NS": 200, "ROW_BITS": 4, "CAS_LATENCY": cas_latency},
        **{"WINDOW_NS": 3_000, "T_RC_PS": 95_000, "T_RAS_MOST_PS": 2_000_000},
    }
    model = SdramModel(settings)
    return {
        "component": model,
        "test_module": "spatten.sim.verify.benches.sdram_model",
        "parameters": {"settings": settings},
        "verilog": verilog(model, strip_initial=False),
    }
