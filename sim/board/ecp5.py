"""A circuit in the cells of a Lattice ECP5: the one flow of synthesis for counts, bitstreams and netlist simulation.

    netlist = map_verilog(convert(component, name="unit"), top="unit")
    netlist.counts()["lut4"]
    netlist.json_file                       # for nextpnr-ecp5
    simulated(netlist.verilog)              # for Verilator and Icarus: sim/board/models.py

The flow is Yosys's `synth_ecp5` with two changes:

* No multiplexers of the slices (`-nowidelut`): with them, a function of more than four inputs takes two LUT4 and more.
  Without, a circuit takes about a sixth fewer LUT4, and wide selects are deeper.
* Flip-flops that share an enable or a synchronous reset with fewer than 12 others get it as logic. Each distinct
  combination of clock, enable and reset is a control set, of which a slice has room for few; Yosys also gives every
  flip-flop with an active-low reset an inverter of its own, which makes a control set of one bit each. Equal inverters
  are merged after flip-flops have been legalised, before they are mapped.

LUTs are mapped by ABC, not by ABC9, in every version of Yosys, so that versions differ little.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from spatten.hw.emit.verilog import convert
from spatten.sim import cache
from spatten.sim.verify import yosys

CELLS: Mapping[str, str] = {
    "lut4": "LUT4",
    "carry": "CCU2C",
    "flip_flops": "TRELLIS_FF",
    "multipliers": "MULT18X18D",
    "block_rams": "DP16KD",
    "lut_rams": "TRELLIS_DPR16X4",
}
"""The kinds of cells, and what Yosys calls them. A carry cell takes the place of two LUT4, a LUT memory that of six."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The choices of the flow."""

    wide_luts: bool = False
    """Whether LUTs of more than four inputs may use the multiplexers of the slices."""
    sharing: int = 12
    """The least number of flip-flops for which an enable or a synchronous reset stays one."""
    abc9: bool = False
    """Whether LUTs are mapped by ABC9, which knows the delays of cells, instead of ABC."""
    keep: tuple[str, ...] = ()
    """Modules that stay modules, so that cells can be counted in each: logic is not optimised across their ports."""

    def __post_init__(self) -> None:
        if not isinstance(self.sharing, int) or isinstance(self.sharing, bool):
            raise TypeError(f"sharing must be an integer, not {self.sharing!r}")
        if self.sharing < 0:
            raise ValueError(f"sharing must be at least 0, not {self.sharing!r}")


@dataclass(frozen=True, kw_only=True)
class Netlist:
    """A circuit in ECP5 cells, in a folder of the cache."""

    folder: Path
    top: str
    tools: Mapping[str, str]
    """The programs that made it, and their versions."""

    @property
    def json_file(self) -> Path:
        """The netlist as nextpnr-ecp5 reads it."""
        return self.folder / "netlist.json"

    @cached_property
    def verilog(self) -> str:
        """The netlist as Verilog; its cells are modules that it does not have."""
        return (self.folder / "netlist.v").read_text(encoding="utf-8")

    @cached_property
    def cells(self) -> Mapping[str, Counter[str]]:
        """The cells of each module by type, instances of modules among them."""
        return _cells(self.folder)

    @cached_property
    def ports(self) -> Mapping[str, tuple[str, int]]:
        """Direction, "input" or "output", and width of the ports of the top module."""
        modules = json.loads(self.json_file.read_text(encoding="utf-8"))["modules"]
        return {name: (port["direction"], len(port["bits"])) for name, port in modules[self.top]["ports"].items()}

    def counts(self, module: str | None = None) -> dict[str, int]:
        """Cells by kind, as in `CELLS`, of the whole or of a module with all that is in it."""
        total = _total(self.cells, module or self.top)
        return {kind: total[cell] for kind, cell in CELLS.items()}


def map_verilog(source: str, *, top: str, flow: Flow | None = None, tell: Tell | None = None) -> Netlist:
    """Map the module `top` of a Verilog text, or find it mapped.

    Raises `SynthesisError`. `tell` gets the versions of the tools, and the name of each step that begins.
    """
    flow = flow or Flow()
    tools = {"yosys": yosys.version(yosys.program())}
    if tell is not None:
        tell(tools["yosys"])
    script = [
        "read_verilog circuit.v",
        *mapping(top, flow),
        "tee -q -o cells.json stat -json",
        "write_json netlist.json",
        "write_verilog -noattr -norename netlist.v",
    ]
    key = cache.digest(source, script, tools)
    netlist = Netlist(folder=cache.folder("ecp5") / key, top=top, tools=tools)
    if cache.is_whole(netlist.folder):
        return netlist
    with cache.lock(f"ecp5-{key}"), cache.work_folder() as work:
        if cache.is_whole(netlist.folder):
            return netlist
        (work / "circuit.v").write_text(source, encoding="utf-8")
        yosys.run_script(script, work, top, tell=tell)
        finished = work / "finished"
        finished.mkdir()
        for name in ("netlist.json", "netlist.v", "cells.json", "yosys.log"):
            (work / name).rename(finished / name)
        cache.publish(finished, netlist.folder)
    return netlist


def count_cells(
    component: wiring.Component, *, name: str = "top", luts: bool = True, flow: Flow | None = None
) -> dict[str, int]:
    """What a circuit takes of an ECP5 after synthesis: cells by kind, as in `CELLS`.

    Without `luts` no LUT is counted: logic stays gates, which takes half the time.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "circuit.v").write_text(convert(component, name=name), encoding="utf-8")
        script = [
            "read_verilog circuit.v",
            *mapping(name, flow or Flow(), luts=luts),
            "tee -q -o cells.json stat -json",
        ]
        yosys.run_script(script, folder, name)
        total = _total(_cells(folder), name)
    return {kind: total[cell] for kind, cell in CELLS.items()}


def count_units(
    source: str, *, top: str, depth: int = 1, flow: Flow | None = None, tell: Tell | None = None
) -> list[tuple[str, int, dict[str, int]]]:
    """Cells by unit: each module that lies up to `depth` below `top`, how often it is there, and the cells by kind of
    one of it, with all that is in it; first of all the whole.

    The modules stay modules, so the sum is larger than that of the flat circuit, by a few per cent.
    """
    bodies = yosys.bodies(source)
    if top not in bodies:
        raise ValueError(f"top must be a module of the text, not {top!r}")
    instances = yosys.instances(bodies)
    level: Counter[str] = Counter({top: 1})
    there: Counter[str] = Counter()
    for _ in range(depth):
        below: Counter[str] = Counter()
        for name, times in level.items():
            for used, number in instances[name].items():
                below[used] += times * number
        there += below
        level = below
    # What a module of the list has once more, deeper down, is part of the module around it.
    flow = replace(flow or Flow(), keep=tuple(sorted(there)))
    netlist = map_verilog(source, top=top, flow=flow, tell=tell)
    found = {name: netlist.counts(name) for name in there if name in netlist.cells}
    return [(top, 1, netlist.counts()), *((name, there[name], counts) for name, counts in found.items())]


# -- The script -------------------------------------------------------------------------------------------------------

_LEGAL = (
    *("$_DFF_?_ 01", "$_DFF_?P?_ r", "$_SDFF_?P?_ r", "$_DFFE_??_ 01", "$_DFFE_?P??_ r", "$_SDFFE_?P??_ r"),
    "$_DLATCH_?_ x",
)
"""The flip-flops of an ECP5 and the initial values that they can have, as `synth_ecp5` says it."""
_BEFORE = ("begin", "coarse", "map_ram", "map_ffram", "map_gates", "map_ffs")
_AFTER = ("map_luts", "map_cells", "check", "")
"""Labels of `synth_ecp5`; the last stands for its end."""


def mapping(top: str, flow: Flow, *, luts: bool = True) -> list[str]:
    """The script that maps a design that has been read; without `luts` its logic stays gates."""
    options = f"-top {top}{'' if flow.wide_luts else ' -nowidelut'}{_abc_option(flow.abc9)}"
    # Not -check: cells of the FPGA, such as pads, are known from the next step on.
    lines = [f"hierarchy -top {top}"]
    lines += [f"setattr -mod -set keep_hierarchy 1 {_escaped(module)}" for module in flow.keep]
    for begin, end in itertools.pairwise(_BEFORE):
        lines += [yosys.step(begin), f"synth_ecp5 {options} -run {begin}:{end}"]
    legal = " ".join(f"-cell {cell}" for cell in _LEGAL)
    lines += [
        yosys.step("map_ffs"),
        f"dfflegalize {legal} -mince {flow.sharing} -minsrst {flow.sharing}",
        "opt_merge",
        "opt_clean",
        f"synth_ecp5 {options} -run map_ffs:map_luts",
    ]
    for begin, end in itertools.pairwise(_AFTER) if luts else ():
        lines += [yosys.step(begin), f"synth_ecp5 {options} -run {begin}:{end}"]
    return lines


def _abc_option(abc9: bool) -> str:
    """The option that chooses ABC9 or ABC: newer versions of Yosys take ABC9 without one, older ones ABC."""
    program = yosys.program()
    described = yosys.help_text(program, "synth_ecp5") + yosys.help_text(program, "synth_lattice")
    if "-noabc9" in described:
        return "" if abc9 else " -noabc9"
    return " -abc9" if abc9 else ""


def _escaped(module: str) -> str:
    """A module's name in a script of Yosys."""
    return module if module.startswith("\\") else f"\\{module}"


def _cells(folder: Path) -> dict[str, Counter[str]]:
    statistics = (folder / "cells.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(statistics[statistics.index("{") :])
    return {
        name.removeprefix("\\"): Counter(
            {cell.removeprefix("\\"): int(n) for cell, n in facts["num_cells_by_type"].items()}
        )
        for name, facts in found["modules"].items()
    }


def _total(cells: Mapping[str, Counter[str]], module: str) -> Counter[str]:
    """The cells of a module and of all modules in it."""
    total: Counter[str] = Counter()
    for cell, number in cells[module].items():
        if cell in cells:
            for inner, count in _total(cells, cell).items():
                total[inner] += number * count
        else:
            total[cell] += number
    return total
