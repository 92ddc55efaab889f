"""Payloads of streams as Python values: structs are dicts, arrays lists, everything else integers."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import data


@dataclass(frozen=True)
class Field:
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

    def pack(self, value: Any) -> int:
        """The bits of `value`; ValueError names a field that is out of range or an array of the wrong length."""
        _check_lengths(self.shape, value, "")
        bits = 0
        for field in self.fields:
            part = value
            for step in field.path:
                part = part[step]
            number = operator.index(part)
            low, high = (
                (-(1 << field.width - 1), (1 << field.width - 1) - 1) if field.signed else (0, (1 << field.width) - 1)
            )
            if not low <= number <= high:
                raise ValueError(f"{field.name or 'payload'} must be {low} to {high}, not {number}")
            bits |= (number & ((1 << field.width) - 1)) << field.offset
        return bits

    def unpack(self, bits: int) -> Any:
        """The value whose bits these are."""
        return _unpack(self.shape, bits)

    def field_value(self, field: Field, bits: int) -> int:
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


def _fields(shape: ShapeLike, path: tuple[str | int, ...], name: str, offset: int) -> Iterable[Field]:
    layout = _layout(shape)
    if layout is None:
        cast = Shape.cast(shape)
        if cast.width:
            yield Field(path, name, offset, cast.width, cast.signed)
        return
    for key, member in layout:
        step = f"{name}[{key}]" if isinstance(key, int) else f"{name}.{key}" if name else str(key)
        yield from _fields(member.shape, (*path, key), step, offset + member.offset)


def _check_lengths(shape: ShapeLike, value: Any, name: str) -> None:
    layout = _layout(shape)
    if layout is None:
        return
    if isinstance(layout, data.ArrayLayout) and len(value) != layout.length:
        raise ValueError(f"{name or 'payload'} must have {layout.length} elements, not {len(value)}")
    for key, member in layout:
        if _layout(member.shape) is not None:
            _check_lengths(member.shape, value[key], f"{name}[{key}]" if isinstance(key, int) else str(key))


def _layout(shape: ShapeLike) -> data.Layout | None:
    try:
        layout = data.Layout.cast(shape)
    except TypeError:
        return None
    if not isinstance(layout, (data.StructLayout, data.ArrayLayout)):
        raise TypeError(f"payload must be made of StructLayout, ArrayLayout and plain shapes, not {shape!r}")
    return layout


def _unpack(shape: ShapeLike, bits: int) -> Any:
    layout = _layout(shape)
    if layout is None:
        cast = Shape.cast(shape)
        return _integer(bits, cast.width, cast.signed)
    parts = {key: _unpack(member.shape, bits >> member.offset) for key, member in layout}
    return list(parts.values()) if isinstance(layout, data.ArrayLayout) else parts


def _integer(bits: int, width: int, signed: bool) -> int:
    bits &= (1 << width) - 1
    return bits - (1 << width) if signed and width and bits >> (width - 1) else bits
