"""Random configurations, over the whole range of every parameter and its ends above all."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from spatten.spec.config import (
    BLOCKS_MAX,
    CHANNELS_MAX,
    FEATURES,
    HEAD_DIMS,
    LSB_BITS,
    PLANE_BITS,
    TINY,
    Config,
    ConfigError,
)

POWERS = tuple(1 << bit for bit in range(13))


def _ends(source: random.Random, low: int, high: int) -> int:
    """Of a range, one of its ends as often as all the rest."""
    return source.choice([low, high, source.randint(low, high), source.randint(low, high)])


def _power(source: random.Random, low: int, high: int) -> int:
    known = [power for power in POWERS if low <= power <= high]
    return source.choice([known[0], known[-1], *known])


def draw(source: random.Random, *, tokens: int = 1024, channels: int = CHANNELS_MAX) -> dict[str, Any]:
    """Values of all parameters but the name. Each can be had, and most of these combinations; in every third one, a
    parameter has a value that does not mind the others, and need not be one that it can have."""
    values = _draw(source, tokens, channels)
    if source.random() < 1 / 3:
        single = sorted(values.keys() - {"plane_widths", "features"})
        values[source.choice(single)] = source.choice([*POWERS, source.randint(1, 40)])
    return values


def _draw(source: random.Random, tokens: int, channels: int) -> dict[str, Any]:
    tokens_max = _power(source, 2, tokens)
    softmax_lanes = _power(source, 1, min(32, tokens_max))
    head_dim_max, buffer_dim = source.choice(HEAD_DIMS), source.choice(HEAD_DIMS)
    multipliers = _power(source, 16, min(4096, softmax_lanes * head_dim_max))
    rows = tokens_max * max(1, head_dim_max // buffer_dim)
    return {
        "qk_multipliers": multipliers,
        "pv_multipliers": multipliers,
        "operand_bits": _ends(source, 4, 16),
        "prob_bits": _ends(source, 8, 12),
        "softmax_lanes": softmax_lanes,
        "topk_lanes": _power(source, softmax_lanes, min(32, tokens_max)),
        "tokens_max": tokens_max,
        "heads_max": _ends(source, 1, 16),
        "layers_max": _ends(source, 1, 64),
        "head_dim_max": head_dim_max,
        "key_buffer_rows": rows + _ends(source, 0, 2 * rows),
        "value_buffer_rows": rows + _ends(source, 0, 2 * rows),
        "buffer_dim": buffer_dim,
        "channels": _power(source, 1, channels),
        "channel_bits": _power(source, 16, 256),
        "contexts": _ends(source, 1, 16),
        "jobs_in_flight": _power(source, 1, 8),
        "sector_bits": _ends(source, 12, 32),
        "plane_widths": tuple(bits for bits in PLANE_BITS if bits == LSB_BITS or source.random() < 0.7),
        "head_dim_min": source.choice([dim for dim in HEAD_DIMS if dim <= head_dim_max]),
        "blocks": _power(source, 4, BLOCKS_MAX),
        "features": source.choice([FEATURES, tuple(source.sample(FEATURES, source.randint(0, len(FEATURES))))]),
    }


def accepted(source: random.Random, count: int, *, tokens: int = 1024, channels: int = CHANNELS_MAX) -> list[Config]:
    """So many configurations that `Config` accepts, of random parameters. Most that are drawn must be."""
    names = [field.name for field in dataclasses.fields(Config)]
    found: list[Config] = []
    refused = 0
    while len(found) < count:
        values = draw(source, tokens=tokens, channels=channels)
        assert ["name", *values] == names, "a parameter is not drawn"
        try:
            found.append(Config(name=f"random-{len(found)}", **values))
        except ConfigError:
            refused += 1
            assert refused < 20 + 2 * count, "hardly any of these are accepted"
    return found


SMALLEST = TINY.replace(
    name="smallest", qk_multipliers=16, pv_multipliers=16, operand_bits=4, prob_bits=8, softmax_lanes=1, topk_lanes=1,
    tokens_max=2, heads_max=1, layers_max=1, head_dim_max=16, key_buffer_rows=2, value_buffer_rows=2, channels=1,
    channel_bits=16, contexts=1, jobs_in_flight=1, sector_bits=12, plane_widths=(4,), blocks=4,
)  # fmt: skip
"""Every parameter at its least."""
