"""The longest paths of a netlist before it is placed: logic as the part has it, each wire taken as equally long.

    for path in longest_paths(netlist)[:10]:
        print(f"{path.delay_ns:.1f} ns, {path.levels} cells, {path.start} to {path.end}")

An estimate of where a clock will be lost, in seconds where a placement takes an hour. Which wires are short only
the placement tells; a carry chain's are none.

Delays are those of an ECP5 of speed grade 6, rounded, as nextpnr's data have them: a path through a LUT takes 0.24 ns,
a block RAM 5.6 ns to its output, a multiplier 3.6 ns.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spatten.sim.board.ecp5 import Netlist

__all__ = ["WIRE_NS", "Path", "by_unit", "longest_paths"]

WIRE_NS = 0.9
"""Of a wire, unless said otherwise: the mean on critical paths of a part that is half full."""
_LUT_NS = 0.24
_TO_CARRY_NS, _CARRY_NS, _FROM_CARRY_NS = 0.45, 0.07, 0.44
_MULTIPLIER_NS = 3.6
_FROM_CLOCK_NS = {"TRELLIS_FF": 0.52, "DP16KD": 5.6}
"""From the edge of the clock to the output."""
_CLOCKED = ("TRELLIS_FF", "DP16KD", "TRELLIS_DPR16X4")
_CLOCKS = ("CLK", "CLKA", "CLKB", "WCK")
_CONSTANTS = ("0", "1", "x", "z")


@dataclass(frozen=True, kw_only=True)
class Path:
    """The longest path to an input of a register or memory."""

    start: str
    """The cell, or the port of the whole, that the path begins at."""
    end: str
    """The cell that it ends at, and the pin."""
    delay_ns: float
    levels: int
    """Cells on the way."""


def longest_paths(netlist: Netlist, *, wire_ns: float = WIRE_NS) -> list[Path]:
    """The longest path to each input of a register or memory and to each port, the longest first.

    Raises `ValueError` for a loop of logic.
    """
    module = json.loads(netlist.json_file.read_text(encoding="utf-8"))["modules"][netlist.top]
    return _Timing(module, wire_ns).paths()


def by_unit(paths: Iterable[Path], *, above_ns: float, depth: int = 2) -> Counter[str]:
    """How many paths above so many ns end in each unit: the first `depth` parts of the names of the cells."""
    return Counter(".".join(path.end.split(".")[:depth]) for path in paths if path.delay_ns > above_ns)


@dataclass(frozen=True)
class _Arrival:
    """When an output has its value: how late, from where, and through how many cells."""

    ns: float
    start: str
    levels: int


class _Timing:
    """The arrival of every net of a module."""

    def __init__(self, module: Mapping[str, Any], wire_ns: float) -> None:
        self._cells = module["cells"]
        self._wire_ns = wire_ns
        self._drivers: dict[int, tuple[str, str]] = {}
        """The cell and its pin that drive a net."""
        self._arrivals: dict[int, _Arrival] = {}
        for name, port in module["ports"].items():
            if port["direction"] == "input":
                for bit in port["bits"]:
                    self._arrivals[bit] = _Arrival(0, name, 0)
        self._ends: list[tuple[str, int]] = [
            (name, bit)
            for name, port in module["ports"].items()
            if port["direction"] == "output"
            for bit in port["bits"]
            if bit not in _CONSTANTS
        ]
        for name, cell in self._cells.items():
            self._add_cell(name, cell)

    def _add_cell(self, name: str, cell: Mapping[str, Any]) -> None:
        kind, directions = cell["type"], cell["port_directions"]
        for pin, bits in cell["connections"].items():
            for bit in bits:
                if bit in _CONSTANTS:
                    continue
                if directions[pin] == "output":
                    self._drivers[bit] = (name, pin)
                    if kind in _FROM_CLOCK_NS:
                        self._arrivals[bit] = _Arrival(_FROM_CLOCK_NS[kind], name, 0)
                elif kind in _CLOCKED and pin not in (*_CLOCKS, "RAD"):
                    self._ends.append((f"{name}.{pin}", bit))

    def paths(self) -> list[Path]:
        found = []
        for end, bit in self._ends:
            arrival = self._arrival(bit)
            found.append(Path(start=arrival.start, end=end, delay_ns=arrival.ns + self._wire_ns, levels=arrival.levels))
        return sorted(found, key=lambda path: -path.delay_ns)

    def _arrival(self, net: int) -> _Arrival:
        """The arrival of a net, after those that it follows from; by a stack, since paths are long."""
        stack, under_way = [net], set()
        while stack:
            top = stack[-1]
            if top in self._arrivals:
                stack.pop()
                continue
            inputs = self._inputs(top)
            missing = [bit for bit, _ in inputs if bit not in self._arrivals]
            if not missing:
                self._arrivals[top] = self._latest(inputs)
                under_way.discard(top)
                stack.pop()
                continue
            if top in under_way:
                raise ValueError(f"the netlist has a loop of logic through {self._drivers[top][0]}")
            under_way.add(top)
            stack += missing
        return self._arrivals[net]

    def _latest(self, inputs: list[tuple[int, float]]) -> _Arrival:
        latest = _Arrival(0, "a constant", 0)
        for bit, ns in inputs:
            arrival = self._arrivals[bit]
            if arrival.ns + ns > latest.ns:
                latest = _Arrival(arrival.ns + ns, arrival.start, arrival.levels + 1)
        return latest

    def _inputs(self, net: int) -> list[tuple[int, float]]:
        """The nets that a net follows from, with the delay from each, its wire included."""
        if net not in self._drivers:
            return []
        name, output = self._drivers[net]
        cell = self._cells[name]
        found = []
        for pin, bits in cell["connections"].items():
            ns = self._delay(cell["type"], pin, output) if cell["port_directions"][pin] == "input" else None
            if ns is not None:
                found += [(bit, ns) for bit in bits if bit not in _CONSTANTS]
        return found

    def _delay(self, kind: str, pin: str, output: str) -> float | None:
        """From an input to an output of a cell, with the wire before; None where one does not follow from the other."""
        if kind == "CCU2C":
            if pin == "CIN":
                return _CARRY_NS if output == "COUT" else _FROM_CARRY_NS
            if output == "S0" and pin.endswith("1"):
                return None
            return self._wire_ns + _TO_CARRY_NS
        if kind == "TRELLIS_DPR16X4":
            return self._wire_ns + _LUT_NS if pin == "RAD" else None
        if kind == "MULT18X18D":
            return self._wire_ns + _MULTIPLIER_NS if pin[0] in "AB" else None
        return self._wire_ns + _LUT_NS
