"""The memory of hw/lib/ram.py in Verilator, and in Icarus with X for every initial value; and what it maps to."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.lib import data

from spatten.hw.emit.verilog import convert
from spatten.hw.lib.ram import Ram, ReadWriteRam
from spatten.sim.board.ecp5 import count_cells
from spatten.sim.measure.synth import structure
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.ram import read_write_ram_run, run_arguments

SIZES = [(2, 1), (3, 5), (16, 8), (21, 66)]
"""(depth, width)"""
TESTS = 9


@pytest.mark.parametrize(
    ("depth", "width"), [*(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[:-1]), SIZES[-1]]
)
def test_words_in_icarus_without_initial_values(depth: int, width: int) -> None:
    assert len(cosimulate(**run_arguments(depth, width), simulator="icarus", strip_initial=True)) == TESTS


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width"), [(2, 1), (100, 66)])
def test_words_in_verilator(depth: int, width: int) -> None:
    assert len(cosimulate(**run_arguments(depth, width, 2))) == 2 * TESTS


@pytest.mark.parametrize(
    ("depth", "width"), [*(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[1:-1]), SIZES[-1]]
)
def test_two_readers_in_icarus_without_initial_values(depth: int, width: int) -> None:
    assert cosimulate(**read_write_ram_run(depth, width), simulator="icarus", strip_initial=True)


def test_the_words_of_two_readers_are_there_once() -> None:
    assert structure(ReadWriteRam(shape=36, depth=512))["memories"] == [[512, 36]]
    # A true dual-port block RAM of an ECP5 has words of 18 bits.
    counts = count_cells(ReadWriteRam(shape=36, depth=512))
    assert counts["block_rams"] == 2
    assert counts["flip_flops"] == counts["lut_rams"] == 0
    lint(convert(ReadWriteRam(shape=36, depth=512)))


def test_it_maps_to_bare_block_rams_of_an_ecp5() -> None:
    # 18 bits at most in each; the LUTs compare the addresses, and no read data passes through any.
    counts = count_cells(Ram(shape=64, depth=512))
    assert counts["block_rams"] == 2
    assert counts["lut4"] + 2 * counts["carry"] < 40
    assert counts["flip_flops"] == counts["lut_rams"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width"), [(2, 1), (3, 4), (512, 64)])
def test_verilog_is_lint_clean(depth: int, width: int) -> None:
    lint(convert(Ram(shape=width, depth=depth)))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shape": "8", "depth": 4}, TypeError, "shape must be an Amaranth shape, not '8'"),
        ({"shape": 0, "depth": 4}, ValueError, "shape must be at least 1 bit wide, not 0"),
        ({"shape": 8, "depth": 4.0}, TypeError, "depth must be an integer, not 4.0"),
        ({"shape": 8, "depth": True}, TypeError, "depth must be an integer, not True"),
        ({"shape": 8, "depth": 1}, ValueError, "depth must be at least 2, not 1"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Ram(**arguments)
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    layout = data.StructLayout({"row": 5, "last": 1})
    ram = Ram(shape=layout, depth=9)
    assert ram.write_data.shape() == ram.read_data.shape() == layout
    assert len(ram.write_address) == len(ram.read_address) == 4
