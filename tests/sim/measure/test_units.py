"""The registry of units, and the tool that measures all of them: finding their runs, its tables and its page."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from spatten.cli import units as command
from spatten.hw.emit.hierarchy import parameters_of
from spatten.hw.units import UNITS
from spatten.sim.measure import units
from spatten.sim.measure.synth import SynthesisError
from spatten.spec.config import EIGHTH, NAMED, PAPER, TINY, ULX3S
from tests.checkout import ROOT
from tests.cli.command_line import Ended, run_spatten

SLACK = {"register_to_register": 0.125, "input": -1.0, "output": 0.2, "through": None}
ASIC = {"area_um2": 18968.4, "memory_bits": 0, "memory_area_um2": 0, "slack_ns": SLACK}
ECP5 = {"lut4": 1015, "carry": 0, "flip_flops": 499, "multipliers": 0, "block_rams": 0, "lut_rams": 16}
TOPK = {"n": 1024, "k": 512, "lanes": 16, "width": 33, "distribution": "uniform", "mean": 100.25, "p99": 119.5}
RECORDS = [
    {"name": "latency", "value": 9, "unit": "cycles", "head_dim": 64},
    {"name": "latency", "value": 11, "unit": "cycles", "head_dim": 128},
    {"name": "cycles_per_beat", "value": 1.0},
    {"name": "cycles_per_beat", "value": 1.25},
    {"name": "sectors_per_cycle", "value": 16.0},
    {"name": "sectors_per_cycle", "value": 15.5},
    {"name": "topk", "value": 100.25, "max": 120, "bound": 500, **TOPK},
]


def rows() -> list[dict[str, Any]]:
    """Every unit at both sizes with the same figures."""
    return [
        {
            "unit": name,
            "configuration": config.name,
            "block": unit.block,
            "records": RECORDS,
            **({"asic": ASIC} if config == PAPER else {"ecp5": ECP5}),
        }
        for name, unit in UNITS.items()
        for config in (PAPER, ULX3S)
    ]


# -- The registry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", NAMED.values(), ids=NAMED)
def test_every_unit_exists_at_every_size(config: Any) -> None:
    for unit in UNITS.values():
        assert unit.make(config).signature.members, unit.name


def test_every_unit_says_what_it_is() -> None:
    for name, unit in UNITS.items():
        assert unit.name == name
        assert re.fullmatch(r"[a-z_]+", name)
        assert unit.what
        assert unit.rate
        assert unit.block in {*units.PAPER_AREA, None}
    assert {unit.block for unit in UNITS.values()} == {*units.PAPER_AREA, None}, "every block has units"


# -- Measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [name for name, unit in UNITS.items() if unit.simulated])
def test_every_simulated_unit_has_a_measurement_at_its_size(unit: str) -> None:
    for config in (PAPER, ULX3S):
        run = units.find_run(unit, config)
        assert run is not None, config.name
        assert parameters_of(run["component"]) == parameters_of(UNITS[unit].make(config))


def test_control_is_only_synthesised() -> None:
    assert units.measured_records("planner", TINY) is None


def test_a_run_of_another_size_is_not_taken() -> None:
    made = [parameters_of(UNITS["expander"].make(config)) for config in (PAPER, EIGHTH)]
    assert made[0]["class"] == "Expander"
    assert made[0] != made[1]
    run = units.find_run("expander", TINY)
    assert run is not None
    assert parameters_of(run["component"]) not in made


@pytest.mark.slow
def test_a_unit_is_measured_in_simulation() -> None:
    records = units.measured_records("expander", TINY)
    assert records is not None
    assert units.latency(records) == "3"
    assert units.throughput(records) == "1.00 cycles per line"


def test_what_an_fpga_must_not_do_is_refused() -> None:
    words = {"memories": [[512, 36], [16, 8]], "flip_flops": 100, "multipliers": [[12, 12]]}
    counts = {"flip_flops": 108, "multipliers": 1, "block_rams": 1, "lut_rams": 2}
    units.check_fpga("unit", words, {**counts, "flip_flops": 151})
    for change, message in (
        ({"flip_flops": 152}, "unit: 152 flip-flops on ECP5, of which it has at most 151"),
        ({"lut_rams": 0}, "unit: 108 flip-flops on ECP5, of which it has at most 107"),
        ({"flip_flops": 9, "block_rams": 0, "lut_rams": 0}, "unit: its memories are none on ECP5"),
        ({"multipliers": 0}, "unit: 1 of its multipliers are not MULT18X18D on ECP5"),
    ):
        with pytest.raises(SynthesisError, match=f"^{message}$"):
            units.check_fpga("unit", words, {**counts, **change})


@pytest.mark.slow
def test_what_was_measured_is_measured_again_when_it_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Path("cells.lib")
    row = {"unit": "expander", "circuit": units.circuit("expander", PAPER)}
    assert row["circuit"] != units.circuit("expander", ULX3S)
    assert units.is_current(row, PAPER, None)
    assert not units.is_current(row, PAPER, library), "its area is missing"
    assert units.is_current({**row, "asic": ASIC}, PAPER, library)
    board = {**row, "circuit": units.circuit("expander", ULX3S)}
    assert not units.is_current(board, ULX3S, library), "another flow counted its cells"
    assert units.is_current({**board, "ecp5_flow": units.ecp5_flow()}, ULX3S, library)
    assert not units.is_current(None, PAPER, None)
    assert not units.is_current({"unit": "expander"}, PAPER, None), "nobody knows what was measured"
    changed = dataclasses.replace(UNITS["expander"], make=UNITS["packer"].make)
    monkeypatch.setitem(units.UNITS, "expander", changed)
    assert not units.is_current(row, PAPER, None)


def test_a_run_of_what_has_changed_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing to measure, all rows stay, and the page is written from them."""
    figures, page = tmp_path / "units.json", tmp_path / "page.md"
    kept = [{**row, "circuit": "the present one", "ecp5_flow": units.ecp5_flow()} for row in rows()]
    figures.write_text(json.dumps({"units": kept, "topk": []}))
    page.write_text("".join(f"<!-- {name} -->\n<!-- end -->\n" for name in units.TABLES))
    monkeypatch.setattr(command.requirements, "missing", lambda requirements: [])
    monkeypatch.setattr(command, "FIGURES", figures)
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(units, "circuit", lambda unit, config: "the present one")
    command.main(changed=True, jobs=1)
    assert json.loads(figures.read_text())["units"] == kept
    assert page.read_text().count("| `expander` |") == 3
    assert str(page) in capsys.readouterr().out.replace("\n", "")


def test_figures_of_records() -> None:
    assert units.latency(RECORDS) == "9 to 11"
    assert units.latency(RECORDS[-1:]) == "100"
    assert units.throughput(RECORDS) == "1.25 cycles per beat, 15.50 sectors per cycle"
    assert (units.latency([]), units.throughput(None)) == ("-", "-")
    assert units.topk_rows(rows()[:1]) == [{"configuration": "paper", "max": 120, **TOPK}]


# -- Tables -----------------------------------------------------------------------------------------------------------


def test_tables_of_known_figures() -> None:
    first = {"unit": "fetch", "configuration": "paper", "block": "fetcher", "records": RECORDS, "asic": ASIC}
    assert units.area_table([first]).splitlines()[2] == "| `fetch` | 0.0190 | 0 | 0.0000 | +0.12 |"
    assert units.fpga_table(rows()).splitlines()[2] == "| `fetch` | 1,015 | 0 | 499 | 0 | 0 | 16 |"
    assert units.fpga_table([first]).splitlines()[-2:] == [
        "| all | - | - | - | - | - | - |",
        "| LFE5U-85F | 83,640 | - | 83,640 | 156 | 208 | - |",
    ]
    blocks = units.blocks_table([first]).splitlines()
    fetcher = "`fetch`, `key_converter`, `value_converter`, 16 x `axi_reader`"
    assert blocks[4] == f"| fetcher | {fetcher} | - | 2.65 |", "three are missing"
    assert blocks[-1] == "| all |  | - | 18.71 |"
    blocks = units.blocks_table(rows()).splitlines()
    assert blocks[2] == "| Q x K | `key_ring`, `qk` | 0.04 | 7.12 |"
    assert blocks[4] == f"| fetcher | {fetcher} | 0.36 | 2.65 |", "of 3 + 16 instances"
    assert blocks[5] == "| softmax | `softmax` | 0.02 | 0.79 |"
    assert blocks[-1] == "| all |  | 1.16 | 18.71 |"
    assert units.area_table([first]).splitlines()[3] == "| `address_generator` | - | - | - | - |"
    assert units.topk_table([first]).splitlines()[2] == "| uniform | 100.2 | 120 | 120 |"
    rates = units.rates_table([first]).splitlines()
    assert rates[2].endswith("| 9 to 11 | 1.25 cycles per beat, 15.50 sectors per cycle | - | - |")


def test_the_page_gets_what_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"{name}:\n<!-- {name} -->\nold\n<!-- end -->\n" for name in units.TABLES) + "the end\n")
    units.write_page(page, [row for row in rows() if "ecp5" in row])
    text = page.read_text()
    assert "area:\n<!-- area -->\nold\n<!-- end -->\nblocks:\n<!-- blocks -->\nold\n" in text, "no library, no change"
    units.write_page(page, rows())
    wanted = "".join(f"{name}:\n<!-- {name} -->\n{table(rows())}<!-- end -->\n" for name, table in units.TABLES.items())
    assert page.read_text() == wanted + "the end\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no table rates: it needs <!-- rates --> and <!-- end -->"):
        units.write_page(page, rows())


def _shape(table: str) -> tuple[list[str], list[list[str]]]:
    """The heading lines of a table, and its rows with every number as 0."""
    lines = table.strip().splitlines()
    assert lines[1].count("|") == lines[0].count("|")
    return lines[:2], [re.split(r" *\| *", line.strip("| ")) for line in lines[2:]]


@pytest.mark.parametrize("name", units.TABLES)
def test_the_page_in_the_repository_has_the_tools_format(name: str) -> None:
    found = re.search(
        rf"<!-- {name} -->\n(.*?)<!-- end -->", (ROOT / units.PAGE).read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None
    if found[1] == "Not measured yet.\n":
        pytest.skip(f"the table {name} has not been measured yet")
    heading, body = _shape(found[1])
    wanted_heading, wanted = _shape(units.TABLES[name](rows()))
    assert heading == wanted_heading
    if name != "topk":
        assert [row[0] for row in body] == [row[0] for row in wanted]
    for row in body:
        assert len(row) == len(wanted[0]), row
    if name == "rates":
        assert [row[:3] for row in body] == [row[:3] for row in wanted], "make units writes what the registry says"
    figure = r"[+-]?\d[\d,]*(\.\d+)?"
    columns = {"area": range(1, 5), "blocks": range(2, 4), "fpga": range(1, 7), "topk": range(1, 4), "rates": ()}
    for row in body:
        for column in columns[name]:
            assert re.fullmatch(figure, row[column]) or row[column] == "-", row


# -- Command line -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--only", "softmin"], 2, f"error: unit must be one of {', '.join(UNITS)}, not 'softmin'\n"),
        (["--liberty", "/none.lib"], 2, "error: cannot read the library /none.lib: No such file or directory\n"),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments: list[str], status: int, message: str) -> None:
    assert run_spatten("units", *arguments) == Ended(status, "", message)
