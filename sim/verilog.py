"""Verilog text of a circuit: deterministic, every shared part once; and for X checks without the initial values that
hide a missing reset."""

from __future__ import annotations

import re
from typing import Any

from amaranth.back import rtlil, verilog
from amaranth.hdl import ClockDomain, Fragment, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from hw.shared import Platform, Shared
from sim import cache


class _Modules:
    """Gives the circuits of shared components their names, and remembers which have yet to be emitted."""

    def __init__(self, top: str, component: wiring.Component) -> None:
        self._top = top
        self.emitting = component
        self._names: dict[tuple[str, str], str] = {}
        self._taken = {top}
        self.pending: list[tuple[str, Shared]] = []

    def name_of(self, component: Shared) -> str | None:
        if component is self.emitting:
            return None
        if component.identity not in self._names:
            name = base = f"{self._top}_{component.module_name}"
            number = 1
            while name in self._taken:
                number += 1
                name = f"{base}_{number}"
            self._taken.add(name)
            self._names[component.identity] = name
            self.pending.append((name, component))
        return self._names[component.identity]


def _convert_shared(component: Shared, platform: Platform, name: str) -> str:
    """RTLIL of a shared component, which has a clock and a reset whether or not it uses them."""
    clocks = ClockDomain("sync")
    fragment = Fragment.get(component, platform)
    fragment.add_domains(clocks)
    ports: dict[str, Any] = {"clk": (clocks.clk, PortDirection.Input), "rst": (clocks.rst, PortDirection.Input)}
    for path, member, value in component.signature.flatten(component):
        direction = PortDirection.Input if member.flow == wiring.In else PortDirection.Output
        ports["__".join(map(str, path))] = (Value.cast(value), direction)
    text, _ = rtlil.convert_fragment(fragment, ports, name, emit_src=False)
    return str(text)


def convert(component: wiring.Component, *, name: str = "top", assertions: bool = False) -> str:
    """Verilog of `component` as module `name`; the same bytes for the same circuit, on every machine.

    `assertions` about a circuit's neighbours are for simulation. A `hw.shared.Shared` component is a module called
    after `name` and its class, with an instance for each use.

    Ports are flat: member `payload` of stream `i` is `i__payload`. No source locations, which would be absolute paths.
    """
    if not isinstance(component, wiring.Component):
        raise TypeError(f"component must be a wiring.Component, not {component!r}")
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) is None:
        raise ValueError(f"name must be a Verilog identifier, not {name!r}")
    modules = _Modules(name, component)
    platform = Platform(assertions=assertions, modules=modules)
    texts = [rtlil.convert(component, platform=platform, name=name, emit_src=False)]
    while modules.pending:
        shared_name, shared = modules.pending.pop(0)
        modules.emitting = shared
        texts.append(_convert_shared(shared, platform, shared_name))
    cache.lend()
    # What `verilog.convert` calls with the text of one module.
    text = str(verilog._convert_rtlil_text("".join(texts), strip_internal_attrs=True))
    if never := _NEVER.search(text):
        raise ValueError(
            f"{never[1].strip()} never happens in simulation: where some bits of a signal are assigned under a "
            "condition and others are constant, use Mux for the former"
        )
    return text


_NEVER = re.compile(
    r"^ *always @\*\n( *\S+ *(?:\[[\d:]+\])? = (?:\d+'[hb][\da-fx]+|\{[^a-z;]*(?:\d+'[hb][\da-fx]+[^a-z;]*)+\});)$",
    re.MULTILINE,
)
"""A constant assigned in a block that waits for a change of what it reads: of nothing."""


_IDENTIFIER = r"(?:\\\S+ |[A-Za-z_][\w$]*)"
_REGISTER = re.compile(rf"^(\s*(?:output )?reg (?:signed )?(?:\[[-\d]+:[-\d]+\] )?({_IDENTIFIER}))\s*=\s*[^;,]*;$")
_MEMORY = re.compile(rf"^\s*reg (?:signed )?(?:\[[-\d]+:[-\d]+\] )?({_IDENTIFIER})\s*\[\d+:\d+\];$")
_WORD = re.compile(rf"^\s*({_IDENTIFIER})\s*\[\d+\](?:\[[:\d]+\])? = [^;]*;$")
_WRITE = re.compile(rf"^\s*({_IDENTIFIER})\s*\[[^=]*\] <= ")
# Not a register of the circuit: the backend puts this into every `always @*` so that its first change, at time 0,
# evaluates the block once even if its inputs are constant.
_SCHEDULING = re.compile(r"^\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ $")


def schedule_at_time_0(text: str) -> str:
    """The same circuit for a simulator that initialises variables before it starts `always` blocks.

    The backend relies on Verilog-2005, where a declaration's value is an event at time 0 that evaluates every
    `always @*` once. In SystemVerilog mode, which cocotb asks Icarus for, it is none, and a block whose inputs never
    change would leave its outputs X.
    """

    def scheduled(line: str) -> str:
        register = _REGISTER.match(line)
        if register is None or _SCHEDULING.match(register[2]) is None:
            return line
        return f"{register[1]};\n  initial #0 {register[2]}= 1'h0;"

    return "\n".join(scheduled(line) for line in text.split("\n"))


_ASSERTION = re.compile(
    rf"^(?P<indent> *)(?:if \(!(?P<guard>{_IDENTIFIER}|1'h[01])\)\n *\$write\((?P<message>\".*)\);\n *)?"
    rf"assert \((?P<condition>{_IDENTIFIER}|1'h[01])\);$",
    re.MULTILINE,
)


def stop_at_assertions(text: str) -> str:
    """The same circuit, in which an assertion that fails ends the simulation with an error: its module and message.

    The backend writes `assert`, which Verilator stops at but Icarus only mentions. A condition that is X passes, as
    before the reset it may be. `ValueError` for an assertion in a form it does not know.
    """

    def fatal(match: re.Match[str]) -> str:
        message = (match["message"] or '"unnamed"').removeprefix('"').replace('\\n"', '"', 1)
        return f'{match["indent"]}if (!{match["condition"]}) $fatal(1, "assertion failed: %m: {message});'

    result = _ASSERTION.sub(fatal, text)
    if left := re.search(r"^ *assert\b.*", result, re.MULTILINE):
        raise ValueError(f"cannot rewrite the assertion {left[0].strip()!r}")
    return result


def strip_initial_values(text: str) -> str:
    """The same circuit in which every register and every word of a writable memory starts as X in a 4-state simulator.

    A memory without a write port is a ROM and keeps its contents. Understands what Amaranth's Verilog backend writes
    and nothing else: `ValueError` for an initial value in a form it does not know, so that none survives unnoticed.

    What a run of the result can show: a register that reaches an output without having been reset or written first.
    It cannot show every X in control, since a Verilog `if` takes X for false.
    """
    lines = text.split("\n")
    written = _written_memories(lines)
    result: list[str] = []
    module = ""
    line_numbers = iter(range(len(lines)))
    for number in line_numbers:
        line = lines[number]
        if line.startswith("module "):
            module = line
        if register := _REGISTER.match(line):
            result.append(line if _SCHEDULING.match(register[2]) else register[1] + ";")
        elif re.match(r"^\s*initial\b", line):
            block = [line]
            if line.strip() == "initial begin":
                while block[-1].strip() != "end":
                    block.append(lines[next(line_numbers)])
            words = [_WORD.match(inner) for inner in block[1:-1]]
            if not words or not all(words):
                raise ValueError(f"cannot strip the initial values of line {number + 1}: {line.strip()!r}")
            names = {word[1] for word in words if word is not None}
            if not any((module, name) in written for name in names):
                result.extend(block)
            elif not all((module, name) in written for name in names):
                raise ValueError(f"line {number + 1} initialises a ROM and a writable memory in one block")
        elif re.match(r"^\s*(?:output )?reg\b", line) and "=" in line:
            raise ValueError(f"cannot strip the initial value of line {number + 1}: {line.strip()!r}")
        else:
            result.append(line)
    return "\n".join(result)


def _written_memories(lines: list[str]) -> set[tuple[str, str]]:
    """(module line, name) of every memory that has a write port."""
    memories: set[tuple[str, str]] = set()
    written: set[tuple[str, str]] = set()
    module = ""
    for line in lines:
        if line.startswith("module "):
            module = line
        elif memory := _MEMORY.match(line):
            memories.add((module, memory[1]))
        elif (write := _WRITE.match(line)) and (module, write[1]) in memories:
            written.add((module, write[1]))
    return written
