"""The bit-width converter against its golden model, in Verilator and in Icarus with X for every initial value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import signed

from spatten.golden.convert import unpack
from spatten.golden.converter import beat_operands, block_rows, key_operands, value_operands, windows
from spatten.hw.datapath.converter import Converter, operand_beat, packed_beat, part_code, part_layout
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.converter import converter_sizes, run_arguments
from spatten.spec.config import EIGHTH, PAPER, TINY, ULX3S, Config
from spatten.spec.row_format import row_format

SIZES = [
    # One, two and four keys in a slice; with 7 bits all joins but one are rounded, by another distance each.
    {"tensor": "key", "slices": 2, "slice_width": 16, "lanes": 2, "operand_bits": 12, "head_dims": (16, 32)},
    {"tensor": "key", "slices": 1, "slice_width": 32, "lanes": 2, "operand_bits": 7, "head_dims": (16, 32, 64)},
    {"tensor": "value", "slices": 1, "slice_width": 64, "lanes": 4, "operand_bits": 12, "head_dims": (16, 32, 64)},
    {"tensor": "query", "slices": 1, "slice_width": 32, "lanes": 1, "operand_bits": 16, "head_dims": (32, 64)},
    {
        "tensor": "key",
        "slices": 1,
        "slice_width": 32,
        "lanes": 2,
        "operand_bits": 8,
        "head_dims": (32, 64),
        "widths": (4, 8),
    },
]
MORE_SIZES = [
    converter_sizes(EIGHTH, "key"),
    # Every code fits: nothing is rounded. Sub-lanes of 16, 16 and 32 operands.
    {"tensor": "key", "slices": 1, "slice_width": 64, "lanes": 2, "operand_bits": 16},
    {"tensor": "key", "slices": 1, "slice_width": 32, "lanes": 2, "operand_bits": 4, "head_dims": (16, 64)},
    {"tensor": "key", "slices": 1, "slice_width": 16, "lanes": 4, "operand_bits": 13, "head_dims": (16, 32)},
    # Windows of up to eight sectors.
    {
        "tensor": "key",
        "slices": 1,
        "slice_width": 128,
        "lanes": 2,
        "operand_bits": 12,
        "banks": 8,
        "every_first": False,
    },
    {"tensor": "value", "slices": 2, "slice_width": 16, "lanes": 2, "operand_bits": 9},
    {"tensor": "value", "slices": 1, "slice_width": 64, "lanes": 1, "operand_bits": 16},
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_golden_in_icarus_without_initial_values(sizes: dict[str, Any]) -> None:
    assert len(cosimulate(**run_arguments(**sizes), simulator="icarus", strip_initial=True)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("sizes", MORE_SIZES, ids=str)
def test_other_sizes_match_golden(sizes: dict[str, Any]) -> None:
    assert len(cosimulate(**run_arguments(**sizes), simulator="icarus", strip_initial=True)) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "tensor"), [(PAPER, "key"), (ULX3S, "key"), (TINY, "value")], ids=["paper", "ulx3s", "tiny"]
)
def test_matches_golden_in_verilator(config: Config, tensor: str) -> None:
    run = run_arguments(**converter_sizes(config, tensor), every_first=config is not PAPER)
    assert len(cosimulate(**run, simulator="verilator", strip_initial=True)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("tensor", ["query", "key", "value"])
@pytest.mark.parametrize(("slice_width", "lanes", "operand_bits"), [(16, 1, 4), (64, 4, 12), (32, 4, 5)])
def test_verilog_is_lint_clean(tensor: str, slice_width: int, lanes: int, operand_bits: int) -> None:
    lint(
        convert(
            Converter(
                tensor=tensor, slices=1, slice_width=slice_width, lanes=lanes, operand_bits=operand_bits, header=1
            )
        )
    )


GOOD = {"tensor": "key", "slices": 2, "slice_width": 64, "lanes": 4, "operand_bits": 12, "header": 8}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"tensor": "prob"}, ValueError, "tensor must be 'query', 'key' or 'value', not 'prob'"),
        ({"head_dims": (32, 16)}, ValueError, "head_dims must be some of (16, 32, 64, 128), rising, not (32, 16)"),
        ({"widths": ()}, ValueError, "widths must be some of (4, 6, 8, 10, 12, 16), rising, not ()"),
        ({"slices": 2.0}, TypeError, "slices must be an integer, not 2.0"),
        ({"slices": 3}, ValueError, "slices must be a power of two, not 3"),
        ({"slices": 0}, ValueError, "slices must be a power of two, not 0"),
        ({"slice_width": True}, TypeError, "slice_width must be an integer, not True"),
        ({"slice_width": 8}, ValueError, "slice_width must be a power of two of at least 16, not 8"),
        ({"slice_width": 48}, ValueError, "slice_width must be a power of two of at least 16, not 48"),
        ({"lanes": "4"}, TypeError, "lanes must be an integer, not '4'"),
        ({"lanes": 1}, ValueError, "lanes must be a power of two of at least slices = 2, not 1"),
        ({"lanes": 6}, ValueError, "lanes must be a power of two of at least slices = 2, not 6"),
        ({"operand_bits": None}, TypeError, "operand_bits must be an integer, not None"),
        ({"operand_bits": 3}, ValueError, "operand_bits must be 4 to 16, not 3"),
        ({"operand_bits": 17}, ValueError, "operand_bits must be 4 to 16, not 17"),
        ({"banks": 3}, ValueError, "banks must be a power of two of at least 4, not 3"),
        ({"banks": 2}, ValueError, "banks must be a power of two of at least 4, not 2"),
        ({"banks": 1, "slice_width": 16}, ValueError, "banks must be a power of two of at least 4, not 1"),
        ({"slice_width": 128}, ValueError, "banks must be a power of two of at least 8, not 4"),
        ({"header": "x"}, TypeError, "header must be an Amaranth shape, not 'x'"),
        ({"header": 0}, ValueError, "header must be at least 1 bit wide, not 0"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        Converter(**{**GOOD, **change})
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = Converter(**{**GOOD, "header": signed(5)})
    assert component.i.payload.shape() == packed_beat(2, 4, signed(5))
    assert component.o.payload.shape() == operand_beat(2, 64, 12, signed(5))
    assert component.keys == 2
    assert Converter(**{**GOOD, "lanes": 64}).keys == 4, "no head dimension is below 16"


def test_part_codes_fit_their_fields() -> None:
    row = row_format(head_dim=64, slice_width=64, bits=10, joined=True)
    code = part_code(row, 1, 0)
    assert code == {
        "dim": 2,
        "width": 3,
        "unsigned": 0,
        "joined": 1,
        "stride": 3,
        "msb_offset": 128 // 32,
        "lsb_offset": 768 // 64,
    }
    assert list(part_layout(4).members) == list(code)
    assert part_code(row_format(head_dim=16, slice_width=64, bits=4), 0, 0, is_unsigned=True)["unsigned"] == 1


@pytest.mark.parametrize("seed", seeds())
def test_golden_windows_hold_the_codes_of_a_beat(seed: int) -> None:
    source = np.random.default_rng(seed)
    for head_dim in (16, 32):
        # 8 bits: whole bytes, so that a window can be read by hand. Four slices, as many keys as a window covers.
        row = row_format(head_dim=head_dim, slice_width=64, bits=8)
        rows = row.rows_per_read(64 // head_dim, 4)
        codes = source.integers(-128, 128, (row.heads, 4 * rows, head_dim))
        found = windows(row, block_rows(row, codes), head=row.heads - 1, beat=0, slices=4)
        assert found.shape == (4, rows, 32)
        values, means = beat_operands(row, codes, head=row.heads - 1, beat=0, slices=4, slice_width=64)
        for lane in range(4):
            for sub in range(rows):
                bytes_of_head = found[lane, sub, (row.heads - 1) * head_dim :][:head_dim]
                mine = slice(sub * head_dim, (sub + 1) * head_dim)
                np.testing.assert_array_equal(bytes_of_head.view(np.int8), values[lane, mine])
                np.testing.assert_array_equal(
                    unpack(bytes_of_head, 8, head_dim, signed=True), codes[-1, sub * 4 + lane]
                )
                assert means[lane, mine].all()
        assert not means[:, rows * head_dim :].any()


def test_golden_operands_by_hand() -> None:
    msb = np.array([-2048, 2047, 2047, 2047, 5, -5])
    lsb = np.array([0, 15, 8, 7, 8, 8])
    # 12 + 4 bits on 12: halves go up, and the top one saturates.
    assert key_operands(msb, lsb, bits=12, operand_bits=12).tolist() == [-2048, 2047, 2047, 2047, 6, -4]
    assert key_operands(msb, None, bits=12, operand_bits=12).tolist() == msb.tolist()
    assert key_operands(np.array([-8, 7]), np.array([1, 15]), bits=4, operand_bits=12).tolist() == [-127, 127]
    assert value_operands(np.array([-8, 7]), bits=4, operand_bits=12).tolist() == [-2048, 1792]
