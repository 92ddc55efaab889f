"""What a twin may say of a signal: sim/verify/twin.py. That it finds faults is shown by the mutants of control."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from amaranth.hdl import signed
from amaranth.lib import data

from spatten.sim.verify.twin import _Port

SHAPE = data.StructLayout({"count": 3, "parts": data.ArrayLayout(data.StructLayout({"low": signed(4), "on": 1}), 2)})


def port() -> Any:
    signal = SimpleNamespace(value=None)
    return _Port(SimpleNamespace(signal=lambda name: signal, four_state=False), ("o", "payload"), SHAPE)  # type: ignore[arg-type]


def said(payload: Any) -> dict[str, Any]:
    return {"o": {"payload": payload}}


def test_what_is_left_out_is_not_looked_at() -> None:
    looked_at = port()
    looked_at.drive(said({"count": 5, "parts": [{"low": -3, "on": 1}, {"low": 2, "on": 0}]}), random.Random(1))
    bits = looked_at._signal.value
    assert bits == 5 | (13 | 1 << 4) << 3 | 2 << 8
    looked_at._signal.value = f"{bits:013b}"
    assert looked_at.differences(said({"parts": [{"on": 1}]})) == []
    assert looked_at.differences(said({"parts": [None, {"low": 2}]})) == []
    assert looked_at.differences({"o": {}}) == []


def test_each_difference_has_its_name() -> None:
    looked_at = port()
    looked_at._signal.value = f"{5 | 13 << 3 | 2 << 8:013b}"
    assert looked_at.differences(said({"count": 4, "parts": [{"low": -3, "on": 1}, {"low": 3}]})) == [
        "o__payload.count is 101, not 100",
        "o__payload.parts[0].on is 0, not 1",
        "o__payload.parts[1].low is 0010, not 0011",
    ]


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"number": 1}, "o__payload has no member number"),
        ({"parts": [{"high": 1}]}, r"o__payload.parts.0 has no member high"),
        ({"parts": [{}, {}, {"low": 1}]}, r"o__payload.parts has no member 2"),
        ({"count": 8}, "o__payload count must have 3 bits, not be 8"),
        ({"parts": [{"low": -9}]}, r"o__payload parts\[0\].low must have 4 bits, not be -9"),
    ],
)
def test_what_a_signal_cannot_say_is_an_error(payload: Any, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        port().drive(said(payload), random.Random(1))
