"""What each feature of the machine costs: the units with it against those without.

`spatten features --liberty FILE.lib.gz` measures it and writes `build/features.json` and the table `features` of
`docs/units.md`. Each feature is taken away from a machine that has all of them. A unit that stands in the machine only
with the feature counts whole; one whose Verilog is another without it counts the difference; one whose Verilog is the
same counts nothing, and is not synthesised. Only units that `hw/units.py` gives a block are compared: the others are
parts of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spatten.host import files
from spatten.hw.units import UNITS
from spatten.sim import cache
from spatten.sim.board.ecp5 import CELLS, count_cells
from spatten.sim.machine.kept_verilog import kept_verilog
from spatten.sim.measure import synth, units
from spatten.sim.measure.synth import read_library, synthesise
from spatten.sim.verify import yosys
from spatten.spec.config import FEATURES, PAPER, ULX3S, Config, Feature

FIGURES = Path("build/features.json")
CHIP = PAPER
"""The machine that is mapped to standard cells."""
BOARD = ULX3S.replace(name=f"{ULX3S.name}-complete", features=FEATURES)
"""The machine that is mapped to an ECP5: the sizes of the board's, with all features."""
AREAS = ("cells_um2", "memories_um2")

Figures = Mapping[str, float]
"""What one instance of a unit takes: cells by kind, as in `CELLS`, or areas, as in `AREAS`."""


# -- Circuits ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A unit as it stands in the machine of a configuration."""

    unit: str
    config: Config
    digest: str
    """That of the unit's Verilog."""

    @property
    def count(self) -> int:
        """How many of it the machine has."""
        return UNITS[self.unit].count(self.config)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a feature makes of a unit."""

    feature: Feature
    present: Circuit
    """The unit in the machine with all features."""
    absent: Circuit | None
    """The unit in the machine without the feature, or None if it is not there."""


def without(machine: Config, feature: Feature) -> Config:
    """A machine that lacks one feature."""
    return machine.replace(
        name=f"{machine.name}-without-{feature}", features=[one for one in machine.features if one is not feature]
    )


def asked(machine: Config) -> list[tuple[str, Config]]:
    """The units of a machine with all features and of those that lack one, without units that are part of others."""
    configs = [machine, *(without(machine, feature) for feature in FEATURES)]
    return [
        (name, config)
        for name, unit in UNITS.items()
        for config in configs
        if unit.block is not None and unit.count(config)
    ]


def find_circuit(unit: str, config: Config) -> Circuit:
    """A unit with the digest of its Verilog, which is kept as long as nothing that makes Verilog changes."""
    digest = kept_verilog(["digest of a unit", unit, config.as_dict()], lambda: units.circuit(unit, config))
    return Circuit(unit=unit, config=config, digest=digest)


def compare(machine: Config, circuits: Iterable[Circuit]) -> list[Change]:
    """What each feature changes of a machine with all features, by features and units.

    `circuits` are those that `asked` names, of this machine and perhaps of others.
    """
    found = {(circuit.unit, circuit.config): circuit for circuit in circuits}
    changes = []
    for feature in FEATURES:
        for unit in UNITS:
            present, absent = found.get((unit, machine)), found.get((unit, without(machine, feature)))
            if present is None:
                continue
            if absent is None or (absent.digest, absent.count) != (present.digest, present.count):
                changes.append(Change(feature=feature, present=present, absent=absent))
    return changes


# -- Synthesis --------------------------------------------------------------------------------------------------------


def flow(liberty: Path | None) -> str:
    """What decides, besides a circuit, what `measure` says of it."""
    if liberty is None:
        return f"{yosys.version(yosys.program())}; {units.ecp5_flow()}"
    return synth.flow(read_library(liberty))


def to_measure(changes: Iterable[Change], flow: str) -> dict[str, Circuit]:
    """The circuits that the costs of changes follow from, each once, by the key that its figures are kept under."""
    found: dict[str, Circuit] = {}
    for change in changes:
        for circuit in (change.present, change.absent):
            if circuit is not None:
                found.setdefault(key(circuit, flow), circuit)
    return found


def key(circuit: Circuit, flow: str) -> str:
    """The name of the figures of a circuit."""
    return cache.digest(circuit.digest, flow)


def read_figures(path: Path) -> dict[str, Figures]:
    """The figures that an earlier run kept, by their keys; none if there was none. Raises `ReadError`."""
    if not path.is_file():
        return {}
    kept = files.read_json(path)
    if not isinstance(kept, dict) or not isinstance(kept.get("figures"), dict):
        raise files.ReadError(f"cannot read {path}: it has no figures of features; name another file by --out")
    return kept["figures"]


def measure(circuit: Circuit, liberty: Path | None, results: Path) -> Figures:
    """What one instance of a unit takes: cells of an ECP5, or with a library um2, whose synthesis is written into
    `results`; runs in a process of its own."""
    component = UNITS[circuit.unit].make(circuit.config)
    if liberty is None:
        return count_cells(component, name=circuit.unit)
    library = read_library(liberty)
    facts = synthesise(component, name=circuit.unit, library=library, results=results / circuit.config.name)
    return {"cells_um2": facts["area_um2"], "memories_um2": facts["memory_area_um2"]}


def cost(change: Change, flow: str, figures: Mapping[str, Figures]) -> dict[str, Any]:
    """A row of what a feature costs in a unit: what all its instances take with it, less what they take without."""
    present, absent = change.present, change.absent
    row: dict[str, Any] = {"feature": change.feature, "configuration": present.config.name, "unit": present.unit}
    row["count"], row["count_without"] = present.count, 0 if absent is None else absent.count
    left: Figures = {} if absent is None else figures[key(absent, flow)]
    row["cost"] = {
        kind: round(present.count * figure - row["count_without"] * left.get(kind, 0), 1)
        for kind, figure in figures[key(present, flow)].items()
    }
    return row


# -- The table --------------------------------------------------------------------------------------------------------

HEADING = (
    *("feature", "units that only it needs", "units that it changes"),
    *("LUT4", "CCU2C", "flip-flops", "MULT18X18D", "DP16KD", "DPR16X4", "cells, mm2", "memories, mm2"),
)


def table_rows(rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The cells of the table below `HEADING`: a row per feature, "-" where nothing was measured."""
    costs = list(rows)
    measured = {kind for row in costs for kind in row["cost"]}
    return [_table_row(feature, [row for row in costs if row["feature"] == feature], measured) for feature in FEATURES]


def _table_row(feature: Feature, rows: list[Mapping[str, Any]], measured: set[str]) -> list[str]:
    def named(gone: bool) -> str:
        """The units that are gone without the feature, or changed, at either size."""
        found = {row["unit"] for row in rows if (row["count_without"] == 0) is gone}
        return ", ".join(f"`{unit}`" for unit in UNITS if unit in found) or "-"

    def total(kind: str, unit: float, places: int) -> str:
        if kind not in measured:
            return "-"
        sum_ = round(sum(row["cost"].get(kind, 0) for row in rows) / unit, places)
        return f"{sum_ or 0.0:,.{places}f}"  # a zero has no sign

    cells = [total(kind, 1, 0) for kind in CELLS]
    areas = [total(kind, 1e6, 4) for kind in AREAS]
    return [f"`{feature}`", named(True), named(False), *cells, *areas]


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The table of the page."""
    lines = [HEADING, ["---"] * len(HEADING), *table_rows(rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
