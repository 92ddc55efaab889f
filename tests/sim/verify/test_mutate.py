"""The mutation tool, and a sample of every unit's mutants; `make mutate` runs them all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

import spatten.cli.mutate
import spatten.sim.verify.mutate
from spatten.host.files import fill_tables
from spatten.hw.emit.verilog import convert
from spatten.hw.lib.fifo import Fifo, SkidBuffer
from spatten.hw.lib.ram import Ram
from spatten.hw.units import UNITS
from spatten.sim.verify.mutate import (
    Mutant,
    MutationError,
    MutationResult,
    Netlist,
    explained,
    mutate,
    mutation_run,
    results_table,
    survivors_table,
    units,
)
from spatten.sim.verify.runs.fifo import skid_buffer_run
from spatten.spec.config import TINY
from tests.checkout import ROOT
from tests.cli.command_line import run_spatten

SAMPLE = (0, 13)
"""Which mutants of a unit's list: decided before any was ever run."""


@pytest.mark.slow
@pytest.mark.parametrize("unit", units())
def test_sampled_mutants_are_killed_or_explained(unit: str) -> None:
    result = mutate(unit, mutation_run(unit), sample=SAMPLE, explanations=explained().get(unit))
    assert not result.problems
    assert {mutant.outcome for mutant in result.mutants} <= {"killed", "equivalent", "survived"}
    assert len(result.mutants) == len(SAMPLE)


def test_every_explanation_is_of_a_unit() -> None:
    assert set(explained()) <= set(units())


def test_units_are_found() -> None:
    assert {"fifo", "skid_buffer", "ram", "arbiter"} <= set(units())
    assert mutation_run("fifo")["test_module"] == "spatten.sim.verify.benches.fifo"
    assert isinstance(mutation_run("skid_buffer")["component"], SkidBuffer)


def test_every_unit_of_the_datapath_has_mutants() -> None:
    for unit in UNITS.values():
        assert not unit.simulated or type(unit.make(TINY)).__module__.rpartition(".")[2] in units()


def test_the_page_lists_the_explained_survivors() -> None:
    page = (ROOT / spatten.sim.verify.mutate.PAGE).read_text(encoding="utf-8")
    wanted = survivors_table(explained())
    missing = [line for line in wanted.splitlines() if line not in page.splitlines()]
    assert not missing, f"survivors.toml has them, {spatten.sim.verify.mutate.PAGE} has not"
    assert wanted in page


# -- Mutants ----------------------------------------------------------------------------------------------------------


class Loose(wiring.Component):
    """A register behind another, and one whose upper bit no legal use of `i` ever shows."""

    i: In(stream.Signature(2))
    o: Out(stream.Signature(2))
    count: Out(3)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        held = Signal(2, reset_less=True)
        inside = Signal(2)
        m.d.comb += [
            self.i.ready.eq(inside == 0),
            self.o.valid.eq(inside != 0),
            self.o.payload.eq(held),
            self.count.eq(inside),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(self.i.payload), inside.eq(1)]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += inside.eq(0)
        return m


def test_mutants_are_distinct_and_always_the_same(tmp_path: Path) -> None:
    lists = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lists.append(Netlist(Fifo(shape=3, depth=5), tmp_path / name, initial_values=False).mutants(30, seed=1))
    assert lists[0] == lists[1]
    names = [mutant.name for mutant in lists[0]]
    assert len(names) == len(set(names)) == 30
    assert {mutant.kind for mutant in lists[0]} >= {"const0", "const1", "inv"}
    assert {mutant.place.partition("/")[0] for mutant in lists[0]} == {"top", "top.ram"}
    assert all(not Path(mutant.source).is_absolute() for mutant in lists[0])
    others = Netlist(Fifo(shape=3, depth=5), tmp_path, initial_values=False).mutants(30, seed=7)
    assert len(others) == 30
    assert others != lists[0]


def test_a_mutant_is_one_change_of_the_verilog(tmp_path: Path) -> None:
    netlist = Netlist(Fifo(shape=3, depth=5), tmp_path, initial_values=False)
    mutants = netlist.mutants(6, seed=1)
    unit, *changed = netlist.verilog([None, *mutants])
    assert len({unit, *changed}) == 7
    assert "assert" not in unit

    # It has the ports of the simulated circuit, so every testbench fits.
    def ports(text: str) -> set[str]:
        return set(text.partition("module top(")[2].partition(")")[0].split(", "))

    assert "clk" in ports(unit)
    assert ports(unit) == ports(convert(Fifo(shape=3, depth=5)))


def test_a_part_is_changed_alone(tmp_path: Path) -> None:
    mutants = Netlist(Fifo(shape=3, depth=5), tmp_path, initial_values=False).mutants(8, "ram", seed=1)
    assert len(mutants) == 8
    assert {mutant.place.partition("/")[0] for mutant in mutants} == {"top.ram"}


@pytest.mark.slow
def test_equivalence_looks_at_payloads_only_while_valid(tmp_path: Path) -> None:
    netlist = Netlist(Loose(), tmp_path, initial_values=False)
    outcomes = {}
    for mutant in netlist.mutants(40, seed=1)[::3]:
        place = mutant.place.partition("/")[2]
        outcomes[f"{mutant.kind} {place} {mutant.wire}"] = netlist.is_equivalent(mutant, timeout_seconds=120)
    # inside[1] is 0 from the reset on: to say so again, or to ask it, changes nothing; to touch inside[0] does.
    same = {name for name, same in outcomes.items() if same}
    assert same
    words = ("const0", "cnot1", "held", "payload", "[1]")
    assert all(any(word in name for word in words) for name in same), same
    assert not any(same for name, same in outcomes.items() if "o__valid" in name or "i__ready" in name)


class Recalling(wiring.Component):
    """A memory whose last word has no address of its own, and a register that stays 0."""

    write: In(1)
    address: In(2)
    data: In(2)
    shown: Out(2)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.ram = ram = Ram(shape=2, depth=3)
        held = Signal(2)
        m.d.sync += held.eq(held & self.data)
        m.d.comb += [
            ram.write_enable.eq(self.write),
            ram.write_address.eq(self.address),
            ram.write_data.eq(self.data),
            ram.read_enable.eq(1),
            ram.read_address.eq(self.address),
            self.shown.eq(ram.read_data ^ held),
        ]
        return m


@pytest.mark.slow
def test_what_a_memory_holds_before_and_beyond_is_no_difference(tmp_path: Path) -> None:
    netlist = Netlist(Recalling(), tmp_path, initial_values=False)
    mutants = [mutant for mutant in netlist.mutants(60, seed=1) if mutant.wire.startswith("held")]
    same = {mutant.name: netlist.is_equivalent(mutant, timeout_seconds=120) for mutant in mutants}
    assert any(same.values()), same
    assert not all(same.values()), same
    assert {name.partition(" ")[0] for name, equal in same.items() if equal} <= {"const0", "cnot1"}, same


# -- Judgement --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_good_testbench_kills() -> None:
    result = mutate("skid_buffer", skid_buffer_run(3), sample=range(6), jobs=2)
    assert result.problems == []
    assert result.count("killed") >= 5
    assert all(mutant.why for mutant in result.mutants)


@pytest.mark.slow
def test_a_blind_testbench_lets_them_live() -> None:
    blind = {
        "component": SkidBuffer(shape=3),
        "test_module": "tests.hw.lib.cocotb_assertions",
        "parameters": {"scenario": "look away"},
    }
    result = mutate("skid_buffer", blind, sample=range(4), proof_seconds=60)
    survivors = [mutant.name for mutant in result.mutants if mutant.outcome == "survived"]
    assert survivors
    assert len(result.problems) == len(survivors)
    assert all(problem.startswith("survived without an explanation: ") for problem in result.problems)

    why = {name: {"mutant": name, "why": "nobody looks", "equivalent": True} for name in survivors}
    result = mutate("skid_buffer", blind, sample=range(4), explanations=why)
    assert result.problems == []
    assert result.count("equivalent") == 4


def test_a_run_that_fails_without_a_fault_is_no_evidence() -> None:
    arguments = {**skid_buffer_run(3), "component": SkidBuffer(shape=4)}
    with pytest.raises(MutationError, match="skid_buffer: the run fails without any fault"):
        mutate("skid_buffer", arguments, sample=(0,))


def _result(*outcomes: str) -> MutationResult:
    mutants = [
        Mutant(command="", kind="inv", place=f"top/$1.A[{number}]", wire="", source="", outcome=outcome)
        for number, outcome in enumerate(outcomes)
    ]
    return MutationResult(unit="unit", mutants=mutants)


def test_equivalent_mutants_do_not_count() -> None:
    result = _result(*["killed"] * 19, "survived", *["equivalent"] * 4)
    assert result.counted == 20
    assert result.share == 0.95


def test_equivalent_mutants_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter(["survived"] * 6 + ["killed"] * 17 + ["survived"] + ["killed"] * 100)
    monkeypatch.setattr(spatten.sim.verify.mutate, "_healthy", lambda *arguments: 1.0)
    monkeypatch.setattr(spatten.sim.verify.mutate, "_outcome", lambda *arguments: (next(outcomes), "why"))
    monkeypatch.setattr(Netlist, "is_equivalent", lambda *arguments, **options: True)
    result = mutate("skid_buffer", skid_buffer_run(3))
    assert (len(result.mutants), result.counted, result.count("equivalent")) == (27, 20, 7)
    assert result.problems == []


def test_the_page_has_the_results(tmp_path: Path) -> None:
    results = {"a": _result(*["killed"] * 23, "equivalent"), "c": _result(*["killed"] * 22, "survived")}
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- mutants -->\nold\n<!-- end -->\nlast\n", encoding="utf-8")
    fill_tables(page, {"mutants": results_table(results, ["c", "b", "a"])})
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# Page", "<!-- mutants -->"]
    assert lines[4:] == [
        "| `a` | 23 | 23 | 0 | 1 |",
        "| `b` | - | - | - | - |",
        "| `c` | 23 | 22 | 1 | 0 |",
        "| all | 46 | 45 | 1 | 1 |",
        "<!-- end -->",
        "last",
    ]
    with pytest.raises(ValueError, match=r"page\.md has no table survivors"):
        fill_tables(page, {"survivors": ""})


def test_the_command_fails_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spatten.cli.mutate.requirements, "missing", lambda requirements: [])
    monkeypatch.setattr(spatten.cli.mutate, "REPORT", tmp_path / "mutate.json")
    monkeypatch.setattr(spatten.cli.mutate, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(spatten.cli.mutate, "mutation_run", lambda unit: {"unit": unit})
    outcomes = {"fifo": ["killed"] * 24, "ram": ["killed"] * 20 + ["survived"] * 4}

    def run(unit: str, arguments: dict[str, Any], **options: Any) -> MutationResult:
        assert arguments == {"unit": unit}
        result = _result(*outcomes[unit])
        problems = [] if result.share > 0.95 else ["only 83% are killed, at least 95% must be"]
        return dataclasses.replace(result, unit=unit, problems=problems)

    monkeypatch.setattr(spatten.cli.mutate, "mutate", run)
    page = tmp_path / "page.md"
    empty = "<!-- mutants -->\n<!-- end -->\n<!-- survivors -->\n<!-- end -->\n"
    page.write_text(empty, encoding="utf-8")
    passed = run_spatten("mutate", "fifo")
    assert passed.status == 0
    said = " ".join(passed.output.split())
    assert said.endswith(f"{tmp_path / 'mutate.json'} has 1 of {len(units())} units"), said
    assert page.read_text(encoding="utf-8") == empty, "what the report does not have is not lost"
    monkeypatch.setattr(spatten.cli.mutate, "units", lambda: ["fifo"])
    assert run_spatten("mutate", "fifo").status == 0
    assert "| `fifo` | 24 | 24 | 0 | 0 |\n" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(spatten.cli.mutate, "units", units)
    failed = run_spatten("mutate", "ram")
    assert failed.status == 1
    assert "ram: only 83% are killed" in failed.output
    assert failed.errors == "error: there are problems with the mutants of ram\n"
    report = json.loads((tmp_path / "mutate.json").read_text(encoding="utf-8"))
    assert {unit: (entry["killed"], entry["survived"]) for unit, entry in report.items()} == {
        "fifo": (24, 0),
        "ram": (20, 4),
    }
    unknown = run_spatten("mutate", "no_such_unit")
    assert unknown.status == 2
    assert "no_such_unit" in unknown.errors


def test_explanations_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "survivors.toml"
    monkeypatch.setattr(spatten.sim.verify.mutate, "EXPLANATIONS", file)
    assert explained() == {}
    file.write_text('[[fifo]]\nmutant = "inv top/$1.A[0]"\nwhy = "because"\nequivalent = true\n', encoding="utf-8")
    assert explained()["fifo"]["inv top/$1.A[0]"]["why"] == "because"
    file.write_text('[[fifo]]\nmutant = "inv top/$1.A[0]"\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"survivors\.toml: an entry of fifo must have mutant, why, maybe equivalent"):
        explained()
