"""What each unit of a circuit takes of an ECP5.

The circuit is flat when it is mapped, so that logic is optimised across units; yet a cell keeps the name of a signal
that it drives or reads, with the path of the signal's unit in front. So the cells of all units add up to those of the
circuit; a LUT on the border of two units counts for one of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spatten.host import files
from spatten.sim.board.ecp5 import CELLS, Netlist
from spatten.sim.verify import yosys

LARGE = 0.12
"""A unit with more than this share of all places is shown by its parts."""
SMALL = 0.01
"""Units with less than this share of everything are shown together."""

PLACES: Mapping[str, int] = {"lut4": 1, "carry": 2, "lut_rams": 6}
"""Places for a LUT4 that cells take, by the kinds of `CELLS`."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of the circuit."""

    name: str
    """Its path, or what it is in words."""
    cells: Mapping[str, int]
    """By the kinds of `CELLS`."""

    @property
    def places(self) -> int:
        """What it takes of the FPGA's places for a LUT4; the placer needs some more."""
        return sum(number * self.cells[kind] for kind, number in PLACES.items())


def units(netlist: Netlist, source: str, *, large: float = LARGE, small: float = SMALL) -> list[Unit]:
    """The units of a netlist that was mapped from the Verilog `source`, by places, the largest first.

    Every cell of a kind of `CELLS` counts in one of them.
    """
    paths = yosys.instance_paths(yosys.bodies(source), netlist.top)
    own = _own(netlist, paths)
    whole: dict[str, Counter[str]] = {}
    for path, cells in own.items():
        for above in _prefixes(path):
            whole.setdefault(above, Counter()).update(cells)
    total = _unit("", whole.get("", Counter()))
    below: dict[str, list[str]] = {}
    for path in whole:
        if path:
            below.setdefault(path.rpartition(".")[0], []).append(path)
    found: list[Unit] = []
    pending = [""]
    while pending:
        path = pending.pop()
        unit = _unit(path, whole.get(path, Counter()))
        if (unit.places > large * total.places or not path) and path in below:
            pending += below[path]
            rest = _unit(f"{path}: its own" if path else f"{netlist.top}: its own", own.get(path, Counter()))
            found.append(rest)
        else:
            found.append(unit)
    shown = [unit for unit in found if _share(unit, total) >= small]
    others = [unit for unit in found if _share(unit, total) < small and any(unit.cells.values())]
    if others:
        shown.append(_sum(f"{len(others)} others", others))
    return sorted(shown, key=lambda unit: -unit.places)


def _own(netlist: Netlist, paths: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Cells by kind of each unit, without those of the units in it."""
    kinds = {cell: kind for kind, cell in CELLS.items()}
    cells = json.loads(netlist.json_file.read_text(encoding="utf-8"))["modules"][netlist.top]["cells"]
    found: dict[str, Counter[str]] = {}
    for name, cell in cells.items():
        if cell["type"] in kinds:
            unit = next((path for path in reversed(_prefixes(name)) if path in paths), "")
            found.setdefault(unit, Counter())[kinds[cell["type"]]] += 1
    return found


def _prefixes(path: str) -> list[str]:
    """ "a.b" is in "", in "a", and in "a.b"."""
    parts = path.split(".") if path else []
    return [".".join(parts[:length]) for length in range(len(parts) + 1)]


def _unit(name: str, cells: Counter[str]) -> Unit:
    return Unit(name=name, cells={kind: cells[kind] for kind in CELLS})


def _sum(name: str, parts: Sequence[Unit]) -> Unit:
    return Unit(name=name, cells={kind: sum(part.cells[kind] for part in parts) for kind in CELLS})


def _share(unit: Unit, total: Unit) -> float:
    """The largest share that a unit has of the circuit's places, or of any kind of cells."""
    pairs = [(unit.places, total.places), *((unit.cells[kind], total.cells[kind]) for kind in CELLS)]
    return max((part / whole for part, whole in pairs if whole), default=0.0)


def table(rows: Sequence[Unit]) -> str:
    """The units as a table of Markdown, with their sum."""
    total = _sum("all", rows)
    headings = ("unit", "places", *CELLS.values())
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "--:|" * (len(headings) - 1)]
    for row in (*rows, total):
        name = f"**{row.name}**" if row is total else f"`{row.name}`" if " " not in row.name else row.name
        lines.append("| " + " | ".join([name, *(f"{n:,}" for n in (row.places, *row.cells.values()))]) + " |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Unit], path: Path, *, title: str) -> None:
    """Draw the places that units take, and their flip-flops, into a PNG file."""
    from matplotlib import pyplot as plt

    from spatten.host.studies.plots import BLUE, INK, ORANGE, style

    with plt.rc_context(style() | {"axes.grid.axis": "x"}):
        figure, axes = plt.subplots(figsize=(8, 1.2 + 0.24 * len(rows)))
        heights = range(len(rows), 0, -1)
        axes.barh(heights, [row.places for row in rows], color=BLUE, height=0.62, label="places for a LUT4")
        flip_flops = [row.cells["flip_flops"] for row in rows]
        axes.scatter(flip_flops, heights, color=ORANGE, zorder=3, s=16, label="flip-flops")
        axes.set_yticks(list(heights), [row.name for row in rows], fontsize=8, color=INK)
        axes.set_ylim(0.3, len(rows) + 0.7)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.legend(loc="lower right")
        with files.replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format="png")
        plt.close(figure)
