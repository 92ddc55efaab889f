"""Area and timing of a unit in a standard-cell library.

`spatten synth zero_eliminator --liberty FILE.lib.gz` maps a unit of `hw/units.py` with Yosys and ABC, and
OpenSTA says how fast it is, before placement: wires weigh what the library's default wire-load model says, or nothing
where there is none, and the clock has no skew.

Memories with a write port are never turned into flip-flops. Each is a macro with an area and timing by formula:

* A two-port (8T) bit cell of 0.5 um2 at 45 nm; a row of words folded until the array is as high as wide, and periphery
  as large as 20 more rows and 20 more columns.
* Read data 0.2 + 0.0008 x sqrt(bits) ns after the clock edge, 0.35 ns at 32 kbit; inputs 0.1 ns before it.

Other nodes scale by the area of the library's smallest NAND2 against Nangate's at 45 nm: times by its square root. The
formulas lie close to what CACTI gives for single-port memories at 45 nm (0.53 to 0.71 um2 a bit, 0.21 to 0.44 ns for 2
to 80 kbit), plus a third for the second port.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from rich import box
from rich.table import Table

from spatten.host import files
from spatten.hw.emit.verilog import convert
from spatten.sim import requirements
from spatten.sim.requirements import DEFAULT_LIBERTY
from spatten.sim.verify import yosys
from spatten.sim.verify.yosys import SynthesisError

RESULTS = Path("build/synth")
IO_SHARE = 0.2
"""Share of the period that is taken before an input arrives, and after an output leaves."""
LOGIC_SHARE = 0.75
"""Share of the period that ABC may fill with logic; the rest is clock-to-q and setup of a flip-flop."""

CLOCKS_NS = (0.001, 1_000_000)
"""Shortest and longest period that makes sense."""

Facts = dict[str, Any]


class SynthesisInputError(SynthesisError, ValueError):
    """A missing tool, or a library or a clock that synthesis cannot take: nothing was begun."""

    exit_status = 2


class MissingToolError(requirements.MissingError, SynthesisError):
    """Synthesis lacks what the message names."""


# -- Libraries --------------------------------------------------------------------------------------------------------

_NAND2_45NM = 0.798
"""um2 of Nangate's NAND2_X1, the gate the memory formulas are scaled by."""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A Liberty file: its text, and what of it the flow needs."""

    text: str
    name: str
    nand2_area: float
    nand2_load: float
    """fF of an input of the smallest NAND2."""
    load_unit: float
    """fF of the file's unit of capacitance."""
    buffer: str
    """The smallest buffer: what ABC and OpenSTA take to drive inputs."""
    buffer_pins: tuple[str, str]
    """The smallest buffer's input and output."""
    areas: dict[str, float]
    """um2 of every cell."""
    flip_flops: frozenset[str]

    @property
    def scale(self) -> float:
        """Length and time against Nangate's 45 nm."""
        return math.sqrt(self.nand2_area / _NAND2_45NM)


def read_library(path: Path) -> Library:
    """The Liberty file `path`, which may be compressed with gzip. Raises `SynthesisInputError`."""
    try:
        if path.exists() and not path.is_file():
            raise SynthesisInputError(f"cannot read the library {path}: it is not a file")
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8", errors="replace")
    except OSError as error:
        if path == DEFAULT_LIBERTY:
            requirements.require("synthesis", [requirements.LIBRARY], MissingToolError)
        raise SynthesisInputError(f"cannot read the library {path}: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise SynthesisInputError(f"cannot read the library {path}: {error}") from None
    name = re.search(r"^\s*library\s*\(\s*\"?([\w.-]+)\"?\s*\)", text, re.MULTILINE)
    if name is None:
        raise SynthesisInputError(f"{path} is not a Liberty file: it has no library(...)")
    unit = re.search(r"capacitive_load_unit\s*\(\s*([\d.]+)\s*,\s*\"?(ff|pf)\"?\s*\)", text, re.IGNORECASE)
    if unit is None:
        raise SynthesisInputError(f"{path} has no capacitive_load_unit in fF or pF")
    femto = _number(path, unit[1]) * (1000 if unit[2].lower() == "pf" else 1)
    nands: list[tuple[float, float]] = []
    buffers: list[tuple[float, str, tuple[str, str]]] = []
    areas = {}
    flip_flops = set()
    cells = re.split(r"^\s*cell\s*\(\s*\"?(\w+)\"?\s*\)", text, flags=re.MULTILINE)
    for cell, body in zip(cells[1::2], cells[2::2], strict=True):
        area = re.search(r"\barea\s*:\s*([\d.]+)", body)
        if re.search(r"^\s*ff\s*\(", body, re.MULTILINE):
            flip_flops.add(cell)
        if area is not None:
            areas[cell] = _number(path, area[1])
        if area is None or re.search(r"\bdont_use\s*:\s*true", body):
            continue
        if re.search(r"nand2", cell, re.IGNORECASE):
            load = re.search(r"\bcapacitance\s*:\s*([\d.]+)", body)
            if load is not None:
                nands.append((areas[cell], _number(path, load[1]) * femto))
        pins = re.findall(r"^\s*pin\s*\(\s*\"?(\w+)\"?\s*\)", body, re.MULTILINE)
        function = re.findall(r"\bfunction\s*:\s*\"\(?(\w+)\)?\"", body)
        if len(pins) == 2 and len(function) == 1 and function[0] in pins:
            buffers.append((areas[cell], cell, (function[0], pins[1 - pins.index(function[0])])))
    nands = [(area, load) for area, load in nands if area > 0 and load > 0]
    if not nands or not buffers or not flip_flops:
        raise SynthesisInputError(f"{path} has no NAND2, no buffer or no flip-flop: nothing can be mapped to it")
    nand2_area, nand2_load = min(nands)
    _, buffer, buffer_pins = min(buffers)
    return Library(
        text=text,
        name=name[1],
        nand2_area=nand2_area,
        nand2_load=nand2_load,
        load_unit=femto,
        buffer=buffer,
        buffer_pins=buffer_pins,
        areas=areas,
        flip_flops=frozenset(flip_flops),
    )


def _number(path: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SynthesisInputError(f"{path}: {text} is not a number") from None


# -- Memories ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Macro:
    """A memory with one write and one synchronous read port; or with a port that writes or reads, and a read port: then
    `access` is the number of the former among the netlist's two read ports, else -1."""

    depth: int
    width: int
    access: int = -1

    @property
    def accesses(self) -> bool:
        """Whether the port that writes also reads."""
        return self.access >= 0

    @property
    def name(self) -> str:
        return f"ram_{'rw_' if self.accesses else ''}{self.depth}x{self.width}"

    @property
    def ports(self) -> dict[str, tuple[str, int]]:
        """Direction and width of every port but the clock."""
        address = (self.depth - 1).bit_length()
        ports = {
            "write_enable": ("input", 1),
            "read_enable": ("input", 1),
            "write_address": ("input", address),
            "read_address": ("input", address),
            "write_data": ("input", self.width),
            "read_data": ("output", self.width),
        }
        if self.accesses:
            ports |= {"access_read_enable": ("input", 1), "access_read_data": ("output", self.width)}
        return ports

    @property
    def bits(self) -> int:
        return self.depth * self.width

    def area(self, scale: float) -> float:
        """Area in um2."""
        rows, columns = self.depth, self.width
        while rows > 2 * columns:
            rows, columns = -(-rows // 2), 2 * columns
        return 0.5 * (rows + 20) * (columns + 20) * scale**2

    def clock_to_data(self, scale: float) -> float:
        """Time from the clock edge to read data, in ns."""
        return (0.2 + 0.0008 * math.sqrt(self.bits)) * scale

    def setup(self, scale: float) -> float:
        """Setup time of the inputs, in ns."""
        return 0.1 * scale


_MACRO_LIBRARY = """library(macros) {
  delay_model : table_lookup; time_unit : "1ns"; voltage_unit : "1V"; current_unit : "1mA"; leakage_power_unit : "1nW";
  pulling_resistance_unit : "1kohm"; capacitive_load_unit(1, ff);
  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50;
  output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;
  slew_lower_threshold_pct_rise : 20; slew_lower_threshold_pct_fall : 20;
  slew_upper_threshold_pct_rise : 80; slew_upper_threshold_pct_fall : 80;
"""


def _macro_liberty(macros: Iterable[Macro], library: Library) -> str:
    """A Liberty file with a cell for every macro, in ns and fF."""
    scale = library.scale

    def timing(kind: str, **tables: float) -> str:
        values = "".join(f'{table}(scalar) {{ values("{value:.4f}"); }} ' for table, value in tables.items())
        return f"timing() {{ related_pin : clk; timing_type : {kind}; timing_sense : non_unate; {values}}}"

    text = _MACRO_LIBRARY
    for macro in macros:
        setup, delay, slew = macro.setup(scale), macro.clock_to_data(scale), 0.05 * scale
        taken = timing("setup_rising", rise_constraint=setup, fall_constraint=setup)
        launched = timing("rising_edge", cell_rise=delay, cell_fall=delay, rise_transition=slew, fall_transition=slew)
        buses, types = "", ""
        for port, (way, width) in macro.ports.items():
            what = launched if way == "output" else taken
            direction = way if way == "output" else f"input; capacitance : {library.nand2_load:.4f}"
            types += (
                f"  type({macro.name}_{port}) {{ base_type : array; data_type : bit; bit_width : {width}; "
                f"bit_from : {width - 1}; bit_to : 0; downto : true; }}\n"
            )
            kind = f"pin({port}) {{" if width == 1 else f"bus({port}) {{ bus_type : {macro.name}_{port};"
            buses += f"    {kind} direction : {direction}; {what} }}\n"
        text += (
            f"{types}  cell({macro.name}) {{ area : {macro.area(scale):.3f}; is_macro_cell : true;\n"
            f"    pin(clk) {{ direction : input; clock : true; capacitance : {8 * library.nand2_load:.4f}; }}\n"
            f"{buses}  }}\n"
        )
    return text + "}\n"


_MEMORY_PARAMETERS = (
    *("MEMID", "SIZE", "OFFSET", "ABITS", "WIDTH", "INIT", "RD_PORTS", "RD_CLK_ENABLE", "RD_CLK_POLARITY"),
    *("RD_TRANSPARENCY_MASK", "RD_COLLISION_X_MASK", "RD_WIDE_CONTINUATION", "RD_CE_OVER_SRST", "RD_ARST_VALUE"),
    *("RD_SRST_VALUE", "RD_INIT_VALUE", "WR_PORTS", "WR_CLK_ENABLE", "WR_CLK_POLARITY", "WR_PRIORITY_MASK"),
    "WR_WIDE_CONTINUATION",
)


def _macro_map(macros: Iterable[Macro]) -> str:
    """Yosys techmap rules from memories to macros; a ROM matches none, and becomes logic."""
    rules = ""
    for macro in macros:
        size = f"SIZE == {macro.depth} && WIDTH == {macro.width}"
        pins = {"clk": "RD_CLK[0]", "write_enable": "WR_EN[0]", "write_address": "WR_ADDR", "write_data": "WR_DATA"}
        reads = 2 if macro.accesses else 1
        read = 1 - macro.access if macro.accesses else 0
        pins |= {
            "read_enable": f"RD_EN[{read}]",
            "read_address": f"RD_ADDR[{read}*ABITS +: ABITS]",
            "read_data": f"RD_DATA[{read}*WIDTH +: WIDTH]",
        }
        if macro.accesses:
            pins["access_read_enable"] = f"RD_EN[{macro.access}]"
            pins["access_read_data"] = f"RD_DATA[{macro.access}*WIDTH +: WIDTH]"
        rules += f"  if (WR_PORTS == 1 && RD_PORTS == {reads} && {size})\n    {macro.name} _TECHMAP_REPLACE_ ("
        rules += ", ".join(f".{pin}({net})" for pin, net in pins.items()) + ");\n  else\n"
    return (
        "module \\$mem_v2 (RD_CLK, RD_EN, RD_ARST, RD_SRST, RD_ADDR, RD_DATA, WR_CLK, WR_EN, WR_ADDR, WR_DATA);\n"
        + "".join(f"  parameter {name} = 0;\n" for name in _MEMORY_PARAMETERS)
        + "  input [RD_PORTS-1:0] RD_CLK, RD_EN, RD_ARST, RD_SRST;\n"
        "  input [RD_PORTS*ABITS-1:0] RD_ADDR;\n  output [RD_PORTS*WIDTH-1:0] RD_DATA;\n"
        "  input [WR_PORTS-1:0] WR_CLK;\n  input [WR_PORTS*ABITS-1:0] WR_ADDR;\n"
        "  input [WR_PORTS*WIDTH-1:0] WR_EN, WR_DATA;\n"
        "generate\n" + rules + "    wire _TECHMAP_FAIL_ = 1;\nendgenerate\nendmodule\n"
    )


def _macro_stubs(macros: Iterable[Macro]) -> str:
    """Verilog modules without contents, for their ports' directions."""
    text = ""
    for macro in sorted(macros):
        ports = ", ".join(f"{way} [{width - 1}:0] {port}" for port, (way, width) in macro.ports.items())
        text += f"module {macro.name}(input clk, {ports});\nendmodule\n"
    return text


def _find_macros(netlist: Facts, unit: str) -> list[Macro]:
    """The writable memories of a flat Yosys netlist, once per instance."""
    macros = []
    for module in netlist["modules"].values():
        for name, cell in module["cells"].items():
            if cell["type"] != "$mem_v2":
                continue
            value = {key: int(text, 2) for key, text in cell["parameters"].items() if set(text) <= {"0", "1"}}
            if value["WR_PORTS"] == 0:
                continue
            connections = cell["connections"]
            what = None
            reads = value["RD_PORTS"]
            address = connections["WR_ADDR"]
            addresses = [connections["RD_ADDR"][n * len(address) :][: len(address)] for n in range(reads)]
            access = addresses.index(address) if reads == 2 and address in addresses else -1
            if value["WR_PORTS"] != 1 or (reads != 1 and access < 0):
                what = f"{value['WR_PORTS']} write and {reads} read ports with addresses of their own, not one of each"
            elif value["RD_CLK_ENABLE"] != (1 << reads) - 1:
                what = "a read port without a register"
            elif len(set(connections["WR_EN"])) != 1:
                what = "a write enable for parts of a word"
            elif connections["WR_CLK"] * reads != connections["RD_CLK"]:
                what = "two clocks"
            elif value["RD_TRANSPARENCY_MASK"] != 0:
                what = "a read port that must see what is being written"
            if what is not None:
                raise SynthesisError(f"{unit}: the memory {name} has {what}; use those of spatten.hw.lib.ram")
            macros.append(Macro(value["SIZE"], value["WIDTH"], access))
    return macros


# -- Tools ------------------------------------------------------------------------------------------------------------


def _sta_program() -> str:
    requirements.require("synthesis", [requirements.OPENSTA], MissingToolError)
    return "sta"


# -- The flow ---------------------------------------------------------------------------------------------------------


_WORDS = re.compile(r"^ *reg .*\[\d+:\d+\];$", re.MULTILINE)
REPEATED = 4
"""Modules with so many instances are mapped once, and flattened afterwards: logic is not
optimised across their ports, but paths through the ports are timed."""


def _repeated(verilog: str, top: str) -> list[str]:
    """Modules, but no memories, that `top` has at least `REPEATED` instances of in all."""
    modules = yosys.bodies(verilog)
    instances = yosys.instances(modules)
    totals: Counter[str] = Counter()

    def count(name: str, times: int) -> None:
        totals[name] += times
        for used, number in instances[name].items():
            count(used, times * number)

    count(top, 1)
    return sorted(name for name, times in totals.items() if times >= REPEATED and not _WORDS.search(modules[name]))


def _to_words(top: str, keep: Sequence[str] = ()) -> list[str]:
    """Yosys: from Verilog to one module of words and memories, flat but for the modules to `keep`, without a latch."""
    return [
        f"hierarchy -check -top {top}",
        "proc",
        *(f"setattr -mod -set keep_hierarchy 1 {module}" for module in keep),
        "flatten",
        "opt -nodffe -nosdff",
        "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr",
        "opt",
        "wreduce",
        "peepopt",
        "opt_clean",
        "opt_expr -mux_undef",  # the address of a write does not matter while nothing is written
        "opt_clean",
        "memory -nomap",
        "opt_clean",
    ]


_ABC = [
    "strash",
    "ifraig",
    "dch -f",
    "map -B 0.9",  # by delay and load; &nf, the default, leaves adders a third slower and does not see fan-out
    "topo",
    "buffer -c -p -N 16",  # trees for what drives more than 16 inputs, registers too; -c: with the wire-load model
    "topo",
    "upsize -c {D}",
    "dnsize -c {D}",
    "stime -c",
]


def structure(component: wiring.Component, *, name: str = "top") -> Facts:
    """Word-level facts of a circuit: `memories` (depth, width), `flip_flops` (bits), `multipliers` (widths of a and b).

    Raises `SynthesisError` if it has a latch, a combinational loop, a signal with two drivers or none, or a memory that
    is not one of `hw.lib.ram`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "unit.v").write_text(convert(component, name=name), encoding="utf-8")
        netlist = _words(folder, name)
        macros = _find_macros(netlist, name)
        # Loops and drivers are looked for bit by bit: a word may depend on itself where none of its bits does.
        (folder / "macros.v").write_text(_macro_map(sorted(set(macros))), encoding="utf-8")
        (folder / "stubs.v").write_text(_macro_stubs(set(macros)), encoding="utf-8")
        yosys.run_script(
            [
                "read_verilog -lib stubs.v",
                "read_rtlil words.il",
                "techmap -map macros.v t:$mem_v2",
                "memory_map",
                "techmap",
                "opt_clean",
                "check -assert",
            ],
            folder,
            name,
        )
    cells = [cell for module in netlist["modules"].values() for cell in module["cells"].values()]
    return {
        "memories": [[macro.depth, macro.width] for macro in sorted(macros)],
        "flip_flops": sum(int(cell["parameters"]["WIDTH"], 2) for cell in cells if "dff" in cell["type"]),
        "multipliers": sorted(
            [int(cell["parameters"]["A_WIDTH"], 2), int(cell["parameters"]["B_WIDTH"], 2)]
            for cell in cells
            if cell["type"] == "$mul"
        ),
    }


def synthesise(
    component: wiring.Component, *, name: str, library: Library, clock_ns: float | None = None, results: Path
) -> Facts:
    """Map a circuit to standard cells and time it; what is known of it, also written to `results`/`name`-library.json.

    `clock_ns` is the period to aim at, by default 1 ns at 45 nm and as much more as the library's gates are larger. A
    result that is there already for the same circuit, library, clock, tools and flow is read back.
    """
    clock = _default_clock(library) if clock_ns is None else clock_ns
    check_clock(clock)
    verilog = convert(component, name=name)
    tools = _tools()
    key = hashlib.sha256(f"{verilog}\0{flow(library, clock)}".encode()).hexdigest()
    stem = f"{name}-{library.name}"
    done = results / f"{stem}.json"
    if done.is_file():
        before: Facts = json.loads(done.read_text(encoding="utf-8"))
        if before.get("key") == key:
            return before
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "unit.v").write_text(verilog, encoding="utf-8")
        (folder / "cells.lib").write_text(library.text, encoding="utf-8")
        words = _words(folder, name)
        macros = _find_macros(words, name)
        cells = _map(folder, name, library, clock, macros)
        timing, report = _time(folder, name, library, clock)
    facts = {
        "unit": name,
        "library": library.name,
        "clock_ns": clock,
        "area_um2": round(sum(library.areas[cell] * count for cell, count in cells.items()), 1),
        "cells": sum(cells.values()),
        "flip_flops": sum(count for cell, count in cells.items() if cell in library.flip_flops),
        **timing,
        "memory_bits": sum(macro.bits for macro in macros),
        "memory_area_um2": round(sum(macro.area(library.scale) for macro in macros), 1),
        "memories": [[macro.depth, macro.width, count] for macro, count in sorted(Counter(macros).items())],
        "tools": tools,
        "key": key,
    }
    files.write_text(results / f"{stem}.rpt", report)
    files.write_text(done, json.dumps(facts, indent=2) + "\n")
    return facts


def flow(library: Library, clock_ns: float | None = None) -> str:
    """A digest of what decides, besides a circuit, what `synthesise` makes of it."""
    clock = _default_clock(library) if clock_ns is None else clock_ns
    parts = [library.text, f"{clock}", json.dumps(_tools()), Path(__file__).read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _default_clock(library: Library) -> float:
    return round(library.scale, 2)


def _tools() -> dict[str, str]:
    """The programs that map and time, and their versions."""
    return {"yosys": yosys.version(yosys.program()), "opensta": yosys.version(_sta_program(), "-version")}


def check_clock(clock_ns: float) -> None:
    low, high = CLOCKS_NS
    if not low <= clock_ns <= high:
        raise SynthesisInputError(f"clock_ns must be {low:g} to {high:,.0f}, not {clock_ns:g}")


def _words(folder: Path, name: str) -> Facts:
    """Flatten unit.v to words and memories, into words.il; the same as Yosys's JSON."""
    yosys.run_script(
        ["read_verilog unit.v", *_to_words(name), "write_json words.json", "write_rtlil words.il"], folder, name
    )
    netlist: Facts = json.loads((folder / "words.json").read_text(encoding="utf-8"))
    return netlist


def _map(folder: Path, name: str, library: Library, clock: float, macros: list[Macro]) -> Counter[str]:
    """Map unit.v to standard cells and memories in netlist.v, and write macros.lib; counts of the cells by name."""
    sizes = sorted(set(macros))
    (folder / "macros.lib").write_text(_macro_liberty(sizes, library), encoding="utf-8")
    (folder / "macros.v").write_text(_macro_map(sizes), encoding="utf-8")
    (folder / "abc.script").write_text("\n".join(_ABC) + "\n", encoding="utf-8")
    (folder / "abc.constr").write_text(
        f"set_driving_cell {library.buffer}\nset_load {4 * library.nand2_load:.3f} [all_outputs]\n", encoding="utf-8"
    )
    keep = _repeated((folder / "unit.v").read_text(encoding="utf-8"), name)
    yosys.run_script(
        [
            "read_verilog unit.v",
            *_to_words(name, keep),
            "techmap -map macros.v t:$mem_v2",
            "alumacc",
            "opt",
            "memory_map",
            "opt -full",
            "techmap",
            "opt",
            "dfflibmap -liberty cells.lib",
            "opt",
            f"abc -liberty cells.lib -constr abc.constr -script abc.script -D {LOGIC_SHARE * clock * 1000:.0f}",
            *(f"setattr -mod -unset keep_hierarchy {module}" for module in keep),
            "flatten",
            "opt_clean -purge",
            "splitnets",
            "opt_clean -purge",
            # OpenSTA does not read assignments to several nets at once.
            "insbuf -buf {} {} {}".format(library.buffer, *library.buffer_pins),
            "tee -q -o cells.json stat -json",
            "write_verilog -noattr -noexpr -nohex -nodec netlist.v",
        ],
        folder,
        name,
    )
    cells = Counter(_cells(folder))
    expected = Counter(macro.name for macro in macros)
    strange = {cell for cell in cells if cell not in library.areas and cells[cell] != expected[cell]}
    if strange or expected - cells:
        raise SynthesisError(f"{name}: mapping left {', '.join(sorted(strange | (expected - cells).keys()))}")
    return cells - expected


def _cells(folder: Path) -> dict[str, int]:
    """Cells of the design by type, from cells.json."""
    statistics = (folder / "cells.json").read_text(encoding="utf-8")
    design: dict[str, dict[str, int]] = json.loads(statistics[statistics.index("{") :])["design"]
    return design["num_cells_by_type"]


_PATHS = {
    "register_to_register": ("[all_registers -clock_pins]", "[all_registers -data_pins]"),
    "input": ("$inputs", "[all_registers -data_pins]"),
    "output": ("[all_registers -clock_pins]", "[all_outputs]"),
    "through": ("$inputs", "[all_outputs]"),
}
"""Kinds of paths: from and to what, in OpenSTA's words."""


def _time(folder: Path, name: str, library: Library, clock: float) -> tuple[Facts, str]:
    """Slacks by kind of path and the critical path of netlist.v; and OpenSTA's reports of them."""
    script = [
        "read_liberty cells.lib",
        "read_liberty macros.lib",
        "read_verilog netlist.v",
        f"link_design {name}",
        # A circuit without registers has no clock; its inputs and outputs are those of a circuit that has one.
        f"create_clock -name clk -period {clock} [get_ports -quiet clk]",
        "set inputs {}",
        'foreach port [all_inputs] {if {[get_property $port full_name] ne "clk"} {lappend inputs $port}}',
        f"set_input_delay {IO_SHARE * clock:.4f} -clock clk $inputs",
        f"set_output_delay {IO_SHARE * clock:.4f} -clock clk [all_outputs]",
        f"set_driving_cell -lib_cell {library.buffer} $inputs",
        f"set_load -pin_load {4 * library.nand2_load / library.load_unit:.6f} [all_outputs]",
    ]
    for kind, (start, end) in _PATHS.items():
        script += [
            f'puts "= {kind}"',
            f"set start {start}",
            f"set end {end}",
            "if {[llength $start] && [llength $end]} {report_checks -from $start -to $end -path_delay max -digits 4}",
        ]
    script.append("exit")
    (folder / "time.tcl").write_text("\n".join(script) + "\n", encoding="utf-8")
    command = [_sta_program(), "-no_splash", "-exit", "time.tcl"]
    report = yosys.run(command, folder, f"{name}: sta")
    sections = dict(re.findall(r"^= (\w+)\n(.*?)(?=^= |\Z)", report, re.MULTILINE | re.DOTALL))
    slack = {}
    for kind in _PATHS:
        found = re.search(r"^\s*(-?[\d.]+)\s+slack", sections[kind], re.MULTILINE)
        slack[kind] = float(found[1]) if found else None
    critical = sections["register_to_register"]
    cells = re.findall(r"^\s*-?[\d.]+\s+-?[\d.]+ [v^] \S+ \((\S+)\)$", critical, re.MULTILINE)
    netlist = (folder / "netlist.v").read_text(encoding="utf-8")
    points = [_readable(point, netlist) for point in re.findall(r"^(?:Start|End)point: (\S+)", critical, re.MULTILINE)]
    return {
        "slack_ns": slack,
        "path": {"start": points[0], "end": points[1], "gates": len(cells) - 3} if points else None,
    }, report


def _readable(instance: str, netlist: str) -> str:
    """A register by the signal it holds; a memory has its own name."""
    cell = re.search(rf"^  \w+ {re.escape(instance)} \((.*?)^  \);", netlist, re.MULTILINE | re.DOTALL)
    signal = re.search(r"\.Q\((.*?)\)", cell[1]) if cell else None
    return signal[1].removeprefix("\\").replace(" ", "") if signal else instance


# -- Command line -----------------------------------------------------------------------------------------------------


def table(rows: Sequence[Facts]) -> Table:
    """Units of one library and clock, a row each."""
    result = Table(
        box=box.SIMPLE_HEAD,
        title=f"{rows[0]['library']}, clock {rows[0]['clock_ns']:g} ns, before placement",
        title_justify="left",
        caption="slack ns: register to register / inputs / outputs / inputs to outputs",
        caption_justify="left",
    )
    result.add_column("unit", no_wrap=True)
    for heading in ("cells um2", "memories um2", "slack"):
        result.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        slack = ["-" if value is None else f"{value:.2f}" for value in row["slack_ns"].values()]
        colour = "red" if (row["slack_ns"]["register_to_register"] or 0) < 0 else "green"
        result.add_row(
            row["unit"],
            f"{row['area_um2']:,.0f}",
            f"{row['memory_area_um2']:,.0f}",
            " / ".join([f"[{colour}]{slack[0]}[/]", *slack[1:]]),
        )
    return result
