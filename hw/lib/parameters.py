"""Checks of a circuit's parameters, with one wording for all messages."""

from typing import Any

from amaranth.hdl import Shape

__all__ = ["check_integer", "check_optional_shape", "check_power_of_two", "check_shape"]


def check_integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> None:
    """TypeError if `value` is no integer, ValueError if it is below `low` or above `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if low is not None and high is not None and not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
    if low is not None and value < low:
        raise ValueError(f"{name} must be at least {low}, not {value!r}")


def check_power_of_two(name: str, value: Any) -> None:
    """TypeError if `value` is no integer, ValueError if it is not 1, 2, 4, ..."""
    check_integer(name, value)
    if value < 1 or value & (value - 1):
        raise ValueError(f"{name} must be a power of two, not {value!r}")


def check_shape(name: str, shape: Any) -> Shape:
    """The Amaranth shape that `shape` stands for; TypeError if there is none, ValueError if it has no bits."""
    try:
        cast = Shape.cast(shape)
    except TypeError as error:
        raise TypeError(f"{name} must be an Amaranth shape, not {shape!r}") from error
    if cast.width < 1:
        raise ValueError(f"{name} must be at least 1 bit wide, not {shape!r}")
    return cast


def check_optional_shape(name: str, shape: Any) -> int:
    """Bits of `shape`, 0 for None; TypeError if it is neither a shape nor None."""
    try:
        return 0 if shape is None else Shape.cast(shape).width
    except TypeError as error:
        raise TypeError(f"{name} must be an Amaranth shape or None, not {shape!r}") from error
