"""Testbench of the window walker and of the arrival gate; tests/hw/control/test_window_walker.py runs it.

The reference follows from the format of a block row alone: window w of a row begins w windows behind its base, wherever
the ring ends, and takes of every lane the block rows that its keys lie in.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.control.window_walker import ArrivalGate, WindowWalker
from spatten.hw.emit.payload import Payload
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.stream import Bench
from spatten.spec.config import Config
from spatten.spec.row_format import BANKS, RowFormat, key_formats

PARAMETERS = parameters()
CONFIG = Config(**PARAMETERS["config"])
SECTORS: int = PARAMETERS["sectors"]
LINEAR: int = PARAMETERS["linear_sectors"]
"""Sectors behind the ring; 0: the walker of values."""
SEEDS: list[int] = PARAMETERS["seeds"]
IS_GATE: bool = PARAMETERS["is_gate"]
WALKS: int = PARAMETERS["walks"]
FORMATS = [row for row in key_formats(CONFIG) if LINEAR or not row.joined]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A beat of a window: what the walker is given, and what it must say."""

    given: dict[str, Any]
    wanted: dict[str, Any]
    base: int


def block_rows(row: RowFormat) -> int:
    """Block rows of a lane that a window takes at most."""
    most = min(max(1, CONFIG.slice_width // row.head_dim), CONFIG.softmax_lanes // CONFIG.slices)
    return row.rows_per_read(most, BANKS)


def walk(source: random.Random) -> list[Place]:
    """A row of a random format at a random place; keys of a row are read more than once, from its base on."""
    row = source.choice(FORMATS)
    head = source.randrange(row.heads)
    rows = block_rows(row)
    keys = rows * CONFIG.slices
    step = rows * row.stride
    is_linear = step <= LINEAR and source.random() < 0.4
    places = source.randint(1, LINEAR // step) if is_linear else 0
    base = SECTORS if is_linear else source.randrange(SECTORS)
    last_place = SECTORS + (places - 1) * step if is_linear else 0
    record: dict[str, Any] = {
        "parts": [
            _part(source, row, head, beat % row.beats)
            for beat in range(max(1, CONFIG.head_dim_max // CONFIG.slice_width))
        ],
        "log_keys": keys.bit_length() - 1,
        "window_keys": keys,
        "beats": row.beats,
        "stride": row.stride,
        "step": step,
    }
    found: list[Place] = []
    count = source.randint(1, CONFIG.tokens_max)
    times = source.randint(1, 3) if LINEAR else 1
    for time in range(times):
        # Rows of keys go back to the base; beats of probabilities, as wide as softmax, follow each other.
        number = min(count + time, CONFIG.tokens_max)
        for window in range(-(-number // keys)):
            done = window * keys
            left = number - done
            if not LINEAR:
                left = min(left, CONFIG.softmax_lanes - done % CONFIG.softmax_lanes)
            pointer = base + window % places * step if is_linear else base + window * step
            used = rows if left > keys else -(-left // CONFIG.slices)
            for beat in range(row.beats):
                part = record["parts"][beat]
                sector = pointer + part["start"]
                found.append(
                    Place(
                        given={
                            "windows": record,
                            "left": left,
                            "linear": int(is_linear),
                            "base": base,
                            "last_place": last_place,
                        },
                        wanted={
                            "first_beat": int(beat == 0),
                            "last_beat": int(beat == row.beats - 1),
                            "last_window": int(left <= keys),
                            "part": part,
                            "sector": sector if is_linear else sector % SECTORS,
                            "count": (used - 1) * row.stride + part["sectors"],
                        },
                        base=base,
                    )
                )
    return found


def _part(source: random.Random, row: RowFormat, head: int, beat: int) -> dict[str, Any]:
    part = row.parts[head, beat]
    layout = Payload(WALKER.part.shape().members["part"])
    return {"start": part.start, "sectors": part.sectors, "part": layout.unpack(source.getrandbits(layout.width))}


WALKER = WindowWalker(config=CONFIG, sectors=SECTORS, linear_sectors=LINEAR, left_shape=range(CONFIG.tokens_max + 1))
GATE = ArrivalGate(config=CONFIG, has_linear=bool(LINEAR))


class Ports:
    """The ports of a component, as Python values."""

    def __init__(self, bench: Bench, component: Any) -> None:
        members = component.signature.members
        self._signals = {name: bench.signal(name) for name in members}
        self._payloads = {name: Payload(member.shape) for name, member in members.items()}

    def give(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name in self._signals:
                self._signals[name].value = self._payloads[name].pack(value)

    def seen(self, name: str) -> Any:
        return self._payloads[name].unpack(int(str(self._signals[name].value), 2))


class Walker:
    """Walks along all places, a step in some cycles; a new walk begins with the last step of the one before, or
    later."""

    def __init__(self, bench: Bench, walks: list[list[Place]], *, rate: float) -> None:
        self._ports = Ports(bench, WALKER)
        self._source = bench.random("steps")
        self._walks = walks
        self._rate = rate
        self._where = f"seed {bench.seed}"
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._walk, self._place = -1, 0
        self._steps = self._starts = False
        self.count = 0

    @property
    def is_done(self) -> bool:
        return self._walk == len(self._walks)

    def _now(self) -> Place | None:
        if 0 <= self._walk < len(self._walks) and self._place < len(self._walks[self._walk]):
            return self._walks[self._walk][self._place]
        return None

    def drive(self) -> None:
        now = self._now()
        moves = self._source.random() < self._rate
        self._steps = now is not None and moves
        ends = now is None or (self._steps and self._place == len(self._walks[self._walk]) - 1)
        self._starts = ends and not self.is_done and (self._steps or moves) and self._source.random() < 0.8
        following = self._walk + 1
        start = self._walks[following][0].base if self._starts and following < len(self._walks) else 0
        self._ports.give(
            {**(now.given if now else {}), "steps": int(self._steps), "starts": int(self._starts), "start": start}
        )

    def sample(self, cycle: int) -> None:
        now = self._now()
        if now is not None:
            for name, wanted in now.wanted.items():
                seen = self._ports.seen(name)
                assert seen == wanted, f"{name} is {seen}, not {wanted}, for {now.given}, cycle {cycle}, {self._where}"
        if self._steps:
            self.count += 1
            self._place += 1
        if self._starts:
            self._walk, self._place = self._walk + 1, 0


@cocotb.test(skip=IS_GATE)
@cocotb.parametrize(rate=[1.0, 0.4], seed=SEEDS)
async def every_window_is_where_its_keys_lie(dut: HierarchyObject, rate: float, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    source = bench.random("walks")
    walks = [walk(source) for _ in range(WALKS)]
    kinds = {place.wanted["last_window"] for one in walks for place in one}
    assert kinds == {0, 1} or not LINEAR, "walks of one window each show little"
    walker = Walker(bench, walks, rate=rate)
    await bench.reset()
    await bench.until(lambda: walker.is_done, what="the last walk", limit=200_000)
    assert walker.count == sum(map(len, walks))


class Gate:
    """Windows that wait for some cycles each, while groups arrive in any block."""

    def __init__(self, bench: Bench) -> None:
        self._ports = Ports(bench, GATE)
        self._source = bench.random("gate")
        self._bench = bench
        self.clear()
        bench.agents.append(self)

    def clear(self) -> None:
        self._window: dict[str, int] | None = None
        self._before: dict[str, Any] | None = None
        self.seen = {0: 0, 1: 0}

    def _any_window(self) -> dict[str, int]:
        linear = int(bool(LINEAR) and self._source.random() < 0.3)
        return {
            "entry": self._source.randrange(CONFIG.blocks),
            "linear": linear,
            "group": self._source.randrange(GATE.groups),
        }

    def drive(self) -> None:
        source = self._source
        arrived = [source.randrange(GATE.groups + 1) for _ in range(CONFIG.blocks)]
        behind = source.randrange(GATE.groups + 1)
        window = self._window or self._any_window()
        following = self._any_window()
        begins = int(self._window is None or source.random() < 0.5)
        self._given = {
            "arrived": arrived,
            "linear_arrived": behind,
            "begins": begins,
            "entry": window["entry"],
            "linear": window["linear"],
            "next_entry": following["entry"],
            "next_linear": following["linear"],
            "group": window["group"],
            "next_group": following["group"],
        }
        self._ports.give(self._given)
        self._next = following if begins else window

    def sample(self, cycle: int) -> None:
        if self._window is not None and self._before is not None:
            # What was there of the window's block in the cycle before.
            there = (
                self._before["linear_arrived"]
                if self._window["linear"]
                else self._before["arrived"][self._window["entry"]]
            )
            wanted = int(there > self._window["group"])
            assert self._ports.seen("has_rows") == wanted, f"cycle {cycle}, seed {self._bench.seed}"
            self.seen[wanted] += 1
        self._before, self._window = self._given, self._next


@cocotb.test(skip=not IS_GATE)
@cocotb.parametrize(seed=SEEDS)
async def a_window_waits_for_its_group(dut: HierarchyObject, seed: int) -> None:
    bench = Bench(dut, seed=seed)
    gate = Gate(bench)
    await bench.reset()
    await bench.step(3000)
    assert min(gate.seen.values()) > 300
