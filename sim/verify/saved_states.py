"""Contexts as the testbenches of saving and restoring make them, and what goes over the streams for one of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from spatten.golden import BoolArray
from spatten.golden.cascade import Context
from spatten.golden.state import save, state_sectors
from spatten.hw.control.format_tables import BANKS
from spatten.hw.control.saved.state_layouts import head_sectors, kept_sectors, token_sectors
from spatten.spec.config import SECTOR_BYTES, Config

Request = dict[str, int]


def make_context(config: Config, source: np.random.Generator) -> Context:
    """A context with any contents; some importance at the ends of its range."""
    context = Context(config)
    top_token, top_head = (1 << bits for bits in (config.token_importance_bits, config.head_importance_bits))
    context.token_importance = source.integers(0, top_token, config.tokens_max)
    context.token_importance[:2] = [top_token - 1, 0]
    context.head_importance = source.integers(0, top_head, config.heads_max)
    context.head_importance[-1] = top_head - 1
    context.kept_tokens = source.random(config.tokens_max) < 0.5
    context.kept_heads = source.random(config.heads_max) < 0.5
    context.heads_saturated = source.random(config.heads_max) < 0.5
    return context


def commands(config: Config, source: np.random.Generator, count: int) -> list[dict[str, int]]:
    """Where states lie, the first two at the ends of memory, and of which context each is."""
    last = (1 << config.sector_bits) - state_sectors(config)
    places = [0, last, *source.integers(0, last, count).tolist()][:count]
    return [{"context": int(source.integers(config.contexts)), "sector": int(place)} for place in places]


def _bits(members: BoolArray) -> int:
    return sum(1 << int(n) for n in np.flatnonzero(members))


def heads_of(context: Context) -> dict[str, Any]:
    """The state of the heads, as `head_state` has it."""
    return {
        "importance": context.head_importance.tolist(),
        "kept": _bits(context.kept_heads),
        "saturated": _bits(context.heads_saturated),
    }


def lines_of(context: Context) -> list[dict[str, Any]]:
    """The id lines of the tokens."""
    lanes = context.config.topk_lanes
    return [
        {
            "importance": context.token_importance[first : first + lanes].tolist(),
            "kept": _bits(context.kept_tokens[first : first + lanes]),
        }
        for first in range(0, context.config.tokens_max, lanes)
    ]


def head_requests(config: Config) -> list[Request]:
    """What is asked of the sector reader for the heads of a state that begins at sector 0."""
    first = token_sectors(config) + kept_sectors(config)
    return [{"sector": first, "sectors": head_sectors(config) + 1, "rows": 1}]


def token_requests(config: Config) -> list[Request]:
    """What is asked of the sector reader for the tokens of a state that begins at sector 0."""
    tokens = token_sectors(config)
    sectors = min(BANKS, tokens)
    at_once = min(config.topk_lanes, tokens // sectors)
    firsts = range(0, tokens, sectors * at_once)
    return [
        {"sector": tokens, "sectors": kept_sectors(config), "rows": 1},
        *({"sector": first, "sectors": sectors, "rows": at_once} for first in firsts),
    ]


def rows_of(context: Context, requests: list[Request], source: np.random.Generator) -> list[int]:
    """The rows that the sector reader hands out for these requests: sectors that were not asked for hold anything."""
    image = save(context)
    rows = []
    for request in requests:
        for number in range(request["rows"]):
            first = request["sector"] + number * request["sectors"]
            row = source.integers(0, 256, BANKS * SECTOR_BYTES, dtype=np.uint8)
            row[: request["sectors"] * SECTOR_BYTES] = image[first : first + request["sectors"]].reshape(-1)
            rows.append(int.from_bytes(row.tobytes(), "little"))
    return rows
