"""The Verilog that the backend writes, in words that every tool takes and a reader follows.

The backend writes a netlist: a decision among many alternatives becomes a function of as many one-hot choices. The
function is called `$procmux$1`, a name that Icarus keeps for system functions; for each choice a wire says whether some
signal has one of some values. `tidy` turns a decision back into the `case` of that signal which it was in the source.
So people can read a state machine, synthesis sees a table as a table, and no tool has to find out which choices exclude
each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["tidy"]

_FUNCTION = re.compile(
    r"^  function \[(?P<high>\d+):0\] (?P<name>\\\$procmux\$\d+ );\n.*?^  endfunction\n", re.MULTILINE | re.DOTALL
)
_CALL = re.compile(r"^  assign (?P<target>[^=]+?) = (?P<name>\\\$procmux\$\d+ )\((?P<arguments>.*)\);$", re.MULTILINE)
_CHOICE = re.compile(r"^  assign (\\\$procmux\$\d+_C(?:MP|TRL)) +(?:\[(\d+)\] )?= (.*);$", re.MULTILINE)
_WIRE = re.compile(r"^  wire (?:\[(\d+):0\] )?(\\\$procmux\$\d+_C(?:MP|TRL)) ;$", re.MULTILINE)
_ANY_OF = re.compile(r"\| (\\\$procmux\$\d+_CMP)")
_EQUAL = re.compile(r"(.+?) +== (\d+)'([hd])([0-9a-f]+)")
_SIGNAL = re.compile(r"[^ ]+(?: \[\d+\])?")
_NONE = re.compile(r"(?:~|!) (.+)")
_CONSTANT = re.compile(r"(\d+)'([hd])([0-9a-f]+)")
_NOTHING = re.compile(r"^  (?:wire|reg) \[-1:0\] [^;=]*;\n", re.MULTILINE)
_NOT = re.compile(r"^(  assign [^=]* = )! ", re.MULTILINE)
_SHIFT = re.compile(r"^  assign [^=]* = .* >>>? .*;$", re.MULTILINE)
_LEFT = re.compile(
    r"^.*(?:always @\*$(?!\n +if \(.*\) begin\n +(?:if \(!.*\)\n +\$write|assert) ?\()|\\\$procmux\$\d+ ?\(|casez).*$",
    re.MULTILINE,
)
"""What must not be left. An `always @*` may be that of an assertion without clock, which no delivered file has."""
_BASES = {"h": 16, "d": 10}
_Choices = dict[str, list[str]]
"""What each bit of a wire of choices is assigned, by the wire's name."""


def tidy(text: str) -> str:
    """The same circuit, written so that

    - a decision among many is a function `choose_1` with the `case` of the signal that it looks at;
    - a signal of no bits, which would have two in Verilog, is not declared: nothing reads it;
    - `! x` of a number is `~| x`: the same for every x, and meant for more than one bit;
    - a shift to the right, whose result may be narrower than what is shifted, since one part of it is chosen, carries a
      waiver of its own, so that lint still remarks every other truncation.

    Raises ValueError for what the backend never wrote before.
    """
    text = "".join(_decisions(module) for module in re.split(r"^(?=module )", text, flags=re.MULTILINE))
    text = _NOTHING.sub("", text)
    text = _NOT.sub(r"\1~| ", text)
    waived = "  // verilator lint_off WIDTHTRUNC\n{}\n  // verilator lint_on WIDTHTRUNC"
    text = _SHIFT.sub(lambda match: waived.format(match[0]), text)
    if left := _LEFT.search(text):
        raise ValueError(f"the Verilog backend writes something new: {left[0].strip()!r}")
    return text


def _decisions(module: str) -> str:
    """A module with a `case` for every decision, and without the wires that nothing reads any more."""
    choices: _Choices = {name: [""] * (int(high or 0) + 1) for high, name in _WIRE.findall(module)}
    for name, bit, text in _CHOICE.findall(module):
        choices[name][int(bit or 0)] = text
    widths = {match["name"]: int(match["high"]) + 1 for match in _FUNCTION.finditer(module)}
    module = _FUNCTION.sub("", module)
    module = _CALL.sub(lambda call: _case(call, widths[call["name"]], choices), module)
    # Choices of several values (CTRL) read those of one value (CMP), so they are removed first.
    for kind in ("CTRL", "CMP"):
        read = re.findall(rf"\\\$procmux\$\d+_{kind}", module)
        unread = {name for name in choices if name.endswith(kind) and read.count(name) == 1 + len(choices[name])}
        lines = module.split("\n")
        module = "\n".join(line for line in lines if _declares(line) not in unread)
    return module


def _declares(line: str) -> str | None:
    """The wire of a choice that a line declares or assigns."""
    if found := _WIRE.match(line):
        return found[2]
    return found[1] if (found := _CHOICE.match(line)) else None


def _case(call: re.Match[str], width: int, choices: _Choices) -> str:
    """A call of the backend's function, and before it the function that takes its place."""
    otherwise, values, chosen = _arguments(call["arguments"])
    names = [name.strip() for name in chosen.strip("{} ").split(",")]
    labels = [_comparisons(name, choices) for name in reversed(names)]  # a choice's value begins at its place x width
    signals = {signal for label in labels for signal, _, _ in label}
    label_widths = {bits for label in labels for _, bits, _ in label if bits}
    if len(signals) != 1 or len(label_widths) > 1:
        raise ValueError(f"the choices of {call[0].strip()!r} do not look at one signal, but at {sorted(signals)}")
    bits = max(label_widths, default=1)
    name = f"choose_{call['name'].strip().rpartition('$')[2]}"
    inputs, given = [f"    input [{bits - 1}:0] choose_by;"], [signals.pop()]
    default = otherwise
    if _CONSTANT.fullmatch(otherwise.replace("x", "0")) is None:
        inputs.append(f"    input [{width - 1}:0] choose_else;")
        given.append(otherwise)
        default = "choose_else"
    if (parts := _parts(values, width)) is None:
        inputs.append(f"    input [{len(labels) * width - 1}:0] choose_from;")
        given.append(values)
        parts = [f"choose_from[{(place + 1) * width - 1}:{place * width}]" for place in range(len(labels))]
    arms: dict[str, list[int]] = {}
    for label, part in zip(labels, parts, strict=True):
        arms.setdefault(part, []).extend(value for _, _, value in label)
    seen = [value for arm in arms.values() for value in arm]
    if len(set(seen)) != len(seen):
        raise ValueError(f"two choices of {call[0].strip()!r} hold at a time")
    lines = [
        f"  function [{width - 1}:0] {name};",
        *inputs,
        "    case (choose_by)",
        *(f"      {_labels(arm, bits)}:\n        {name} = {part};" for part, arm in sorted(arms.items(), key=_least)),
        f"      default:\n        {name} = {default};",
        "    endcase",
        "  endfunction",
        f"  assign {call['target']} = {name}({', '.join(map(_ended, given))});",
    ]
    return "\n".join(lines)


def _least(arm: tuple[str, list[int]]) -> int:
    """Where an arm stands among the others: by its least value."""
    return min(arm[1])


def _labels(values: Sequence[int], bits: int) -> str:
    return ", ".join(_literal(value, bits) for value in sorted(values))


def _ended(argument: str) -> str:
    """The argument, with the space that must end a name which begins with a backslash."""
    return f"{argument} " if argument.rpartition(" ")[2].startswith("\\") else argument


def _arguments(text: str) -> list[str]:
    """The arguments of a call: separated by commas outside braces."""
    arguments, depth = [""], 0
    for mark in text:
        depth += (mark == "{") - (mark == "}")
        if mark == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += mark
    return [argument.strip() for argument in arguments]


def _comparisons(name: str, choices: _Choices) -> list[tuple[str, int, int]]:
    """The comparisons that make a choice true, each a signal, its width (0 if not known) and a value."""
    (text,) = choices[name]
    if any_of := _ANY_OF.fullmatch(text.strip()):
        return [_comparison(one.strip()) for one in choices[any_of[1]]]
    return [_comparison(text.strip())]


def _comparison(text: str) -> tuple[str, int, int]:
    if equal := _EQUAL.fullmatch(text):
        return equal[1].strip(), int(equal[2]), int(equal[4], _BASES[equal[3]])
    if none := _NONE.fullmatch(text):
        return none[1].strip(), 0, 0
    if _SIGNAL.fullmatch(text) is None:
        raise ValueError(f"the Verilog backend writes a new kind of choice: {text!r}")
    return text, 1, 1


def _parts(text: str, width: int) -> Sequence[str] | None:
    """A constant in parts of `width` bits, the lowest first; None if `text` is no constant."""
    constant = _CONSTANT.fullmatch(text)
    if constant is None:
        return None
    value = int(constant[3], _BASES[constant[2]])
    mask = (1 << width) - 1
    return [_literal(value >> place & mask, width) for place in range(0, int(constant[1]), width)]


def _literal(value: int, width: int) -> str:
    return f"{width}'h{value:0{-(-width // 4)}x}"
