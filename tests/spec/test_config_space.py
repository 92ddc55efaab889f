"""Whatever `Config` accepts can be built: random configurations over the whole range of every parameter."""

from __future__ import annotations

import random
from typing import Any

import pytest
from amaranth.hdl import Fragment

from spatten.hw.spatten import Spatten
from spatten.hw.units import UNITS
from spatten.sim.verify.cosim import seeds
from spatten.spec.config import CHANNELS_MAX, NAMED, Config, ConfigError
from tests.spec.random_config import accepted, draw


@pytest.mark.parametrize(
    ("count", "channels"),
    [
        (50, CHANNELS_MAX),
        pytest.param(2000, 4, marks=pytest.mark.slow),  # channels take most of the time, and have little to do with it
    ],
)
def test_whatever_is_accepted_is_constructed(count: int, channels: int) -> None:
    (seed,) = seeds(1)
    for config in accepted(random.Random(seed), count, channels=channels):
        Spatten(config=config)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1))
def test_every_unit_of_it_is_constructed_too(seed: int) -> None:
    for config in accepted(random.Random(seed), 10):
        for unit in UNITS.values():
            unit.make(config)


@pytest.mark.slow
@pytest.mark.parametrize("seed", seeds(1))
def test_five_random_ones_are_elaborated(seed: int) -> None:
    # Small ones, in which parameters meet their ends as they do in large ones.
    for config in accepted(random.Random(seed), 5, tokens=16, channels=2):
        assert Fragment.get(Spatten(config=config), None).subfragments


def test_named_ones_are_at_home_in_the_range() -> None:
    """What is drawn reaches every value that a named configuration has, one parameter at a time."""
    source = random.Random(1)
    drawn = [draw(source) for _ in range(3000)]
    for config in NAMED.values():
        for name, value in config.as_dict().items():
            if name not in ("name", "key_buffer_rows", "value_buffer_rows"):
                assert any(values[name] == value for values in drawn), f"{name} = {value}"


STRANGE = (0, -1, 1, 3, 31, 33, 1 << 16, 1 << 31, 1 << 32, 1 << 40, -(1 << 70), 10**5000, True, 4.0, float("nan"), "4",
           "", None, [], {}, b"4", 4j)  # fmt: skip


def test_whatever_is_refused_is_refused_in_words() -> None:
    """A value of any kind for any parameters ends in `ConfigError` or, where its type is wrong, `TypeError`."""
    source = random.Random(1)
    outcomes: dict[str, list[str]] = {"accepted": [], "ConfigError": [], "TypeError": []}
    for _ in range(5000):
        values: dict[str, Any] = draw(source)
        for name in source.sample(sorted(values), source.choice([1, 1, 2, 4])):
            values[name] = source.choice(STRANGE)
        try:
            Config(name="random", **values)
        except (ConfigError, TypeError) as error:
            outcomes[type(error).__name__].append(str(error))
        else:
            outcomes["accepted"].append("it must be right")
    for outcome, messages in outcomes.items():
        assert len(messages) > 50, outcome
        assert all("must" in message and len(message) < 300 for message in messages), outcome
