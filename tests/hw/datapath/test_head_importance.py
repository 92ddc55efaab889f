"""The head importance accumulator against its golden model, and that model against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest

from spatten.golden.head_importance import HeadScores
from spatten.hw.datapath.head_importance import HeadImportance, entry_access, entry_value, weighted_beat
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate, seeds
from spatten.sim.verify.runs.head_importance import SMALL, Size, run_arguments, size, size_of
from spatten.spec.config import PAPER, ULX3S

PAPER_SIZE = size_of(PAPER)
SIZES = [
    size(64, 12, 64, 16, 1, 32),  # one beat a row, one slot
    size(16, 16, 128, 1, 3, 17),  # eight beats a row, one head, full width
    size(32, 4, 16, 2, 2, 16),  # rows narrower than a beat, the narrowest score
]


def test_scores_match_golden_in_icarus_without_initial_values() -> None:
    passed = cosimulate(**run_arguments(SMALL, 200, 1), simulator="icarus", strip_initial=True)
    assert len(passed) == 9


@pytest.mark.slow
def test_paper_size_matches_golden_in_verilator() -> None:
    passed = cosimulate(**run_arguments(PAPER_SIZE, 2000, 1), simulator="verilator")
    assert len(passed) == 9


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size.values())))
def test_other_sizes_match_golden(size: Size) -> None:
    cosimulate(**run_arguments(size, 200, 1), simulator="verilator", strip_initial=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [PAPER_SIZE, SMALL, *SIZES], ids=lambda size: "-".join(map(str, size.values())))
def test_verilog_is_lint_clean(size: Size) -> None:
    lint(convert(HeadImportance(**size)))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lanes": 16.0}, TypeError, "lanes must be an integer, not 16.0"),
        ({"lanes": 0}, ValueError, "lanes must be at least 1, not 0"),
        ({"lanes": 12}, ValueError, "lanes must be a power of two, not 12"),
        ({"operand_bits": 1}, ValueError, "operand_bits must be at least 2, not 1"),
        ({"head_dim_max": 48}, ValueError, "head_dim_max must be one of (16, 32, 64, 128), not 48"),
        ({"heads": 0}, ValueError, "heads must be at least 1, not 0"),
        ({"slots": True}, TypeError, "slots must be an integer, not True"),
        ({"bits": 15}, ValueError, "bits must be at least 16, not 15"),
    ],
)
def test_parameters_are_validated(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        HeadImportance(**{**SMALL, **change})
    assert str(caught.value) == text


def test_ports_have_the_declared_shapes() -> None:
    component = HeadImportance(**SMALL)
    assert component.i.payload.shape() == weighted_beat(lanes=16, operand_bits=5, slots=2, heads=3)
    assert component.i_access.payload.shape() == entry_access(slots=2, heads=3, bits=18)
    assert component.o_access.payload.shape() == entry_value(18)


def test_latency_is_what_the_docstring_says() -> None:
    assert HeadImportance(**PAPER_SIZE).latency == 8 + 3
    assert HeadImportance(**size_of(ULX3S)).latency == 8 + 3
    assert HeadImportance(**{**PAPER_SIZE, "levels_per_stage": 1}).latency == 8 + 6


@pytest.mark.parametrize("seed", seeds())
@pytest.mark.parametrize("operand_bits", [4, 12, 16])
def test_golden_against_exact_fractions(operand_bits: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    config = PAPER.replace(operand_bits=operand_bits)
    limit = (1 << 18) - 1
    scores = HeadScores(config, 2, 3, 18)
    exact = {(slot, head): 0 for slot in range(2) for head in range(3)}
    marked = set()
    for _ in range(200):
        slot, head = int(source.integers(2)), int(source.integers(3))
        if source.random() < 0.05:
            exact[slot, head] = int(source.integers(limit + 1))
            scores.write(slot, head, exact[slot, head])
            marked.discard((slot, head))
        row = source.integers(-(1 << (operand_bits - 1)), 1 << (operand_bits - 1), 64)
        multiplier = int(source.integers((1 << 15) + 1))
        scores.add(slot, head, row, multiplier)
        # A row of 128 elements of full magnitude at weight 1.0 is 2**15.
        share = Fraction(sum(abs(int(x)) for x in row), 128 << (operand_bits - 1))
        total = exact[slot, head] + floor(share * multiplier + Fraction(1, 2))
        if total > limit:
            marked.add((slot, head))
        exact[slot, head] = min(total, limit)
        assert scores.read(slot, head) == (exact[slot, head], (slot, head) in marked)
    assert marked, "nothing saturated"


def test_golden_counts_the_most_negative_element_in_full() -> None:
    scores = HeadScores(PAPER, 1, 1, 32)
    scores.add(0, 0, np.full(128, -2048), 1 << 15)
    assert scores.read(0, 0) == (1 << 15, False)
