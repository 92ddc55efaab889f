"""Exact scores: golden against sums of Python integers and at the widths' ends; the Q x K array against golden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spatten.golden.qk import scores
from spatten.hw.datapath.qk import QkArray, dim_code, key_beat, query_row, score_beat
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.qk import MIXED_ARRAY, SHORT, array_of, run_arguments
from spatten.spec.config import NAMED, PAPER, Config
from tests.golden.reference import fits

MACHINES = [*NAMED.values(), PAPER.replace(operand_bits=16)]

TINY_ARRAY = {"multipliers": 32, "lanes": 2, "slice_width": 16, "operand_bits": 12, "head_dim_max": 32, "header": 9}


ARRAYS = {
    "tiny": TINY_ARRAY,
    "mixed": MIXED_ARRAY,
    "eighth": array_of(NAMED["eighth"], header=7, multiplier_stages=2),
    "one lane": {**TINY_ARRAY, "multipliers": 16, "lanes": 1, "head_dim_max": 64, "operand_bits": 6, **SHORT},
    "many beats": {**MIXED_ARRAY, "lanes": 8, "slice_width": 16, "head_dim_max": 128, "multiplier_stages": 3},
    "wide slices": {**MIXED_ARRAY, "slice_width": 64, "head_dim_max": 32, "operand_bits": 9, **SHORT},
    "spare": {**TINY_ARRAY, "spare": 6, **SHORT},
    "paper": array_of(PAPER),
}
"""Arrays by name. Several slices or one; several keys per slice or one; beats per key from 1 to 8; a slice wider than
any head; 4 to 12 bits; every pipelining of multipliers; lanes that are all used, and lanes that never are."""


@pytest.mark.parametrize("name", ["mixed", pytest.param("tiny", marks=pytest.mark.slow)])
def test_matches_golden_in_icarus_without_initial_values(name: str) -> None:
    arguments = run_arguments({**ARRAYS[name], **SHORT}, rows=40, reset_step=3)
    assert len(cosimulate(**arguments, simulator="icarus", strip_initial=True)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "mixed", "eighth", "one lane", "many beats", "wide slices", "spare"])
def test_matches_golden_in_verilator(name: str) -> None:
    assert len(cosimulate(**run_arguments(ARRAYS[name], rows=25, reset_step=8))) == 10


@pytest.mark.slow
def test_matches_golden_at_the_size_of_the_paper() -> None:
    arguments = run_arguments(array_of(PAPER), rows=12, reset_step=20)
    assert len(cosimulate(**arguments, timeout_seconds=300)) == 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "one lane", "wide slices"])
def test_verilog_is_lint_clean(name: str) -> None:
    lint(convert(QkArray(**ARRAYS[name])))


def test_delay_is_the_sum_of_the_stages() -> None:
    assert QkArray(**array_of(PAPER)).delay == 6 + 1 + 3 + 1
    assert QkArray(**array_of(NAMED["ulx3s"], multiplier_stages=2)).delay == 6 + 2 + 3 + 1
    assert QkArray(**TINY_ARRAY, levels_per_stage=1).delay == 6 + 1 + 4 + 1


@pytest.mark.parametrize("config", MACHINES, ids=lambda config: f"{config.name}{config.operand_bits}")
def test_the_rate_is_that_of_the_lanes_or_of_the_multipliers(config: Config) -> None:
    array = QkArray(**array_of(config))
    assert array.score_bits == config.score_bits
    for dim in config.head_dims:
        rate = min(config.softmax_lanes, config.qk_multipliers / dim)
        assert array.keys_per_beat(dim) / array.beats_per_group(dim) == rate


def test_ports_have_the_declared_shapes() -> None:
    array = QkArray(**MIXED_ARRAY)
    assert array.i_query.payload.shape() == query_row(operand_bits=4, head_dim_max=64)
    assert array.i_key.payload.shape() == key_beat(multipliers=64, lanes=4, operand_bits=4, header=5)
    assert array.o.payload.shape() == score_beat(lanes=4, score_bits=14, header=5)
    assert [dim_code(dim) for dim in (16, 32, 64, 128)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"multipliers": "64"}, TypeError, "multipliers must be an integer, not '64'"),
        ({"multipliers": 48}, ValueError, "multipliers must be a power of two, not 48"),
        ({"lanes": True}, TypeError, "lanes must be an integer, not True"),
        ({"lanes": 0}, ValueError, "lanes must be a power of two, not 0"),
        ({"lanes": 1}, ValueError, "lanes must be at least multipliers / slice_width = 2, not 1"),
        ({"slice_width": 24}, ValueError, "slice_width must be a power of two, not 24"),
        ({"slice_width": 8}, ValueError, "slice_width must be 16 to multipliers = 64, not 8"),
        ({"slice_width": 128}, ValueError, "slice_width must be 16 to multipliers = 64, not 128"),
        ({"operand_bits": 12.0}, TypeError, "operand_bits must be an integer, not 12.0"),
        ({"operand_bits": 1}, ValueError, "operand_bits must be at least 2, not 1"),
        ({"head_dim_max": 48}, ValueError, "head_dim_max must be one of (16, 32, 64, 128), not 48"),
        ({"head_dim_max": None}, TypeError, "head_dim_max must be an integer, not None"),
        ({"header": "x"}, TypeError, "header must be an Amaranth shape, not 'x'"),
        ({"multiplier_stages": 4}, ValueError, "multiplier_stages must be 1 to 3, not 4"),
        ({"multiplier_stages": None}, TypeError, "multiplier_stages must be an integer, not None"),
        ({"spare": -1}, ValueError, "spare must be at least 0, not -1"),
        ({"spare": 1.0}, TypeError, "spare must be an integer, not 1.0"),
        ({"levels_per_stage": 0}, ValueError, "levels_per_stage must be at least 1, not 0"),
        ({"levels_per_stage": "2"}, TypeError, "levels_per_stage must be an integer, not '2'"),
    ],
)
def test_parameters_are_validated(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        QkArray(**{**MIXED_ARRAY, **arguments})
    assert str(caught.value) == text


@pytest.mark.parametrize("seed", [1, 2])
def test_scores_are_dot_products(seed: int) -> None:
    random = np.random.default_rng(seed)
    query, key = random.integers(-2048, 2048, (3, 4, 16)), random.integers(-2048, 2048, (3, 5, 16))
    expected = [
        [[sum(a * b for a, b in zip(q, k, strict=True)) for k in head_k] for q in head_q]
        for head_q, head_k in zip(query.tolist(), key.tolist(), strict=True)
    ]
    assert scores(query, key).tolist() == expected


@pytest.mark.parametrize("config", MACHINES, ids=lambda config: f"{config.name}{config.operand_bits}")
def test_the_widest_scores_fit(config: Config) -> None:
    low, high = -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1
    dim = config.head_dim_max
    query = np.array([[low] * dim, [high] * dim, [low, high] * (dim // 2)], np.int64)
    key = np.array([[low] * dim, [high] * dim, [0] * dim, [high, low] * (dim // 2)], np.int64)
    score = scores(query, key)
    assert score.max() == dim * low * low
    assert score.min() == dim * low * high
    assert all(fits(int(s), config.score_bits) for s in score.flat)
    differences = score.max(axis=-1) - score.min(axis=-1)
    assert int(differences.max()) == -dim * low * (high - low)
    assert all(fits(int(d), config.difference_bits, signed=False) for d in differences)
    assert not fits(int(differences.max()), config.difference_bits - 1, signed=False), "no wider than needed"
