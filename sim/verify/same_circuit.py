"""Whether two Verilog files are one circuit, up to names, hierarchy and copies of the same thing.

Both are flattened to cells. Two bits are *alike* if they are the same input or constant, or the same output of cells of
one kind (type, parameters, initial values) whose inputs are alike, pair by pair. That is the coarsest such relation, so
registers are alike until something tells them apart. Where all outputs of the top module are alike, the circuits show
the same in every cycle, from power-up, whatever their inputs do: registers that are alike start alike and stay so. A
register that was stored twice and is now stored once makes no difference, another word for the same logic does.

The relation is found by refinement: every cell has a 64-bit colour, which is hashed with the colours of its inputs
until no more colours appear. Different circuits pass for one only by a collision of hashes.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spatten.sim import cache
from spatten.sim.verify.yosys import YOSYS
from spatten.spec.errors import SpattenError

__all__ = ["Comparison", "NetlistError", "compare"]

Colours = NDArray[np.uint64]

_SCRIPT = (
    "read_verilog {name}.v",
    "hierarchy -check -top {top}",
    "proc -norom",
    "flatten",
    "memory_collect",
    "opt_expr",
    "simplemap",
    "opt_clean -purge",
    "write_json {name}.json",
)
"""To gates where a bit depends on bits of its own place only, so that it does not matter how they are put together to
words; arithmetic, shifts and memories stay whole."""


class NetlistError(SpattenError, RuntimeError):
    """Yosys does not read a file, or the file does not have the top module."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a comparison found."""

    cells: tuple[int, int]
    """Of the flattened netlists."""
    kinds: int
    """Cells that are not alike, of both together."""
    differing: tuple[str, ...] = ()
    """Output bits that are not alike, or that one of the two does not have."""
    first: tuple[str, ...] = ()
    """Where the difference begins, if there is one: the cells of the second netlist that are the first to have nothing
    alike in the first netlist, as more and more of what lies before each cell is looked at."""

    @property
    def is_same(self) -> bool:
        """Whether the two show the same in every cycle."""
        return not self.differing


@dataclass
class _Netlist:
    """Cells and bits as numbers."""

    names: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    """Of each cell the colour that its kind gives it."""
    inputs: list[list[int]] = field(default_factory=list)
    """Of each cell its input bits, in the order of its ports."""
    drivers: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of each bit that a cell drives the cell, and a number for the port and the place in it."""
    sources: dict[int, int] = field(default_factory=dict)
    """Of each bit that no cell drives its colour."""
    outputs: dict[str, int] = field(default_factory=dict)
    """The bits of the top module's outputs by name."""


def compare(first: str, second: str, *, top: str = "spatten") -> Comparison:
    """Compare two Verilog texts by their module `top`. Raises `NetlistError`."""
    netlists = [_netlist(text, top) for text in (first, second)]
    colourings, begins = _refine(netlists)
    one, other = (
        {name: colouring.bits[number] for name, number in netlist.outputs.items()}
        for netlist, colouring in zip(netlists, colourings, strict=True)
    )
    differing = tuple(name for name in sorted({*one, *other}, key=_natural) if one.get(name) != other.get(name))
    cells = [colouring.cells for colouring in colourings]
    return Comparison(
        cells=(len(cells[0]), len(cells[1])),
        kinds=len(np.unique(np.concatenate(cells))),
        differing=differing,
        first=tuple(netlists[1].names[number] for number in begins) if differing else (),
    )


def _natural(name: str) -> tuple[str, int]:
    port, _, place = name.rpartition("[")
    return port, int(place.rstrip("]"))


# -- Netlists ---------------------------------------------------------------------------------------------------------


def _netlist(verilog: str, top: str) -> _Netlist:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "circuit.v").write_text(verilog, encoding="utf-8")
        script = "; ".join(_SCRIPT).format(name="circuit", top=top)
        cache.lend()
        result = subprocess.run(
            [str(YOSYS), "-q", "-p", script], cwd=folder, capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            raise NetlistError(f"Yosys cannot flatten the module {top}: {result.stderr.strip()}")
        modules = json.loads((folder / "circuit.json").read_text(encoding="utf-8"))["modules"]
    return _numbered(modules[top])


def _hash(*parts: object) -> int:
    """A number of 64 bits that stands for `parts` in every run."""
    text = repr(parts).encode()
    return zlib.crc32(text) << 32 | zlib.crc32(text[::-1], 0x5A7)


def _numbered(module: Mapping[str, Any]) -> _Netlist:
    netlist = _Netlist()
    numbers: dict[object, int] = {}

    def number(bit: object) -> int:
        if bit not in numbers:
            numbers[bit] = len(numbers)
            if isinstance(bit, str):  # a constant
                netlist.sources[numbers[bit]] = _hash("constant", bit)
        return numbers[bit]

    for name, port in module["ports"].items():
        for place, bit in enumerate(port["bits"]):
            if port["direction"] == "input":
                netlist.sources[number(bit)] = _hash("input", name, place)
            else:
                netlist.outputs[f"{name}[{place}]"] = number(bit)
    initial = dict(_initial_values(module))
    for name, cell in sorted(module["cells"].items()):
        directions, connections = cell["port_directions"], cell["connections"]
        driven = [
            (port, place, bit)
            for port in sorted(connections)
            if directions[port] == "output"
            for place, bit in enumerate(connections[port])
        ]
        parameters = sorted(item for item in cell["parameters"].items() if item[0] not in ("MEMID", "NAME"))
        starts = [initial.get(bit, "x") for _, _, bit in driven]
        netlist.seeds.append(_hash(cell["type"], parameters, starts))
        netlist.names.append(name)
        netlist.inputs.append(
            [number(bit) for port in sorted(connections) if directions[port] == "input" for bit in connections[port]]
        )
        for port, place, bit in driven:
            netlist.drivers[number(bit)] = len(netlist.names) - 1, _hash(port, place)
    for name, bit in netlist.outputs.items():
        if bit not in netlist.drivers and bit not in netlist.sources:
            netlist.sources[bit] = _hash("undriven", name)
    for bit in numbers.values():
        if bit not in netlist.drivers and bit not in netlist.sources:
            netlist.sources[bit] = _hash("undriven")
    return netlist


def _initial_values(module: Mapping[str, Any]) -> Iterator[tuple[object, str]]:
    """Of every bit with an initial value that value."""
    for net in module["netnames"].values():
        value = net["attributes"].get("init")
        if value is not None:
            yield from ((bit, one) for bit, one in zip(net["bits"], reversed(value), strict=False) if one != "x")


# -- Refinement -------------------------------------------------------------------------------------------------------


class _Colouring:
    """The colours of one netlist, and a step of their refinement."""

    def __init__(self, netlist: _Netlist) -> None:
        self.cells: Colours = np.array(netlist.seeds, np.uint64)
        lengths = np.array([len(bits) for bits in netlist.inputs], np.int64)
        self._seeds = self.cells.copy()
        self._inputs = np.array([bit for bits in netlist.inputs for bit in bits], np.int64)
        self._places = _mixed(np.array([place for length in lengths for place in range(length)], np.uint64))
        self._ends = np.cumsum(lengths)
        count = len(netlist.drivers) + len(netlist.sources)
        self.bits: Colours = np.zeros(count, np.uint64)
        for bit, colour in netlist.sources.items():
            self.bits[bit] = colour
        driven = sorted(netlist.drivers)
        self._driven = np.array(driven, np.int64)
        self._cell_of = np.array([netlist.drivers[bit][0] for bit in driven], np.int64)
        self._port_of = np.array([netlist.drivers[bit][1] for bit in driven], np.uint64)
        self._colour_bits()

    def _colour_bits(self) -> None:
        self.bits[self._driven] = _mixed(self.cells[self._cell_of] ^ self._port_of)

    def step(self) -> None:
        """Hash every cell with its inputs."""
        words = np.concatenate([[np.uint64(0)], np.cumsum(_mixed(self.bits[self._inputs] + self._places))])
        begins = np.concatenate([[0], self._ends[:-1]])
        self.cells = _mixed(self._seeds + words[self._ends] - words[begins])
        self._colour_bits()


def _mixed(values: Colours) -> Colours:
    """A bijection of 64-bit words that spreads every bit (the finaliser of splitmix64)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def _refine(netlists: list[_Netlist]) -> tuple[list[_Colouring], list[int]]:
    """The colours when as many are told apart as can be; and the cells of the second netlist that are the first without
    a cell of their colour in the first netlist."""
    colourings = [_Colouring(netlist) for netlist in netlists]
    kinds = 0
    begins: list[int] = []
    with np.errstate(over="ignore"):
        while True:
            if not begins:
                begins = np.flatnonzero(~np.isin(colourings[1].cells, colourings[0].cells)).tolist()
            found = len(np.unique(np.concatenate([colouring.cells for colouring in colourings])))
            if found == kinds:
                return colourings, begins
            kinds = found
            for colouring in colourings:
                colouring.step()
