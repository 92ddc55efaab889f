"""Every register of the machine, declared once: the circuit, the driver, the C header and docs/registers.md follow it.

    registers = RegisterMap(config)
    status = registers["STATUS"]
    status.unpack(bus.read(status.offset))["idle"]

Offsets are in bytes; registers are 32 bits wide. Whoever changes an offset or a field raises the major number of
spec/version.py, whoever changes the descriptor the minor one.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import operator
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Self

from spatten.spec.config import BLOCKS_MAX, FEATURES, HEAD_DIMS, PLANE_BITS, Config, Feature
from spatten.spec.constants import PAGE_BITS
from spatten.spec.job import JOB_WORDS, event_limits, job_fields, report_widths
from spatten.spec.version import DESCRIPTOR_VERSION, MAP_VERSION

__all__ = [
    "ADDRESS_BITS",
    "CORE_ERROR_BITS",
    "GROUPS",
    "NO_WORD",
    "QUEUED_JOBS",
    "QUEUED_REPORTS",
    "TIMEOUT_RESET",
    "Access",
    "BitField",
    "ErrorCode",
    "Explained",
    "Register",
    "RegisterMap",
    "RejectReason",
    "event_names",
    "member_docs",
]

MAGIC = int.from_bytes(b"SPAT", "big")
ADDRESS_BITS = 12
"""Of the register space: 4 KiB."""
QUEUED_JOBS = 4
QUEUED_REPORTS = 4
TIMEOUT_RESET = 1 << 20
"""Cycles, about a millisecond."""
CORE_ERROR_BITS = 4
"""Of an error code that the machine itself can raise."""
NO_WORD = 255
"""In REJECT: the reason lies in no word of the descriptor."""


class Explained(IntEnum):
    """A number with its meaning."""

    what: str

    def __new__(cls, value: int, what: str = "") -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.what = what
        return member


class ErrorCode(Explained):
    """Why the machine stopped, as ERROR has it. Those below 16 come from the machine itself."""

    NONE = 0, "no error"
    NOTHING_LIVE = 1, "no token, no head or no query row of a job is live: kept set and bitmap share none"
    INTERNAL = 15, "the circuit contradicted itself, or raised an error without a code"
    TIMEOUT = 16, "busy, and nothing moved for TIMEOUT cycles"
    SLAVE_ERROR = 17, "a channel answered with SLVERR"
    DECODE_ERROR = 18, "a channel answered with DECERR: there is no memory at the address"


class RejectReason(Explained):
    """Why a doorbell was refused, as REJECT has it. Of several reasons the lowest number is given, and of that the
    lowest word."""

    NONE = 0, "the last doorbell queued its job"
    VERSION = 1, "the doorbell was not rung with the version of the descriptor"
    DRAINING = 2, "the machine stops: after an error or a soft reset"
    FAILED = 3, "an error has not been cleared"
    QUEUE_FULL = 4, "the job queue is full"
    RESERVED = 5, "a reserved bit of the descriptor is one"
    ADDRESS_RANGE = 6, "an address is not below 2**sector_bits"
    MODE = 7, "unknown mode"
    FETCH = 8, "unknown fetch, or progressive outside generation"
    CONTEXT = 9, "there is no such context"
    LOAD_AND_CLEAR = 10, "load_state together with clear"
    PRUNE_VALUES = 11, "prune_values outside generation"
    HEAD_DIM = 12, "the machine has no such head dimension"
    QUERY_BITS = 13, "the machine has no such width of a Q code"
    KEY_BITS = 14, "the machine has no such width of a K plane"
    VALUE_BITS = 15, "the machine has no such width of a V plane"
    HEADS = 16, "heads is not 1 to heads_max"
    HEAD_MASK = 17, "head_mask is zero, or has a bit from heads on"
    KEYS = 18, "keys is not 1 to tokens_max"
    KV_ROWS = 19, "kv_rows is less than keys"
    VALID_LENGTH = 20, "valid_length is not 1 to keys"
    QUERIES = 21, "queries is zero, or not one in generation"
    QUERY_OFFSET = 22, "query_offset + queries is above keys"
    KEEP_TOKENS = 23, "keep_tokens is not 1 to keys, with prune_tokens"
    KEEP_VALUES = 24, "keep_values is not 1 to keys, with prune_values"
    KEEP_HEADS = 25, "keep_heads is not 1 to heads, with prune_heads"
    MULTIPLIER = 26, "multiplier is not 1 to 32768"
    ADDRESS = 27, "an address that the job uses is no multiple of the channels"
    MANTISSA = 28, "the top bit of a score scale's mantissa is zero, of a head below heads"
    SHIFT = 29, "the shift of a score scale is below 4, of a head below heads"
    FEATURE = 30, "the job asks for what this machine lacks (FEATURES): progressive recompute, or a flag"


class Access(Enum):
    """What a register can do. A read of WO gives zero; a write to RO, and any access beside a register, SLVERR."""

    RO = "RO"
    RW = "RW"
    W1C = "W1C"
    """Read; cleared by writing a one."""
    WO = "WO"
    """What is written has an effect and is not kept."""


@dataclass(frozen=True, kw_only=True)
class BitField:
    """Bits of a register."""

    name: str
    bit: int
    width: int
    what: str
    reset: int = 0

    @property
    def bits(self) -> str:
        """The bits as text, such as 7:0."""
        return str(self.bit) if self.width == 1 else f"{self.bit + self.width - 1}:{self.bit}"

    @property
    def mask(self) -> int:
        """The mask of the field's bits in the register."""
        return ((1 << self.width) - 1) << self.bit


@dataclass(frozen=True, kw_only=True)
class Register:
    """A 32-bit register; bits of no field read as zero."""

    name: str
    offset: int
    access: Access
    group: str
    fields: tuple[BitField, ...]

    @property
    def word(self) -> int:
        """Offset in words."""
        return self.offset // 4

    @property
    def reset(self) -> int:
        """Value after reset."""
        return self.pack(**{field.name: field.reset for field in self.fields})

    @property
    def mask(self) -> int:
        """Bits of all fields."""
        return sum(field.mask for field in self.fields)

    def field(self, name: str) -> BitField:
        """The field of this name; LookupError if the register has none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise LookupError(f"{self.name} has no field {name!r}; it has {', '.join(f.name for f in self.fields)}")

    def pack(self, **values: int) -> int:
        """The word with these fields, and zero in the others; ValueError for what does not fit."""
        word = 0
        for name, value in values.items():
            field = self.field(name)
            if not 0 <= value < 1 << field.width:
                raise ValueError(f"{self.name}.{name} must be 0 to {(1 << field.width) - 1}, not {value!r}")
            word |= value << field.bit
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Fields of a word that was read."""
        return {field.name: (word & field.mask) >> field.bit for field in self.fields}


class RegisterMap(Mapping[str, Register]):
    """The registers of a configuration by name, in the order of their offsets."""

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):
            raise TypeError(f"config must be a Config, not {config!r}")
        self.config = config
        self._registers = {register.name: register for register in _declare(config)}

    def __getitem__(self, name: str) -> Register:
        return self._registers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._registers)

    def __len__(self) -> int:
        return len(self._registers)

    @property
    def reports(self) -> tuple[Register, ...]:
        """The words of a report."""
        return tuple(
            register for register in self.values() if register.group == _REPORTS and register.access is Access.RO
        )

    def counter(self, name: str) -> tuple[Register, Register]:
        """Low and high word of a counter, by the name of its event. Read the low one first, and the high one next."""
        return self[f"{name.upper()}_LOW"], self[f"{name.upper()}_HIGH"]

    def configuration(self, words: Mapping[str, int]) -> Config:
        """The configuration, called "device", of an accelerator whose registers of sizes read as `words`, by name.

        Raises `ConfigError` where no configuration can be so.
        """
        fields = {name: self[name].unpack(word) for name, word in words.items()}
        lacked = fields.pop("FEATURES")
        lacks = fields["OPERAND_BITS"]["lacks"]
        return Config(
            name="device",
            **{name.lower(): found["value"] for name, found in fields.items()},
            plane_widths=tuple(bits for n, bits in enumerate(PLANE_BITS) if not lacks >> n & 1),
            head_dim_min=HEAD_DIMS[fields["HEAD_DIM_MAX"]["smallest"]],
            blocks=BLOCKS_MAX >> fields["BUFFER_DIM"]["fewer"],
            features=tuple(feature for feature in FEATURES if not lacked[f"lacks_{feature.value}"]),
        )


def event_names(config: Config) -> tuple[str, ...]:
    """What the counters count, in their order: cycles, and every event."""
    return ("cycles", *event_limits(config))


# -- The declaration --------------------------------------------------------------------------------------------------

_CONTROL = "Control"
_REPORTS = "Reports"
_CONFIGURATION = "Configuration"
_COUNTERS = "Counters"
_BASES = "Base addresses"
_DESCRIPTOR = "Job descriptor"

GROUPS = {
    _CONTROL: "What the machine is and does.",
    _REPORTS: "Of the oldest report that waits; zero if none does. A report stays until REPORT_POP.",
    _CONFIGURATION: "The sizes the machine was generated with, and what it lacks of all that machines can have.",
    _COUNTERS: "64 bits each, since reset or CONTROL.clear_counters. A read of a low word keeps the high word of the "
    "same moment, which the next read of any high word gives.",
    _BASES: "Where each channel's memory begins. To be changed while the machine is idle.",
    _DESCRIPTOR: "The words keep what was written, so the next job writes what differs; then the doorbell. Fields are "
    "checked when it rings. Addresses are global 32-byte sectors, multiples of the channels. Where a plane, the "
    "output, a bitmap or a state ends is not checked: sector 0 follows the last one, 2**sector_bits - 1. "
    "What a job writes is in memory when it reports; jobs that were queued before may have read what was there.",
}
"""Groups of registers, and what is common to each."""

_CONTROL_OFFSET = 0x000
_REPORT_OFFSET = 0x040
_CONFIGURATION_OFFSET = 0x080
_FEATURES_OFFSET = 0x0FC
_COUNTER_OFFSET = 0x100
_BASE_OFFSET = 0x200
_DESCRIPTOR_OFFSET = 0x400
_DOORBELL_OFFSET = 0x500


def _whole(what: str, *, name: str = "value", width: int = 32, reset: int = 0) -> tuple[BitField, ...]:
    return (BitField(name=name, bit=0, width=width, what=what, reset=reset),)


def _control(config: Config) -> Iterator[tuple[str, Access, tuple[BitField, ...]]]:
    yield "ID", Access.RO, _whole('"SPAT"', reset=MAGIC)
    yield (
        "VERSION",
        Access.RO,
        (
            BitField(name="registers", bit=0, width=16, what="version of this map", reset=MAP_VERSION),
            BitField(
                name="descriptor", bit=16, width=16, what="version of the job descriptor", reset=DESCRIPTOR_VERSION
            ),
        ),
    )
    yield (
        "CONTROL",
        Access.WO,
        (
            BitField(
                name="soft_reset", bit=0, width=1, what="1: drop all jobs, queued and running; keep all registers"
            ),
            BitField(name="clear_counters", bit=1, width=1, what="1: all counters start again from zero"),
        ),
    )
    yield (
        "STATUS",
        Access.RO,
        (
            BitField(name="idle", bit=0, width=1, what="no job is queued or running, nothing drains", reset=1),
            BitField(name="busy", bit=1, width=1, what="a job is running"),
            BitField(name="draining", bit=2, width=1, what="waits for what the channels have in flight"),
            BitField(name="failed", bit=3, width=1, what="ERROR has not been cleared; doorbells are refused"),
            BitField(name="queue_free", bit=8, width=3, what="jobs that the queue has room for", reset=QUEUED_JOBS),
            BitField(name="reports", bit=16, width=3, what="reports that wait"),
        ),
    )
    for name, what in (("INTERRUPT_ENABLE", "interrupt on"), ("INTERRUPT_STATUS", "there is")):
        yield (
            name,
            Access.RW if name == "INTERRUPT_ENABLE" else Access.RO,
            (
                BitField(name="done", bit=0, width=1, what=f"{what} a report; gone when all are popped"),
                BitField(name="error", bit=1, width=1, what=f"{what} an error; gone when ERROR is cleared"),
            ),
        )
    yield (
        "TIMEOUT",
        Access.RW,
        _whole("cycles without any activity after which a busy machine is stopped; 0: never", reset=TIMEOUT_RESET),
    )
    yield (
        "ERROR",
        Access.W1C,
        (
            BitField(name="code", bit=0, width=8, what="of the first error: ERROR_IS_..."),
            BitField(name="channel", bit=8, width=8, what="that answered with the error"),
            BitField(name="is_write", bit=16, width=1, what="it answered a write"),
            BitField(name="valid", bit=31, width=1, what="there was an error; writing 1 clears the register"),
        ),
    )
    yield (
        "REJECT",
        Access.RO,
        (
            BitField(name="reason", bit=0, width=8, what="why the last doorbell was refused: REJECT_IS_..."),
            BitField(
                name="word", bit=8, width=8, what=f"of the descriptor, {NO_WORD} if the reason is in none of them"
            ),
        ),
    )
    yield (
        "CHANNELS_STUCK",
        Access.RO,
        _whole("bit c: channel c has had TIMEOUT cycles to drain, and still has not", width=config.channels),
    )


def _report(config: Config) -> Iterator[tuple[str, Access, tuple[BitField, ...]]]:
    """In words, in their order; a field does not cross a half-word unless it is wider. Each has its place, whatever the
    machine lacks."""
    words: list[list[BitField]] = []
    free = 0
    known = report_widths(config)
    for name, width in report_widths(_complete(config)).items():
        halves = -(-width // 16)
        if halves > free:
            words.append([])
            free = 2
        if name in known:
            words[-1].append(BitField(name=name, bit=32 - 16 * free, width=width, what=_REPORT_FIELDS[name]))
        free -= halves
    for number, fields in enumerate(words):
        yield f"REPORT{number}", Access.RO, tuple(fields)


_REPORT_FIELDS = {
    "tag": "of the job",
    "live_tokens": "tokens that took part",
    "kept_tokens": "tokens that stay",
    "live_heads": "bit h: head h took part",
    "kept_heads": "bit h: head h stays",
    "rows": "query rows of all heads, modulo 2**16",
    "recomputed": "of these, computed again with their LSBs, modulo 2**16",
    "output_saturated": "elements of the output that saturated",
    "tokens_saturated": "tokens whose importance is saturated",
    "heads_saturated": "bit h: the importance of head h is saturated",
}

_EVENTS = {
    "cycles": "all cycles",
    "busy": "cycles in which a job was running",
    "stalled_memory": "cycles that waited for memory",
    "stalled_topk": "cycles that waited for a top-k engine",
    "qk_beats": "beats of the Q x K array",
    "pv_beats": "beats of the prob x V array",
    "query_sectors": "sectors of Q read",
    "key_sectors": "sectors of K read, or of its MSB plane",
    "lsb_sectors": "sectors of the K LSB plane read",
    "value_sectors": "sectors of V read",
    "other_sectors": "sectors of bitmaps and state read",
    "output_sectors": "sectors written",
    "rows": "rows of scores",
    "recomputed": "rows computed again with their LSBs",
    "topk_passes": "passes of the top-k engines over rows that have streamed in",
    "output_saturated": "elements of the output that saturated",
}


_BESIDE = ("name", "plane_widths", "head_dim_min", "blocks", "features")
"""Parameters without a register of their own: they lie beside a size (`_limits`), where zero means no limit."""


def _limits(config: Config) -> dict[str, tuple[BitField, ...]]:
    """What lies in a size's register beside the size, by the size."""
    lacks = sum(1 << n for n, bits in enumerate(PLANE_BITS) if bits not in config.plane_widths)
    which = ", ".join(str(bits) for bits in PLANE_BITS)
    smallest = "code of the smallest head dimension a job can choose"
    fewer = "log2 of 16 over the blocks that a ring buffer holds at a time"
    return {
        "operand_bits": (
            BitField(name="lacks", bit=16, width=5, what=f"bit n: planes cannot have width n of {which}", reset=lacks),
        ),
        "head_dim_max": (
            BitField(name="smallest", bit=16, width=2, what=smallest, reset=HEAD_DIMS.index(config.head_dim_min)),
        ),
        "buffer_dim": (
            BitField(name="fewer", bit=16, width=3, what=fewer, reset=(BLOCKS_MAX // config.blocks).bit_length() - 1),
        ),
    }


def _complete(config: Config) -> Config:
    """The same machine, with all features."""
    return config if config.features == FEATURES else config.replace(features=FEATURES)


def _features(config: Config) -> tuple[BitField, ...]:
    """A bit for each feature that the machine lacks, so that a machine of before there were features lacks none."""
    docs = member_docs(Feature)
    return tuple(
        BitField(
            name=f"lacks_{feature.value}",
            bit=bit,
            width=1,
            what=f"1: the machine lacks this. {docs[feature.name]}",
            reset=int(not config.has(feature)),
        )
        for bit, feature in enumerate(FEATURES)
    )


def _declare(config: Config) -> list[Register]:
    declared: list[Register] = []

    def add(group: str, offset: int, name: str, access: Access, fields: tuple[BitField, ...]) -> None:
        declared.append(Register(name=name, offset=offset, access=access, group=group, fields=fields))

    for number, (name, access, fields) in enumerate(_control(config)):
        add(_CONTROL, _CONTROL_OFFSET + 4 * number, name, access, fields)
    for number, (name, access, fields) in enumerate(_report(config)):
        add(_REPORTS, _REPORT_OFFSET + 4 * number, name, access, fields)
    pop = BitField(name="pop", bit=0, width=1, what="1: drop the oldest report; nothing happens if there is none")
    add(_REPORTS, _CONFIGURATION_OFFSET - 4, "REPORT_POP", Access.WO, (pop,))
    sizes = [field for field in dataclasses.fields(config) if field.name not in _BESIDE]
    docs = member_docs(Config)
    for number, field in enumerate(sizes):
        fields = _limits(config).get(field.name, ())
        size = _whole(docs[field.name], width=16 if fields else 32, reset=getattr(config, field.name))
        add(_CONFIGURATION, _CONFIGURATION_OFFSET + 4 * number, field.name.upper(), Access.RO, (*size, *fields))
    add(_CONFIGURATION, _FEATURES_OFFSET, "FEATURES", Access.RO, _features(config))
    for number, name in enumerate(event_names(_complete(config))):
        if name not in event_names(config):
            continue
        for half, text in enumerate(("LOW", "HIGH")):
            what = f"{_EVENTS[name]}, bits {31 + 32 * half}:{32 * half}"
            add(_COUNTERS, _COUNTER_OFFSET + 8 * number + 4 * half, f"{name.upper()}_{text}", Access.RO, _whole(what))
    for channel in range(config.channels):
        page = _whole(f"address of channel {channel}'s first byte, in units of 4 KiB", name="page", width=PAGE_BITS)
        add(_BASES, _BASE_OFFSET + 4 * channel, f"BASE{channel}", Access.RW, page)
    for word in range(JOB_WORDS):
        add(
            _DESCRIPTOR,
            _DESCRIPTOR_OFFSET + 4 * word,
            f"JOB{word}",
            Access.RW,
            tuple(
                BitField(name=field.name, bit=field.bit, width=field.width, what=field.what)
                for field in job_fields(config)
                if field.word == word
            ),
        )
    add(
        _DESCRIPTOR,
        _DOORBELL_OFFSET,
        "DOORBELL",
        Access.WO,
        _whole(f"{DESCRIPTOR_VERSION}, the descriptor's version: check it, and queue it or set REJECT and give SLVERR"),
    )
    _check(declared)
    return declared


@functools.cache
def member_docs(declared: type) -> dict[str, str]:
    """What the fields of a dataclass or the members of an enum mean, from the text under each."""
    (declaration,) = ast.parse(textwrap.dedent(inspect.getsource(declared))).body
    assert isinstance(declaration, ast.ClassDef)
    docs = {}
    for member, text in itertools.pairwise(declaration.body):
        match member, text:
            case (
                (ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)])),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ):
                docs[name] = " ".join(meaning.rstrip(".").split())
    return docs


def _check(declared: list[Register]) -> None:
    """Check that no two registers or fields overlap."""
    assert len({register.name for register in declared}) == len(declared)
    offsets = [register.offset for register in declared]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] < 1 << ADDRESS_BITS
    for register in declared:
        assert register.offset % 4 == 0
        assert all(field.bit + field.width <= 32 for field in register.fields)
        assert register.mask == functools.reduce(operator.or_, (field.mask for field in register.fields), 0)
