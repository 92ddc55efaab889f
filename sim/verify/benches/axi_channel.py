"""What the testbenches of the AXI reader and the AXI writer have in common: a memory channel with its base address."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

from spatten.sim.verify.axi_checker import AxiChecker, BusTraffic
from spatten.sim.verify.axi_memory import AxiMemory
from spatten.sim.verify.stream import Bench, StreamDriver
from spatten.spec.constants import PAGE_BITS, PAGE_BYTES
from spatten.spec.row_format import SECTOR_BITS

__all__ = ["AxiChannel", "make_locals"]

_SECTOR_BYTES = SECTOR_BITS // 8
_MOVES = itertools.count()
"""How often a channel has taken another base, in all tests of a run."""


@dataclass(kw_only=True)
class AxiChannel:
    """A unit with an AXI master, the memory at that master's port, and the checker of the protocol between them."""

    bench: Bench
    source: StreamDriver
    memory: AxiMemory
    checker: AxiChecker
    probe: Any
    """Checks the unit's status outputs in every cycle; has a flag `stopped`."""
    direction: str
    """Of the unit's bursts: "reads" or "writes"."""
    channel_bits: int
    local_bits: int
    address_bits: int
    base: int = 0
    """Page at which the channel's memory begins."""

    @property
    def traffic(self) -> BusTraffic:
        """The bursts that the checker has seen, in the unit's direction."""
        found: BusTraffic = getattr(self.checker, self.direction)
        return found

    @property
    def beats(self) -> int:
        """Beats of a sector."""
        return SECTOR_BITS // self.channel_bits

    def address(self, local: int) -> int:
        """Byte address of a local sector, as the unit's address bits can hold it."""
        return (self.base * PAGE_BYTES + local * _SECTOR_BYTES) % (1 << self.address_bits)

    def move(self) -> None:
        """Take another base, a new one in every test."""
        self.base = self.bench.random(f"base {next(_MOVES)}").getrandbits(PAGE_BITS)
        self.bench.signal("base").value = self.base

    async def reset(self) -> None:
        """Begin with another base and without `stop`."""
        self.move()
        self.bench.signal("stop").value = 0
        await self.bench.reset()

    async def stop_until_idle(self, limit: int) -> None:
        """Set `stop`, and wait for the cycle after the one in which `idle` is seen."""
        self.bench.signal("stop").value = 1
        self.probe.stopped = True
        idle = self.bench.signal("idle")
        await self.bench.step()
        await self.bench.until(lambda: str(idle.value) == "1", what="idle", limit=limit)
        await self.bench.step()

    @property
    def bursts(self) -> list[tuple[int, int]]:
        """(local sector, sectors) of every burst that was taken."""
        result = []
        for burst in self.traffic.bursts:
            assert burst.beats % self.beats == 0
            assert (8 << burst.size, burst.kind, burst.id) == (self.channel_bits, 1, 0)
            distance = (burst.address - self.address(0)) % (1 << self.address_bits)
            result.append((distance // _SECTOR_BYTES, burst.beats // self.beats))
        return result

    def send(self, locals_: list[int]) -> None:
        """Have the unit read or write these local sectors."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait for the end of all that was sent, and check it."""
        raise NotImplementedError

    async def check_merging(self, *, burst: int, is_most: bool) -> None:
        """That neighbours behind a stalled burst gather in one burst, and nothing else does.

        `burst` sectors are sure to gather; `is_most`: and never more.
        """
        address_channel = {"reads": "ar", "writes": "aw"}[self.direction]
        source = self.bench.random("pages")
        last = (1 << self.local_bits) - 1
        page = source.randrange(1 << self.local_bits - 8) * 256
        run = min(7, burst)
        end = page + 128
        expected: list[tuple[int, int]] = []
        for begin, count, bursts in (
            (page + 3, 1, [(page + 3, 1)]),
            (page + 4, 1 + run, [(page + 4, 1), (page + 5, run)]),
            # A burst never crosses the end of a page.
            (end - 1 - run, 2 + run, [(end - 1 - run, 1), (end - run, run), (end, 1)]),
            (end - 1, 2, [(end - 1, 1), (end, 1)]),
            (end - 2, 3, [(end - 2, 1), (end - 1, 1), (end, 1)]),
            # A burst never has more sectors than it may.
            *(
                [(page + 10, 2 + burst, [(page + 10, 1), (page + 11, burst), (page + 11 + burst, 1)])]
                if is_most
                else []
            ),
            (page + 10, 1 + burst, [(page + 10, 1), (page + 11, burst)]),
            # The first sector is no neighbour of the last.
            (last - 1, 3, [(last - 1, 1), (last, 1), (0, 1)]),
        ):
            self.memory.frozen.add(address_channel)
            self.send([(begin + n) & last for n in range(count)])
            await self.bench.step(count + 4)
            assert self.source.count == sum(sectors for _, sectors in expected) + count, "a sector is not taken"
            self.memory.frozen.clear()
            await self.drain()
            expected += bursts
            assert self.bursts == expected
        # Only the sector after a burst's last one joins it, whatever bits others share with that sector.
        other = [page + 8] + [(page + 8) ^ 1 << bit for bit in range(self.local_bits)]
        for third in other:
            self.memory.frozen.add(address_channel)
            self.send([page + 5, page + 7, third])
            await self.bench.step(6)
            self.memory.frozen.clear()
            await self.drain()
            expected += (
                [(page + 5, 1), (page + 7, 2)] if third == page + 8 else [(page + 5, 1), (page + 7, 1), (third, 1)]
            )
            assert self.bursts == expected
        # A sector that waited to begin a burst, and one that begins it as the last burst leaves, are joined like any
        # other.
        for waits in (1, 0):
            for _ in range(8):
                start = source.randrange(1 << self.local_bits - 7) * 128 + source.randrange(120)
                self.memory.frozen.add(address_channel)
                self.send([page + 1, page + 3, *[start] * waits])
                await self.bench.step(6)
                self.memory.frozen.clear()
                self.send([start] * (1 - waits))
                await self.bench.step()
                self.memory.frozen.add(address_channel)
                self.send([start + 1])
                await self.bench.step(6)
                self.memory.frozen.clear()
                await self.drain()
                expected += [(page + 1, 1), (page + 3, 1), (start, 2)]
                assert self.bursts == expected


def make_locals(source: random.Random, count: int, *, local_bits: int) -> list[int]:
    """Runs of neighbours at random places, page ends, the last sector and the first among them, and single sectors."""
    result: list[int] = []
    last = (1 << local_bits) - 1
    while len(result) < count:
        start = source.choice([source.randint(0, last), source.randint(0, last) | 0x7C, last - source.randint(0, 3)])
        length = source.choice([1, 1, 2, source.randint(1, 40)])
        step = source.choice([1, 1, 1, 0, 2, -1, 1 + (1 << local_bits - 1)])
        result += [(start + n * step) & last for n in range(length)]
    return result[:count]
