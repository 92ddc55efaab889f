"""From a circuit to its bitstream: a small one through Yosys, nextpnr and ecppack, and what is read of their words."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spatten.hw.board.boards import BOARDS
from spatten.hw.emit.verilog import convert
from spatten.sim.board import bitstream, utilisation
from spatten.sim.board.bitstream import (
    BITSTREAM,
    FILES,
    PAGE,
    PICTURE,
    REPORT,
    BitstreamError,
    Circuit,
    TimingError,
    board_circuit,
    build,
    forecast,
    remember,
)
from spatten.sim.board.ecp5 import CELLS, map_verilog
from spatten.sim.board.place import Part, Watch, place, progress
from spatten.sim.board.timing import clocks, worst_paths
from spatten.sim.verify import yosys
from spatten.sim.verify.yosys import SynthesisError
from tests.sim.board.counters import WIDTHS, counters, shifter, too_fast
from tests.sim.board.test_ecp5 import TwoFifos


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return counters()


@pytest.fixture(autouse=True)
def _own_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What steps took is kept elsewhere."""
    folder = bitstream.cache.folder
    times = tmp_path / "times"
    times.mkdir()
    monkeypatch.setattr(bitstream.cache, "folder", lambda name: times if name == "bitstream" else folder(name))


def make(circuit: Circuit, out: Path, **options: Any) -> dict[str, Any]:
    return build(circuit, out=out, placer="heap", **options)


# -- The whole way ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_circuit_becomes_a_bitstream_with_its_reports(circuit: Circuit, tmp_path: Path) -> None:
    told: list[str] = []
    facts = make(circuit, tmp_path / "out", tell=told.append)
    made = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert made.keys() == set(FILES)
    content = made[BITSTREAM].read_bytes()
    assert b"Part: LFE5U-85F-6CABGA381" in content[:100]
    assert facts["bitstream"] == hashlib.sha256(content).hexdigest()
    assert json.loads(made[REPORT].read_text(encoding="utf-8")) == facts
    assert [(clock["name"], clock["needed_mhz"], clock["closed"]) for clock in facts["clocks"]] == [("clk", 80, True)]
    assert facts["clocks"][0]["mhz"] > 80
    assert facts["paths"][0]["start"] == "counter_1.o"
    assert facts["overused_wires"][-1] == 0
    assert facts["tools"].keys() == {"yosys", "nextpnr", "ecppack"}
    assert all(re.search(r"\d\.\d", version) for version in facts["tools"].values())
    assert made[PICTURE].read_bytes().startswith(b"\x89PNG")
    page = made[PAGE].read_text(encoding="utf-8")
    assert "There is a bitstream." in page
    assert f"| `counter_1` | {WIDTHS[1]} |" in page
    assert told[0].startswith("synthesis: Yosys ")
    assert any(text.startswith("nextpnr-ecp5 ") for text in told)
    used = {name: row["used"] for name, row in facts["utilisation"].items()}
    assert (used["TRELLIS_IO"], used["EHXPLLL"], used["IOLOGIC"]) == (3, 1, 2), "each LED has its register in the pad"
    assert used["TRELLIS_FF"] == sum(WIDTHS)
    again = make(circuit, tmp_path / "again")
    assert again["seconds"]["routing"] == 0, "found in the cache"
    assert again["bitstream"] == facts["bitstream"]


@pytest.mark.slow
def test_the_pads_and_clocks_of_the_board(tmp_path: Path) -> None:
    """With next to nothing in the place of the core: every pin of the SDRAM has its registers in the pad."""
    facts = make(shifter(), tmp_path)
    used = {name: row["used"] for name, row in facts["utilisation"].items()}
    pins = {"clk": 1, "cke": 1, "cs": 1, "ras": 1, "cas": 1, "we": 1, "ba": 2, "a": 13, "dqm": 2, "dq": 16}
    assert used["IOLOGIC"] == sum(pins.values())
    assert used["TRELLIS_IO"] == sum(pins.values()) + len(("clk25", "button", "rx", "tx", *BOARDS["ulx3s"].leds))
    assert {clock["name"]: clock["needed_mhz"] for clock in facts["clocks"]} == {"clk": 80, "sdram_clk": 80}
    assert facts["estimated_mhz"].keys() == {"clk", "sdram_clk"}
    assert used["DCCA"] == 2, "each clock has a network of its own"
    assert facts["bitstream"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False], ids=["a named clock", "a clock without a constraint"])
def test_a_clock_that_is_too_slow_leaves_no_bitstream(named: bool, tmp_path: Path) -> None:
    """Not even one that was there before; the reports are written."""
    fast = too_fast()
    if not named:
        fast = replace(fast, constraints=re.sub(r"FREQUENCY .*\n", "", fast.constraints))
    (tmp_path / BITSTREAM).write_text("of yesterday")
    with pytest.raises(TimingError, match=r"clk runs at [\d.]+ MHz and must run at 400\.0; the longest path is ") as no:
        make(fast, tmp_path)
    assert no.value.exit_status == 1
    assert "\n" not in str(no.value)
    assert {path.name for path in tmp_path.iterdir()} - {"times"} == set(FILES) - {BITSTREAM}
    assert json.loads((tmp_path / REPORT).read_text(encoding="utf-8"))["bitstream"] is None
    assert "too slow" in (tmp_path / PAGE).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_bitstream_of_before_is_gone_whatever_stops_the_work(circuit: Circuit, tmp_path: Path) -> None:
    (tmp_path / BITSTREAM).write_text("of yesterday")
    elsewhere = circuit.constraints.replace('SITE "G2"', 'SITE "ZZ9"')
    with pytest.raises(SynthesisError, match=r"nextpnr: ERROR: .*ZZ9"):
        make(replace(circuit, constraints=elsewhere), tmp_path)
    assert not (tmp_path / BITSTREAM).exists()


@pytest.mark.slow
def test_the_packaged_yosys_does(circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yosys, "program", lambda: str(yosys.YOSYS))
    facts = make(circuit, tmp_path)
    assert "Yosys 0.66" in facts["tools"]["yosys"]
    assert facts["utilisation"]["IOLOGIC"]["used"] == 2
    assert facts["bitstream"] is not None


@pytest.mark.slow
def test_the_circuit_of_a_board_is_whole() -> None:
    """Each pin of the constraints is a port, and each module is there, or is a cell of the FPGA."""
    circuit = board_circuit("ulx3s")
    assert circuit.frequency_hz == BOARDS["ulx3s"].pll.frequency_hz
    assert circuit.seconds > 0
    modules = yosys.bodies(circuit.verilog)
    assert len(modules) == len(re.findall(r"^module ", circuit.verilog, re.MULTILINE)), "no two of one name"
    ports = re.findall(r"^  (?:input|output|inout) (?:\[(\d+):0\] )?(\w+);", modules["top"], re.MULTILINE)
    names = {f"{name}[{n}]" if high else name for high, name in ports for n in range(int(high or 0) + 1)}
    assert set(re.findall(r'^LOCATE COMP "(.*?)"', circuit.constraints, re.MULTILINE)) == names
    paths = yosys.instance_paths(modules, "top")
    assert paths["core"] == "spatten_board"
    assert "core.accelerator.core.softmax" in paths
    assert "FREQUENCY" in circuit.constraints


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda circuit, out: board_circuit("ulx4m"), "board must be one of ulx3s, not 'ulx4m'"),
        (lambda circuit, out: make(circuit, out, seed=0), "seed must be 1 to 2147483647, not 0"),
        (lambda circuit, out: build(circuit, out=out, placer="sa"), "placer must be one of static, heap, not 'sa'"),
        (lambda circuit, out: Part(device="LFE5UM-85F", package="BG381", speed="6"), "device must be .*'LFE5UM-85F'"),
        (lambda circuit, out: Part(device="LFE5U-85F", package="BG38", speed="6"), "package must be .*, not 'BG38'"),
        (lambda circuit, out: Part(device="LFE5U-85F", package="BG381", speed="9"), "speed must be 6, 7 or 8, not '9'"),
    ],
)
def test_what_cannot_be_asked_for(call: Any, text: str, circuit: Circuit, tmp_path: Path) -> None:
    with pytest.raises((BitstreamError, ValueError), match=text):
        call(circuit, tmp_path)


# -- Utilisation ------------------------------------------------------------------------------------------------------


def test_units_add_up_to_the_circuit() -> None:
    source = convert(TwoFifos(), name="top")
    netlist = map_verilog(source, top="top")
    for large, small in ((0.0, 0.0), (0.12, 0.01), (1.0, 0.0), (0.0, 2.0)):
        rows = utilisation.units(netlist, source, large=large, small=small)
        assert {kind: sum(row.cells[kind] for row in rows) for kind in CELLS} == netlist.counts()
        assert [row.places for row in rows] == sorted((row.places for row in rows), reverse=True)
    assert [row.name.split()[-1] for row in rows] == ["others"]
    rows = utilisation.units(netlist, source, large=1.0, small=0.0)
    assert {row.name for row in rows} >= {"first", "second"}
    cells = {row.name: row.cells for row in rows}
    assert cells["first"]["lut_rams"] == cells["second"]["lut_rams"] == 5
    assert min(cells["first"]["flip_flops"], cells["second"]["flip_flops"]) > 30
    parts = {row.name for row in utilisation.units(netlist, source, large=0.0, small=0.0)}
    assert {"first.ram", "first: its own"} <= parts
    assert "| **all** |" in utilisation.table(rows)


# -- Timing -----------------------------------------------------------------------------------------------------------

REPORTED: dict[str, Any] = {
    "fmax": {
        "$glbnet$clk": {"achieved": 79.9, "constraint": 80.0},
        "slow": {"achieved": 30.0, "constraint": 25.0},
    },
    "critical_paths": [
        {"from": "<async>", "to": "posedge $glbnet$clk", "path": [{"delay": 99.0, "type": "clk-to-q"}]},
        {
            "from": "posedge $glbnet$clk",
            "to": "posedge $glbnet$clk",
            "path": [
                {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a.count_TRELLIS_FF_Q_3"}, "to": {"cell": "x"}},
                {"type": "routing", "delay": 1.0, "from": {"cell": "x"}, "to": {"cell": "a.s_CCU2C_S0$CCU2_COMB0"}},
                {"type": "logic", "delay": 0.5, "from": {"cell": "x"}, "to": {"cell": "a.s_CCU2C_S0$CCU2_COMB0"}},
                {"type": "logic", "delay": 0.0, "from": {"cell": "x"}, "to": {"cell": "a.s_CCU2C_S0$CCU2_COMB1"}},
                {"type": "routing", "delay": 2.5, "from": {"cell": "x"}, "to": {"cell": "b.full_LUT4_Z"}},
                {"type": "logic", "delay": 0.25, "from": {"cell": "x"}, "to": {"cell": "b.full_LUT4_Z"}},
                {"type": "setup", "delay": 0.0, "from": {"cell": "x"}, "to": {"cell": "b.full_TRELLIS_FF_Q"}},
            ],
        },
    ],
}


def test_clocks_and_paths_of_a_report() -> None:
    assert [(clock.name, clock.closed) for clock in clocks(REPORTED)] == [("clk", False), ("slow", True)]
    (path,) = worst_paths(REPORTED)
    assert str(path) == (
        "clk: 4.8 ns, 1.2 of them in 1 LUTs and 1 carry cells and 3.5 on wires, from `a.count` to `b.full`"
    )


# -- Progress ---------------------------------------------------------------------------------------------------------

LOG = """\
Info: constraining clock net 'dq_pad.clk' to 80.00 MHz
Info: Packing IOs..
Info: Creating initial analytic placement for 665 cells, random placement wirelen = 89646.
Info:     at initial placer iter 3, wirelen = 15844
Info:     at iteration #1, type ALL: wirelen solved = 15805, spread = 17362, legal = 17935; time = 0.40s
Info: Running Static placer...
Info: iter=12 steplen=1.635802 a=7.500307 penalty=[0.03, 0.03, 0.03, 0.03]
Info: Running simulated annealing placer for refinement.
Info:   at iteration #9: temp = 0.000000, timing cost = 71, wirelen = 15136
Info: Max frequency for clock       '$glbnet$clk': 28.06 MHz (FAIL at 80.00 MHz)
Info: Max frequency for clock '$glbnet$sdram_clk': 701.75 MHz (PASS at 80.00 MHz)
Info: Max delay <async> -> posedge $glbnet$clk: 13.93 ns
Info: Running router2...
Info:     iter=2 wires=1290000 overused=21000 overuse=23456 archfail=NA
Info: Running router1 to check that route is legal...
"""
SAID = [
    *("packing", "placing: 665 cells", "placing: iteration 1, wire length 17,935", "placing", "placing: iteration 12"),
    *("refining", "refining: iteration 9, wire length 15,136", "timing: clk could run at 28.06 MHz"),
    *("timing: sdram_clk could run at 701.75 MHz", "routing"),
    *("routing: iteration 2, 21,000 of 1,290,000 wires overused", "checking"),
]


def test_progress_of_a_recorded_log() -> None:
    assert [said for line in LOG.splitlines() if (said := progress(line)) is not None] == SAID


def test_a_log_is_read_while_it_grows(tmp_path: Path) -> None:
    times = iter([0.0, 720.0, 1800.0])
    told: list[str] = []
    watch = Watch(tmp_path / "log", told.append, now=lambda: next(times))
    watch()
    for length in range(0, len(LOG), 97):
        (tmp_path / "log").write_text(LOG[:length])
        watch()
    (tmp_path / "log").write_text(LOG)
    assert watch.seconds() == {"placing": 720.0, "routing": 1080.0}
    assert told == SAID


def test_estimates_and_overuse_are_those_of_the_log(circuit: Circuit) -> None:
    netlist = map_verilog(circuit.verilog, top="top")
    placement = place(
        netlist, part=circuit.part, constraints=circuit.constraints, frequency_hz=80_000_000, placer="heap"
    )
    assert placement.estimates.keys() == {"clk"}
    assert placement.overused[-1] == 0
    object.__setattr__(placement, "log", LOG)
    assert placement.estimates == {"clk": 28.06, "sdram_clk": 701.75}
    assert placement.overused == [21000]


def test_how_long_it_takes_is_what_it_took() -> None:
    assert forecast("x") == "it has not been done on this computer yet: allow an hour on two cores"
    remember("x", {"circuit": 25.0, "synthesis": 720.0, "placing": 0.0})
    assert forecast("x") == "the last time: circuit 25 s, synthesis 12 min; not known yet: placing, routing, packing"
    remember("x", {"circuit": 25.0, "synthesis": 0.1, "placing": 600.0, "routing": 900.0, "packing": 30.0})
    assert forecast("x") == (
        "about 38 min, as the last time: circuit 25 s, synthesis 12 min, placing 10 min, routing 15 min, packing 30 s; "
        "less for what has not changed since"
    )
