"""Every unit of `hw/units.py`, measured: rates in simulation, area and slack in standard cells, cells of an FPGA.

`spatten units --liberty FILE.lib.gz` measures all of them and writes `build/units.json` and the tables of
`docs/units.md`. A unit's simulation is the `measurement_run` of its test module, bit-exact against its golden model.
With `--changed` it measures what `build/units.json` lacks, and units whose Verilog is not what was measured, so a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import importlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from amaranth.hdl import UnusedElaboratable

from spatten.host import files
from spatten.hw.emit.hierarchy import parameters_of
from spatten.hw.emit.verilog import convert
from spatten.hw.units import UNITS
from spatten.sim.board.ecp5 import Flow, count_cells, mapping
from spatten.sim.measure.synth import Facts, read_library, structure, synthesise
from spatten.sim.verify import records
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.yosys import SynthesisError
from spatten.spec.config import NAMED, PAPER, ULX3S, Config

FIGURES = Path("build/units.json")
PAGE = Path("docs/units.md")
CONFIGURATIONS = (PAPER, ULX3S)

PAPER_AREA = {
    "Q x K": 7.12,
    "prob x V": 7.22,
    "fetcher": 2.65,
    "softmax": 0.79,
    "top-k": 0.50,
    "rest": 0.43,
}
"""mm2 at 40 nm, SpAtten (HPCA 2021) section V; "rest" is what is left of 18.71."""
ECP5_85F = {
    "lut4": 83_640, "carry": None, "flip_flops": 83_640, "multipliers": 156, "block_rams": 208, "lut_rams": None
}  # fmt: skip
"""What an LFE5U-85F has of each kind of cell; carry chains and LUT memories stand in the place of LUT4."""
PAPER_TOPK = "256 to 262"
"""Mean cycles at n = 1,024, k = 512 and 16 lanes, in the latency model that the paper's authors released."""


# -- One unit ---------------------------------------------------------------------------------------------------------


def find_run(unit: str, config: Config) -> dict[str, Any] | None:
    """The arguments of `cosimulate` that measure a unit at a configuration's size, or None if its tests have none.

    The unit's module in `hw/` has a namesake in `sim/verify/runs`. Its functions `measurement_run` and
    `..._measurement_run` return such arguments; the first counts whose component has the unit's parameters.
    """
    if not UNITS[unit].simulated:
        return None
    component = UNITS[unit].make(config)
    runs = importlib.import_module(f"spatten.sim.verify.runs.{type(component).__module__.rpartition('.')[2]}")
    for name, function in vars(runs).items():
        if name == "measurement_run" or name.endswith("_measurement_run"):
            run: dict[str, Any] = function(config)
            if parameters_of(run["component"]) == parameters_of(component):
                return run
    return None


def measured_records(unit: str, config: Config) -> list[dict[str, Any]] | None:
    """What a unit's testbench records, or None if it has none for this unit."""
    run = find_run(unit, config)
    if run is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures"
        cosimulate(**run, measured=figures)
        return records.read(figures)


def measure_unit(unit: str, name: str, liberty: Path | None, results: Path) -> Facts:
    """Measure all figures of a unit at the size of a configuration, and write its synthesis into `results`; runs in a
    process of its own."""
    warnings.simplefilter("ignore", UnusedElaboratable)  # `find_run` makes components only to compare them
    config = NAMED[name]
    row: Facts = {"unit": unit, "configuration": name, "what": UNITS[unit].what, "block": UNITS[unit].block}
    row["rate"] = UNITS[unit].rate
    row["circuit"] = circuit(unit, config)
    row["records"] = measured_records(unit, config)
    # A size is synthesised for what it is meant for: the paper's for a chip, the board's for its FPGA.
    if config == PAPER and liberty is not None:
        component = UNITS[unit].make(config)
        row["asic"] = synthesise(component, name=unit, library=read_library(liberty), results=results / name)
    if config == ULX3S:
        component = UNITS[unit].make(config)
        row["words"] = structure(component, name=unit)
        row["ecp5"] = count_cells(component, name=unit)
        row["ecp5_flow"] = ecp5_flow()
        check_fpga(unit, row["words"], row["ecp5"])
    return row


def circuit(unit: str, config: Config) -> str:
    """A digest of a unit's Verilog at the size of a configuration."""
    return hashlib.sha256(convert(UNITS[unit].make(config), name=unit).encode()).hexdigest()


def is_current(row: Facts | None, config: Config, liberty: Path | None) -> bool:
    """Whether a row has all that `measure_unit` would find out, about the unit's circuit as it is now."""
    if row is None or (config == PAPER and liberty is not None and "asic" not in row):
        return False
    if config == ULX3S and row.get("ecp5_flow") != ecp5_flow():
        return False
    return bool(row.get("circuit") == circuit(row["unit"], config))


def ecp5_flow() -> str:
    """What maps units to the cells of an ECP5, as far as this project decides it."""
    return "; ".join(mapping("unit", Flow()))


def check_fpga(unit: str, words: Facts, counts: Facts) -> None:
    """`SynthesisError` if a memory became flip-flops or got extra ones for a collision, or a multiplier became LUTs.

    A memory of LUTs may have flip-flops: its read register lies outside of the LUTs. And states that become one-hot may
    have a few more, fewer than a word of the narrowest memory has bits.
    """
    widths = [width for _, width in words["memories"]]
    most = words["flip_flops"] + (sum(widths) if counts["lut_rams"] else 0) + min(widths, default=1) - 1
    if counts["flip_flops"] > most:
        raise SynthesisError(f"{unit}: {counts['flip_flops']} flip-flops on ECP5, of which it has at most {most}")
    if words["memories"] and not counts["block_rams"] + counts["lut_rams"]:
        raise SynthesisError(f"{unit}: its memories are none on ECP5")
    if counts["multipliers"] < len(words["multipliers"]):
        missing = len(words["multipliers"]) - counts["multipliers"]
        raise SynthesisError(f"{unit}: {missing} of its multipliers are not MULT18X18D on ECP5")


# -- Figures ----------------------------------------------------------------------------------------------------------


def latency(records: Iterable[Mapping[str, Any]] | None) -> str:
    """Cycles from in to out: one figure, or the least and the most of several; of distributions their means count."""
    found = list(records or ())
    values = [record["value"] for record in found if record["name"] == "latency"]
    values = values or [record["mean"] for record in found if record["name"] == "topk"]
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def throughput(records: Iterable[Mapping[str, Any]] | None) -> str:
    """The worst measured rate of each kind, in cycles per item or in items per cycle."""
    found: dict[str, list[float]] = {}
    for record in records or ():
        if "per_" in record["name"]:
            found.setdefault(record["name"], []).append(record["value"])
    parts = []
    for name, values in found.items():
        worst = max(values) if name.startswith("cycles_per_") else min(values)
        parts.append(f"{worst:,.2f} {name.replace('_', ' ')}")
    return ", ".join(parts) or "-"


def topk_rows(rows: Iterable[Facts]) -> list[dict[str, Any]]:
    """The latencies of the quick-select by length, k and distribution."""
    keys = ("n", "k", "lanes", "width", "distribution", "mean", "p99", "max")
    return [
        {"configuration": row["configuration"], **{key: record[key] for key in keys}}
        for row in rows
        for record in row["records"] or ()
        if record["name"] == "topk"
    ]


# -- The page ---------------------------------------------------------------------------------------------------------


def _markdown(heading: str, rows: Iterable[Iterable[str]]) -> str:
    columns = heading.count("|") - 1
    lines = [heading, "|" + "---|" * columns, *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def rates_table(rows: list[Facts]) -> str:
    """What was measured in simulation, a row per unit."""
    cells = []
    for unit in UNITS.values():
        at = {row["configuration"]: row["records"] for row in rows if row["unit"] == unit.name}
        measured = [figure(at.get(config.name)) for config in CONFIGURATIONS for figure in (latency, throughput)]
        cells.append([f"`{unit.name}`", unit.what, unit.rate, *measured])
    names = " | ".join(f"{config.name}: latency | throughput" for config in CONFIGURATIONS)
    return _markdown(f"| unit | what it does | must hold | {names} |", cells)


def area_table(rows: list[Facts]) -> str:
    """Area and slack in standard cells, a row per unit."""
    found = {row["unit"]: row["asic"] for row in _of(rows, "asic")}
    cells = []
    for unit in UNITS:
        facts = found.get(unit)
        if facts is None:
            cells.append([f"`{unit}`", *"----"])
            continue
        slack = facts["slack_ns"]["register_to_register"]
        cells.append(
            [
                f"`{unit}`",
                f"{facts['area_um2'] / 1e6:.4f}",
                f"{facts['memory_bits']:,}",
                f"{facts['memory_area_um2'] / 1e6:.4f}",
                "-" if slack is None else f"{slack:+.2f}",
            ]
        )
    return _markdown("| unit | cells, mm2 | memory bits | memories, mm2 | slack, ns |", cells)


def blocks_table(rows: list[Facts]) -> str:
    """Sums by block beside the paper's; no sum where a unit of the block was not measured."""
    areas = {row["unit"]: (row["asic"]["area_um2"] + row["asic"]["memory_area_um2"]) / 1e6 for row in _of(rows, "asic")}
    counts = {name: unit.count(PAPER) for name, unit in UNITS.items()}

    def total(units: list[str]) -> str:
        known = units and areas.keys() >= set(units)
        return f"{sum(counts[unit] * areas[unit] for unit in units):.2f}" if known else "-"

    def written(unit: str) -> str:
        return f"`{unit}`" if counts[unit] == 1 else f"{counts[unit]} x `{unit}`"

    members = {block: [unit.name for unit in UNITS.values() if unit.block == block] for block in PAPER_AREA}
    cells = [
        [block, ", ".join(map(written, units)), total(units), f"{PAPER_AREA[block]:.2f}"]
        for block, units in members.items()
    ]
    cells.append(
        ["all", "", total([unit for units in members.values() for unit in units]), f"{sum(PAPER_AREA.values()):.2f}"]
    )
    return _markdown("| block | units | mm2 | the paper's, 40 nm |", cells)


def fpga_table(rows: list[Facts]) -> str:
    """Cells of an ECP5, a row per unit."""
    found = {row["unit"]: [f"{count:,}" for count in row["ecp5"].values()] for row in _of(rows, "ecp5")}
    cells = [[f"`{unit}`", *found.get(unit, "------")] for unit in UNITS]
    # The units of the machine's sum, without those that are part of others.
    units = [unit for unit in UNITS.values() if unit.block is not None]
    facts = {row["unit"]: row["ecp5"] for row in _of(rows, "ecp5")}
    total = ["-"] * len(ECP5_85F)
    if facts.keys() >= {unit.name for unit in units}:
        total = [f"{sum(unit.count(ULX3S) * facts[unit.name][kind] for unit in units):,}" for kind in ECP5_85F]
    cells.append(["all", *total])
    cells.append(["LFE5U-85F", *("-" if there is None else f"{there:,}" for there in ECP5_85F.values())])
    return _markdown("| unit | LUT4 | CCU2C | flip-flops | MULT18X18D | DP16KD | DPR16X4 |", cells)


def topk_table(rows: list[Facts]) -> str:
    """The quick-select at the length and k of the paper's figure."""
    cells = [
        [row["distribution"], f"{row['mean']:.1f}", f"{row['p99']:.0f}", f"{row['max']:,}"]
        for row in topk_rows(rows)
        if (row["configuration"], row["n"], row["k"]) == (PAPER.name, 1024, 512)
    ]
    return _markdown("| distribution | mean | 99 % | most |", cells)


def _of(rows: list[Facts], what: str) -> list[Facts]:
    """The rows that have a figure `what`, in the order of `UNITS`."""
    order = list(UNITS)
    return sorted((row for row in rows if row.get(what)), key=lambda row: order.index(row["unit"]))


TABLES: dict[str, Callable[[list[Facts]], str]] = {
    "rates": rates_table,
    "area": area_table,
    "blocks": blocks_table,
    "fpga": fpga_table,
    "topk": topk_table,
}
"""The tables of the page by the name in their markers."""


def write_page(page: Path, rows: list[Facts]) -> None:
    """Put the tables between their markers in `page`; those of areas stay if no area was measured."""
    has_areas = bool(_of(rows, "asic"))
    tables = {name: table(rows) for name, table in TABLES.items() if has_areas or name not in ("area", "blocks")}
    files.fill_tables(page, tables)
