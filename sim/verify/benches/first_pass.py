"""Testbench of hw/datapath/select/first_pass.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.first_pass import FirstPass
from spatten.hw.datapath.select.select_layouts import first_digit
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
WIDTH: int = PARAMETERS["width"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
DIGIT_BITS: int = PARAMETERS["digit_bits"]
PASS = FirstPass(width=WIDTH, lanes=LANES, n_max=N_MAX, digit_bits=DIGIT_BITS)
BINS = first_digit(WIDTH, DIGIT_BITS)


class SortedRow(Twin):
    """Rows of values; the k-th largest is looked up in the sorted row, and then the bin that it lies in."""

    goals = {
        "k above the length": 20,
        "a whole row of equals": 10,
        "back to back": 20,
        "a last beat that is not full": 20,
        **{f"bin {number}": 3 for number in range(len(BINS))},
    }

    def reset(self) -> None:
        self.now = 0
        self.values: list[int] = []
        self.sent = 0
        self.ended_at = -9
        self.results: dict[int, dict[str, object]] = {}
        self.shown: dict[str, object] | None = None
        self.hidden_at = -1

    def _begin(self) -> None:
        length = self.source.choice([1, self.source.randint(1, N_MAX), N_MAX])
        edges = [floor for floor, _ in BINS]
        near = [max(0, edge + step) for edge in self.source.sample(edges, min(len(edges), 3)) for step in (-1, 0)]
        kinds = (
            [self.source.randrange(1 << WIDTH)],
            [*near, (1 << WIDTH) - 1],
            [self.source.getrandbits(self.source.randint(1, WIDTH)) for _ in range(2 * N_MAX)],
        )
        choice = self.source.choice(kinds)
        self.values = [self.source.choice(choice) for _ in range(length)]
        self.k = self.source.choice([1, self.source.randint(1, length), self.source.randint(1, N_MAX), N_MAX])
        self.sent = 0

    def inputs(self) -> Values:
        self.enters = self.source.random() < (0.2 if self.now % 300 < 60 else 0.95)
        if not self.enters:
            return {"valid": 0}
        if self.sent == len(self.values):
            self._begin()
        self.is_first = self.sent == 0
        beat = self.values[self.sent : self.sent + LANES]
        self.sent += len(beat)
        self.is_last = self.sent == len(self.values)
        # What lies behind the row must not matter: often the most.
        dead = [self.source.choice([(1 << WIDTH) - 1, None]) for _ in range(LANES - len(beat))]
        k = {"k": self.k} if self.is_first else {}
        return {
            "valid": 1,
            "first": self.is_first,
            "last": self.is_last,
            "values": [*beat, *dead],
            "count": len(beat),
            **k,
        }

    def outputs(self) -> Values:
        if self.now == self.hidden_at:
            self.shown = None
        self.shown = self.results.pop(self.now, self.shown)
        return self.shown or {}

    def clock(self) -> None:
        if self.enters and self.is_first:
            self.hidden_at = self.now + 2
            self.saw("back to back", self.ended_at == self.now - 1)
        if self.enters and self.is_last:
            self.ended_at = self.now
            threshold = (sorted(self.values, reverse=True) + [0] * N_MAX)[self.k - 1]
            number = max(number for number, (floor, _) in enumerate(BINS) if floor <= threshold)
            floor, free = BINS[number]
            above = sum(value >= floor + (1 << free) for value in self.values)
            known = (1 << WIDTH) - (1 << free)
            low = 0
            while low + DIGIT_BITS < free:
                low += 1
            self.results[self.now + 2] = {
                "bin": {"value": floor, "known": known, "low": low},
                "rank": self.k - 1 - above,
            }
            self.saw(f"bin {number}")
            self.saw("k above the length", self.k > len(self.values))
            self.saw("a whole row of equals", len(self.values) > LANES and len(set(self.values)) == 1)
            self.saw("a last beat that is not full", len(self.values) % LANES)
        self.now += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_first_bin_is_found(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, PASS, SortedRow, seed=seed, cycles=PARAMETERS["cycles"])
