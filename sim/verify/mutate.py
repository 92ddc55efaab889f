"""Do the testbenches notice faults? `spatten mutate` plants some in every unit's netlist, and runs its testbench.

A unit takes part when its `sim/verify/runs/<unit>.py` defines `mutation_run()`, which returns the arguments of
`sim.verify.cosim.cosimulate` for one small, thorough run; `<other>_mutation_run()` there is the run of a unit called
`other`. With `part` among the arguments only the submodule of that name is changed.

Yosys's `mutate` changes one bit of the netlist at a time (stuck, inverted, or inverted by another bit), evenly spread
over it, and the run in Icarus must fail: the mutant is *killed*.

A mutant that survives is compared with the unit by sequential equivalence: with inputs that keep to the stream rules,
no output differs in any cycle, payloads only looked at while valid. If ABC proves that, it is *equivalent*: no test
could kill it, and it does not count; if fewer than 20 are left, more are planted. Any other survivor must be explained
in `sim/verify/survivors.toml`:

    [[packer]]
    mutant = "const1 top/$12.B[3]"
    equivalent = true
    why = "the sum never reaches bit 3: at most 4 lanes"

`equivalent = true` claims that no legal use shows the mutant, which is then not counted either.

The run fails if fewer than 20 mutants count, fewer than 95 % of those are killed, a survivor has no explanation, or an
explanation no longer names a survivor. What was found is in `build/mutate.json`, and
after a run without a problem in the tables of `docs/verification.md`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import io
import os
import re
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, ClockSignal, Elaboratable, Instance, Module, ResetSignal, Shape, Signal, Value
from amaranth.lib import stream, wiring

from spatten.sim import cache
from spatten.sim.verify import build
from spatten.sim.verify.build import SimulatorError
from spatten.sim.verify.cosim import CosimulationError, cosimulate
from spatten.sim.verify.formal import FormalError, ProofRun, design_of, free, without_initial_values
from spatten.sim.verify.same_circuit import compare
from spatten.sim.verify.transformations import strip_initial_values
from spatten.sim.verify.yosys import YOSYS
from spatten.spec.errors import SpattenError

REPORT = Path("build/mutate.json")
PAGE = Path("docs/verification.md")
_ROOM = Path(__file__).parent
EXPLANATIONS = _ROOM / "survivors.toml"
SEED = 20261127
"""Of the draw of mutants: chosen after the testbenches had been frozen."""
LATER_SEEDS = {
    **dict.fromkeys(
        [
            "block_plan",
            "crossbar",
            "fetch",
            "group_issuer",
            "head_reader",
            "job_outcomes",
            "job_report",
            "key_walker",
            "progressive",
            "pruned_walker",
            "query_walker",
            "refetch",
            "ring_buffer",
            "state_store",
            "value_walker",
        ],
        20261128,
    ),
    "query_ring": 20261129,
    **dict.fromkeys(["registers", "softmax", "value_reader"], 20261130),
    "planner": 20261203,
}
"""Of units whose testbenches have changed since."""
COUNT = 24
COUNT_MAX = 10_000
LEAST = 20
"""Mutants that must count, of those that are not equivalent."""
SHARE = 0.95
"""Share of the mutants that count that must be killed."""

_PREPARE = ("hierarchy -top top", "proc -norom", "pmuxtree", "opt_expr", "wreduce", "opt_clean")
"""Yosys's steps to cells, which are what `mutate` changes, without bits that nobody reads."""
_OPTION = re.compile(r"-(\w+) (\S+)")


class MutationError(SpattenError, RuntimeError):
    """A tool failed, or the run fails without any fault: nothing is known about the tests."""

    exit_status = 1


class MutationProblemsError(SpattenError):
    """Mutants survived, or too few count: the testbenches of a unit are not good enough."""

    exit_status = 1


class MutationInputError(SpattenError, ValueError):
    """A unit or a number of mutants that cannot be, or an explanation in the wrong form."""


@dataclass(kw_only=True)
class Mutant:
    """One change of a netlist, and what became of it.

    `place` is module/cell.port[bit]; `wire` the named signal there, if it has a name; `source` the line it comes from.
    """

    command: str
    kind: str
    place: str
    wire: str
    source: str
    outcome: str = "pending"
    why: str = ""
    seconds: float = 0

    @property
    def name(self) -> str:
        """What explanations call the mutant."""
        return f"{self.kind} {self.place}"


@dataclass(kw_only=True)
class MutationResult:
    """What became of a unit's mutants."""

    unit: str
    mutants: list[Mutant] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0

    def count(self, outcome: str) -> int:
        return sum(mutant.outcome == outcome for mutant in self.mutants)

    @property
    def counted(self) -> int:
        return len(self.mutants) - self.count("equivalent")

    @property
    def share(self) -> float:
        """Share of the mutants that count that were killed."""
        return self.count("killed") / self.counted if self.counted else 0.0


# -- Mutants ----------------------------------------------------------------------------------------------------------


def units() -> dict[str, tuple[str, str]]:
    """By name, the module and the function of every unit's mutation run."""
    pattern = re.compile(r"^def (?:(\w+)_)?mutation_run\(", re.MULTILINE)
    found = {}
    for file in sorted((_ROOM / "runs").glob("*.py")):
        for match in pattern.finditer(file.read_text(encoding="utf-8")):
            module = f"spatten.sim.verify.runs.{file.stem}"
            found[match[1] or file.stem] = (module, match[0].removeprefix("def ").removesuffix("("))
    return found


class Netlist:
    """A unit's netlist without assertions, and its mutants."""

    def __init__(self, component: wiring.Component, folder: Path, *, initial_values: bool) -> None:
        self.component = component
        self._folder = folder
        text = rtlil.convert(component, name="top")
        # Where the project and its packages are on this machine must not matter.
        text = re.sub(r'(attribute \\src ")[^"]*?/((?:hw|tests|amaranth)/[^"/]*(?:/[^"/]*)*")', r"\1\2", text)
        self._text = {True: text, False: without_initial_values(text)}
        self._initial_values = initial_values

    def _yosys(self, *script: str) -> None:
        (self._folder / "script.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
        cache.lend()
        command = [str(YOSYS), "-q", "-l", "yosys.log", "script.ys"]
        result = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise MutationError(f"Yosys failed:\n{build.tail(self._folder / 'yosys.log')}\n{result.stderr}")

    def _prepared(self, *, initial_values: bool) -> list[str]:
        (self._folder / "unit.il").write_text(self._text[initial_values], encoding="utf-8")
        return ["read_rtlil unit.il", *_PREPARE]

    def mutants(self, count: int, part: str | None = None, *, spare: int = 0, seed: int) -> list[Mutant]:
        """`count` distinct mutants, for a seed always the same, and up to `spare` more.

        If a submodule `part` is named, only that submodule and what is in it is changed.
        """
        # Some mutants are listed twice, with different control bits.
        self._yosys(
            *self._prepared(initial_values=self._initial_values),
            f"mutate -list {2 * count} -seed {seed} -o mutants.txt" + (f" top.{part} top.{part}.*" if part else ""),
        )
        found: dict[str, Mutant] = {}
        for line in (self._folder / "mutants.txt").read_text(encoding="utf-8").splitlines():
            options: dict[str, str] = {}
            sources = []
            for option, value in _OPTION.findall(line):
                if option == "src":
                    sources.append(value)
                else:
                    options[option] = value
            own = [source for source in sources if not source.startswith("amaranth/")]
            mutant = Mutant(
                command=line.partition(" -wire ")[0].partition(" -src ")[0],
                kind=options["mode"],
                place=f"{options['module']}/{options['cell']}.{options['port']}[{options['portbit']}]",
                wire=f"{options['wire']}[{options['wirebit']}]" if "wire" in options else "",
                source=(own or sources or [""])[-1],
            )
            found.setdefault(mutant.name, mutant)
        return list(found.values())[: count + spare]

    def verilog(self, mutants: Sequence[Mutant | None]) -> list[str]:
        """The Verilog of each mutant; None is the unit itself."""
        script = [*self._prepared(initial_values=self._initial_values), "design -save unit"]
        files = []
        for number, mutant in enumerate(mutants):
            files.append(self._folder / f"mutant{number}.v")
            script += ["design -load unit", *([mutant.command] if mutant else []), "memory_collect"]
            script += ["attrmap -remove src", f"write_verilog -norename {files[-1].name}"]
        self._yosys(*script)
        return [file.read_text(encoding="utf-8") for file in files]

    def is_equivalent(self, mutant: Mutant, *, timeout_seconds: float) -> bool:
        """Whether no legal use can tell the mutant from the unit: False also if that is not proved in time."""
        # Such as a change of what nobody reads.
        if compare(*self.verilog([None, mutant]), top="top").is_same:
            return True
        # Unit and mutant start from the initial values, so that what is never reset is the same in both.
        prepared = self._prepared(initial_values=True)
        for name, change in (("unit", ""), ("mutant", mutant.command)):
            try:
                self._yosys(
                    *prepared,
                    change,
                    "flatten",
                    "opt_expr",
                    "opt_clean -purge",
                    f"rename top {name}",
                    f"write_rtlil {name}_flat.il",
                )
            except MutationError:
                if not change:
                    raise
                return False  # such as a register stuck at another value than it starts with: Yosys takes neither
        flat = {name: (self._folder / f"{name}_flat.il").read_text(encoding="utf-8") for name in ("unit", "mutant")}
        text, messages, _ = design_of(_Equivalence(self.component, self._text[True]), initial_values=True)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        (folder / "design.il").write_text("\n".join([text, *flat.values()]), encoding="utf-8")
        end = time.monotonic() + timeout_seconds
        # A word beyond a memory's end is the same in both, not another one whenever it is read.
        prepare = "prep -flatten -top top\nmemory_map\nopt_clean\nsetundef -undriven -init -zero"
        run = ProofRun(name="equivalence", folder=folder, messages=messages, end=end, prepare=prepare)
        # Most of the two circuits corresponds bit by bit; scorr finds that, and pdr does the rest.
        with contextlib.suppress(FormalError):
            return run.sby({"assert": ("prove", "abc scorr; pdr", 1)})["assert"] == "PASS"
        return False


class _Equivalence(Elaboratable):
    """Two modules side by side, `unit` and `mutant`, with the same legal inputs; their outputs must agree."""

    def __init__(self, component: wiring.Component, text: str) -> None:
        self._component = component
        top = re.search(r"^module \\top$.*?^end$", text, re.MULTILINE | re.DOTALL)
        assert top is not None
        self._clock = [name for name in ("clk", "rst") if re.search(rf"^ *wire .*input \d+ +\\{name}$", top[0], re.M)]

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        ports = {}
        for path, member, value in self._component.signature.flatten(self._component):
            ports["__".join(map(str, path))] = (member.flow, Value.cast(value).shape())
        inputs = {
            name: free(m, Shape(shape.width), name=name)
            for name, (flow, shape) in ports.items()
            if flow == wiring.In and shape.width
        }
        outputs: list[dict[str, Signal]] = []
        for kind in ("unit", "mutant"):
            outputs.append(
                {
                    name: Signal(shape.width, name=f"{kind}_{name}")
                    for name, (flow, shape) in ports.items()
                    if flow == wiring.Out and shape.width
                }
            )
            clock: dict[str, Value] = {"clk": ClockSignal(), "rst": ResetSignal()}
            m.submodules[f"the_{kind}"] = Instance(
                kind,
                **{f"i_{name}": clock[name] for name in self._clock},
                **{f"i_{name}": value for name, value in inputs.items()},
                **{f"o_{name}": value for name, value in outputs[-1].items()},
            )
        unit, mutant = outputs
        for name in _streams(self._component.signature):
            valid, ready = f"{name}__valid", f"{name}__ready"
            payload = inputs.get(f"{name}__payload")
            if valid in inputs and ready in unit:
                stalled = Signal()
                m.d.sync += stalled.eq(inputs[valid] & ~unit[ready])
                m.d.comb += Assume(~stalled | inputs[valid])
                if payload is not None:
                    before = Signal.like(payload)
                    m.d.sync += before.eq(payload)
                    m.d.comb += Assume(~stalled | (payload == before))
            if f"{name}__payload" in unit and valid in unit:
                pair = unit.pop(f"{name}__payload"), mutant.pop(f"{name}__payload")
                m.d.comb += Assert(~unit[valid] | (pair[0] == pair[1]), f"{name}: same payload")
        for name in unit:
            m.d.comb += Assert(unit[name] == mutant[name], f"same {name}")
        return m


def _streams(signature: wiring.Signature, path: str = "") -> Iterator[str]:
    """What the port names of each stream of an interface begin with."""
    for name, member in signature.members.items():
        if not member.is_signature:
            continue
        for index in _indices(member.dimensions):
            inner = "__".join([*([path] if path else []), name, *map(str, index)])
            if isinstance(member.signature, stream.Signature):
                yield inner
            else:
                yield from _streams(member.signature, inner)


def _indices(dimensions: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not dimensions:
        yield ()
        return
    for first in range(dimensions[0]):
        for rest in _indices(dimensions[1:]):
            yield (first, *rest)


# -- Runs -------------------------------------------------------------------------------------------------------------


def mutate(
    unit: str,
    arguments: dict[str, Any],
    *,
    count: int = COUNT,
    seed: int | None = None,
    sample: Sequence[int] | None = None,
    explanations: dict[str, dict[str, Any]] | None = None,
    proof_seconds: float = 60,
    jobs: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> MutationResult:
    """Run a unit's mutants, or those of `sample` by number, and judge them.

    `arguments` are the unit's `mutation_run()`. Registers start as X unless they say `strip_initial=False`. A `seed`
    draws other mutants than those of the page, and not all that are explained need be among them.
    """
    start = time.monotonic()
    result = MutationResult(unit=unit)
    explanations = explanations or {}
    arguments = {"strip_initial": True, **arguments, "simulator": "icarus"}
    part = arguments.pop("part", None)
    component = arguments["component"]
    with tempfile.TemporaryDirectory(prefix=f"mutate-{unit}-") as name, _apart(Path(name)):
        netlist = Netlist(component, Path(name), initial_values=not arguments["strip_initial"])
        own_seed = LATER_SEEDS.get(unit, SEED)
        mutants = netlist.mutants(count, part, spare=count, seed=own_seed if seed is None else seed)
        batch = mutants[:count] if sample is None else [mutants[number] for number in sample if number < count]
        spares = mutants[count:] if sample is None else []
        unchanged, *changed = netlist.verilog([None, *batch])
        limit = _healthy(unit, arguments, unchanged)

        def judge(mutant: Mutant, verilog: str) -> None:
            began = time.monotonic()
            mutant.outcome, mutant.why = _outcome(arguments, verilog, limit)
            mutant.seconds = round(time.monotonic() - began, 1)
            progress()

        while batch:
            with concurrent.futures.ThreadPoolExecutor(max_workers=jobs) as pool:
                try:
                    for done in [pool.submit(judge, *pair) for pair in zip(batch, changed, strict=True)]:
                        done.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the rest
                    raise
            for mutant in batch:
                explained = explanations.get(mutant.name)
                if mutant.outcome != "survived":
                    continue
                if explained is not None:
                    mutant.outcome = "equivalent" if explained.get("equivalent") else "survived"
                    mutant.why = explained["why"]
                elif netlist.is_equivalent(mutant, timeout_seconds=proof_seconds):
                    mutant.outcome, mutant.why = "equivalent", "proved by sequential equivalence"
                else:
                    at = f"{mutant.source} {mutant.wire}".strip()
                    result.problems.append(f"survived without an explanation: {mutant.name} ({at})")
            result.mutants += batch
            # Others take the places of equivalent mutants, as far as too few count.
            missing = max(0, LEAST - result.counted)
            batch, spares = spares[:missing], spares[missing:]
            changed = netlist.verilog(batch) if batch else []
    result.seconds = round(time.monotonic() - start, 1)
    if sample is None:
        survivors = {mutant.name for mutant in result.mutants if mutant.outcome != "killed"}
        if seed is None:
            result.problems += [f"explained but no survivor: {name}" for name in explanations if name not in survivors]
        if result.counted < LEAST:
            result.problems.append(f"only {result.counted} mutants count, at least {LEAST} must")
        if result.share < SHARE:
            result.problems.append(f"only {result.share:.0%} are killed, at least {SHARE:.0%} must be")
    return result


def _healthy(unit: str, arguments: dict[str, Any], verilog: str) -> float:
    """Seconds that a mutant may take, by what the unit itself takes; `MutationError` if the unit fails."""
    build.build(_stripped(arguments, verilog), simulator="icarus", build_args=arguments.get("build_args", ()))
    began = time.monotonic()
    try:
        cosimulate(**{**arguments, "verilog": verilog})
    except (CosimulationError, SimulatorError) as error:
        raise MutationError(f"{unit}: the run fails without any fault:\n{error}") from error
    return 20 + 5 * (time.monotonic() - began)


def _outcome(arguments: dict[str, Any], verilog: str, limit: float) -> tuple[str, str]:
    # The mutant is compiled first, and alone: one that does not compile is an error of the tool, not a killed one.
    build.build(_stripped(arguments, verilog), simulator="icarus", build_args=arguments.get("build_args", ()))
    try:
        cosimulate(**{**arguments, "verilog": verilog, "timeout_seconds": limit, "stop_at_failure": True})
    except (CosimulationError, SimulatorError) as error:
        return "killed", str(error).partition("\n")[2].partition("\n")[0][:200]
    return "survived", ""


def _stripped(arguments: dict[str, Any], verilog: str) -> str:
    return strip_initial_values(verilog) if arguments["strip_initial"] else verilog


@contextlib.contextmanager
def _apart(folder: Path) -> Iterator[None]:
    """Keep builds and runs in a folder that goes away, and their output off the terminal."""
    kept = os.environ.get(cache.VARIABLE, "")
    os.environ[cache.VARIABLE] = str(folder / "cache")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ[cache.VARIABLE] = kept


def explained() -> dict[str, dict[str, dict[str, Any]]]:
    """`sim/verify/survivors.toml`: by unit and mutant, why it survives."""
    if not EXPLANATIONS.is_file():
        return {}
    listed = tomllib.loads(EXPLANATIONS.read_text(encoding="utf-8"))
    for unit, entries in listed.items():
        for entry in entries:
            if not {"mutant", "why"} <= set(entry) <= {"mutant", "why", "equivalent"}:
                raise MutationInputError(
                    f"{EXPLANATIONS.name}: an entry of {unit} must have mutant, why, maybe equivalent"
                )
    return {unit: {entry["mutant"]: entry for entry in entries} for unit, entries in listed.items()}


def mutation_run(unit: str) -> dict[str, Any]:
    """The arguments of `cosimulate` that a unit's tests give for its mutants."""
    module, function = units()[unit]
    arguments: dict[str, Any] = getattr(importlib.import_module(module), function)()
    return arguments


# -- The page ---------------------------------------------------------------------------------------------------------


def results_table(results: dict[str, MutationResult], known: Iterable[str]) -> str:
    """How many mutants of each unit count, and what became of them; - for a unit that has yet to run."""
    rows = ["| unit | count | killed | survived | equivalent, beside them |", "|---|---|---|---|---|"]
    total = [0, 0, 0, 0]
    for unit in sorted(known):
        cells = ["-"] * len(total)
        if unit in results:
            result = results[unit]
            numbers = [result.counted, *map(result.count, ("killed", "survived", "equivalent"))]
            total = [sum(pair) for pair in zip(total, numbers, strict=True)]
            cells = list(map(str, numbers))
        rows.append(f"| `{unit}` | " + " | ".join(cells) + " |")
    return "\n".join([*rows, "| all | " + " | ".join(map(str, total)) + " |"]) + "\n"


def survivors_table(explanations: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What `sim/verify/survivors.toml` says, a row per mutant."""
    rows = ["| unit | mutant | counts | why it survives |", "|---|---|---|---|"]
    for unit, entries in sorted(explanations.items()):
        for name, entry in entries.items():
            counts = "no" if entry.get("equivalent") else "yes"
            rows.append(f"| `{unit}` | `{name}` | {counts} | {entry['why']} |".replace("\n", " "))
    return "\n".join(rows) + "\n"
