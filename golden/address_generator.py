"""The fetch unit's requests (SpAtten section IV-B): which sectors of which channel, in which order, for which place.

Rows of a plane are fetched in groups of ids. Global sector g lies in channel g mod C at local address g div C. The
e-th id of a group goes to lane e mod R, block row e div R of a ring buffer (a query ring has one lane); of the
sectors of a lane, sector a lies in bank a mod 4 at word a div 4. Places in a lane wrap around its ring, except in the
space behind the key ring (ring 3), where they do not wrap.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spatten.golden import IntArray

BANKS = 4


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows of one plane; the fields are those of the circuit's `row_group`."""

    ids: IntArray
    sector: int
    pitch: int
    sectors: int
    ring: int
    place: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """One sector: local address in its channel, place in a ring, and the number of its group."""

    address: int
    ring: int
    lane: int
    bank: int
    word: int
    sequence: int


def requests(
    groups: Iterable[RowGroup], *, channels: int, lanes: int, ring_sectors: tuple[int, int, int], sequence_bits: int
) -> list[list[Request]]:
    """The requests of every channel, each in the order in which the channel makes them."""
    result: list[list[Request]] = [[] for _ in range(channels)]
    for sequence, group in enumerate(groups):
        own_lanes = lanes if group.ring else 1
        element = np.arange(len(group.ids))[:, None]
        offset = np.arange(group.sectors)
        sector = group.sector + group.ids[:, None] * group.pitch + offset
        place = group.place + element // own_lanes * group.stride + offset
        if group.ring < len(ring_sectors):
            place = place % ring_sectors[group.ring]
        lane = np.broadcast_to(element % own_lanes, sector.shape)
        for at, where, number in zip(sector.ravel(), place.ravel(), lane.ravel(), strict=True):
            result[at % channels].append(
                Request(
                    address=int(at) // channels,
                    ring=group.ring,
                    lane=int(number),
                    bank=int(where) % BANKS,
                    word=int(where) // BANKS,
                    sequence=sequence % 2**sequence_bits,
                )
            )
    return result
