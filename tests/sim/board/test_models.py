"""Netlists in ECP5 cells show what the circuits show that they were made from, and broken models are found out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from amaranth.lib.wiring import In

from spatten.hw.emit.verilog import convert
from spatten.sim.board import models as board_models
from spatten.sim.board.ecp5 import Flow, map_verilog
from spatten.sim.board.models import beside, models, simulated
from spatten.sim.verify.build import SimulatorError, build
from spatten.sim.verify.cosim import CosimulationError, cosimulate
from spatten.sim.verify.runs import fifo, pv, ram, softmax
from spatten.sim.verify.yosys import SynthesisError
from tests.sim.board import zoo


def run(circuit: zoo.Zoo, *, cycles: int, simulator: str = "icarus", **options: Any) -> list[str]:
    inputs = {name: member.shape for name, member in circuit.signature.members.items() if member.flow == In}
    return cosimulate(
        circuit,
        verilog=beside(circuit, **options),
        test_module="tests.sim.board.cocotb_beside",
        simulator=simulator,
        parameters={"inputs": inputs, "cycles": cycles},
        timeout_seconds=600,
    )


# -- Cells ------------------------------------------------------------------------------------------------------------

FEW_MEMORIES = ("ram18", "write_shows_new", "two_readers", "shallow", "unclocked")


@pytest.mark.slow
def test_logic_is_what_it_was() -> None:
    assert run(zoo.logic(), cycles=100)


@pytest.mark.slow
def test_some_memories_are_what_they_were() -> None:
    assert run(zoo.memories(*FEW_MEMORIES), cycles=150)


@pytest.mark.slow
@pytest.mark.netlist
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
@pytest.mark.parametrize("make", [zoo.logic, zoo.memories])
def test_every_cell_is_what_it_replaces(make: Any, simulator: str) -> None:
    assert run(make(), simulator=simulator, cycles=300 if simulator == "icarus" else 2000)


@pytest.mark.slow
@pytest.mark.netlist
@pytest.mark.parametrize("make", [zoo.logic, zoo.memories])
def test_a_flattened_netlist_is_what_it_was(make: Any) -> None:
    assert run(make(), simulator="verilator", cycles=2000, flat=True)


@pytest.mark.slow
@pytest.mark.netlist
def test_a_wrong_table_of_a_flattened_netlist_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_models, "_TABLES", board_models._TABLES.replace("{D, C, B, A}", "{C, D, B, A}"))
    with pytest.raises(CosimulationError, match="in the netlist, not"):
        run(zoo.logic("selection", "registers"), simulator="verilator", cycles=200, flat=True)


@pytest.mark.slow
@pytest.mark.netlist
def test_multiplexers_of_slices_are_what_they_replace() -> None:
    assert run(zoo.logic("selection", "registers"), cycles=300, flow=Flow(wide_luts=True))


@pytest.mark.slow
@pytest.mark.netlist
def test_every_mode_of_a_block_ram_occurs() -> None:
    netlist = map_verilog(convert(zoo.memories(), name="netlist"), top="netlist")
    cells = json.loads(netlist.json_file.read_text(encoding="utf-8"))["modules"]["netlist"]["cells"].values()
    rams = [cell["parameters"] for cell in cells if cell["type"] == "DP16KD"]
    assert {int(ram["DATA_WIDTH_A"], 2) for ram in rams} == set(zoo.BLOCK_DEPTHS)
    assert {ram["WRITEMODE_A"] for ram in rams if "WRITEMODE_A" in ram} == {
        "NORMAL", "WRITETHROUGH", "READBEFOREWRITE"
    }  # fmt: skip


BROKEN = [
    (zoo.logic, "product0", "MULT18X18D", "SIGNEDA & A17", "A17"),
    (zoo.logic, "product1", "MULT18X18D", "SIGNEDB & B17", "1'b0"),
    (zoo.logic, "selection", "LUT4", "s3 = D ?", "s3 = C ?"),
    (zoo.logic, "arithmetic", "CCU2C", "(LUT4_1 & cout_0)", "(LUT4_1 & CIN)"),
    (zoo.logic, "registers", "TRELLIS_FF", "default: assign muxce = CE", "default: assign muxce = 1'b1"),
    (zoo.logic, "registers", "TRELLIS_FF", "if (muxlsr)", "if (1'b0)"),
    (zoo.logic, "registers", "TRELLIS_FF", '(REGSET == "SET") ? 1\'b1', '(REGSET == "SET") ? 1\'b0'),
    (zoo.memories, "shallow", "TRELLIS_DPR16X4", "DO = mem[RAD]", "DO = mem[WAD]"),
    (zoo.memories, "shallow", "TRELLIS_DPR16X4", "if (muxwre)", "if (1'b1)"),
    (zoo.memories, "unclocked", "TRELLIS_DPR16X4", "INITVAL[4*i +: 4]", "4'b0"),
    (zoo.memories, "rom", "DP16KD", "(i % 2) * 9 +: 9", "(i % 2) * 10 +: 9"),
    (zoo.memories, "lanes36", "DP16KD", "? address_a[3:0]", "? 4'hf"),
    (zoo.memories, "lanes18", "DP16KD", "{2'b0, address_a[1:0]}", "4'h3"),
    (zoo.memories, "ram1", "DP16KD", "bytes[first_a][{1'b0, address_a[2:0]}] <=", "bytes[first_a][0] <="),
    (zoo.memories, "ram2", "DP16KD", "{address_b[2:1], 1'b0} :", "3'b0 :"),
    (zoo.memories, "ram4", "DP16KD", ">> place_b", ">> 0"),
    (zoo.memories, "ram9", "DP16KD", "address_a[13:3]", "address_a[11:3]"),
    (zoo.memories, "write_holds", "DP16KD", "(active_a && !WEA)", "(active_a)"),
    (zoo.memories, "write_shows_new", "DP16KD", "shown_a <= new_a", "shown_a <= old_a"),
    (zoo.memories, "write_shows_old", "DP16KD", "READBEFOREWRITE\")\n            shown_a <= old_a",
     "READBEFOREWRITE\")\n            shown_a <= new_a"),
]  # fmt: skip
"""A circuit, a cell of it, and what of the cell's model is replaced by what."""


@pytest.mark.slow
@pytest.mark.netlist
@pytest.mark.parametrize(
    ("make", "exhibit", "cell", "right", "wrong"),
    BROKEN,
    ids=[f"{row[2]}-{row[1]}-{n}" for n, row in enumerate(BROKEN)],
)
def test_a_broken_model_is_found_out(make: Any, exhibit: str, cell: str, right: str, wrong: str) -> None:
    circuit = make(exhibit) if make is zoo.memories else make(exhibit, "registers")
    assert right in models()[cell]
    broken = {**models(), cell: models()[cell].replace(right, wrong)}
    assert run(circuit, cycles=200)
    with pytest.raises(CosimulationError, match="in the netlist, not"):
        run(circuit, cycles=200, cells=broken)


# -- What is not modelled ---------------------------------------------------------------------------------------------

REFUSED = [
    ("MULT18X18D", "REG_INPUTA_CLK", '"CLK0"'),
    ("MULT18X18D", "REG_OUTPUT_CLK", '"CLK0"'),
    ("MULT18X18D", "MULT_BYPASS", '"ENABLED"'),
    ("MULT18X18D", "SOURCEB_MODE", '"C_SHIFT"'),
    ("DP16KD", "REGMODE_A", '"OUTREG"'),
    ("DP16KD", "REGMODE_B", '"OUTREG"'),
    ("DP16KD", "DATA_WIDTH_A", "8"),
    ("DP16KD", "DATA_WIDTH_B", "36"),
    ("DP16KD", "CSDECODE_A", '"0b001"'),
    ("DP16KD", "WRITEMODE_B", '"OTHER"'),
    ("DP16KD", "CLKAMUX", '"INV"'),
    ("DP16KD", "INIT_DATA", '"DYNAMIC"'),
]


def instance(cell: str, parameters: str = "") -> str:
    return f"module top(input clk);\n  {cell} {parameters} cell_of_top();\nendmodule\n" + models()[cell]


@pytest.mark.parametrize(("cell", "parameter", "value"), REFUSED)
def test_a_parameter_that_is_not_modelled_ends_the_compilation(cell: str, parameter: str, value: str) -> None:
    with pytest.raises(SimulatorError, match=f"{cell}_\\w+_not_modelled"):
        build(instance(cell, f"#(.{parameter}({value}))"), simulator="icarus")


@pytest.mark.slow
@pytest.mark.netlist
@pytest.mark.parametrize(("cell", "parameter", "value"), REFUSED)
def test_so_it_does_in_verilator(cell: str, parameter: str, value: str) -> None:
    with pytest.raises(SimulatorError, match=f"{cell}_\\w+_not_modelled"):
        build(instance(cell, f"#(.{parameter}({value}))"), simulator="verilator")


def test_a_parameter_that_no_model_has_is_refused() -> None:
    netlist = 'module top;\n  DP16KD #(\n    .DIA17MUX("INV"),\n    .REGMODE_A("NOREG")\n  ) ram ();\nendmodule\n'
    with pytest.raises(SynthesisError, match="the model of DP16KD knows no DIA17MUX"):
        simulated(netlist)


BLOCK_RAM = """
module top;
  reg clk = 0, read_clk_is_low = 0, clear = 0, write = 0;
  reg [3:0] other = 0;
  wire [17:0] shown;
  DP16KD #(.DATA_WIDTH_A(18), .DATA_WIDTH_B(18)) ram(
    .CLKA(clk), .CEA(1'b1), .WEA(write), .RSTA(1'b0), .CSA0(1'b0), .CSA1(1'b0), .CSA2(1'b0),
    .ADA13(1'b0), .ADA12(1'b0), .ADA11(1'b0), .ADA10(1'b0), .ADA9(1'b0), .ADA8(1'b0), .ADA7(1'b0), .ADA6(1'b0),
    .ADA5(1'b0), .ADA4(1'b0), .ADA3(1'b0), .ADA2(1'b0), .ADA1(1'b0), .ADA0(1'b1), .DIA0(1'b1),
    .CLKB(clk & ~read_clk_is_low), .CEB(1'b1), .WEB(1'b0), .RSTB(clear), .CSB0(1'b0), .CSB1(1'b0), .CSB2(1'b0),
    .ADB13(1'b0), .ADB12(1'b0), .ADB11(1'b0), .ADB10(1'b0), .ADB9(1'b0), .ADB8(1'b0), .ADB7(other[3]), .ADB6(other[2]),
    .ADB5(other[1]), .ADB4(other[0]), .ADB3(1'b0), .ADB2(1'b0), .ADB1(1'b0), .ADB0(1'b0),
    .DOB17(shown[17]), .DOB16(shown[16]), .DOB9(shown[9]), .DOB8(shown[8]), .DOB1(shown[1]), .DOB0(shown[0])
  );
  initial begin
    $display("begun");
    STIMULI
    #1 clk = 1;
    #1 $display("shown %b%b", shown[9], shown[0]);
  end
endmodule
"""


@pytest.mark.needs("iverilog")
@pytest.mark.parametrize(
    ("stimuli", "says"),
    [
        ("", "shown 00"),
        ("write = 1; other = 1;", "shown 00"),
        ("write = 1;", "shown 0x"),
        ("clear = 1;", "RSTB must be 0"),
        ("read_clk_is_low = 1;", "two clocks are not modelled"),
    ],
)
def test_what_is_read_while_it_is_written_is_not_defined(stimuli: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "top.v").write_text(BLOCK_RAM.replace("STIMULI", stimuli) + models()["DP16KD"], encoding="utf-8")
    subprocess.run(["iverilog", "-g2012", "-s", "top", "-o", "top.vvp", "top.v"], cwd=tmp_path, check=True)
    result = subprocess.run(["vvp", "-N", "top.vvp"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert says in result.stdout + result.stderr
    assert (result.returncode != 0) == ("shown" not in says)


# -- Units ------------------------------------------------------------------------------------------------------------


def run_unit(arguments: dict[str, Any], **options: Any) -> list[str]:
    return cosimulate(**arguments, verilog=beside(arguments["component"]), **options)


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [fifo.mutation_run(), ram.mutation_run()], ids=["fifo", "ram"])
def test_a_small_unit_is_what_it_was(arguments: dict[str, Any]) -> None:
    assert run_unit(arguments, simulator="icarus")


@pytest.mark.slow
@pytest.mark.netlist
@pytest.mark.parametrize("simulator", ["icarus", "verilator"])
@pytest.mark.parametrize(
    "arguments", [pv.mutation_run(), softmax.mutation_run(), ram.mutation_run()], ids=["pv", "softmax", "ram"]
)
def test_a_unit_is_what_it_was(arguments: dict[str, Any], simulator: str) -> None:
    assert run_unit({**arguments, "timeout_seconds": 900}, simulator=simulator)
