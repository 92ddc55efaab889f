"""Where sectors end up (SpAtten section IV-B): what the fetch unit's requests leave in the ring buffers' banks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from spatten.golden.address_generator import Request

Place = tuple[int, int, int, int]
"""A place in the ring buffers: ring, lane, bank, word."""


def writes(requests: Iterable[Iterable[Request]], sector: Callable[[int, int], int]) -> list[list[tuple[Place, int]]]:
    """What every row group writes: [group] of (place, sector), given `sector(channel, address)` of the memory.

    `requests` are those of each channel; their sequence numbers must not have wrapped.
    """
    result: dict[int, list[tuple[Place, int]]] = {}
    for channel, ones in enumerate(requests):
        for one in ones:
            place = (one.ring, one.lane, one.bank, one.word)
            result.setdefault(one.sequence, []).append((place, sector(channel, one.address)))
    return [result[sequence] for sequence in sorted(result)]
