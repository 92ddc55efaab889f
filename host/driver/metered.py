"""A transport that counts what passes through it: round trips, operations and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spatten.host.driver.operations import (
    Answer,
    Operation,
    ReadMemory,
    ReadRegister,
    WaitInterrupt,
    WriteMemory,
    WriteRegister,
)
from spatten.host.driver.transport import Transport, TransportError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["MeteredTransport"]

_WORD_BYTES = 4


class MeteredTransport(Transport):
    """Passes everything on to `transport`, and counts it. A batch and a call of its own are a round trip each.

    Bytes are those of registers' values and of memory that were moved; addresses and frames come on top.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.clear()

    def clear(self) -> None:
        """Count from zero again."""
        self.round_trips = 0
        self.operations: Counter[type] = Counter()
        """How many operations of each kind were executed."""
        self.sent = 0
        """Bytes of values and data that were written."""
        self.received = 0
        """Bytes of values and data that were read."""

    @property
    def channels(self) -> int:
        return self.transport.channels

    def execute(self, operations: Iterable[Operation]) -> list[Answer]:
        batch = list(operations)
        self.round_trips += 1
        try:
            answers = self.transport.execute(batch)
        except TransportError as error:
            self._count(batch, error.answers)
            raise
        self._count(batch, answers)
        return answers

    def _count(self, batch: Sequence[Operation], answers: Sequence[Answer]) -> None:
        for operation, answer in zip(batch, answers, strict=False):
            self.operations[type(operation)] += 1
            match operation:
                case WriteRegister():
                    self.sent += _WORD_BYTES
                case WriteMemory(data=data):
                    self.sent += len(data)
                case ReadMemory():
                    assert isinstance(answer, bytes)
                    self.received += len(answer)
                case ReadRegister() | WaitInterrupt():
                    self.received += _WORD_BYTES

    def read_register(self, address: int) -> int:
        value = self.transport.read_register(address)
        self._count_call(ReadRegister(address=address), value)
        return value

    def write_register(self, address: int, value: int) -> None:
        self.transport.write_register(address, value)
        self._count_call(WriteRegister(address=address, value=value), None)

    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        data = self.transport.read_memory(channel, address, size)
        self._count_call(ReadMemory(channel=channel, address=address, size=size), data)
        return data

    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        self.transport.write_memory(channel, address, data)
        self._count_call(WriteMemory(channel=channel, address=address, data=bytes(data)), None)

    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        is_high = self.transport.wait_for_interrupt(timeout_cycles=timeout_cycles)
        self._count_call(WaitInterrupt(timeout_cycles=timeout_cycles), int(is_high))
        return is_high

    def _count_call(self, operation: Operation, answer: Answer) -> None:
        self.round_trips += 1
        self._count([operation], [answer])

    def reset(self) -> None:
        self.round_trips += 1
        self.transport.reset()

    def close(self) -> None:
        self.transport.close()
