"""The AXI reader in Verilator, and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import pytest

from hw.axi_reader import AxiReader
from hw.config import Config
from sim.build import lint
from sim.cosim import cosimulate, seeds
from sim.verilog import convert

SIZES: dict[str, dict[str, int]] = {
    "16": {"address_bits": 40, "local_bits": 20, "channel_bits": 16, "outstanding": 128},
    "64": {"address_bits": 33, "local_bits": 24, "channel_bits": 64, "outstanding": 70},
    "256": {"address_bits": 40, "local_bits": 24, "channel_bits": 256, "outstanding": 128},
    "small": {"address_bits": 15, "local_bits": 9, "channel_bits": 128, "outstanding": 5},
}
TESTS = 16 + 9 + 2
"""Of a seed."""


def _run(size: dict[str, int], sectors: int = 200) -> dict[str, Any]:
    return {
        "component": AxiReader(**size),
        "test_module": "tests.cocotb_axi_reader",
        "parameters": {"size": size, "seeds": seeds(1), "sectors": sectors, "stops": 24},
    }


def mutation_run() -> dict[str, Any]:
    """Two beats a sector, and an address that every bit of the base is in; in every test."""
    run = _run({**SIZES["small"], "address_bits": 40}, 60)
    run["parameters"]["stops"] = 10
    return run


def measurement_run(config: Config) -> dict[str, Any]:
    """The reader of one of a configuration's channels."""
    size = {"local_bits": config.local_sector_bits, "channel_bits": config.channel_bits}
    return _run({"address_bits": 40, "outstanding": 128, **size})


@pytest.mark.parametrize(
    "name", ["256", *(pytest.param(name, marks=pytest.mark.slow) for name in ("16", "64", "small"))]
)
def test_in_icarus_without_initial_values(name: str) -> None:
    assert len(cosimulate(**_run(SIZES[name], 80), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_in_verilator(name: str) -> None:
    assert len(cosimulate(**_run(SIZES[name]))) == TESTS


@pytest.mark.parametrize("name", SIZES)
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(AxiReader(**SIZES[name])))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"address_bits": 12}, ValueError, "address_bits must be 13 to 64, not 12"),
        ({"address_bits": "40"}, TypeError, "address_bits must be an integer, not '40'"),
        ({"local_bits": 36}, ValueError, "local_bits must be 1 to 35, not 36"),
        ({"local_bits": 0}, ValueError, "local_bits must be 1 to 35, not 0"),
        ({"local_bits": 2.0}, TypeError, "local_bits must be an integer, not 2.0"),
        ({"channel_bits": 512}, ValueError, "channel_bits must be 16, 32, 64, 128 or 256, not 512"),
        ({"channel_bits": True}, TypeError, "channel_bits must be an integer, not True"),
        ({"outstanding": 0}, ValueError, "outstanding must be at least 1, not 0"),
        ({"outstanding": None}, TypeError, "outstanding must be an integer, not None"),
    ],
)
def test_parameters_are_validated(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        AxiReader(**{"local_bits": 24, "channel_bits": 256, **changes})
    assert str(caught.value) == text
