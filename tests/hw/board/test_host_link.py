"""The link between host and board, from the pins of the serial line to AXI."""

from __future__ import annotations

from typing import Any

import pytest

from spatten.hw.board.host_link import HostLink
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.board_parts import IDENTITY, LinkUnderTest, board_runs

QUICK_TESTS, TESTS = 3, 9
"""Of a seed: those that are run every day, and all of them."""


def test_in_verilator() -> None:
    assert len(cosimulate(**board_runs()["host_link"])) == QUICK_TESTS


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(2))
def test_all_in_verilator(seed: int) -> None:
    run = board_runs()["host_link"]
    run["parameters"] |= {"batches": 30, "quick": False, "seeds": [seed]}
    run["timeout_seconds"] = 1800
    assert len(cosimulate(**run)) == TESTS


@pytest.mark.slow
def test_in_icarus_without_initial_values() -> None:
    assert len(cosimulate(**board_runs()["host_link"], simulator="icarus", strip_initial=True)) == QUICK_TESTS


@pytest.mark.slow
def test_verilog_is_lint_clean() -> None:
    lint(convert(LinkUnderTest()))


def test_first_divisor_is_that_of_the_first_speed() -> None:
    assert HostLink(identity=IDENTITY, address_bits=25, data_bits=16).divisor == round(80_000_000 / 115_200)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"identity": b""}, TypeError, "identity must be an Identity, not b''"),
        ({"divisor": 3}, ValueError, "divisor must be 4 to 4095, not 3"),
        ({"gap_cycles": 1000}, ValueError, "cycles must be a power of two, not 1000"),
        ({"data_bits": 8}, ValueError, "data_bits must be 16, 32, 64 or 128, not 8"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        HostLink(**{"identity": IDENTITY, "address_bits": 25, "data_bits": 16, **changes})
    assert str(caught.value) == text
