"""The output packer against its golden model, and that model against the DRAM image's contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden import GoldenError
from spatten.golden.memory import Memory, OutputRegion
from spatten.golden.output_packer import sector_writes
from spatten.hw.datapath.output_packer import OutputPacker, placed_beat
from spatten.hw.emit.verilog import convert
from spatten.hw.memory.axi import sector_write
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.output_packer import SMALL, run_arguments, size, size_of
from spatten.spec.config import PAPER

PAPER_SIZE = size_of(PAPER)
SIZES = [
    size(16, 12, 32, 2, 16, 4, 9, 4),  # one sector a beat, two parts, fewer sectors than channels
    size(64, 12, 64, 1, 100, 12, 13, 3),  # one channel: a queue of four sectors a beat
    size(64, 16, 128, 2, 1000, 16, 17, 4),  # two steps a beat, full width
    size(32, 4, 128, 8, 7, 5, 9, 2),  # four parts
    size(16, 9, 16, 1, 1, 1, 4, 2),  # nothing to choose
    size(32, 8, 64, 1, 100, 12, 13, 4, 32),  # two steps a beat at least: beats are taken in turn
    size(64, 8, 128, 2, 9, 3, 9, 2, 64),  # so also at two channels
]


def test_writes_match_golden_in_icarus_without_initial_values() -> None:
    passed = cosimulate(**run_arguments(SMALL, 60, 1), simulator="icarus", strip_initial=True)
    assert len(passed) == 9


@pytest.mark.slow
def test_paper_size_matches_golden_in_verilator() -> None:
    passed = cosimulate(**run_arguments(PAPER_SIZE, 150, 1), simulator="verilator")
    assert len(passed) == 11


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size.values())))
def test_other_sizes_match_golden(size: dict[str, int]) -> None:
    cosimulate(**run_arguments(size, 100, 1), simulator="icarus", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [PAPER_SIZE, SMALL, *SIZES], ids=lambda size: "-".join(map(str, size.values())))
def test_verilog_is_lint_clean(size: dict[str, int]) -> None:
    lint(convert(OutputPacker(**size)))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lanes": "64"}, TypeError, "lanes must be an integer, not '64'"),
        ({"lanes": 8}, ValueError, "lanes must be at least 16, not 8"),
        ({"lanes": 48}, ValueError, "lanes must be a power of two, not 48"),
        ({"head_dim_max": 0}, ValueError, "head_dim_max must be at least 1, not 0"),
        ({"operand_bits": 17}, ValueError, "operand_bits must be 1 to 16, not 17"),
        ({"operand_bits": 0}, ValueError, "operand_bits must be 1 to 16, not 0"),
        ({"head_dim_max": 24}, ValueError, "head_dim_max must be one of (16, 32, 64, 128), not 24"),
        ({"head_dim_max": True}, TypeError, "head_dim_max must be an integer, not True"),
        ({"channels": 0}, ValueError, "channels must be at least 1, not 0"),
        ({"channels": 3}, ValueError, "channels must be a power of two, not 3"),
        ({"rows": 0}, ValueError, "rows must be at least 1, not 0"),
        ({"heads": 0}, ValueError, "heads must be at least 1, not 0"),
        ({"address_bits": 0}, ValueError, "address_bits must be at least 1, not 0"),
        ({"depth": 1}, ValueError, "depth must be at least 2, not 1"),
        (
            {"head_dim_min": 64},
            ValueError,
            "head_dim_min must be one of (16, 32, 64, 128), at most head_dim_max = 32, not 64",
        ),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        OutputPacker(**{**SMALL, **change})
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = OutputPacker(**SMALL)
    assert component.i.payload.shape() == placed_beat(
        **{k: v for k, v in SMALL.items() if k not in ("depth", "head_dim_min")}
    )
    assert [o.payload.shape() for o in component.o] == [sector_write(7)] * 2


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("channels", [1, 2, 16])
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
def test_golden_writes_make_the_image_of_the_region(head_dim: int, channels: int, seed: int) -> None:
    """Replayed write by write into an empty memory they give what `OutputRegion.store` gives, and touch no more."""
    source = np.random.default_rng(seed)
    config = PAPER.replace(channels=channels)
    heads = int(source.integers(1, 17))
    region = OutputRegion(channels=channels, base=3 * channels, heads=heads, head_dim=head_dim)
    chosen_heads = np.sort(source.choice(heads, max(1, heads // 2), replace=False))
    chosen_rows = np.sort(source.choice(40, 25, replace=False))
    output = source.integers(-2048, 2048, (len(chosen_heads), len(chosen_rows), head_dim))
    wanted = Memory(config, 3 * channels + 40 * region.row_sectors)
    got = Memory(config, 3 * channels + 40 * region.row_sectors)
    region.store(wanted, chosen_heads, chosen_rows, output)
    head, row = (grid.ravel() for grid in np.meshgrid(chosen_heads, chosen_rows, indexing="ij"))
    channel, local, content = sector_writes(region, head, row, output.reshape(-1, head_dim))
    touched = list(zip(channel.ravel(), local.ravel(), strict=True))
    assert len(set(touched)) == len(touched) == output.size // 16
    for (c, address), sector in zip(touched, content.reshape(-1, 32), strict=True):
        got.bytes[c, address] = sector
    assert np.array_equal(got.bytes, wanted.bytes)


def test_golden_by_hand() -> None:
    region = OutputRegion(channels=4, base=8, heads=3, head_dim=32)
    output = np.arange(32)[None] - 1
    channels, local, content = sector_writes(region, np.array([2]), np.array([5]), output)
    # Row 5 begins 5 x 6 sectors into the region, head 2 four more: global sectors 42 and 43.
    assert channels.tolist() == [[2, 3]]
    assert local.tolist() == [[10, 10]]
    assert content[0, 0, :6].tolist() == [0xFF, 0xFF, 0, 0, 1, 0]
    assert content[0, 1, :4].tolist() == [15, 0, 16, 0]


def test_golden_refuses_what_it_cannot_mean() -> None:
    region = OutputRegion(channels=4, base=8, heads=3, head_dim=32)
    one = np.array([0])
    with pytest.raises(GoldenError, match=r"rows must have 32 elements, not shape \(1, 16\)"):
        sector_writes(region, one, one, np.zeros((1, 16), np.int64))
    with pytest.raises(GoldenError, match=r"2 rows need as many heads and row numbers, not \(1,\) and \(2,\)"):
        sector_writes(region, one, np.array([0, 1]), np.zeros((2, 32), np.int64))
    with pytest.raises(GoldenError, match="heads must be 0 to 2, not 3 to 3"):
        sector_writes(region, np.array([3]), one, np.zeros((1, 32), np.int64))
