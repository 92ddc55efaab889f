"""Testbench of hw/datapath/select/digit_counter.py; tests/hw/datapath/test_select_parts.py runs it."""

from __future__ import annotations

import cocotb
from cocotb.handle import HierarchyObject

from spatten.hw.datapath.select.digit_counter import DigitCounter
from spatten.sim.verify.cosim import parameters
from spatten.sim.verify.twin import Twin, Values, compare

PARAMETERS = parameters()
BINS: int = PARAMETERS["bins"]
LANES: int = PARAMETERS["lanes"]
N_MAX: int = PARAMETERS["n_max"]
COUNTER = DigitCounter(bins=BINS, lanes=LANES, n_max=N_MAX)


class SortedRow(Twin):
    """Rows of elements, each known by its bin; the wanted one is looked up in the sorted row."""

    goals = {
        "lowest bin": 20,
        "highest bin": 20,
        "far down in the highest bin": 20,
        "beyond the row": 20,
        "back to back": 20,
        "one beat": 20,
        "longest row": 5,
        "highest rank": 5,
    }

    def reset(self) -> None:
        self.now = 0
        self.row: list[list[int]] = []
        """Of each beat that is still to come the bins of its elements; -1 where a lane has none."""
        self.elements: list[int] = []
        self.is_first = True
        self.ended_at = -9
        self.results: dict[int, tuple[int, int]] = {}
        """By the cycle in which it is done, the bin and the rank in it of a row."""
        self.shown: tuple[int, int] | None = None
        self.hidden_at = -1

    def _begin(self) -> None:
        kind = self.source.randrange(4)
        lengths = (1, self.source.randint(1, LANES), self.source.randint(1, N_MAX), N_MAX)
        any_bins = self.source.sample(range(BINS), self.source.choice([1, 2, BINS]))
        bins = self.source.choice([any_bins, any_bins, [BINS - 1]])
        elements = [self.source.choice(bins) for _ in range(lengths[kind])]
        self.rank = self.source.choice([0, len(elements) - 1, self.source.randrange(N_MAX), N_MAX - 1])
        self.saw("longest row", len(elements) == N_MAX)
        self.saw("highest rank", self.rank == N_MAX - 1)
        self.row = []
        while elements:
            count = self.source.choice([LANES, LANES, self.source.randint(0, LANES)])
            beat = [elements.pop() for _ in range(min(count, len(elements)))]
            beat += [-1] * (LANES - len(beat))
            self.row.append(self.source.sample(beat, LANES))
        self.elements = []
        self.is_first = True
        self.saw("one beat", len(self.row) == 1)

    def inputs(self) -> Values:
        self.beat: list[int] | None = None
        if self.source.random() < (0.2 if self.now % 300 < 60 else 0.95):
            if not self.row:
                self._begin()
            self.beat = self.row.pop(0)
        if self.beat is None:
            return {"valid": 0}
        reaches = [sum((bin >= boundary) << n for n, bin in enumerate(self.beat)) for boundary in range(1, BINS)]
        rank = {"rank": self.rank} if self.is_first else {}
        return {"valid": 1, "first": self.is_first, "last": not self.row, "reaches": reaches, **rank}

    def outputs(self) -> Values:
        if self.now == self.hidden_at:
            self.shown = None
        wanted: dict[str, int] = {"done": self.now in self.results}
        self.shown = self.results.pop(self.now, self.shown)
        if self.shown is not None:
            bin, rank = self.shown
            wanted |= {"reached": (2 << bin) - 1, "bin": 1 << bin, "bin_rank": rank}
        return wanted

    def clock(self) -> None:
        if self.beat is not None:
            if self.is_first:
                self.hidden_at = self.now + 2
                self.saw("back to back", self.ended_at == self.now - 1)
            self.is_first = False
            self.elements += [bin for bin in self.beat if bin >= 0]
            if not self.row:
                self.ended_at = self.now
                # Behind the row it is as if there were elements without end in the lowest bin.
                row = sorted(self.elements, reverse=True) + [0] * N_MAX
                wanted = row[self.rank]
                above = sum(bin > wanted for bin in row)
                self.results[self.now + 2] = wanted, self.rank - above
                self.saw("lowest bin", wanted == 0)
                self.saw("highest bin", wanted == BINS - 1)
                self.saw("far down in the highest bin", wanted == BINS - 1 and self.rank >= N_MAX // 2)
                self.saw("beyond the row", self.rank >= len(self.elements))
        self.now += 1


@cocotb.test()
@cocotb.parametrize(seed=PARAMETERS["seeds"])
async def the_wanted_element_is_found(dut: HierarchyObject, seed: int) -> None:
    await compare(dut, COUNTER, SortedRow, seed=seed, cycles=PARAMETERS["cycles"])
