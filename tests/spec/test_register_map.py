"""The declaration of the registers and what is generated from it."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from spatten.hw.control.job_layouts import events_layout, report_layout
from spatten.hw.front.axi_lite import AxiLite
from spatten.spec.config import EIGHTH, FEATURES, HEAD_DIMS, NAMED, PAPER, TINY, Config, Feature
from spatten.spec.job import JOB_WORDS, Flag, KeyFetch, Mode, flags_of, ignored_bits, job_fields
from spatten.spec.register_documents import c_header, markdown, python_constants
from spatten.spec.register_map import (
    ADDRESS_BITS,
    CORE_ERROR_BITS,
    Access,
    ErrorCode,
    RegisterMap,
    RejectReason,
    event_names,
)
from spatten.spec.row_format import CODE_BITS
from spatten.spec.version import DESCRIPTOR_VERSION, MAP_VERSION
from tests.checkout import ROOT

LACKING = [
    *(TINY.replace(name=f"no-{one}", features=[other for other in FEATURES if other != one]) for one in FEATURES),
    TINY.replace(name="plain", features=()),
]
CONFIGS = [*NAMED.values(), TINY.replace(name="wide", channels=32, heads_max=16, sector_bits=32), *LACKING]


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "registers.md").read_text(encoding="utf-8")
    assert page == markdown(PAPER), "run: spatten registers --config paper"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_registers_and_fields_do_not_overlap(config: Config) -> None:
    taken: set[int] = set()
    for name, register in RegisterMap(config).items():
        assert name == register.name
        assert register.offset % 4 == 0
        assert 0 <= register.offset < 1 << ADDRESS_BITS
        assert register.offset not in taken
        taken.add(register.offset)
        bits = [bit for field in register.fields for bit in range(field.bit, field.bit + field.width)]
        assert len(bits) == len(set(bits))
        assert all(bit < 32 for bit in bits)
        assert register.mask == sum(1 << bit for bit in bits)
        assert all(field.what for field in register.fields)
        assert register.access in (Access.RO, Access.RW) or register.reset == 0


def test_offsets_are_those_of_version_1() -> None:
    """Software relies on them: whoever moves one raises the version, and changes this test."""
    registers = RegisterMap(PAPER)
    assert (MAP_VERSION, DESCRIPTOR_VERSION) == (1, 1)
    fixed = {
        "ID": 0x000,
        "VERSION": 0x004,
        "CONTROL": 0x008,
        "STATUS": 0x00C,
        "INTERRUPT_ENABLE": 0x010,
        "INTERRUPT_STATUS": 0x014,
        "TIMEOUT": 0x018,
        "ERROR": 0x01C,
        "REJECT": 0x020,
        "CHANNELS_STUCK": 0x024,
        "REPORT0": 0x040,
        "REPORT_POP": 0x07C,
        "QK_MULTIPLIERS": 0x080,
        "SECTOR_BITS": 0x0C4,
        "FEATURES": 0x0FC,
        "CYCLES_LOW": 0x100,
        "OUTPUT_SATURATED_HIGH": 0x17C,
        "BASE0": 0x200,
        "BASE15": 0x23C,
        "JOB0": 0x400,
        "JOB63": 0x4FC,
        "DOORBELL": 0x500,
    }
    assert {name: registers[name].offset for name in fixed} == fixed
    assert registers["ID"].reset.to_bytes(4, "big") == b"SPAT"
    assert registers["VERSION"].reset == DESCRIPTOR_VERSION << 16 | MAP_VERSION


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_everything_there_is_has_its_register(config: Config) -> None:
    registers = RegisterMap(config)
    reports = {field.name: field.width for register in registers.reports for field in register.fields}
    assert reports == {str(name): member.width for name, member in report_layout(config)}
    assert event_names(config) == ("cycles", *(str(name) for name, _ in events_layout(config)))
    for name in event_names(config):
        low, high = registers.counter(name)
        assert high.offset == low.offset + 4
    sizes = {name: register.reset for name, register in registers.items() if register.group == "Configuration"}
    assert len(sizes) == len(dataclasses.fields(config)) - len(("name", "plane_widths", "head_dim_min", "blocks"))
    assert registers.configuration(sizes) == config.replace(name="device")
    for word in range(JOB_WORDS):
        fields = {(f.name, f.bit, f.width) for f in registers[f"JOB{word}"].fields}
        assert fields == {(f.name, f.bit, f.width) for f in job_fields(config) if f.word == word}
    assert registers["CHANNELS_STUCK"].mask == (1 << config.channels) - 1
    lacks = {f"lacks_{feature.value}": int(feature not in config.features) for feature in FEATURES}
    assert registers["FEATURES"].unpack(registers["FEATURES"].reset) == lacks


@pytest.mark.parametrize("config", LACKING, ids=lambda config: config.name)
def test_what_a_machine_lacks_moves_nothing(config: Config) -> None:
    """A machine without some features has registers and fields where the complete one has them, or not at all."""
    complete, registers = RegisterMap(TINY), RegisterMap(config)
    assert registers.keys() <= complete.keys()
    for name, register in registers.items():
        assert register.offset == complete[name].offset
        places = {field.name: (field.bit, field.width) for field in complete[name].fields}
        assert {field.name: (field.bit, field.width) for field in register.fields}.items() <= places.items()
    gone = {field.name for field in job_fields(TINY)} - {field.name for field in job_fields(config)}
    counters = {name for name in event_names(TINY) if f"{name.upper()}_LOW" not in registers}
    reports = {field.name for word in complete.reports for field in word.fields}
    reports -= {field.name for word in registers.reports for field in word.fields}
    known = {
        Feature.PROGRESSIVE: ({"flat_limit"}, {"recomputed"}, {"recomputed"}, set()),
        Feature.PRUNE_VALUES: ({"keep_values"}, {"stalled_topk"}, set(), {Flag.PRUNE_VALUES}),
        Feature.PRUNE_HEADS: ({"keep_heads", "multiplier"}, set(), {"heads_saturated"}, {Flag.PRUNE_HEADS}),
        Feature.SAVED_STATES: ({"state"}, set(), set(), {Flag.LOAD_STATE, Flag.STORE_STATE}),
    }
    lacks = [known[feature] for feature in FEATURES if not config.has(feature)]
    assert (gone, counters, reports, set(Flag) - set(flags_of(config))) == tuple(
        set().union(*(one[kind] for one in lacks)) for kind in range(4)
    )


def test_what_belongs_to_a_feature_is_ignored_without_it() -> None:
    assert ignored_bits(TINY) == {}
    assert ignored_bits(TINY.replace(features=())) == {
        7: 0x001F_0000,  # keep_values
        8: 0xFFFF_FFFF,  # keep_heads, multiplier
        9: 0xFFFF_FFFF,  # flat_limit
        17: 0xFFFF_FFFF,  # state
    }


def test_codes_fit_their_fields_and_have_a_text() -> None:
    registers = RegisterMap(TINY)
    for codes, field in (
        (ErrorCode, registers["ERROR"].field("code")),
        (RejectReason, registers["REJECT"].field("reason")),
    ):
        assert all(0 <= code < 1 << field.width for code in codes)
        assert len({code.what for code in codes}) == len(codes)
        assert codes(0).name == "NONE"
    assert ErrorCode.NOTHING_LIVE == 1
    assert ErrorCode.TIMEOUT == 1 << CORE_ERROR_BITS, "below it are the machine's own"
    assert RejectReason(20).what == "valid_length is not 1 to keys"


def test_fields_are_packed_and_unpacked() -> None:
    error = RegisterMap(TINY)["ERROR"]
    word = error.pack(code=17, channel=1, is_write=1, valid=1)
    assert word == 0x80010111
    assert error.unpack(word) == {"code": 17, "channel": 1, "is_write": 1, "valid": 1}
    with pytest.raises(ValueError, match=re.escape("ERROR.code must be 0 to 255, not 256")):
        error.pack(code=256)
    with pytest.raises(LookupError, match="ERROR has no field 'colour'; it has code, channel, is_write, valid"):
        error.pack(colour=1)
    with pytest.raises(KeyError):
        RegisterMap(TINY)["ERRORS"]


def _python(config: Config, folder: Path) -> dict[str, int]:
    path = folder / "spatten.py"
    path.write_text(python_constants(config), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("spatten_constants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if isinstance(value, int)}


@pytest.mark.parametrize("config", [EIGHTH, TINY], ids=lambda config: config.name)
@pytest.mark.needs("g++")
def test_the_header_compiles_and_says_the_same(config: Config, tmp_path: Path) -> None:
    constants = _python(config, tmp_path)
    registers = RegisterMap(config)
    for name, register in registers.items():
        assert constants[name] == register.offset
        assert constants.get(f"{name}_RESET", 0) == register.reset
        for field in register.fields:
            if field.width < 32:
                assert constants[f"{name}_{field.name.upper()}_SHIFT"] == field.bit
                assert constants[f"{name}_{field.name.upper()}_MASK"] == field.mask
    others = {name: value for name, value in constants.items() if not name.startswith("ERROR_IS_WRITE_")}
    codes = {
        prefix: {name.removeprefix(prefix): value for name, value in others.items() if name.startswith(prefix)}
        for prefix in ("ERROR_IS_", "REJECT_IS_", "MODE_IS_", "FETCH_IS_", "FLAG_", "HEAD_DIM_IS_", "WIDTH_IS_")
    }
    assert codes == {
        "ERROR_IS_": {code.name: code for code in ErrorCode},
        "REJECT_IS_": {reason.name: reason for reason in RejectReason},
        "MODE_IS_": {mode.name: mode for mode in Mode},
        "FETCH_IS_": {fetch.name: fetch for fetch in KeyFetch},
        "FLAG_": {flag.name: 1 << flag for flag in Flag},
        "HEAD_DIM_IS_": {str(dim): HEAD_DIMS.index(dim) for dim in config.head_dims},
        "WIDTH_IS_": {str(bits): CODE_BITS.index(bits) for bits in config.query_bits},
    }
    header = c_header(config)
    assert len(re.findall(r"^#define SPATTEN_(?!H$)", header, re.MULTILINE)) == len(constants)
    (tmp_path / "spatten.h").write_text(header, encoding="utf-8")
    checks = [
        f"typedef char c{n}[SPATTEN_{name} == {value}u ? 1 : -1];" for n, (name, value) in enumerate(constants.items())
    ]
    source = tmp_path / "check.c"
    source.write_text('#include "spatten.h"\n#include "spatten.h"\n' + "\n".join(checks) + "\n", encoding="utf-8")
    command = ["g++", "-x", "c", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only", str(source)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_the_page_and_the_header_say_what_each_code_means() -> None:
    """In the words of the declaration; and every constant that a text points to is there."""
    wide = TINY.replace(operand_bits=16)
    page, header = markdown(wide), c_header(wide)
    for number, name, value, what in (
        (1, "MODE_IS_CAUSAL", 1, "Every live token attends to the live tokens up to itself"),
        (2, "FETCH_IS_PROGRESSIVE", 2, "The MSB plane, and the LSB plane where a row is flat. Generation only"),
        (7, "FLAG_PINNED", 0x80, "Read the bitmap of the tokens that are never pruned; else none is"),
        (1, "HEAD_DIM_IS_32", 1, "32 elements of each head"),
        (5, "WIDTH_IS_16", 5, "16 bits; only Q"),
        (4, "REJECT_IS_QUEUE_FULL", 4, "the job queue is full"),
    ):
        assert f"| {number} | {name} | {what} |\n" in page
        assert f"#define SPATTEN_{name} {value:#x}u /* {what} */\n" in header
    assert "WIDTH_IS_16" not in markdown(TINY)
    for text in (page, header):
        assert "see below" not in text
        pointers = set(re.findall(r"([A-Z_]+_)\.\.\.", text))
        assert pointers == {
            "ERROR_IS_", "FETCH_IS_", "FLAG_", "HEAD_DIM_IS_", "MODE_IS_", "REJECT_IS_", "WIDTH_IS_",
        }  # fmt: skip
        for pointer in pointers:
            assert re.search(rf"(SPATTEN_|\| ){pointer}[A-Z0-9]", text)


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (None, TypeError, "config must be a Config, not None"),
    ],
)
def test_configurations_are_validated(config: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        RegisterMap(config)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"address_bits": "12"}, TypeError, "address_bits must be an integer, not '12'"),
        ({"address_bits": 12, "data_bits": True}, TypeError, "data_bits must be an integer, not True"),
        ({"address_bits": 1}, ValueError, "address_bits must be at least 2, not 1"),
        ({"address_bits": 12, "data_bits": 16}, ValueError, "data_bits must be 32 or 64, not 16"),
    ],
)
def test_parameters_of_the_bus_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        AxiLite(**arguments)
    assert str(caught.value) == text


def test_buses_of_a_size_are_alike() -> None:
    assert AxiLite(address_bits=12) == AxiLite(address_bits=12, data_bits=32)
    assert AxiLite(address_bits=12) != AxiLite(address_bits=13)
    assert AxiLite(address_bits=12).members["wstrb"].shape == 4
