"""What simulations change of the generated Verilog: assertions that stop them, and X in place of initial values.

Nothing else differs between the Verilog that is simulated and the Verilog that is delivered.
"""

from __future__ import annotations

import re

__all__ = ["stop_at_assertions", "strip_initial_values"]

_IDENTIFIER = r"(?:\\\S+ |[A-Za-z_][\w$]*)"
_REGISTER = re.compile(rf"^(\s*(?:output )?reg (?:signed )?(?:\[[-\d]+:[-\d]+\] )?({_IDENTIFIER}))\s*=\s*[^;,]*;$")
_MEMORY = re.compile(rf"^\s*reg (?:signed )?(?:\[[-\d]+:[-\d]+\] )?({_IDENTIFIER})\s*\[\d+:\d+\];$")
_WORD = re.compile(rf"^\s*({_IDENTIFIER})\s*\[\d+\](?:\[[:\d]+\])? = [^;]*;$")
_WRITE = re.compile(rf"^\s*({_IDENTIFIER})\s*\[[^=]*\] <= ")

_RESET = re.compile(r"^ *input (\w*rst) ?;$", re.MULTILINE)
_ASSERTION = re.compile(
    rf"^(?P<indent> *)(?:if \(!(?P<guard>{_IDENTIFIER}|1'h[01])\)\n *\$write\((?P<message>\".*)\);\n *)?"
    rf"assert \((?P<condition>{_IDENTIFIER}|1'h[01])\);$",
    re.MULTILINE,
)


def stop_at_assertions(text: str) -> str:
    """The same circuit, in which an assertion that fails ends the simulation with an error: its module and message.

    The backend writes `assert`, which Verilator stops at but Icarus only mentions. While a module is being reset its
    assertions do not count: its registers may have any value before. Nor does a condition that is X. `ValueError` for
    an assertion in a form it does not know.
    """

    def fatal(match: re.Match[str]) -> str:
        message = (match["message"] or '"unnamed"').removeprefix('"').replace('\\n"', '"', 1)
        return f'{match["indent"]}if (!{match["condition"]}{unless}) $fatal(1, "assertion failed: %m: {message});'

    parts = []
    for part in re.split(r"^(?=module )", text, flags=re.MULTILINE):
        reset = _RESET.search(part)
        unless = f" && !{reset[1]}" if reset else ""
        parts.append(_ASSERTION.sub(fatal, part))
    result = "".join(parts)
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
            result.append(register[1] + ";")
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
