"""How a program reaches the accelerator: its registers, its memory, its interrupt. A driver sits on this alone.

A transport for a board implements `Transport`; `sim.machine.transport.SimulatedTransport` does so for the simulated
Verilog.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Self

from spatten.spec.errors import SpattenError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # in collections.abc from Python 3.12 on; such as bytes, bytearray, arrays


class TransportError(SpattenError, RuntimeError):
    """The accelerator cannot be reached, or what connects it failed; the transport may be of no more use."""

    exit_status = 1


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
