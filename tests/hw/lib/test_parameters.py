"""What is said of parameters that cannot be, by hw/lib/parameters.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import signed, unsigned

from spatten.hw.lib.parameters import check_integer, check_optional_shape, check_power_of_two, check_shape


@pytest.mark.parametrize("value", [2, 3, 7])
def test_integers_within_their_limits(value: int) -> None:
    check_integer("depth", value)
    check_integer("depth", value, 2)
    check_integer("depth", value, 2, 7)


@pytest.mark.parametrize(
    ("check", "arguments", "error", "text"),
    [
        (check_integer, (2.0,), TypeError, "x must be an integer, not 2.0"),
        (check_integer, (True, 0), TypeError, "x must be an integer, not True"),
        (check_integer, (np.int64(2), 0, 3), TypeError, f"x must be an integer, not {np.int64(2)!r}"),
        (check_integer, (1, 2), ValueError, "x must be at least 2, not 1"),
        (check_integer, (1, 2, 7), ValueError, "x must be 2 to 7, not 1"),
        (check_integer, (8, 2, 7), ValueError, "x must be 2 to 7, not 8"),
        (check_power_of_two, (None,), TypeError, "x must be an integer, not None"),
        (check_power_of_two, (0,), ValueError, "x must be a power of two, not 0"),
        (check_power_of_two, (-4,), ValueError, "x must be a power of two, not -4"),
        (check_power_of_two, (12,), ValueError, "x must be a power of two, not 12"),
        (check_shape, ("a",), TypeError, "x must be an Amaranth shape, not 'a'"),
        (check_shape, (None,), TypeError, "x must be an Amaranth shape, not None"),
        (check_shape, (unsigned(0),), ValueError, "x must be at least 1 bit wide, not unsigned(0)"),
        (check_optional_shape, ("a",), TypeError, "x must be an Amaranth shape or None, not 'a'"),
    ],
)
def test_what_cannot_be(check: Callable[..., Any], arguments: tuple[Any, ...], error: type, text: str) -> None:
    with pytest.raises(error) as caught:
        check("x", *arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize("value", [1, 2, 64])
def test_powers_of_two(value: int) -> None:
    check_power_of_two("lanes", value)


def test_shapes() -> None:
    assert check_shape("shape", signed(5)) == signed(5)
    assert check_shape("shape", range(8)) == unsigned(3)
    assert [check_optional_shape("header", header) for header in (None, 0, 7)] == [0, 0, 7]
