"""prob x V: the accumulator holds the worst case, the output saturates and says so; and the array that computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatten.golden import GoldenError
from spatten.golden.pv import outputs, value_beats
from spatten.golden.softmax import softmax
from spatten.hw.datapath.pv import PvArray, output_beat, value_operands, weight_beat
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.pv import SMALL, Size, run_arguments, size, size_of
from spatten.spec.config import PAPER, TINY, Config
from tests.golden.reference import clip, fits, float_softmax, output_bound, times_power

PROB_BITS = (8, 9, 10, 11, 12)
MACHINES = [PAPER.replace(prob_bits=w, operand_bits=b) for w in PROB_BITS for b in (4, 12, 16)]


def ends(config: Config) -> tuple[int, int]:
    return -(1 << (config.operand_bits - 1)), (1 << (config.operand_bits - 1)) - 1


@given(
    operand_bits=st.sampled_from([4, 8, 12, 16]), prob_bits=st.integers(8, 12), n=st.integers(1, 20), seed=st.integers()
)
def test_outputs_are_rounded_sums(operand_bits: int, prob_bits: int, n: int, seed: int) -> None:
    config = PAPER.replace(operand_bits=operand_bits, prob_bits=prob_bits)
    random = np.random.default_rng(seed % (1 << 32))
    low, high = ends(config)
    prob = random.integers(0, 2 * (1 << prob_bits) // n, (2, 3, n))
    value = random.integers(low, high + 1, (2, n, 5))
    output, saturated = outputs(config, prob, value)
    count = 0
    for h, r, d in np.ndindex(2, 3, 5):
        exact = sum(int(prob[h, r, i]) * int(value[h, i, d]) for i in range(n))
        rounded = times_power(exact, -prob_bits)
        assert output[h, r, d] == clip(rounded, operand_bits)
        count += not fits(rounded, operand_bits)
    assert saturated == count


def test_rounding_by_hand() -> None:
    value = np.array([[1, -1, 3, -3, 2047, -2048]])
    output, saturated = outputs(PAPER, np.array([[2048]]), value)
    assert output.tolist() == [[1, 0, 2, -1, 1024, -1024]], "halves go up"
    assert saturated == 0


def test_910_equal_keys_add_up_to_1_11() -> None:
    """Each of 910 probabilities of 4.501 LSB rounds to 5: together 1.11, and extreme values saturate."""
    prob = softmax(PAPER, np.zeros((1, 910), np.int64), 40_000, 20)
    assert prob.sum() == 910 * 5
    low, high = ends(PAPER)
    value = np.repeat(np.array([[low, high, 1000, 0]]), 910, axis=0)
    output, saturated = outputs(PAPER, prob, value)
    assert output.tolist() == [[low, high, times_power(910 * 5 * 1000, -12), 0]]
    assert saturated == 2, "counted"


@pytest.mark.parametrize("config", MACHINES, ids=lambda c: f"{c.prob_bits}x{c.operand_bits}")
def test_the_accumulator_holds_the_worst_row(config: Config) -> None:
    """Every number of equal keys, and rows tuned so that as many as possible round up by a half."""
    low, high = ends(config)
    sums = {}
    for n in range(1, config.tokens_max + 1):
        sums[n] = int(softmax(config, np.zeros(n, np.int64), 40_000, 20).sum())
    if config.prob_bits <= 9:
        worst = 2 << config.prob_bits
        assert max(sums.values()) == worst == sums[2 << config.prob_bits], "halves that all round up: exactly 2.0"
    random = np.random.default_rng(config.prob_bits)
    for _ in range(60):
        n = int(random.integers(2, config.tokens_max + 1))
        score = -random.integers(0, int(random.integers(1, 4000)), n)
        sums[-1] = max(sums.get(-1, 0), int(softmax(config, score, 40_000, 26).sum()))
    most = max(sums.values())
    assert most > 1 << config.prob_bits, "rounding lifts rows above 1.0"
    assert fits(most * low, config.pv_accumulator_bits)
    assert fits(most * high, config.pv_accumulator_bits)
    assert not fits((1 << config.prob_bits) * 2 * low - 1, config.pv_accumulator_bits), "the width's end is 2.0"


@pytest.mark.parametrize("n", [1, 7, 64, 500, 1024])
@pytest.mark.parametrize("operand_bits", [8, 12, 16])
def test_error_against_float64(n: int, operand_bits: int) -> None:
    """Within the bound that `output_bound` derives, and not within a hundredth of it: the bound means something."""
    config = PAPER.replace(operand_bits=operand_bits)
    random = np.random.default_rng(n)
    low, high = ends(config)
    score = random.integers(-3000, 3001, (4, n))
    value = random.integers(low, high + 1, (n, 64))
    value[:, 0] = high
    output, _ = outputs(config, softmax(config, score, 50_000, 26), value)
    exact = float_softmax(score, 50_000, 26) @ value
    error = np.abs(output - exact).max()
    assert error <= output_bound(n, -low, config.prob_bits)
    assert n == 1 or error > output_bound(n, -low, config.prob_bits) / 100
    assert len(np.unique(output)) > 12


# -- The layout of value beats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("multipliers", "slice_width", "n", "dim", "keys"),
    [
        (64, 16, 5, 16, 4),
        (64, 16, 7, 32, 4),
        (64, 16, 3, 64, 2),
        (64, 64, 9, 16, 4),
        (64, 32, 10, 16, 4),
        (16, 16, 2, 16, 1),
    ],
)
def test_value_beats_against_a_loop(multipliers: int, slice_width: int, n: int, dim: int, keys: int) -> None:
    """Every operand stands where the array's formula looks for it, and nothing else is touched."""
    value = np.arange(n * dim).reshape(n, dim) + 1
    parts = max(1, dim // slice_width)
    slices = multipliers // slice_width
    dead = -1 - np.arange(-(-n // keys) * parts * multipliers).reshape(-1, multipliers)
    got = value_beats(value, multipliers=multipliers, slice_width=slice_width, keys=keys, dead=dead)
    wanted = dead.copy()
    for key in range(n):
        group, q = divmod(key, keys)
        for d in range(dim):
            if dim <= slice_width:
                wanted[group, q % slices * slice_width + q // slices * dim + d] = value[key, d]
            else:
                wanted[group * parts + d // slice_width, q * slice_width + d % slice_width] = value[key, d]
    assert np.array_equal(got, wanted)
    assert np.count_nonzero(got > 0) == value.size


def test_value_beats_refuses_what_does_not_fit() -> None:
    value = np.zeros((3, 16), np.int64)
    with pytest.raises(GoldenError, match=r"dead must have shape \(2, 32\), not \(1, 32\)"):
        value_beats(value, multipliers=32, slice_width=16, keys=2, dead=np.zeros((1, 32), np.int64))
    with pytest.raises(GoldenError, match="4 keys of 16 operands do not fit 2 slices of 16"):
        value_beats(value, multipliers=32, slice_width=16, keys=4, dead=np.zeros((1, 32), np.int64))


# -- The circuit ------------------------------------------------------------------------------------------------------


TINY_SIZE = size_of(TINY)
PAPER_SIZE = size_of(PAPER)
SIZES = [
    size(32, 4, 32, 5, 8, 64, 5),  # one slice: two keys of 16 operands share it, folded once; two parts
    size(64, 8, 32, 6, 9, 32, 1),  # two slices of up to two keys
    size(64, 4, 64, 4, 8, 16, 7),  # folded from 64 to 16 positions
    size(32, 2, 16, 4, 8, 128, 3),  # eight parts
    size(16, 1, 16, 4, 8, 16, 1),  # one key a cycle
]


def test_array_matches_golden_in_icarus_without_initial_values() -> None:
    passed = cosimulate(**run_arguments(SMALL, 30, 16, 1), simulator="icarus", strip_initial=True)
    assert len(passed) == 13


@pytest.mark.slow
@pytest.mark.parametrize("stages", [2, 3])
def test_tiny_size_matches_golden_in_verilator(stages: int) -> None:
    arguments = run_arguments(TINY_SIZE, 40, 60, 1, multiplier_stages=stages, levels_per_stage=1)
    passed = cosimulate(**arguments, simulator="verilator", strip_initial=True)
    assert len(passed) == 13


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size.values())))
def test_other_sizes_match_golden(size: Size) -> None:
    cosimulate(**run_arguments(size, 20, 60, 1), simulator="verilator", strip_initial=True)


@pytest.mark.slow
def test_paper_size_matches_golden_in_verilator() -> None:
    passed = cosimulate(**run_arguments(PAPER_SIZE, 20, 400, 1), simulator="verilator", timeout_seconds=600)
    assert len(passed) == 13


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [SMALL, *SIZES],
    ids=lambda size: "-".join(map(str, size.values())),
)
def test_verilog_is_lint_clean(size: Size) -> None:
    lint(convert(PvArray(**size)))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"multipliers": "32"}, TypeError, "multipliers must be an integer, not '32'"),
        ({"multipliers": 8}, ValueError, "multipliers must be at least 16, not 8"),
        ({"multipliers": 48}, ValueError, "multipliers must be a power of two, not 48"),
        (
            {"multipliers": 64},
            ValueError,
            "multipliers must be slice_width to lanes x slice_width = 16 to 32, not 64",
        ),
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"lanes": 3}, ValueError, "lanes must be a power of two, not 3"),
        ({"slice_width": 8}, ValueError, "slice_width must be at least 16, not 8"),
        ({"slice_width": 24}, ValueError, "slice_width must be a power of two, not 24"),
        ({"operand_bits": 1}, ValueError, "operand_bits must be at least 2, not 1"),
        ({"prob_bits": True}, TypeError, "prob_bits must be an integer, not True"),
        ({"head_dim_max": 256}, ValueError, "head_dim_max must be one of (16, 32, 64, 128), not 256"),
        ({"header": "job"}, TypeError, "header must be an Amaranth shape, not 'job'"),
        ({"header": 0}, ValueError, "header must be at least 1 bit wide, not 0"),
        ({"multiplier_stages": 4}, ValueError, "multiplier_stages must be 1 to 3, not 4"),
        ({"levels_per_stage": 0}, ValueError, "levels_per_stage must be at least 1, not 0"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        PvArray(**{**SMALL, **change})
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    array = PvArray(**SMALL)
    assert array.i_prob.payload.shape() == weight_beat(lanes=2, prob_bits=8, header=3)
    assert array.i_value.payload.shape() == value_operands(multipliers=32, operand_bits=4)
    assert array.o.payload.shape() == output_beat(lanes=16, operand_bits=4, head_dim_max=32, header=3)


def test_paper_size_takes_what_the_configuration_says() -> None:
    array = PvArray(**PAPER_SIZE)
    assert {dim: array.keys_per_beat(dim) // array.beats_per_group(dim) for dim in array.dims} == {
        16: 8, 32: 8, 64: 8, 128: 4,
    }  # fmt: skip
    assert array.latency == 4 + 1 + 2 + 2
