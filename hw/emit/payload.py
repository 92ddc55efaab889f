"""Payloads of streams as Python values: structs are dicts, arrays lists, everything else integers."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data


@dataclass(frozen=True)
class PayloadField:
    """One integer of a payload: where it is and what a message calls it."""

    path: tuple[str | int, ...]
    name: str
    offset: int
    width: int
    signed: bool


class Payload:
    """Converts between the bits of a payload and Python: structs are dicts, arrays lists, everything else integers."""

    def __init__(self, shape: ShapeLike) -> None:
        self.shape = shape
        self.width = Shape.cast(shape).width
        self.fields = list(_fields(shape, (), "", 0))
        self._part = _part(shape, "")

    def pack(self, value: Any) -> int:
        """The bits of `value`; ValueError names a field that is out of range or an array of the wrong length."""
        return self._part.pack(value)

    def unpack(self, bits: int) -> Any:
        """The value whose bits these are."""
        return self._part.unpack(bits)

    def field_value(self, field: PayloadField, bits: int) -> int:
        """One field of `bits`."""
        return _integer(bits >> field.offset, field.width, field.signed)

    def differences(self, got: int, wanted: int) -> list[str]:
        """`lanes[3] is 0x5, not 0x7` for every field in which they differ."""
        found = []
        for field in self.fields:
            is_value, should_be = self.field_value(field, got), self.field_value(field, wanted)
            if is_value != should_be:
                found.append(f"{field.name or 'payload'} is {is_value:#x}, not {should_be:#x}")
        return found


def _fields(shape: ShapeLike, path: tuple[str | int, ...], name: str, offset: int) -> Iterable[PayloadField]:
    layout = _layout(shape)
    if layout is None:
        cast = Shape.cast(shape)
        if cast.width:
            yield PayloadField(path, name, offset, cast.width, cast.signed)
        return
    for key, member in layout:
        step = f"{name}[{key}]" if isinstance(key, int) else f"{name}.{key}" if name else str(key)
        yield from _fields(member.shape, (*path, key), step, offset + member.offset)


def _layout(shape: ShapeLike) -> data.Layout | None:
    try:
        layout = data.Layout.cast(shape)
    except TypeError:
        return None
    if not isinstance(layout, (data.StructLayout, data.ArrayLayout)):
        raise TypeError(f"payload must be made of StructLayout, ArrayLayout and plain shapes, not {shape!r}")
    return layout


# -- Parts of a payload. They do not ask Amaranth: to do so for every row would take longer than the simulation --------


class _Number:
    def __init__(self, shape: Shape, name: str) -> None:
        self.width: int = shape.width
        self.signed: bool = shape.signed
        self._name = name
        self._low: int = -(1 << self.width - 1) if self.signed else 0
        self._high: int = self._low + (1 << self.width) - 1

    def pack(self, value: Any) -> int:
        number = operator.index(value)
        if not self._low <= number <= self._high:
            raise ValueError(f"{self._name or 'payload'} must be {self._low} to {self._high}, not {number}")
        return number & ((1 << self.width) - 1)

    def unpack(self, bits: int) -> int:
        return _integer(bits, self.width, self.signed)


class _Nothing:
    """A part of no bits: its value is ignored."""

    width = 0

    def pack(self, value: Any) -> int:
        return 0

    def unpack(self, bits: int) -> int:
        return 0


class _Array:
    def __init__(self, parts: list[_Part], name: str) -> None:
        self.width: int = sum(part.width for part in parts)
        self._parts = parts
        self._name = name

    def pack(self, value: Any) -> int:
        if len(value) != len(self._parts):
            raise ValueError(f"{self._name or 'payload'} must have {len(self._parts)} elements, not {len(value)}")
        # By way of text, which takes time in proportion to the elements; adding shifted numbers takes their square.
        pairs = zip(reversed(self._parts), reversed(value), strict=True)
        return int("0" + "".join([f"{part.pack(v):0{part.width}b}" for part, v in pairs if part.width]), 2)

    def unpack(self, bits: int) -> list[Any]:
        text = f"{bits & ((1 << self.width) - 1):0{self.width}b}"
        result = []
        end = len(text)
        for part in self._parts:
            start = end - part.width
            result.append(part.unpack(int("0" + text[start:end], 2)))
            end = start
        return result


class _Struct:
    def __init__(self, parts: dict[Any, tuple[int, _Part]], width: int) -> None:
        self.width = width
        self._parts = parts

    def pack(self, value: Any) -> int:
        bits = 0
        for key, (offset, part) in self._parts.items():
            if part.width:
                bits |= part.pack(value[key]) << offset
        return bits

    def unpack(self, bits: int) -> dict[Any, Any]:
        return {key: part.unpack(bits >> offset) for key, (offset, part) in self._parts.items()}


_Part = _Number | _Nothing | _Array | _Struct


def _part(shape: ShapeLike, name: str) -> _Part:
    layout = _layout(shape)
    if layout is None:
        cast = Shape.cast(shape)
        return _Number(cast, name) if cast.width else _Nothing()
    if isinstance(layout, data.ArrayLayout):
        return _Array([_part(member.shape, f"{name}[{key}]") for key, member in layout], name)
    parts = {key: (member.offset, _part(member.shape, f"{name}.{key}" if name else str(key))) for key, member in layout}
    return _Struct(parts, Shape.cast(shape).width)


def _integer(bits: int, width: int, signed: bool) -> int:
    bits &= (1 << width) - 1
    return bits - (1 << width) if signed and width and bits >> (width - 1) else bits
