"""What a program asks of an accelerator in one batch: reads and writes of registers and memory, and a wait.

`Transport.execute` takes a batch, executes its operations in their order and gives the answer to each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = [
    "Answer",
    "Operation",
    "ReadMemory",
    "ReadRegister",
    "WaitInterrupt",
    "WriteMemory",
    "WriteRegister",
]


def _require(name: str, value: int, least: int, most: int | None = None) -> None:
    if value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {limits}, not {value!r}")


def _require_register(address: int) -> None:
    _require("address", address, 0)
    if address % 4:
        raise ValueError(f"address must be a multiple of 4, not {address!r}")


@dataclass(frozen=True, kw_only=True)
class ReadRegister:
    """Read the register at byte `address`; the answer is its 32 bits."""

    address: int

    def __post_init__(self) -> None:
        _require_register(self.address)

    def __str__(self) -> str:
        return f"read of register {self.address:#x}"


@dataclass(frozen=True, kw_only=True)
class WriteRegister:
    """Write 32 bits to the register at byte `address`; the answer is None."""

    address: int
    value: int

    def __post_init__(self) -> None:
        _require_register(self.address)
        _require("value", self.value, 0, 0xFFFF_FFFF)

    def __str__(self) -> str:
        return f"write of {self.value:#x} to register {self.address:#x}"


@dataclass(frozen=True, kw_only=True)
class ReadMemory:
    """Read `size` bytes of a channel's memory from byte `address` on; the answer is these bytes."""

    channel: int
    address: int
    size: int

    def __post_init__(self) -> None:
        for name in ("channel", "address", "size"):
            _require(name, getattr(self, name), 0)

    def __str__(self) -> str:
        return f"read of {self.size} bytes of channel {self.channel} at {self.address:#x}"


@dataclass(frozen=True, kw_only=True)
class WriteMemory:
    """Write `data` to a channel's memory from byte `address` on; the answer is None."""

    channel: int
    address: int
    data: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("channel", "address"):
            _require(name, getattr(self, name), 0)

    def __str__(self) -> str:
        return f"write of {len(self.data)} bytes to channel {self.channel} at {self.address:#x}"


@dataclass(frozen=True, kw_only=True)
class WaitInterrupt:
    """Wait until the interrupt is high, at most so many cycles of the accelerator's clock; the answer is 1 if it is.

    If it is not, the answer is 0 and the batch ends: what follows in the batch is not executed.
    """

    timeout_cycles: int

    def __post_init__(self) -> None:
        _require("timeout_cycles", self.timeout_cycles, 0)

    def __str__(self) -> str:
        return f"wait of {self.timeout_cycles} cycles for the interrupt"


Operation: TypeAlias = ReadRegister | WriteRegister | ReadMemory | WriteMemory | WaitInterrupt
Answer: TypeAlias = int | bytes | None
"""To a read of a register or a wait an int, to a read of memory bytes, to a write None."""
