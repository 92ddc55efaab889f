"""How fast a placed circuit is: its clocks against what they must be, and the slowest paths, from nextpnr's report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GLOBAL = "$glbnet$"
_CARRY = "$CCU2_COMB"
"""In the name of each of the two halves of a carry cell."""
_CELL = re.compile(r"_(?:TRELLIS_FF|LUT4|CCU2C|DP16KD|MULT18X18D|TRELLIS_DPR16X4)(?:_.*)?$")
"""What Yosys appends to the name of a signal for the cell that drives or reads it."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A clock of the circuit."""

    name: str
    mhz: float
    """What it can run at."""
    needed_mhz: float

    @property
    def closed(self) -> bool:
        return self.mhz >= self.needed_mhz


@dataclass(frozen=True, kw_only=True)
class SlowPath:
    """The slowest path from one clock to another, or to itself."""

    clocks: tuple[str, str]
    start: str
    end: str
    """The signals that the first register holds and the last one takes."""
    logic_ns: float
    wire_ns: float
    luts: int
    carries: int
    """LUTs, and cells of two bits of carry, on the way."""

    @property
    def ns(self) -> float:
        return self.logic_ns + self.wire_ns

    def __str__(self) -> str:
        first, second = self.clocks
        way = f"{first}" if first == second else f"{first} to {second}"
        return (
            f"{way}: {self.ns:.1f} ns, {self.logic_ns:.1f} of them in {self.luts} LUTs and {self.carries} carry cells "
            f"and {self.wire_ns:.1f} on wires, from `{self.start}` to `{self.end}`"
        )


def clocks(report: Mapping[str, Any]) -> list[Clock]:
    """The clocks of a report, the slowest for what it must be first."""
    found = [
        Clock(name=name.removeprefix(_GLOBAL), mhz=facts["achieved"], needed_mhz=facts["constraint"])
        for name, facts in report["fmax"].items()
    ]
    return sorted(found, key=lambda clock: (clock.mhz / clock.needed_mhz, clock.name))


def worst_paths(report: Mapping[str, Any]) -> list[SlowPath]:
    """The slowest path of each pair of clocks, the slowest first; paths from or to pins are left out."""
    paths = [
        _path(entry)
        for entry in report["critical_paths"]
        if entry["path"] and not any("<async>" in entry[end] for end in ("from", "to"))
    ]
    return sorted(paths, key=lambda path: -path.ns)


def _path(entry: Mapping[str, Any]) -> SlowPath:
    steps: Sequence[Mapping[str, Any]] = entry["path"]
    wires = sum(step["delay"] for step in steps if step["type"] == "routing")
    through = [step["to"]["cell"] for step in steps if step["type"] == "logic"]
    return SlowPath(
        clocks=(_clock(entry["from"]), _clock(entry["to"])),
        start=signal(steps[0]["from"]["cell"]),
        end=signal(steps[-1]["to"]["cell"]),
        logic_ns=sum(step["delay"] for step in steps) - wires,
        wire_ns=wires,
        luts=sum(_CARRY not in cell for cell in through),
        carries=len({cell.partition(_CARRY)[0] for cell in through if _CARRY in cell}),
    )


def _clock(edge: str) -> str:
    """ "posedge $glbnet$clk" is the clock "clk"."""
    return edge.rpartition(" ")[2].removeprefix(_GLOBAL)


def signal(cell: str) -> str:
    """The signal that a cell of the netlist is named after."""
    return _CELL.sub("", cell)
