"""Saved states: the image in golden, and the circuits that write and read it."""

from __future__ import annotations

import numpy as np
import pytest

from spatten.golden.cascade import Context
from spatten.golden.state import restore, save
from spatten.golden.state import state_sectors as golden_sectors
from spatten.hw.control.saved.state_layouts import state_sectors
from spatten.hw.emit.verilog import convert
from spatten.sim.verify.build import lint
from spatten.sim.verify.cosim import cosimulate
from spatten.sim.verify.runs.state import CONFIGS, PARTS, state_run
from spatten.spec.config import EIGHTH, PAPER, TINY, ULX3S, Config, Feature


@pytest.mark.parametrize(
    "name", ["tiny", "few", *(pytest.param(name, marks=pytest.mark.slow) for name in ("long", "wide", "many"))]
)
@pytest.mark.parametrize("part", PARTS)
def test_states_match_golden_without_initial_values(part: str, name: str) -> None:
    assert len(cosimulate(**state_run(part, CONFIGS[name]), simulator="icarus", strip_initial=True)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("config", [*CONFIGS.values(), EIGHTH, ULX3S], ids=lambda config: str(config.tokens_max))
def test_verilog_is_lint_clean(config: Config) -> None:
    for part in PARTS.values():
        lint(convert(part(config=config)))


@pytest.mark.parametrize("config", [*CONFIGS.values(), EIGHTH, ULX3S, PAPER], ids=lambda config: str(config.heads_max))
def test_golden_round_trip(config: Config) -> None:
    source = np.random.default_rng(3)
    context = Context(config)
    context.token_importance = source.integers(0, 1 << config.token_importance_bits, config.tokens_max)
    context.head_importance = source.integers(0, 1 << config.head_importance_bits, config.heads_max)
    if not config.has(Feature.PRUNE_HEADS):
        context.head_importance[:] = 0  # since such a machine does not sum it
    context.kept_tokens = source.random(config.tokens_max) < 0.5
    context.kept_heads = source.random(config.heads_max) < 0.5
    context.heads_saturated = np.ones(config.heads_max, np.bool_)
    image = save(context)
    assert image.shape == (golden_sectors(config), 32)
    assert golden_sectors(config) == state_sectors(config)
    again = Context(config)
    restore(again, image)
    for name in ("token_importance", "head_importance", "kept_tokens", "kept_heads"):
        assert np.array_equal(getattr(again, name), getattr(context, name)), name
    assert not again.heads_saturated.any(), "what had saturated before is not news"
    # The saturated heads are in the image for the host alone.
    image[-1, 2:4] = 0
    assert np.array_equal(save(again), image)


def test_golden_layout_by_hand() -> None:
    context = Context(TINY)
    context.token_importance[:] = 0
    context.token_importance[9] = 0x01020304
    context.kept_tokens[:] = False
    context.kept_tokens[10] = True
    context.head_importance[3] = 0x0A0B
    context.kept_heads[:] = [True, False, True, False]
    context.heads_saturated[:] = [False, True, False, False]
    image = save(context)
    # 16 tokens of 32 bits, their set, 4 heads of 32 bits, and the two sets of heads.
    assert image.shape == (5, 32)
    assert image[1, 4:8].tolist() == [4, 3, 2, 1]
    assert image[2, :3].tolist() == [0, 4, 0]
    assert image[3, 12:14].tolist() == [0x0B, 0x0A]
    assert image[4, :4].tolist() == [5, 0, 2, 0]
    assert np.count_nonzero(image) == 4 + 1 + 2 + 2
