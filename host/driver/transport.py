"""How a program reaches the accelerator: its registers, its memory, its interrupt. A driver sits on this alone.

A transport for a board implements `Transport`; `sim.machine.transport.SimulatedTransport` does so for the simulated
Verilog.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spatten.host.driver.operations import (
    Answer,
    Operation,
    ReadMemory,
    ReadRegister,
    WaitInterrupt,
    WriteMemory,
    WriteRegister,
)
from spatten.spec.errors import SpattenError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in collections.abc from Python 3.12 on; such as bytes, bytearray, arrays


class TransportError(SpattenError, RuntimeError):
    """The accelerator cannot be reached, or what connects it failed; the transport may be of no more use.

    Where an operation of a batch failed, `operation` is that operation, and `answers` are those to the operations
    before it, which were executed; no later one was. Otherwise they are None and empty.
    """

    exit_status = 1
    operation: Operation | None = None
    answers: Sequence[Answer] = ()

    def of_batch(self, operation: Operation, answers: Sequence[Answer]) -> Self:
        """The same error, of an operation in a batch of which the operations before it were answered with `answers`."""
        error = type(self)(f"{self} (operation {len(answers)} of a batch, the {operation})")
        error.operation, error.answers = operation, tuple(answers)
        return error


class BusError(TransportError):
    """A register access was answered with an error: there is no such register, or it does not allow that access."""


class TransportTimeoutError(TransportError):
    """A register access was never answered: only `reset` helps."""


class Transport(ABC):
    """Registers, memory and interrupt of one accelerator; a context manager that closes itself.

    Addresses of registers are bytes from the start of the accelerator's register file. Addresses of memory are those
    that the accelerator's AXI master of the channel uses, in bytes, base register included. One thread may use it
    at a time.
    """

    @property
    @abstractmethod
    def channels(self) -> int:
        """Memory channels."""

    @abstractmethod
    def read_register(self, address: int) -> int:
        """The 32 bits of the register at byte `address`, a multiple of 4.

        Raises `BusError` for an error response and `TransportTimeoutError` if none comes.
        """

    @abstractmethod
    def write_register(self, address: int, value: int) -> None:
        """Write 32 bits to the register at byte `address`, a multiple of 4; it is done when this returns.

        Raises `BusError` for an error response and `TransportTimeoutError` if none comes.
        """

    @abstractmethod
    def read_memory(self, channel: int, address: int, size: int) -> bytes:
        """`size` bytes of a channel's memory from byte `address` on; what no one ever wrote may be anything."""

    @abstractmethod
    def write_memory(self, channel: int, address: int, data: Buffer) -> None:
        """Write bytes to a channel's memory from byte `address` on; the accelerator sees them when this returns."""

    @abstractmethod
    def wait_for_interrupt(self, *, timeout_cycles: int) -> bool:
        """Wait until the interrupt is high, at most so many cycles of the accelerator's clock; whether it is.

        The limit is in cycles, since a simulation and a board disagree on seconds. A time-out is no error: the
        accelerator goes on.
        """

    def execute(self, operations: Iterable[Operation]) -> list[Answer]:
        """Execute a batch of operations in their order; the answer to each, in the same order.

        A wait whose time runs out ends the batch: its answer, 0, is then the last of the list, and what follows it
        was not executed. An operation that fails ends the batch, too, with the `TransportError` of that operation as
        `TransportError.of_batch` makes it. Transports for which every call is a round trip send a whole batch at once.
        """
        answers: list[Answer] = []
        for operation in operations:
            try:
                answer = self._perform(operation)
            except TransportError as error:
                raise error.of_batch(operation, answers) from error
            answers.append(answer)
            if isinstance(operation, WaitInterrupt) and not answer:
                break
        return answers

    def _perform(self, operation: Operation) -> Answer:
        """Execute one operation by the call that does the same."""
        match operation:
            case ReadRegister(address=address):
                return self.read_register(address)
            case WriteRegister(address=address, value=value):
                self.write_register(address, value)
            case ReadMemory(channel=channel, address=address, size=size):
                return self.read_memory(channel, address, size)
            case WriteMemory(channel=channel, address=address, data=data):
                self.write_memory(channel, address, data)
            case WaitInterrupt(timeout_cycles=cycles):
                return int(self.wait_for_interrupt(timeout_cycles=cycles))
        return None

    @abstractmethod
    def reset(self) -> None:
        """Reset the accelerator and all that is in flight between it and its memory, whose contents stay."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the accelerator; closing again does nothing, any other use raises `TransportError`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
