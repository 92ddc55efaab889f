"""The tool that measures what features cost: what it compares, what it adds up, its table and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spatten.cli import features as command
from spatten.hw.units import UNITS
from spatten.sim.board.ecp5 import CELLS
from spatten.sim.measure import features, units
from spatten.sim.measure.features import BOARD, CHIP, Change, Circuit
from spatten.sim.requirements import DEFAULT_LIBERTY
from spatten.spec.config import FEATURES, TINY, ULX3S, Config, Feature
from tests.checkout import ROOT
from tests.cli.command_line import Ended, run_spatten

NO_HEADS = features.without(CHIP, Feature.PRUNE_HEADS)
GONE = {
    Feature.PROGRESSIVE: ["progressive"],
    Feature.PRUNE_VALUES: ["widen", "value_topk", "local_values"],
    Feature.PRUNE_HEADS: ["head_importance"],
    Feature.SAVED_STATES: ["write_merger", "saved_states"],
}
"""Units that the machine lacks without a feature, without those that are part of others."""


def circuits(machine: Config) -> list[Circuit]:
    """Every unit at every size asked for: the AXI writers have another circuit without head pruning, the planner one of
    its own without each feature."""

    def digest(unit: str, config: Config) -> str:
        changed = unit == "planner" or (unit == "axi_writer" and not config.has(Feature.PRUNE_HEADS))
        return f"{unit} of {config.name}" if changed else unit

    return [Circuit(unit=unit, config=config, digest=digest(unit, config)) for unit, config in features.asked(machine)]


def row(feature: Feature, unit: str, counts: tuple[int, int], cost: dict[str, Any]) -> dict[str, Any]:
    return {"feature": feature, "unit": unit, "count": counts[0], "count_without": counts[1], "cost": cost}


# -- What is compared -------------------------------------------------------------------------------------------------


def test_each_feature_is_taken_away_from_a_machine_that_has_all() -> None:
    assert BOARD.features == CHIP.features == FEATURES
    assert ULX3S.replace(features=FEATURES, name="x") == BOARD.replace(name="x")
    assert (
        CHIP.replace(
            name="paper-without-prune_heads",
            features=(Feature.PROGRESSIVE, Feature.PRUNE_VALUES, Feature.SAVED_STATES),
        )
        == NO_HEADS
    )


def test_units_are_asked_for_where_they_stand_and_once() -> None:
    found = features.asked(CHIP)
    assert len(set(found)) == len(found)
    assert {unit for unit, _ in found} == {name for name, unit in UNITS.items() if unit.block is not None}
    configs = [CHIP, *(features.without(CHIP, feature) for feature in FEATURES)]
    assert {config for unit, config in found if unit == "fetch"} == set(configs)
    for feature in FEATURES:
        there = {unit for unit, config in found if config == features.without(CHIP, feature)}
        assert [unit for unit, unit_of in UNITS.items() if unit_of.block and unit not in there] == GONE[feature]


def test_what_a_feature_changes() -> None:
    found = features.compare(CHIP, [*circuits(BOARD), *circuits(CHIP)])
    assert {change.present.config for change in found} == {CHIP}
    assert {
        feature: [(c.present.unit, c.absent and c.absent.config.name) for c in found if c.feature is feature]
        for feature in FEATURES
    } == {
        Feature.PROGRESSIVE: [("progressive", None), ("planner", "paper-without-progressive")],
        Feature.PRUNE_VALUES: [
            ("widen", None), ("value_topk", None), ("local_values", None), ("planner", "paper-without-prune_values")
        ],
        Feature.PRUNE_HEADS: [
            ("head_importance", None), ("axi_writer", NO_HEADS.name), ("planner", NO_HEADS.name)
        ],
        Feature.SAVED_STATES: [
            ("write_merger", None), ("planner", "paper-without-saved_states"), ("saved_states", None)
        ],
    }  # fmt: skip


def test_a_circuit_is_measured_once_at_the_size_that_all_features_have() -> None:
    found = features.to_measure(features.compare(CHIP, circuits(CHIP)), "flow")
    measured = [(circuit.unit, circuit.config) for circuit in found.values()]
    assert len(measured) == len(set(measured)) == 7 + 2 + 5, "7 only with a feature, 2 writers, 5 planners"
    assert [config for unit, config in measured if unit == "axi_writer"] == [CHIP, NO_HEADS]
    one = Circuit(unit="pv", config=CHIP, digest="0")
    alike = Circuit(unit="pv", config=NO_HEADS, digest="0")
    change = Change(feature=Feature.PRUNE_HEADS, present=one, absent=alike)
    assert list(features.to_measure([change], "flow").values()) == [one]
    assert features.key(one, "flow") == features.key(alike, "flow")
    assert features.key(one, "flow") != features.key(one, "another")
    assert features.key(one, "flow") != features.key(Circuit(unit="pv", config=CHIP, digest="1"), "flow")


# -- Costs ------------------------------------------------------------------------------------------------------------


def test_cost_of_a_unit_that_only_a_feature_needs_and_of_one_that_it_changes() -> None:
    with_, less = (Circuit(unit="axi_writer", config=config, digest=config.name) for config in (CHIP, NO_HEADS))
    figures = {
        features.key(with_, "flow"): {"cells_um2": 1000.3, "memories_um2": 20},
        features.key(less, "flow"): {"cells_um2": 900.1, "memories_um2": 20.5},
        features.key(with_, "another"): {"cells_um2": 1, "memories_um2": 1},
    }
    change = Change(feature=Feature.PRUNE_HEADS, present=with_, absent=less)
    named = {"feature": "prune_heads", "configuration": "paper", "unit": "axi_writer"}
    assert features.cost(change, "flow", figures) == {
        **named, "count": 16, "count_without": 16, "cost": {"cells_um2": 1603.2, "memories_um2": -8}
    }  # fmt: skip
    whole = Change(feature=Feature.PRUNE_HEADS, present=with_, absent=None)
    assert features.cost(whole, "flow", figures) == {
        **named, "count": 16, "count_without": 0, "cost": {"cells_um2": 16004.8, "memories_um2": 320}
    }  # fmt: skip


def test_figures_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    assert features.read_figures(path) == {}
    path.write_text('{"figures": {"key": {"lut4": 1}}}')
    assert features.read_figures(path) == {"key": {"lut4": 1}}
    for text in ("[]", '{"units": []}', '{"figures": []}'):
        path.write_text(text)
        assert run_spatten("features", "--out", str(path)) == Ended(
            2, "", f"error: cannot read {path}: it has no figures of features; name another file by --out\n"
        )
        assert path.read_text() == text


# -- The table --------------------------------------------------------------------------------------------------------

BOARD_ROWS = [
    row(Feature.PROGRESSIVE, "planner", (1, 1), {kind: 100 + n for n, kind in enumerate(CELLS)}),
    row(Feature.PROGRESSIVE, "progressive", (1, 0), dict.fromkeys(CELLS, 1000)),
    row(Feature.PROGRESSIVE, "qk", (1, 1), dict.fromkeys(CELLS, -2)),
]
CHIP_ROWS = [
    row(Feature.PROGRESSIVE, "softmax", (1, 1), {"cells_um2": 1234.5, "memories_um2": -0.1}),
    row(Feature.SAVED_STATES, "write_merger", (1, 0), {"cells_um2": 20000, "memories_um2": 300}),
]


def test_table_of_known_costs() -> None:
    lines = features.table([*BOARD_ROWS, *CHIP_ROWS]).splitlines()
    assert lines == [
        "| feature | units that only it needs | units that it changes | LUT4 | CCU2C | flip-flops | MULT18X18D "
        "| DP16KD | DPR16X4 | cells, mm2 | memories, mm2 |",
        "|" + " --- |" * 11,
        "| `progressive` | `progressive` | `qk`, `softmax`, `planner` | 1,098 | 1,099 | 1,100 | 1,101 | 1,102 | 1,103 "
        "| 0.0012 | 0.0000 |",
        "| `prune_values` | - | - | 0 | 0 | 0 | 0 | 0 | 0 | 0.0000 | 0.0000 |",
        "| `prune_heads` | - | - | 0 | 0 | 0 | 0 | 0 | 0 | 0.0000 | 0.0000 |",
        "| `saved_states` | `write_merger` | - | 0 | 0 | 0 | 0 | 0 | 0 | 0.0200 | 0.0003 |",
    ]
    assert features.table_rows(BOARD_ROWS)[0][3:] == ["1,098", *(f"{1099 + n:,}" for n in range(5)), "-", "-"]


def test_the_page_in_the_repository_has_the_tools_format() -> None:
    page = (ROOT / units.PAGE).read_text(encoding="utf-8")
    found = re.search(r"<!-- features -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert found is not None
    if found[1] == "Not measured yet.\n":
        pytest.skip("the table features has not been measured yet")
    lines = found[1].splitlines()
    assert lines[:2] == features.table([]).splitlines()[:2]
    body = [line.strip("| ").split(" | ") for line in lines[2:]]
    assert [cells[0] for cells in body] == [f"`{feature}`" for feature in FEATURES]
    for feature, cells in zip(FEATURES, body, strict=True):
        assert cells[1] == ", ".join(f"`{unit}`" for unit in GONE[feature])
        assert {name.strip("`") for name in cells[2].split(", ")} <= UNITS.keys() - set(GONE[feature])
        assert all(re.fullmatch(r"-?\d[\d,]*", cell) for cell in cells[3:9]), cells
        assert all(re.fullmatch(r"-?\d+\.\d{4}", cell) for cell in cells[9:]), cells
        assert len(cells) == len(features.HEADING)


def test_the_page_is_written_only_with_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With no unit at all, so that nothing is measured."""
    page, text = tmp_path / "page.md", "one\n<!-- features -->\nold\n<!-- end -->\ntwo\n"
    page.write_text(text)
    monkeypatch.setattr(features, "UNITS", {})
    monkeypatch.setattr(command, "FIGURES", tmp_path / "features.json")
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "flow", str)
    monkeypatch.setattr(command.requirements, "missing", lambda requirements: [])
    command.main(jobs=1)
    command.main(jobs=1, liberty=Path("cells.lib"), out=tmp_path / "another.json")
    assert page.read_text() == text
    command.main(jobs=1, liberty=Path("cells.lib"))
    assert page.read_text() == text.replace("old\n", features.table([]))


# -- Measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_measures_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two units of a small machine: one that only saved states need, one that two features change."""
    kept = tmp_path / "features.json"
    monkeypatch.setattr(features, "UNITS", {name: UNITS[name] for name in ("prob_router", "write_merger")})
    monkeypatch.setattr(command, "BOARD", TINY)
    command.main(jobs=1, out=kept)
    found = json.loads(kept.read_text())
    costs = {(row["feature"], row["unit"]): row["cost"] for row in found["features"]}
    assert list(costs) == [
        ("progressive", "prob_router"), ("prune_values", "prob_router"), ("saved_states", "write_merger")
    ]  # fmt: skip
    assert all(cost.keys() == CELLS.keys() for cost in costs.values())
    assert costs["saved_states", "write_merger"]["lut4"] > costs["prune_values", "prob_router"]["lut4"] > 0
    assert len(found["figures"]) == 4
    assert costs["saved_states", "write_merger"] in found["figures"].values()
    assert "saved_states" in capsys.readouterr().out

    # What is there is not measured again, and the rest is.
    first, *_ = found["figures"]
    merger = next(key for key, value in found["figures"].items() if value == costs["saved_states", "write_merger"])
    missing = next(key for key in found["figures"] if key not in (first, merger))
    changed = {**found["figures"], merger: dict.fromkeys(CELLS, 7)}
    kept.write_text(json.dumps({"figures": {key: value for key, value in changed.items() if key != missing}}))
    command.main(jobs=1, out=kept)
    again = json.loads(kept.read_text())
    assert again["figures"] == changed
    assert again["features"][:2] == found["features"][:2]
    assert again["features"][2]["cost"] == dict.fromkeys(CELLS, 7)


@pytest.mark.slow
@pytest.mark.needs("sta", "the TSMC 0.18 um library")
def test_a_circuit_is_measured_in_standard_cells(tmp_path: Path) -> None:
    circuit = features.find_circuit("write_merger", TINY)
    assert circuit == Circuit(unit="write_merger", config=TINY, digest=units.circuit("write_merger", TINY))
    measured = features.measure(circuit, DEFAULT_LIBERTY, tmp_path)
    assert measured.keys() == set(features.AREAS)
    assert measured["cells_um2"] > 1000
    assert (tmp_path / "tiny" / "write_merger-osu018_stdcells.json").is_file()
    assert len({features.flow(None), features.flow(DEFAULT_LIBERTY)}) == 2
