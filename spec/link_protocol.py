"""How a host and a board talk over a serial line, declared once: circuit, host and testbenches follow it.

A *frame* is one sync byte, the payload's length (2 bytes), a sequence number, the payload and a CRC-32 (4 bytes); all
numbers are little-endian, and the CRC, that of Ethernet and zlib, covers everything between sync byte and CRC.
The host sends *requests*, whose payload is a batch of commands; the board executes them in order and sends one *reply*.

A command is an opcode, then, according to its bits 4 and 5, nothing, a number of 16 bits, or a number of 32 bits and
one of 16, and for `WRITE_MEMORY` the data. A reply has for each command a status and, if that is `OKAY`, the command's
data. A batch ends with the first command whose status is not `OKAY`; the commands behind it are not executed, and
their statuses are missing.

Sequence number 0 begins a session: such a frame is executed whenever it comes, and may hold nothing but `IDENTITY`.
The frames of a session have the numbers 1, 2, ..., 255, 1, ... A frame with the number of the frame before is that
frame again: it is answered from the stored reply and not executed. A frame of any other number, or one without a
session, is answered with an empty payload, which no executed frame is. A frame whose CRC is wrong, whose length is
above `PAYLOAD_MAX`, which is interrupted for `GAP_CYCLES`, or which comes while the board executes or sends, is
not answered: after a time without an answer the host sends it again.

After a reset, and after the line was low for `GAP_CYCLES` (a break), the board speaks at its first divisor.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from spatten.spec.config import Config
from spatten.spec.errors import SpattenError
from spatten.spec.register_map import Explained
from spatten.spec.version import __version__

__all__ = [
    "ACCESS_CYCLES",
    "BAUD",
    "DIVISOR_BITS",
    "DIVISOR_MIN",
    "GAP_CYCLES",
    "OVERHEAD",
    "PAYLOAD_MAX",
    "SYNC_REPLY",
    "SYNC_REQUEST",
    "WAIT_UNIT",
    "Answer",
    "Command",
    "FrameReader",
    "Identity",
    "LinkFormatError",
    "LinkStatus",
    "Opcode",
    "argument_bytes",
    "configuration_digest",
    "decode_commands",
    "decode_reply",
    "encode_frame",
    "following_sequence",
]

SYNC_REQUEST = 0xA5
SYNC_REPLY = 0x5A
"""Another byte than a request's, so that a line that echoes is no board."""
PAYLOAD_MAX = 4095
"""Most bytes of a payload, of requests and of replies; a host splits what is longer into several frames."""
OVERHEAD = 8
"""Bytes of a frame beside its payload."""
BAUD = 115_200
"""What a board speaks after its reset."""
DIVISOR_BITS = 12
DIVISOR_MIN = 4
"""Least clock cycles of a bit on the serial line."""
GAP_CYCLES = 1 << 20
"""Cycles without a change of the line after which a frame that has begun is abandoned: 13 ms at 80 MHz."""
ACCESS_CYCLES = 1 << 20
"""Cycles after which a command that gets no answer from the accelerator or the memory ends with `TIMEOUT`."""
WAIT_UNIT = 256
"""Cycles that a wait's number counts; a longer wait is sent in pieces, so that no frame keeps the line for long."""
_ARGUMENT_SHIFT = 4


class Opcode(IntEnum):
    """Commands. Bits 4 and 5 say which arguments follow: none (0), `high` (1), `low` and `high` (3)."""

    RESET = 0x01
    """Reset the accelerator; what its AXI master began is finished first, and the memory keeps its content."""
    IDENTITY = 0x02
    """Read what the bitstream is: `Identity`."""
    READ_REGISTER = 0x11
    """Read the accelerator's register at byte `high`."""
    SET_DIVISOR = 0x12
    """Let a bit on the line take `high` cycles, once the reply has been sent."""
    WAIT = 0x13
    """Wait until the interrupt is high, at most `high` times `WAIT_UNIT` cycles; `EXPIRED` if it is not."""
    WRITE_REGISTER = 0x31
    """Write `low` to the accelerator's register at byte `high`."""
    READ_MEMORY = 0x32
    """Read `high` bytes of memory from byte `low` on."""
    WRITE_MEMORY = 0x33
    """Write the `high` bytes of data that follow to memory from byte `low` on."""


class LinkStatus(Explained):
    """How a command ended. `SLAVE_ERROR` and `DECODE_ERROR` have the values of AXI."""

    OKAY = 0, "done"
    EXPIRED = 1, "the interrupt was not high in time"
    SLAVE_ERROR = 2, "answered with SLVERR"
    DECODE_ERROR = 3, "answered with DECERR"
    TIMEOUT = 4, "not answered in time"
    REFUSED = 5, "no command, incomplete, or one with arguments that the board does not take"
    REPLY_FULL = 6, "executed, but its data would make the reply longer than a frame"


class LinkFormatError(SpattenError, ValueError):
    """What came over the line has a right CRC, but is not what the protocol says."""

    exit_status = 1


def argument_bytes(opcode: int) -> int:
    """Bytes of the arguments behind an opcode."""
    return {0: 0, 1: 2, 2: 0, 3: 6}[opcode >> _ARGUMENT_SHIFT & 3]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a batch; `data` belongs to `WRITE_MEMORY`, whose `high` is its length."""

    opcode: int
    low: int = 0
    high: int = 0
    data: bytes = b""

    def encode(self) -> bytes:
        """The command in a request's payload."""
        arguments = struct.pack("<IH", self.low, self.high)
        count = argument_bytes(self.opcode)
        return bytes([self.opcode]) + arguments[len(arguments) - count :] + self.data

    @property
    def size(self) -> int:
        """Bytes in a request's payload."""
        return 1 + argument_bytes(self.opcode) + len(self.data)

    @property
    def answer_size(self) -> int:
        """Bytes of data in the reply, if the status is `OKAY`."""
        if self.opcode == Opcode.READ_MEMORY:
            return self.high
        if self.opcode == Opcode.IDENTITY:
            return Identity.SIZE
        return 4 if self.opcode == Opcode.READ_REGISTER else 0


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a command ended, and its data."""

    status: LinkStatus
    data: bytes = b""

    def encode(self) -> bytes:
        """The answer in a reply's payload."""
        return bytes([self.status]) + self.data


def decode_commands(payload: bytes) -> Iterator[Command | None]:
    """The commands of a request's payload; None, at the end, for one that is incomplete."""
    place = 0
    while place < len(payload):
        opcode = payload[place]
        count = argument_bytes(opcode)
        arguments = payload[place + 1 : place + 1 + count]
        place += 1 + count
        if place > len(payload):
            yield None
            return
        low, high = struct.unpack("<IH", bytes(6 - count) + arguments)
        size = high if opcode == Opcode.WRITE_MEMORY else 0
        if place + size > len(payload):
            yield None
            return
        yield Command(opcode=opcode, low=low, high=high, data=payload[place : place + size])
        place += size


def decode_reply(commands: Sequence[Command], payload: bytes) -> list[Answer]:
    """The answers to a batch: fewer than commands if one of them did not end with `OKAY`.

    Raises `LinkFormatError` if the reply is none to these commands.
    """
    answers: list[Answer] = []
    place = 0
    for command in commands:
        if place == len(payload):
            break
        if payload[place] not in LinkStatus._value2member_map_:
            raise LinkFormatError(f"the reply has the status {payload[place]}, which does not exist")
        status = LinkStatus(payload[place])
        size = command.answer_size if status is LinkStatus.OKAY else 0
        data = payload[place + 1 : place + 1 + size]
        if len(data) < size:
            raise LinkFormatError(f"the reply has {len(data)} bytes of data where {size} belong")
        answers.append(Answer(status=status, data=data))
        place += 1 + size
        if status is not LinkStatus.OKAY:
            break
    ended = bool(answers) and answers[-1].status is not LinkStatus.OKAY
    if place != len(payload) or (len(answers) < len(commands) and not ended):
        raise LinkFormatError(f"the reply of {len(payload)} bytes is none to these {len(commands)} commands")
    return answers


# -- Frames -----------------------------------------------------------------------------------------------------------


def encode_frame(sync: int, sequence: int, payload: bytes) -> bytes:
    """A frame on the line."""
    if len(payload) > PAYLOAD_MAX:
        raise ValueError(f"payload must have at most {PAYLOAD_MAX} bytes, not {len(payload)}")
    body = struct.pack("<HB", len(payload), sequence) + payload
    return bytes([sync]) + body + struct.pack("<I", zlib.crc32(body))


def following_sequence(sequence: int) -> int:
    """The number of the frame after one with the number `sequence`."""
    return sequence % 255 + 1


class FrameReader:
    """Finds the frames in what comes over the line.

    With `rescans` a sync byte that turns out to begin no frame is skipped alone; without, as on a board, which does not
    keep the bytes, everything up to the point where it was found out is lost.
    """

    def __init__(self, sync: int, *, rescans: bool) -> None:
        self._sync = sync
        self._rescans = rescans
        self._bytes = bytearray()
        self.bad = 0
        """Times that a frame began and did not end well."""

    def gap(self) -> None:
        """Nothing came for so long that a frame which has begun is abandoned."""
        self.bad += bool(self._bytes)
        self._bytes.clear()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Sequence number and payload of the frames that `data`, behind what came before, completes."""
        found = []
        for byte in data:
            self._bytes.append(byte)
            while (frame := self._first()) is not None:
                found.append(frame)
        return found

    def _first(self) -> tuple[int, bytes] | None:
        """The frame at the beginning of the bytes, which is removed, as is everything that is none."""
        held = self._bytes
        while True:
            if not held:
                return None
            if held[0] != self._sync:
                start = held.find(self._sync)
                del held[: len(held) if start < 0 else start]
                continue
            if len(held) < 3:
                return None
            length = held[1] | held[2] << 8
            if length <= PAYLOAD_MAX:
                end = length + OVERHEAD
                if len(held) < end:
                    return None
                body = bytes(held[1 : end - 4])
                if zlib.crc32(body).to_bytes(4, "little") == held[end - 4 : end]:
                    del held[:end]
                    return body[2], body[3:]
            else:
                end = 3
            self.bad += 1
            del held[: 1 if self._rescans else end]


# -- Identity ---------------------------------------------------------------------------------------------------------


def configuration_digest(config: Config) -> bytes:
    """16 bytes that differ where two accelerators' sizes, or versions of registers or descriptor, do."""
    versions = __version__.split(".")[:2]
    text = json.dumps([versions, {**config.as_dict(), "name": None}], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()[:16]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a bitstream is."""

    clock_hz: int
    """The clock of accelerator and link."""
    memory_bytes: int
    """Size of the memory, from address 0 on."""
    digest: bytes
    """`configuration_digest` of the accelerator's configuration."""
    name: str
    """Name of that configuration, for messages."""

    _LAYOUT = struct.Struct("<4sHHII16s16s")
    _MAGIC = b"SPLK"
    SIZE = _LAYOUT.size
    VERSION = 1
    """Of the protocol."""

    @classmethod
    def of(cls, config: Config, *, clock_hz: int, memory_bytes: int) -> Self:
        """The identity of an accelerator of a configuration on a board."""
        return cls(clock_hz=clock_hz, memory_bytes=memory_bytes, digest=configuration_digest(config), name=config.name)

    def encode(self) -> bytes:
        """The data of an answer to `IDENTITY`."""
        name = self.name.encode()[:16]
        return self._LAYOUT.pack(
            self._MAGIC, self.VERSION, PAYLOAD_MAX, self.clock_hz, self.memory_bytes, self.digest, name
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The identity that `encode` gave. Raises `LinkFormatError` for another protocol's."""
        magic, version, payload_max, clock_hz, memory_bytes, digest, name = cls._LAYOUT.unpack(data)
        if magic != cls._MAGIC:
            raise LinkFormatError(f"the identity begins with {magic!r}, not {cls._MAGIC!r}: this is no such board")
        if (version, payload_max) != (cls.VERSION, PAYLOAD_MAX):
            raise LinkFormatError(
                f"the board speaks version {version} of the protocol with payloads of {payload_max} bytes, "
                f"not version {cls.VERSION} with {PAYLOAD_MAX}"
            )
        return cls(
            clock_hz=clock_hz,
            memory_bytes=memory_bytes,
            digest=digest,
            name=name.rstrip(b"\0").decode(errors="replace"),
        )
