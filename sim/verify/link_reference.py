"""The link between host and board as a reference in plain Python: what a board would answer to the bytes that come.

link = LinkReference(identity, registers=EchoRegisters(), memory=bytearray(1 << 16))
reply = link.receive(encode_frame(SYNC_REQUEST, 0, Command(opcode=Opcode.IDENTITY).encode()))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from spatten.spec.link_protocol import (
    DIVISOR_BITS,
    DIVISOR_MIN,
    PAYLOAD_MAX,
    SYNC_REPLY,
    SYNC_REQUEST,
    Answer,
    Command,
    FrameReader,
    Identity,
    LinkStatus,
    Opcode,
    decode_commands,
    encode_frame,
    following_sequence,
)
from spatten.spec.register_map import ADDRESS_BITS

__all__ = ["EchoRegisters", "LinkReference", "Registers"]


class Registers(Protocol):
    """What is behind the accelerator's bus."""

    def read(self, address: int) -> tuple[LinkStatus, int]:
        """How a read of the register ends, and what it gives."""

    def write(self, address: int, value: int) -> LinkStatus:
        """How a write of the register ends."""


class EchoRegisters:
    """Registers that tell how often each was read, so that an access too many is found out, and keep what was written.

    Those from 0xE00 on answer with SLVERR, those from 0xF00 on with DECERR. `log` has every access in order.
    """

    SLAVE_ERRORS, DECODE_ERRORS = 0xE00, 0xF00

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int]] = []
        self._reads: Counter[int] = Counter()
        self._values: dict[int, int] = {}

    def read(self, address: int) -> tuple[LinkStatus, int]:
        self._reads[address] += 1
        value = (self._values.get(address, 0) ^ self._reads[address] * 0x9E3779B1) & 0xFFFF_FFFF
        self.log.append(("read", address, value))
        return self._status(address), value

    def write(self, address: int, value: int) -> LinkStatus:
        self.log.append(("write", address, value))
        self._values[address] = value
        return self._status(address)

    def _status(self, address: int) -> LinkStatus:
        if address >= self.DECODE_ERRORS:
            return LinkStatus.DECODE_ERROR
        return LinkStatus.SLAVE_ERROR if address >= self.SLAVE_ERRORS else LinkStatus.OKAY


class LinkReference:
    """A board at the end of a line.

    Parameters
    ----------
    identity : Identity
    registers : Registers
    memory : bytearray
        From address 0 on; a power of two of bytes. Addresses beyond answer with DECERR.
    interrupt : callable
        Whether the interrupt is high within so many units of `WAIT_UNIT` cycles.
    reset : callable
        Called when the accelerator is reset.

    `executed` counts the frames that were executed, `divisor` is what the host set, or None.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        registers: Registers,
        memory: bytearray,
        interrupt: Callable[[int], bool] = lambda _cycles: False,
        reset: Callable[[], None] = lambda: None,
    ) -> None:
        if len(memory) & (len(memory) - 1):
            raise ValueError(f"memory must have a power of two of bytes, not {len(memory)}")
        self.identity = identity
        self.registers = registers
        self.memory = memory
        self.executed = 0
        self._interrupt = interrupt
        self._reset = reset
        self.restart()

    def restart(self) -> None:
        """The board is reset; its memory keeps its content."""
        self.reader = FrameReader(SYNC_REQUEST, rescans=False)
        self.divisor: int | None = None
        self._last: int | None = None
        self._stored = b""

    def receive(self, data: bytes) -> bytes:
        """What the board answers to bytes from the line."""
        return b"".join(self._answer(sequence, payload) for sequence, payload in self.reader.feed(data))

    def gap(self) -> None:
        """Nothing came for long."""
        self.reader.gap()

    def breaks(self) -> None:
        """The line was low for long."""
        self.reader.gap()
        self.divisor = None

    def _answer(self, sequence: int, payload: bytes) -> bytes:
        is_next = self._last is not None and sequence == following_sequence(self._last)
        if sequence == 0 or is_next:
            self._last = sequence
            self.executed += 1
            self._stored = self.execute(payload, is_hello=sequence == 0)
        elif self._last is None or sequence != self._last:
            return encode_frame(SYNC_REPLY, sequence, b"")
        return encode_frame(SYNC_REPLY, sequence, self._stored)

    def execute(self, payload: bytes, *, is_hello: bool = False) -> bytes:
        """The payload of the reply to a request's."""
        reply = b""
        for command in decode_commands(payload):
            if len(reply) == PAYLOAD_MAX:
                break
            refused = command is None or (is_hello and command.opcode != Opcode.IDENTITY)
            answer = Answer(status=LinkStatus.REFUSED)
            if command is not None and not refused:
                answer = self._execute(command)
            if len(reply) + len(answer.encode()) > PAYLOAD_MAX:
                answer = Answer(status=LinkStatus.REPLY_FULL)
            reply += answer.encode()
            if answer.status is not LinkStatus.OKAY:
                break
        return reply

    def _execute(self, command: Command) -> Answer:
        match command.opcode:
            case Opcode.RESET:
                self._reset()
                return Answer(status=LinkStatus.OKAY)
            case Opcode.IDENTITY:
                return Answer(status=LinkStatus.OKAY, data=self.identity.encode())
            case Opcode.READ_REGISTER | Opcode.WRITE_REGISTER:
                return self._access(command)
            case Opcode.READ_MEMORY | Opcode.WRITE_MEMORY:
                return self._transfer(command)
            case Opcode.SET_DIVISOR:
                if not DIVISOR_MIN <= command.high < 1 << DIVISOR_BITS:
                    return Answer(status=LinkStatus.REFUSED)
                self.divisor = command.high
                return Answer(status=LinkStatus.OKAY)
            case Opcode.WAIT:
                is_high = self._interrupt(command.high)
                return Answer(status=LinkStatus.OKAY if is_high else LinkStatus.EXPIRED)
            case _:
                return Answer(status=LinkStatus.REFUSED)

    def _access(self, command: Command) -> Answer:
        if command.high >> ADDRESS_BITS:
            return Answer(status=LinkStatus.DECODE_ERROR)
        if command.opcode == Opcode.WRITE_REGISTER:
            return Answer(status=self.registers.write(command.high, command.low))
        status, value = self.registers.read(command.high)
        return Answer(status=status, data=value.to_bytes(4, "little") if status is LinkStatus.OKAY else b"")

    def _transfer(self, command: Command) -> Answer:
        if command.high > PAYLOAD_MAX:
            return Answer(status=LinkStatus.REFUSED)
        if command.low >= len(self.memory):
            return Answer(status=LinkStatus.DECODE_ERROR)
        places = [(command.low + number) % len(self.memory) for number in range(command.high)]
        if command.opcode == Opcode.READ_MEMORY:
            return Answer(status=LinkStatus.OKAY, data=bytes(self.memory[place] for place in places))
        for place, byte in zip(places, command.data, strict=True):
            self.memory[place] = byte
        return Answer(status=LinkStatus.OKAY)
