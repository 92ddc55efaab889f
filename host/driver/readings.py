"""What is read of registers and memory once somebody asks for it, and not later than it can still be read."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from spatten.host.driver.errors import DeviceError
from spatten.host.driver.operations import Answer, Operation

__all__ = ["Reading", "Readings"]

T = TypeVar("T")


class Reading(Generic[T]):
    """A value that some operations read; it is read once, when it is first asked for.

    Parameters
    ----------
    operations : sequence of Operation
        What reads the value.
    decode : callable
        Makes the value from the answers to `operations`.
    execute : callable
        Executes `operations` where nobody has by the time that the value is asked for.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        decode: Callable[[Sequence[Any]], T],
        execute: Callable[[Sequence[Operation]], Sequence[Answer]],
    ) -> None:
        self.operations = tuple(operations)
        self._decode = decode
        self._execute = execute
        self._values: list[T] = []
        """The value, once it has been read."""
        self._lost: str | None = None

    @property
    def is_read(self) -> bool:
        """Whether the value is here already."""
        return bool(self._values)

    @property
    def value(self) -> T:
        """The value. Raises `DeviceError` where it has been lost, and what reading it raises."""
        if not self._values:
            if self._lost is not None:
                raise DeviceError(self._lost)
            self.take(self._execute(self.operations))
        return self._values[0]

    def take(self, answers: Sequence[Answer]) -> None:
        """Note what the operations were answered."""
        self._values = [self._decode(answers)]

    def lose(self, why: str) -> None:
        """Note that the value cannot be read any more, unless it has been read."""
        if not self._values:
            self._lost = why


class Readings:
    """The readings that were put off: each is to be read before what it reads changes, if anybody can still ask for it.

    A reading to which nothing but this refers is forgotten.
    """

    def __init__(self) -> None:
        self._readings: list[weakref.ref[Reading[Any]]] = []

    def put_off(self, readings: Iterable[Reading[Any]]) -> None:
        """Add readings."""
        self._readings.extend(weakref.ref(reading) for reading in readings)

    def take(self) -> list[Reading[Any]]:
        """All readings that are to be read now, in the order in which they were put off; none of them is kept."""
        found = [reading for one in self._readings if (reading := one()) is not None and not reading.is_read]
        self._readings.clear()
        return found
