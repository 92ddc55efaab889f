"""What software reads of the registers: docs/registers.md, the C header and the Python constants, from
`spec/register_map.py`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from spatten.spec.config import HEAD_DIMS, Config
from spatten.spec.job import Flag, KeyFetch, Mode, job_fields
from spatten.spec.register_map import (
    ADDRESS_BITS,
    GROUPS,
    Access,
    ErrorCode,
    Explained,
    Register,
    RegisterMap,
    RejectReason,
    member_docs,
)
from spatten.spec.row_format import CODE_BITS
from spatten.spec.version import DESCRIPTOR_VERSION, MAP_VERSION

__all__ = ["c_header", "markdown", "python_constants"]


@dataclass(frozen=True, kw_only=True)
class _Codes:
    """What the numbers in a field mean."""

    title: str
    where: str
    """The fields that have these numbers."""
    prefix: str
    """Prefix of the names of the constants."""
    entries: tuple[tuple[int, str, str], ...]
    """Number, name and meaning."""
    intro: str = ""
    are_bits: bool = False
    """The numbers are those of bits, and a constant has its bit set."""


def _codes(config: Config) -> Iterator[_Codes]:
    """The codes of the descriptor, then those of ERROR and REJECT; only sizes that the configuration has."""
    words = {field.name: f"JOB{field.word}.{field.name}" for field in job_fields(config)}

    def documented(members: type[IntEnum]) -> tuple[tuple[int, str, str], ...]:
        docs = member_docs(members)
        return tuple((member.value, member.name, docs[member.name]) for member in members)

    def explained(members: type[Explained]) -> tuple[tuple[int, str, str], ...]:
        return tuple((member.value, member.name, member.what) for member in members)

    yield _Codes(title="Modes", where=words["mode"], prefix="MODE_IS", entries=documented(Mode))
    yield _Codes(
        title="Planes of K that are read", where=words["fetch"], prefix="FETCH_IS", entries=documented(KeyFetch)
    )
    yield _Codes(
        title="Flags",
        where=f"bit of {words['flags']}",
        prefix="FLAG",
        entries=documented(Flag),
        intro="A constant has its bit set: flags is the sum of those that hold.",
        are_bits=True,
    )
    yield _Codes(
        title="Head dimensions",
        where=words["head_dim"],
        prefix="HEAD_DIM_IS",
        entries=tuple((HEAD_DIMS.index(dim), str(dim), f"{dim} elements of each head") for dim in config.head_dims),
    )
    yield _Codes(
        title="Widths of codes",
        where=", ".join(words[name] for name in ("query_bits", "key_bits", "value_bits")),
        prefix="WIDTH_IS",
        entries=tuple(
            (CODE_BITS.index(bits), str(bits), f"{bits} bits" + ("" if bits in config.plane_bits else "; only Q"))
            for bits in config.query_bits
        ),
    )
    yield _Codes(title="Errors", where="ERROR.code", prefix="ERROR_IS", entries=explained(ErrorCode))
    yield _Codes(
        title="Reasons to refuse a job",
        where="REJECT.reason",
        prefix="REJECT_IS",
        entries=explained(RejectReason),
        intro="Of several reasons the one with the lowest number is given, and of its words the lowest.",
    )


def markdown(config: Config) -> str:
    """docs/registers.md."""
    registers = RegisterMap(config)
    lines = [
        "# Registers",
        "",
        f"Of the configuration `{config.name}`; written by `spatten registers --config {config.name}` from "
        "`spec/register_map.py`, where they are declared; the fields of a job are those of `spec/job.py`.",
        "",
        f"An AXI4-Lite slave of 32 data bits and {ADDRESS_BITS} address bits; the lowest two are ignored. "
        "RO: read only. WO: write only, reads as zero. W1C: cleared by writing a one. Bits of no field read as zero. "
        "Bytes without their write strobe keep their value; in WO and W1C registers they count as zero, and a write "
        "without any strobe does nothing. A write to an RO register and any access to an offset that is not listed "
        f"are answered with SLVERR. Map version {MAP_VERSION}, descriptor version {DESCRIPTOR_VERSION}.",
        "",
        "`spatten verilog` writes all of this as constants, too: into `spatten.h`, where each name begins with "
        "`SPATTEN_`, and into `spatten.py`. A register's constant is its offset; "
        "a field of fewer than 32 bits has `_SHIFT` and `_MASK`.",
    ]
    for group, what in GROUPS.items():
        lines += ["", f"## {group}", "", what, ""]
        lines += ["| offset | register | access | reset | bits | field | |", "|---|---|---|---|---|---|---|"]
        for run, last in _runs([register for register in registers.values() if register.group == group]):
            if not run.fields:
                names = run.name if last is run else f"{run.name} to {last.name}"
                what = "reserved, must be zero" if run.access is Access.RW else "reserved"
                lines.append(f"| `{run.offset:#05x}` | {names} | {run.access.value} | 0 | | | {what} |")
            for field in run.fields:
                start = f"`{run.offset:#05x}` | {run.name} | {run.access.value} | {_hex(run.reset)}"
                lines.append(
                    f"| {start if field is run.fields[0] else '| | |'} | {field.bits} | {field.name} | {field.what} |"
                )
    for codes in _codes(config):
        lines += ["", f"## {codes.title}", ""]
        if codes.intro:
            lines += [codes.intro, ""]
        lines += [f"| {codes.where} | | |", "|---|---|---|"]
        lines += [f"| {number} | {codes.prefix}_{name} | {what} |" for number, name, what in codes.entries]
    return "\n".join(lines) + "\n"


def _runs(registers: list[Register]) -> Iterator[tuple[Register, Register]]:
    """(first, last) of every run of registers without fields; any other register is a run of its own."""
    for has_fields, run in itertools.groupby(registers, key=lambda register: bool(register.fields)):
        together = list(run)
        if has_fields:
            yield from ((register, register) for register in together)
        else:
            yield together[0], together[-1]


def _hex(value: int) -> str:
    return f"`{value:#x}`" if value else "0"


def _constants(config: Config) -> Iterator[tuple[str, int, str]]:
    """(name, value, what) of everything that software needs to know."""
    yield "MAP_VERSION", MAP_VERSION, "of VERSION.registers"
    yield "DESCRIPTOR_VERSION", DESCRIPTOR_VERSION, "what DOORBELL is to be rung with"
    for register in RegisterMap(config).values():
        yield register.name, register.offset, f"{register.access.value}, offset in bytes"
        if register.reset:
            yield f"{register.name}_RESET", register.reset, "value after reset"
        for field in register.fields:
            if field.width < 32:
                yield f"{register.name}_{field.name.upper()}_SHIFT", field.bit, field.what
                yield f"{register.name}_{field.name.upper()}_MASK", field.mask, "in place"
    for codes in _codes(config):
        for number, name, what in codes.entries:
            yield f"{codes.prefix}_{name}", 1 << number if codes.are_bits else number, what


def c_header(config: Config, *, module: str = "spatten") -> str:
    """The C header of the accelerator whose module is `module`: each constant's name begins with the module's."""
    prefix = module.upper()
    lines = [
        f"/* Registers of SpAtten, configuration {config.name}; written by `spatten verilog`. */",
        f"#ifndef {prefix}_H",
        f"#define {prefix}_H",
        "",
        *(f"#define {prefix}_{name} {value:#x}u /* {what} */" for name, value, what in _constants(config)),
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def python_constants(config: Config) -> str:
    """spatten.py: the constants of spatten.h, for software that does not import this package."""
    lines = [
        f'"""Registers of SpAtten, configuration {config.name}; written by `spatten verilog`."""',
        "",
        *(f"{name} = {value:#x}  # {what}" for name, value, what in _constants(config)),
    ]
    return "\n".join(lines) + "\n"
