"""Testbench of hw/datapath/select/digit_pass.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.digit_pass import DigitPass
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
DIGIT_BITS: int = PARAMETERS["digit_bits"]
PASSES_ON: bool = PARAMETERS["passes_on"]
PASS = DigitPass(width=WIDTH, lanes=LANES, n_max=N_MAX, digit_bits=DIGIT_BITS, passes_on=PASSES_ON)
HIGHEST_LOW = (1 << len(PASS.bin.low)) - 1


class SortedBin(Twin):
    """Passes over rows; the wanted value is looked up among the sorted values of the bin."""

    goals = {"empty bin": 10, "beyond the bin": 20, "back to back": 20, "one beat": 20, "no bits free": 20, "dead": 50}

    def reset(self) -> None:
        self.now = 0
        self.values: list[int] = []
        self.sent = 0
        self.ended_at = -9
        self.bins: dict[int, dict[str, int]] = {}
        """By cycle what is to be on `bin`, and likewise on the other ports."""
        self.ranks: dict[int, int] = {}
        self.done: dict[int, tuple[int, int]] = {}
        self.passed: dict[int, dict[str, Any]] = {}

    def _begin(self) -> None:
        length = self.source.choice([self.source.randint(1, LANES), self.source.randint(1, N_MAX), N_MAX])
        # The bits from `free` up are known, and the digit is the highest of the bits below.
        free = self.source.randint(0, min(WIDTH, HIGHEST_LOW + DIGIT_BITS))
        low = max(free - DIGIT_BITS, 0)
        floor = self.source.getrandbits(WIDTH) >> free << free
        self.bin = {"value": floor, "known": (1 << WIDTH) - (1 << free), "low": low}
        self.inside = range(floor, floor + (1 << free))
        inside = self.source.choices(self.inside, k=3)
        # Other values differ from those of the bin in one known bit, or in any.
        outside = [value ^ 1 << self.source.randrange(free, WIDTH) for value in inside] if free < WIDTH else inside
        anything = [self.source.getrandbits(WIDTH)]
        share = self.source.choice([0, 0.5, 0.9, 1])
        self.values = [
            self.source.choice(inside if self.source.random() < share else outside + anything) for _ in range(length)
        ]
        self.rank = self.source.choice([0, self.source.randrange(N_MAX), N_MAX - 1, length // 2])
        self.sent = 0
        self.saw("no bits free", free == 0)
        self.saw("one beat", length <= LANES)

    def inputs(self) -> Values:
        enters = self.source.random() < (0.2 if self.now % 300 < 60 else 0.95)
        beat: dict[str, Any] = {}
        if enters:
            if self.sent == len(self.values):
                self._begin()
            beat = self._beat()
        ports: dict[str, Any] = {"i": {"valid": enters, "payload": beat}}
        if self.now in self.bins:
            ports["bin"] = self.bins.pop(self.now)
        if self.now in self.ranks:
            ports["rank"] = self.ranks.pop(self.now)
        return ports

    def _beat(self) -> dict[str, Any]:
        values = self.values[self.sent : self.sent + LANES]
        first = self.sent == 0
        self.saw("back to back", first and self.ended_at == self.now - 1)
        self.sent += len(values)
        last = self.sent == len(self.values)
        several = len(self.values) > LANES
        self.bins[self.now + 1] = self.bin
        if first:
            self.ranks[self.now + 2] = self.rank
        if last:
            self.ended_at = self.now
            self.done[self.now + 4] = self._result()
        dead = LANES - len(values)
        self.saw("dead", dead)
        marks = {"first": first, "last": last, "several": several}
        self.passed[self.now + 2] = {
            "values": [*values, *[None] * dead],
            "in_bin": sum((value in self.inside) << lane for lane, value in enumerate(values)),
            **marks,
        }
        # Behind the row lies what would be in the bin.
        return {"values": [*values, *self.source.choices(self.inside, k=dead)], "count": len(values), **marks}

    def _result(self) -> tuple[int, int]:
        """The wanted value's digit, and its rank among the values with that digit."""
        digits = [(value >> self.bin["low"]) % (1 << DIGIT_BITS) for value in self.values if value in self.inside]
        digits.sort(reverse=True)
        self.saw("empty bin", not digits)
        self.saw("beyond the bin", digits and self.rank >= len(digits))
        # Behind the values of the bin it is as if there were more of the lowest digit.
        digit = digits[self.rank] if self.rank < len(digits) else 0
        return digit, self.rank - sum(other > digit for other in digits)

    def outputs(self) -> Values:
        wanted: dict[str, Any] = {"done": self.now in self.done}
        if self.now in self.done:
            digit, rank = self.done.pop(self.now)
            wanted |= {"digit": digit, "digit_rank": rank}
        if PASSES_ON:
            wanted["o"] = {"valid": self.now in self.passed, "payload": self.passed.pop(self.now, None)}
        return wanted

    def clock(self) -> None:
        self.now += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_next_digit_is_found(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, PASS, SortedBin, seed=seed, cycles=PARAMETERS["cycles"])
