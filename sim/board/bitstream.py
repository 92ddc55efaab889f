"""From a board's name to its bitstream: `make bitstream`.

    circuit = board_circuit("ulx3s")
    build(circuit, out=Path("build/ulx3s"), tell=print)

Netlist and placement are found in the cache if they have been made before, so an interrupted run goes on behind the
last of them that was finished. Into `out` go

| file | |
|---|---|
| `bitstream.json` | everything: clocks, paths, utilisation, tools and their versions, seed, seconds |
| `report.md`, `utilisation.png` | the same to read: timing, utilisation by unit |
| `top.bit` | the bitstream; it is there only if every clock is as fast as it must be |
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amaranth.lib import wiring
from amaranth.vendor import LatticeECP5Platform

from spatten.host import files
from spatten.hw.board.board_top import CORE, BoardTop
from spatten.hw.board.boards import require_board
from spatten.hw.emit.verilog import convert, written
from spatten.sim import cache
from spatten.sim.board import place, timing, utilisation
from spatten.sim.board.ecp5 import Tell, map_verilog
from spatten.sim.board.place import Part, Placement
from spatten.sim.board.timing import Clock, SlowPath
from spatten.sim.board.utilisation import Unit
from spatten.spec.errors import SpattenError

BITSTREAM = "top.bit"
REPORT = "bitstream.json"
PAGE = "report.md"
PICTURE = "utilisation.png"
FILES = (REPORT, PAGE, PICTURE, BITSTREAM)
TOP = "top"
SEEDS = (1, 2**31 - 1)
"""The least and the largest seed that nextpnr takes here."""
STEPS = ("circuit", "synthesis", "placing", "routing", "packing")


class BitstreamError(SpattenError, ValueError):
    """A bitstream that cannot be asked for."""


class TimingError(SpattenError, RuntimeError):
    """A clock of the placed circuit is too slow, so there is no bitstream."""

    exit_status = 1


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A circuit for an FPGA, with its pins and clocks."""

    name: str
    verilog: str
    """Its module `TOP`, and all in it."""
    constraints: str
    """Pins and clocks as a file of Lattice's preferences (LPF)."""
    part: Part
    frequency_hz: int
    """What a clock must run at that `constraints` does not name."""
    seconds: float = 0.0
    """How long it took to make this; 0: not known."""


def board_circuit(name: str) -> Circuit:
    """The whole circuit of a board."""
    board = require_board(name)
    begun = time.monotonic()
    top = BoardTop(board=board)
    modules = convert(top.core, name=CORE)
    circuit = platform_circuit(
        top, name=name, platform=board.platform(), frequency_hz=board.pll.frequency_hz, modules=modules
    )
    return replace(circuit, seconds=round(time.monotonic() - begun, 1))


def platform_circuit(
    top: wiring.Component, *, name: str, platform: LatticeECP5Platform, frequency_hz: int, modules: str = ""
) -> Circuit:
    """A circuit with pads for a platform of amaranth-boards; `modules` is Verilog of what it has instances of."""
    made = platform.prepare(top, TOP, emit_src=False).files
    return Circuit(
        name=name,
        verilog=written(_text(made[f"{TOP}.il"])) + modules,
        constraints=_text(made[f"{TOP}.lpf"]),
        part=Part(device=platform.device, package=platform.package, speed=platform.speed),
        frequency_hz=frequency_hz,
    )


def _text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode("utf-8")


def build(
    circuit: Circuit,
    *,
    out: Path,
    seed: int = 1,
    placer: str = place.PLACERS[0],
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Make the bitstream of a circuit, and write everything into `out`; what `REPORT` says.

    Raises `TimingError` if a clock is too slow: then the reports are there, and no bitstream. A bitstream that was
    there before is removed first.
    """
    require_seed(seed)
    bitstream = out / BITSTREAM
    bitstream.unlink(missing_ok=True)
    seconds = {"circuit": circuit.seconds}
    begun = time.monotonic()
    netlist = map_verilog(circuit.verilog, top=TOP, tell=_in_step("synthesis", tell))
    seconds["synthesis"] = round(time.monotonic() - begun, 1)
    placement = place.place(
        netlist,
        part=circuit.part,
        constraints=circuit.constraints,
        frequency_hz=circuit.frequency_hz,
        seed=seed,
        placer=placer,
        tell=tell,
    )
    seconds |= placement.seconds if placement.made else {"placing": 0.0, "routing": 0.0}
    found = timing.clocks(placement.report)
    paths = timing.worst_paths(placement.report)
    rows = utilisation.units(netlist, circuit.verilog)
    facts = _facts(circuit, placement, found, paths, rows) | {"seed": seed, "placer": placer, "seconds": seconds}
    closed = bool(found) and all(clock.closed for clock in found)
    if closed:
        begun = time.monotonic()
        facts["tools"] |= place.pack(placement, bitstream)
        facts["bitstream"] = hashlib.sha256(bitstream.read_bytes()).hexdigest()
        seconds["packing"] = round(time.monotonic() - begun, 1)
    remember(circuit.name, seconds)
    files.write_text(out / PAGE, _page(facts, found, paths, rows))
    utilisation.draw(rows, out / PICTURE, title=f"{circuit.name}: {circuit.part.device} by unit, after synthesis")
    files.write_text(out / REPORT, json.dumps(facts, indent=2) + "\n")
    if not closed:
        raise TimingError(_too_slow(found, paths, out / PAGE))
    return facts


def require_seed(seed: int) -> None:
    """Raise `BitstreamError` unless nextpnr takes the seed."""
    low, high = SEEDS
    if not low <= seed <= high:
        raise BitstreamError(f"seed must be {low} to {high}, not {seed}")


def _in_step(step: str, tell: Tell | None) -> Tell | None:
    return None if tell is None else lambda text: tell(f"{step}: {text}")


def _too_slow(found: Sequence[Clock], paths: Sequence[SlowPath], page: Path) -> str:
    if not found:
        return f"there is no bitstream: nextpnr found no clock in the circuit; {page} has the rest"
    slow = [
        f"{clock.name} runs at {clock.mhz:.1f} MHz and must run at {clock.needed_mhz:.1f}"
        for clock in found
        if not clock.closed
    ]
    longest = f"; the longest path is {paths[0]}" if paths else ""
    return f"there is no bitstream: {' and '.join(slow)}{longest}; {page} has the rest"


# -- How long it takes ------------------------------------------------------------------------------------------------

_TIMES = "seconds.json"


def remember(name: str, seconds: Mapping[str, float]) -> None:
    """Keep how long each step took that was really done, for the next time."""
    known = usual_seconds(name) | {step: value for step, value in seconds.items() if value >= 0.5}
    files.write_text(cache.folder("bitstream") / f"{name}-{_TIMES}", json.dumps(known) + "\n")


def usual_seconds(name: str) -> dict[str, float]:
    """How long the steps for a circuit took the last time that they were done here, as far as that is known."""
    path = cache.folder("bitstream") / f"{name}-{_TIMES}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {step: float(found[step]) for step in STEPS if step in found}
    except (OSError, ValueError, TypeError):
        return {}


def forecast(name: str) -> str:
    """How long it will take, in words."""
    known = usual_seconds(name)
    lacking = [step for step in STEPS if step not in known]
    parts = ", ".join(f"{step} {_duration(value)}" for step, value in known.items())
    if not known:
        return "it has not been done on this computer yet: allow an hour on two cores"
    if lacking:
        return f"the last time: {parts}; not known yet: {', '.join(lacking)}"
    return f"about {_duration(sum(known.values()))}, as the last time: {parts}; less for what has not changed since"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


# -- The reports ------------------------------------------------------------------------------------------------------


def _facts(
    circuit: Circuit,
    placement: Placement,
    found: Sequence[Clock],
    paths: Sequence[SlowPath],
    rows: Sequence[Unit],
) -> dict[str, Any]:
    return {
        "board": circuit.name,
        "part": asdict(circuit.part),
        "bitstream": None,
        "tools": dict(placement.tools),
        "clocks": [asdict(clock) | {"closed": clock.closed} for clock in found],
        "estimated_mhz": placement.estimates,
        "paths": [asdict(path) | {"clocks": list(path.clocks), "ns": round(path.ns, 3)} for path in paths],
        "overused_wires": placement.overused,
        "utilisation": {name: used for name, used in placement.report["utilization"].items() if used["used"]},
        "units": [{"unit": row.name, "places": row.places, **row.cells} for row in rows],
    }


def _page(facts: Mapping[str, Any], found: Sequence[Clock], paths: Sequence[SlowPath], rows: Sequence[Unit]) -> str:
    part = facts["part"]
    tools = ", ".join(facts["tools"].values())
    lines = [
        f"# {facts['board']}",
        "",
        f"{part['device']}, package {part['package']}, speed grade {part['speed']}; seed {facts['seed']}; {tools}.",
        "There is a bitstream." if facts["bitstream"] else "**There is no bitstream: a clock is too slow.**",
        "",
        "## Timing",
        "",
        "| clock | MHz | must be | estimate before routing | |",
        "|---|--:|--:|--:|---|",
    ]
    for clock in found:
        estimate = facts["estimated_mhz"].get(clock.name)
        before = "" if estimate is None else f"{estimate:.1f}"
        verdict = "closed" if clock.closed else "**too slow**"
        lines.append(f"| `{clock.name}` | {clock.mhz:.1f} | {clock.needed_mhz:.1f} | {before} | {verdict} |")
    lines += ["", "The slowest paths:", "", *(f"- {path}" for path in paths)]
    lines += ["", "## Utilisation", "", "| after placing | used | of | |", "|---|--:|--:|--:|"]
    for name, used in facts["utilisation"].items():
        share = used["used"] / used["available"] if used["available"] else 0
        lines.append(f"| {name} | {used['used']:,} | {used['available']:,} | {share:.0%} |")
    lines += ["", "By unit, after synthesis. Places: of a LUT4 one, of a carry cell two, of a LUT memory six.", ""]
    lines += [utilisation.table(rows), f"![Utilisation by unit]({PICTURE})", ""]
    return "\n".join(lines)
